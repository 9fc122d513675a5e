//! What most end-to-end tests begin with: a network, an instance on each of its hosts, and a daemon
//! with a configuration made for the test.
//!
//! Clients reach two addresses of each family through the balancer: [`NAT`] and [`DSR`]. The
//! instances hold the latter themselves, as direct server return asks of them.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cleanup;
use crate::daemon::{Daemon, Rights};
use crate::instance::Instance;
use crate::packet::hook::Hook;
use crate::topology::{self, Family, Host, INTERFACE, Topology};

/// Last part of the VIPs that are for `nat`.
pub const NAT: u8 = 100;
/// Last part of the VIPs that are for `l2dsr`.
pub const DSR: u8 = 101;

/// Both families.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// What says in a configuration that the packet path is in traffic control.
const BY_TC: &str = "mode = \"tc\"";

/// Within which the kernel must have what the control plane has decided.
const PROMPT: Duration = Duration::from_secs(2);

/// A network with everything running in it.
#[derive(Debug)]
pub struct Scene {
    // Dropped in this order: the daemon, what it balances over, and the network.
    /// The daemon.
    pub daemon: Daemon,
    /// One on each host: `i1`, `i2` and so on.
    pub instances: Vec<Instance>,
    /// The network.
    pub topology: Topology,
}

impl Scene {
    /// Builds the network with so many instances and starts the daemon.
    ///
    /// # Errors
    /// When something does not come up; the message has the log.
    pub fn new(instances: u8, configuration: &str) -> Result<Self> {
        Self::with(instances, configuration, Rights::All)
    }

    /// The same with a daemon that has fewer rights.
    ///
    /// # Errors
    /// As [`Scene::new`].
    pub fn with(instances: u8, configuration: &str, rights: Rights) -> Result<Self> {
        // By traffic control there is nothing that has to be seen to beforehand, which is to be shown.
        let topology = if configuration.contains(BY_TC) {
            Topology::as_it_is(instances)?
        } else {
            Topology::new(instances)?
        };
        for (number, family) in [NAT, DSR].iter().flat_map(|n| FAMILIES.map(|f| (*n, f))) {
            topology.route_to_balancer(address(number, family))?;
        }
        let held = FAMILIES.map(|family| address(DSR, family));
        let mut running = Vec::new();
        for host in &topology.instances {
            for address in held {
                host.hold(address)?;
            }
            running.push(Instance::start(host, &held)?);
        }
        let daemon = Daemon::start_with(&topology.balancer, configuration, rights)?;
        let scene = Self {
            daemon,
            instances: running,
            topology,
        };
        scene.settle()?;
        Ok(scene)
    }

    /// Waits until whoever asks for figures of the packet path gets those of by now: a report that
    /// is younger than 100 ms is not read anew.
    pub fn age_figures() {
        std::thread::sleep(Duration::from_millis(150));
    }

    /// What the packet path has counted under a name so far.
    ///
    /// # Errors
    /// When there is no such counter.
    pub fn counted(&self, name: &str) -> Result<u64> {
        counted(&self.daemon, name)
    }

    /// Waits until the kernel holds what the control plane has decided so far.
    ///
    /// # Errors
    /// When that takes longer than two seconds.
    pub fn settle(&self) -> Result<()> {
        let mut seen = (Value::Null, Value::Null);
        let settled = cleanup::within(PROMPT, || {
            let (Ok(state), Ok(kernel)) =
                (self.daemon.get("/health"), self.daemon.get("/datapath"))
            else {
                return false;
            };
            seen = (
                state["revision"].clone(),
                kernel["reconcile"]["revision"].clone(),
            );
            kernel["mode"].is_null() || seen.0 == seen.1
        });
        ensure!(
            settled,
            "expected the kernel to hold revision {} within {PROMPT:?}, found {}:\n{}",
            seen.0,
            seen.1,
            self.daemon.log()
        );
        Ok(())
    }

    /// Has packets for the VIPs that are for `nat` delivered to sockets of the balancer, as a relay
    /// asks for.
    ///
    /// # Errors
    /// When they are already.
    pub fn deliver(&self) -> Result<()> {
        let [v4, v6] = FAMILIES.map(|family| address(NAT, family));
        let routes = [
            format!("route add local {v4}/32 dev lo"),
            format!("route add local {v6}/128 dev lo"),
        ];
        self.topology.balancer.namespace.ip(&routes)
    }

    /// Makes lb the instances' way to their clients, as `dnat` asks for.
    ///
    /// # Errors
    /// When it is already.
    pub fn answer_through_lb(&self) -> Result<()> {
        for host in &self.topology.instances {
            // What an instance answers after it was taken out is the balancer's kernel's, which sees that
            // its client is on the same link and says so. IPv6 has no switch for not saying it.
            let key = format!("ipv6/conf/{INTERFACE}/accept_redirects");
            host.namespace.sysctl(&key, "0")?;
            host.namespace.ip(&FAMILIES.map(|family| {
                let [client, lb] = [2, 1].map(|number| address(number, family));
                let length = if client.is_ipv4() { 32 } else { 128 };
                format!("route add {client}/{length} via {lb}")
            }))?;
        }
        Ok(())
    }

