//! A small network: a client, a balancer and instances, each in a namespace, around one switch.
//!
//! ```text
//!   client .2 ──┐
//!               ├── switch (a bridge) ──┬── i1 .11
//! balancer .1 ──┘                       ├── i2 .12
//!                                       └── i3 .13        10.77.0.0/24 and fd77::/64
//! ```
//!
//! Two things about veth make or break such a network for XDP. Senders leave checksums to hardware that is
//! not there, and a packet that XDP forwards before anything has filled them in arrives broken: so
//! `tx off` everywhere. And a packet that XDP sends back out of a veth arrives only when the other
//! end runs an XDP program, too: so the balancer's port on the switch gets one that passes all.
//!
//! Traffic control asks for neither. [`Topology::as_it_is`] leaves both away: what comes by has checksums that
//! nobody has made yet, and is up to 64 KB long.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::sync::Arc;

use anyhow::Result;

use crate::command;
use crate::netns::Namespace;
use crate::pass::Attached;

/// Last part of the addresses of the second balancer, where there is one.
pub const SECOND: u8 = 3;

/// Name of every host's interface.
pub const INTERFACE: &str = "eth0";

/// A host of the network; its namespace lives as long as the last clone.
#[derive(Clone, Debug)]
pub struct Host {
    /// Short name, which an instance also answers with.
    pub name: String,
    /// Its namespace.
    pub namespace: Arc<Namespace>,
    /// IPv4 address.
    pub v4: Ipv4Addr,
    /// IPv6 address.
    pub v6: Ipv6Addr,
}

impl Host {
    fn new(name: &str, number: u8) -> Result<Self> {
        let namespace = Namespace::new(name)?;
        // An address on the loopback is of use to whoever is asked for it, but does not draw
        // packets: what l2dsr asks of instances.
        namespace.sysctl("ipv4/conf/all/arp_ignore", "1")?;
        namespace.sysctl("ipv4/conf/all/arp_announce", "2")?;
        namespace.sysctl("ipv4/conf/all/rp_filter", "0")?;
        Ok(Self {
            name: name.to_owned(),
            namespace: Arc::new(namespace),
            v4: v4(number),
            v6: v6(number),
        })
    }

    /// The host's address of one family.
    #[must_use]
    pub const fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(self.v4),
            Family::V6 => IpAddr::V6(self.v6),
        }
    }

    /// Takes an address on as the host's own, without announcing it.
    ///
    /// # Errors
    /// When the host has it already.
    pub fn hold(&self, address: IpAddr) -> Result<()> {
        let line = match address {
            IpAddr::V4(_) => format!("addr add {address}/32 dev lo"),
            // Without a search for duplicates it can be bound to at once, not a moment later.
            IpAddr::V6(_) => format!("addr add {address}/128 dev lo nodad"),
        };
        self.namespace.ip(&[line])
    }
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The network; taken down when dropped.
#[derive(Debug)]
pub struct Topology {
    /// Where clients run.
    pub client: Host,
    /// Where the daemon runs.
    pub balancer: Host,
    /// Where instances run: `i1`, `i2` and so on.
    pub instances: Vec<Host>,
    switch: Namespace,
    /// What XDP asks of a network, where that is seen to.
    pass: Option<Attached>,
}

impl Topology {
    /// Builds the network with so many instances, at most 80.
    ///
    /// # Errors
    /// When the process may not make namespaces or load programs.
    pub fn new(instances: u8) -> Result<Self> {
        Self::with(instances, Some(Attached::pass()?))
    }

    /// The same with nothing done for XDP.
    ///
    /// # Errors
    /// As [`Topology::new`].
    pub fn as_it_is(instances: u8) -> Result<Self> {
        Self::with(instances, None)
    }

    fn with(instances: u8, pass: Option<Attached>) -> Result<Self> {
        let switch = Namespace::new("switch")?;
        switch.sysctl("ipv6/conf/all/disable_ipv6", "1")?;
        switch.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        switch.ip(&[
            "link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
            "link set br0 up",
        ])?;
        let balancer = balancer(&switch, pass.as_ref(), "balancer", 1)?;
        let client = Host::new("client", 2)?;
        connect(&switch, &client, pass.is_some())?;
        let mut hosts = Vec::new();
        for number in 1..=instances {
            let host = Host::new(&format!("i{number}"), 10 + number)?;
            connect(&switch, &host, pass.is_some())?;
            hosts.push(host);
        }
        Ok(Self {
            client,
            balancer,
            instances: hosts,
            switch,
            pass,
        })
    }

