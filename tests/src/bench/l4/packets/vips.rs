//! What is served while packets are measured.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use lb_common::{
    Address, Affinity, Arrivals, CookieKeys, FORWARD_GUE, FORWARD_IPIP, FORWARD_L2DSR,
    PREFIX_DENIED, PROTOCOL_TCP, PROTOCOL_UDP, SELECT_TURN, Settings, VIP_COOKIES, VIP_LIMITED,
    VIP_OWNED, VIP_SETTLES, Vip, VipKey, from_v4,
};

use crate::packet::{Lab, lab, random::Random};

/// Prefixes of the ACL.
const RULES: u32 = 100_000;

pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
pub(super) const DSR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 100)), 80);
pub(super) const DSR6: SocketAddr = SocketAddr::new(
    IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x100)),
    80,
);
/// A VIP whose flows are not remembered, by the hash of the flow.
pub(super) const SETTLED: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 102)), 80);
/// VIPs whose new connections are limited, by the service and by the source, at rates that are never
/// reached; and one whose clients stay.
pub(super) const LIMITED: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 105)), 80);
pub(super) const LIMITED_SETTLED: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 106)), 80);
pub(super) const STAYS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 107)), 80);
/// VIPs of tunnels.
pub(super) const IPIP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 103)), 80);
pub(super) const GUE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 104)), 80);
pub(super) const NAT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 101)), 80);
/// A VIP whose clients all have to show a cookie, before `nat`.
pub(super) const COOKIED: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 108)), 80);

/// Two `l2dsr` VIPs (hash over TCP and UDP, IPv4 and IPv6), one that remembers nothing, and one of each
/// tunnel and of `nat`, over two instances of each family.
pub(super) fn prepare(lab: &mut Lab) -> Result<()> {
    lab.set_settings(Settings {
        nat_port_first: 10_240,
        nat_port_last: 32_767,
        ..lab.settings()
    })?;
    for (index, address) in [
        (1, "10.0.1.11"),
        (2, "10.0.1.12"),
        (3, "fd00:1::11"),
        (4, "fd00:1::12"),
    ] {
        lab.set_instance(index, lab::instance(address, 80))?;
    }
    let dsr = |id, table| Vip {
        forward: FORWARD_L2DSR,
        table,
        ..lab::vip(id)
    };
    lab.serve(key(DSR, PROTOCOL_TCP), dsr(0, 0), &[1, 2])?;
    lab.serve(key(DSR, PROTOCOL_UDP), dsr(1, 0), &[1, 2])?;
    lab.serve(key(DSR6, PROTOCOL_TCP), dsr(2, 1), &[3, 4])?;
    let settled = Vip {
        flags: VIP_OWNED | VIP_SETTLES,
        ..dsr(4, 0)
    };
    lab.serve(key(SETTLED, PROTOCOL_TCP), settled, &[1, 2])?;
    for (id, vip, forward) in [(5, IPIP, FORWARD_IPIP), (6, GUE, FORWARD_GUE)] {
        let tunnelled = Vip {
            forward,
            ..dsr(id, 0)
        };
        lab.serve(key(vip, PROTOCOL_TCP), tunnelled, &[1, 2])?;
    }
    limit(lab)?;
    ask_for_cookies(lab)?;
    let nat = Vip {
        select: SELECT_TURN,
        ..lab::vip(3)
    };
    lab.serve(key(NAT, PROTOCOL_TCP), nat, &[1, 2])
}

/// VIPs that look at what begins.
fn limit(lab: &mut Lab) -> Result<()> {
    let limited = |id, flags| Vip {
        flags: flags | VIP_LIMITED,
        forward: FORWARD_L2DSR,
        ..lab::vip(id)
    };
    for (id, vip, flags) in [
        (7, LIMITED, 0),
        (8, LIMITED_SETTLED, VIP_OWNED | VIP_SETTLES),
        (9, STAYS, 0),
    ] {
        lab.serve(key(vip, PROTOCOL_TCP), limited(id, flags), &[1, 2])?;
        if vip != STAYS {
            let limit = Arrivals {
                interval: 1,
                window: 1 << 40,
                source_interval: 1,
                source_window: 1 << 36,
                seed: 5,
                mask_v4: [0xff; 16],
                mask_v6: [0xff; 16],
                bucket: id,
                ..Arrivals::default()
            };
            lab.set_arrivals(id, limit)?;
        }
    }
    let affinity = Affinity {
        ttl: 1 << 50,
        service: 9,
    };
    for index in [1, 2] {
        lab.set_service_of(index, affinity.service)?;
    }
    lab.set_affinity(9, affinity)
}

/// A VIP all of whose SYNs are answered with cookies.
fn ask_for_cookies(lab: &mut Lab) -> Result<()> {
    let keys = CookieKeys {
        keys: [[1, 2], [3, 4]],
        ..CookieKeys::default()
    };
    lab.set_cookie_keys(keys, 6)?;
    let cookied = Vip {
        flags: VIP_COOKIES | VIP_LIMITED,
        select: SELECT_TURN,
        ..lab::vip(10)
    };
    lab.serve(key(COOKIED, PROTOCOL_TCP), cookied, &[1, 2])?;
    let always = Arrivals {
        cookie_interval: 1,
        seed: 3,
        mask_v4: [0xff; 16],
        mask_v6: [0xff; 16],
        bucket: 10,
        ..Arrivals::default()
    };
    lab.set_arrivals(10, always)
}

/// Prefixes of 24 to 32 bits, spread over all addresses but those of these packets.
pub(super) fn rules() -> Vec<(Address, u32, u32)> {
    let mut random = Random::new(7);
    (0..RULES)
        .map(|_| {
            let length = 24 + random.below(9) as u32;
            // From 16.0.0.0 on.
            let host = (0x1000_0000 | random.any() as u32) & (u32::MAX << (32 - length));
            (from_v4(host.to_be_bytes()), 96 + length, PREFIX_DENIED)
        })
        .collect()
}

fn key(vip: SocketAddr, protocol: u8) -> VipKey {
    lab::vip_key(&vip.ip().to_string(), vip.port(), protocol)
}
