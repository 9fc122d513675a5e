//! The namespace around a program under test: two interfaces, addresses, routes, and neighbours
//! that never have to be asked. Indices and MAC addresses are fixed, so that the library's half of
//! the lab can be told the same routes.

use std::net::IpAddr;

use anyhow::Result;
use lb_common::{HOP_GATEWAY, NextHop, Subinterface};
use lb_ebpf::Route;
use lb_ebpf::memory::MemoryTables;

use super::build::Mac;
use super::lab::address;
use crate::netns::Namespace;

/// Index of the interface that packets come in by.
pub const FRONT: u32 = 101;
/// Index of the other interface; its MTU is [`SMALL_MTU`].
pub const BACK: u32 = 102;
/// MTU of [`BACK`].
pub const SMALL_MTU: u32 = 1280;
/// MAC address of [`FRONT`].
pub const FRONT_MAC: Mac = [2, 0, 0, 0, 1, 1];
/// MAC address of [`BACK`].
pub const BACK_MAC: Mac = [2, 0, 0, 0, 2, 1];
/// MAC address of the router on [`FRONT`], behind which 10.9.0.0/16 and fd00:9::/32 are.
pub const ROUTER_MAC: Mac = [2, 0, 0, 0, 1, 254];

/// Hosts with neighbour entries: address, interface, MAC address.
pub const HOSTS: &[(&str, u32, Mac)] = &[
    ("10.0.1.2", FRONT, [2, 0, 0, 0, 1, 2]),
    ("10.0.1.11", FRONT, [2, 0, 0, 0, 1, 11]),
    ("10.0.1.12", FRONT, [2, 0, 0, 0, 1, 12]),
    ("10.0.1.254", FRONT, ROUTER_MAC),
    ("10.0.2.21", BACK, [2, 0, 0, 0, 2, 21]),
    ("fd00:1::2", FRONT, [2, 0, 0, 0, 1, 2]),
    ("fd00:1::11", FRONT, [2, 0, 0, 0, 1, 11]),
    ("fd00:1::12", FRONT, [2, 0, 0, 0, 1, 12]),
    ("fd00:1::254", FRONT, ROUTER_MAC),
    ("fd00:2::21", BACK, [2, 0, 0, 0, 2, 21]),
];

/// What is behind the router, for tests that send to a single host there.
const BEHIND_ROUTER: &[&str] = &["10.9.0.9", "fd00:9::9"];

/// lb's source addresses for `nat`.
pub const NAT_V4: &str = "10.0.1.1";
/// As [`NAT_V4`].
pub const NAT_V6: &str = "fd00:1::1";

fn mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The name of an interface.
pub(super) fn name(interface: u32) -> &'static str {
    if interface == FRONT { "front" } else { "back" }
}

/// Makes it.
pub(super) fn make() -> Result<Namespace> {
    let namespace = Namespace::new("packet")?;
    let mut lines = Vec::new();
    for (index, own) in [(FRONT, FRONT_MAC), (BACK, BACK_MAC)] {
        let name = name(index);
        lines.push(format!(
            "link add {name} index {index} address {} type veth peer name {name}-peer",
            mac(own)
        ));
        lines.push(format!("link set {name} up"));
        lines.push(format!("link set {name}-peer up"));
    }
    lines.push(format!("link set back mtu {SMALL_MTU}"));
    for (address, interface) in [
        ("10.0.1.1/24", "front"),
        ("fd00:1::1/64", "front"),
        ("10.0.2.1/24", "back"),
        ("fd00:2::1/64", "back"),
    ] {
        lines.push(format!("address add {address} dev {interface}"));
    }
    for (address, interface, own) in HOSTS {
        let (name, own) = (name(*interface), mac(*own));
        lines.push(format!(
            "neighbour replace {address} lladdr {own} dev {name} nud permanent"
        ));
    }
    lines.push("route add 10.9.0.0/16 via 10.0.1.254".to_owned());
    lines.push("route add fd00:9::/32 via fd00:1::254".to_owned());
    lines.push("route add blackhole 10.66.0.0/16".to_owned());
    namespace.ip(&lines)?;
    forwarding(&namespace, true)?;
    Ok(namespace)
}

fn forwarding(namespace: &Namespace, on: bool) -> Result<()> {
    let value = if on { "1" } else { "0" };
    namespace.sysctl("ipv4/ip_forward", value)?;
    namespace.sysctl("ipv6/conf/all/forwarding", value)
}

/// Tells the library's half the routes of the namespace.
pub(super) fn tell(memory: &MemoryTables) {
    for (host, interface, mac) in HOSTS {
        memory.set_route(address(host), Route::Found(hop(*interface, *mac, 0)));
    }
    for host in BEHIND_ROUTER {
        let way = hop(FRONT, ROUTER_MAC, HOP_GATEWAY);
        memory.set_route(address(host), Route::Found(way));
    }
    // On the front link, but without a neighbour entry.
    memory.set_route(address("10.0.1.99"), Route::NoNeighbour);
}

/// The route to a host that is not among those that [`tell`] knows; nothing where there is none.
pub(super) fn way_to(host: IpAddr) -> Option<Route> {
    let host = host.to_canonical();
    let known = |(known, _, _): &(&str, u32, Mac)| known.parse() == Ok(host);
    if HOSTS.iter().any(known) {
        return None;
    }
    let behind_router = Some(Route::Found(hop(FRONT, ROUTER_MAC, HOP_GATEWAY)));
    match host {
        // Addresses of lb, and of all; the lowest one is a host's like any other since Linux 5.14.
        IpAddr::V4(v4) => match v4.octets() {
            [10, 0, 1 | 2, 1 | 255] => None,
            [10, 0, 1 | 2, _] => Some(Route::NoNeighbour),
            [10, 9, ..] => behind_router,
            _ => None,
        },
        IpAddr::V6(v6) => match v6.segments() {
            [0xfd00, 1 | 2, 0, 0, 0, 0, 0, 0 | 1] => None,
            [0xfd00, 1 | 2, 0, 0, ..] => Some(Route::NoNeighbour),
            [0xfd00, 9, ..] => behind_router,
            _ => None,
        },
    }
}

/// Tells it that [`BACK`] is a VLAN of [`FRONT`]: what the kernel's routes send there leaves by that.
pub(super) fn tell_vlan(memory: &MemoryTables, vlan: &Subinterface) {
    memory.set_subinterface(BACK, Some(*vlan));
    for (host, interface, mac) in HOSTS.iter().filter(|(_, interface, _)| *interface == BACK) {
        let route = vlan.way(BACK).map_or(Route::NoRoute, |(out, flags)| {
            Route::Found(NextHop {
                interface: out,
                ..hop(*interface, *mac, flags)
            })
        });
        memory.set_route(address(host), route);
    }
}

fn hop(interface: u32, to: Mac, flags: u16) -> NextHop {
    let (own, mtu) = if interface == FRONT {
        (FRONT_MAC, 1500)
    } else {
        (BACK_MAC, SMALL_MTU)
    };
    let mut macs = [0; 12];
    macs[..6].copy_from_slice(&to);
    macs[6..].copy_from_slice(&own);
    NextHop {
        macs,
        interface,
        mtu_and_epoch: mtu,
        flags,
        ..NextHop::default()
    }
}