    /// Adds another host for a daemon, with the addresses that end in [`SECOND`].
    ///
    /// # Errors
    /// As [`Topology::new`].
    pub fn second_balancer(&self) -> Result<Host> {
        self.another_balancer("second", SECOND)
    }

    /// Adds another host whose packets XDP may send back, with the addresses that end in `number`.
    ///
    /// # Errors
    /// As [`Topology::new`].
    pub fn another_balancer(&self, name: &str, number: u8) -> Result<Host> {
        balancer(&self.switch, self.pass.as_ref(), name, number)
    }

    /// Adds another host that passes packets on for others, by its kernel alone.
    ///
    /// # Errors
    /// As [`Topology::new`].
    pub fn router(&self, name: &str, number: u8) -> Result<Host> {
        router(&self.switch, name, number, self.pass.is_some())
    }

    /// Sends the client's packets for an address to the balancer, as a router in front would.
    ///
    /// # Errors
    /// When there is such a route already.
    pub fn route_to_balancer(&self, address: IpAddr) -> Result<()> {
        self.route("add", address, &self.balancer)
    }

    /// Sends the client's packets for an address to another balancer than so far.
    ///
    /// # Errors
    /// When the route cannot be changed.
    pub fn move_route(&self, address: IpAddr, to: &Host) -> Result<()> {
        self.route("replace", address, to)
    }

    fn route(&self, verb: &str, address: IpAddr, to: &Host) -> Result<()> {
        let line = match address {
            IpAddr::V4(_) => format!("route {verb} {address}/32 via {}", to.v4),
            IpAddr::V6(_) => format!("route {verb} {address}/128 via {}", to.v6),
        };
        self.client.namespace.ip(&[line])
    }

    /// The instance with this name.
    #[must_use]
    pub fn instance(&self, name: &str) -> Option<&Host> {
        self.instances.iter().find(|host| host.name == name)
    }
}

/// The address with this last byte in the network.
#[must_use]
pub const fn v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

/// The address with this last part in the network.
#[must_use]
pub fn v6(number: u8) -> Ipv6Addr {
    // Written alike in both families: .11 and ::11.
    let digits = u16::from(number / 100) << 8 | u16::from(number / 10 % 10) << 4;
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, digits | u16::from(number % 10))
}

fn port(host: &Host) -> String {
    format!("p-{}", host.name)
}

/// A host that passes packets on for others.
fn router(switch: &Namespace, name: &str, number: u8, for_xdp: bool) -> Result<Host> {
    let host = Host::new(name, number)?;
    host.namespace.sysctl("ipv4/conf/all/forwarding", "1")?;
    host.namespace.sysctl("ipv6/conf/all/forwarding", "1")?;
    // It does not tell clients of ways past it.
    for interfaces in ["all", "default"] {
        host.namespace
            .sysctl(&format!("ipv4/conf/{interfaces}/send_redirects"), "0")?;
    }
    connect(switch, &host, for_xdp)?;
    Ok(host)
}

/// A host for a daemon.
fn balancer(switch: &Namespace, pass: Option<&Attached>, name: &str, number: u8) -> Result<Host> {
    let host = router(switch, name, number, pass.is_some())?;
    if let Some(pass) = pass {
        pass.attach(switch, &port(&host))?;
    }
    Ok(host)
}

/// Plugs a host into the switch.
fn connect(switch: &Namespace, host: &Host, for_xdp: bool) -> Result<()> {
    let (port, inside) = (port(host), host.namespace.name());
    switch.ip(&[
        format!("link add {port} type veth peer name {INTERFACE} netns {inside}"),
        format!("link set {port} master br0 up"),
    ])?;
    host.namespace.ip(&[
        format!("addr add {}/24 dev {INTERFACE}", host.v4),
        format!("addr add {}/64 dev {INTERFACE} nodad", host.v6),
        format!("link set {INTERFACE} up"),
    ])?;
    if !for_xdp {
        return Ok(());
    }
    let mut offload: Command = host.namespace.command("ethtool");
    command::output(offload.args(["-K", INTERFACE, "tx", "off"])).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_look_alike_in_both_families() {
        assert_eq!(v4(11).to_string(), "10.77.0.11");
        assert_eq!(v6(11).to_string(), "fd77::11");
        assert_eq!(v6(102).to_string(), "fd77::102");
    }
}