    /// The host with this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn host(&self, name: &str) -> Result<&Host> {
        let host = self.topology.instance(name);
        host.with_context(|| format!("no host {name}"))
    }

    /// Kills the instance on a host.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        let instance = self.instances.iter_mut().find(|one| one.name == name);
        instance
            .with_context(|| format!("no instance {name}"))?
            .kill()
    }

    /// Starts an instance that was killed again.
    ///
    /// # Errors
    /// When there is no such host or it does not come up.
    pub fn revive(&mut self, name: &str) -> Result<()> {
        let host = self.host(name)?.clone();
        let held = FAMILIES.map(|family| address(DSR, family));
        self.instances.retain(|one| one.name != name);
        self.instances.push(Instance::start(&host, &held)?);
        Ok(())
    }

    /// Where the proxy listens, as clients see it.
    #[must_use]
    pub fn gateway(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.topology.balancer.v4.into(), port)
    }
}

/// What the packet path of a daemon has counted under a name so far.
///
/// # Errors
/// When there is no such counter.
pub fn counted(daemon: &Daemon, name: &str) -> Result<u64> {
    Scene::age_figures();
    let datapath = daemon.get("/datapath")?;
    let counters = datapath["counters"].as_array().context("no counters")?;
    let found = counters.iter().find(|one| one["counter"] == name);
    found
        .and_then(|one| one["count"].as_u64())
        .with_context(|| format!("no counter {name} in {datapath}"))
}

/// An address of the network.
#[must_use]
pub fn address(number: u8, family: Family) -> IpAddr {
    match family {
        Family::V4 => topology::v4(number).into(),
        Family::V6 => topology::v6(number).into(),
    }
}

/// A configuration, put together from what a test needs.
#[derive(Clone, Debug)]
pub struct Configuration(String);

impl Configuration {
    /// One whose listeners are these, as TOML (`[]`, `["0.0.0.0:80"]`); without services and checks.
    #[must_use]
    pub fn new(listen: &str) -> Self {
        Self(format!(
            "[gateway]\nlisten = {listen}\nworkers = 2\n\
             [defaults]\nhealth_check = {{ enabled = false }}\n"
        ))
    }

    /// Adds the packet path, native, on the balancer's interface.
    #[must_use]
    pub fn packets(self) -> Self {
        self.packets_at(Hook::Xdp)
    }

    /// The same at one hook or the other.
    #[must_use]
    pub fn packets_at(self, hook: Hook) -> Self {
        self.packets_on(hook, 1)
    }

    /// The same on the host whose addresses end in `number`.
    #[must_use]
    pub fn packets_on(self, hook: Hook, number: u8) -> Self {
        let sources = FAMILIES.map(|family| address(number, family).to_string());
        let mode = match hook {
            Hook::Xdp => "mode = \"native\"",
            Hook::Tc => BY_TC,
        };
        self.with(&format!(
            "[datapath]\ninterfaces = [\"eth0\"]\n{mode}\n\
             nat_sources = {sources:?}\npin_path = \"@PINS@\""
        ))
    }

    /// Serves VIPs by sockets.
    #[must_use]
    pub fn relayed(self) -> Self {
        self.with("[datapath]\nmode = \"relay\"")
    }

    /// Adds a service whose instances are those of the hosts `i1`, `i2` and so on with these weights,
    /// in both families, and settings of the service.
    #[must_use]
    pub fn service(self, name: &str, port: u16, weights: &[u16], settings: &str) -> Self {
        self.service_over(&FAMILIES, name, port, weights, settings)
    }

    /// The same, in some families only.
    #[must_use]
    pub fn service_over(
        self,
        families: &[Family],
        name: &str,
        port: u16,
        weights: &[u16],
        settings: &str,
    ) -> Self {
        let mut instances = String::new();
        for family in families {
            for (number, weight) in (11..).zip(weights) {
                let endpoint = SocketAddr::new(address(number, *family), port);
                let line = format!("{{ endpoint = \"{endpoint}\", weight = {weight} }},\n");
                instances.push_str(&line);
            }
        }
        self.with(&format!(
            "[services.{name}]\ninstances = [\n{instances}]\n{settings}"
        ))
    }

    /// Leads the VIPs of a number, both families, to a service.
    #[must_use]
    pub fn vips(mut self, number: u8, port: u16, protocol: &str, service: &str) -> Self {
        for family in FAMILIES {
            let address = address(number, family);
            self = self.with(&format!(
                "[[vips]]\naddress = \"{address}\"\nport = {port}\n\
                 protocol = \"{protocol}\"\nservice = \"{service}\""
            ));
        }
        self
    }

    /// Leads the paths below a prefix, and the prefix itself, to a service.
    #[must_use]
    pub fn route(self, prefix: &str, service: &str) -> Self {
        self.with(&format!(
            "[[routes]]\npath = \"{prefix}/*\"\nservice = \"{service}\""
        ))
    }

    /// Adds lines as they are.
    #[must_use]
    pub fn with(mut self, lines: &str) -> Self {
        let _ = writeln!(self.0, "{lines}");
        self
    }

    /// The whole text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}
