//! Values of the maps, as tests write them down.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    Address, FORWARD_NAT, INSTANCE_ACTIVE, InstanceEntry, PROTOCOL_TCP, PROTOCOL_UDP, SELECT_HASH,
    Vip, VipKey, from_v4,
};

/// An address as the maps have it.
///
/// # Panics
/// When the text is none.
#[must_use]
#[expect(clippy::expect_used, reason = "addresses are written in the tests")]
pub fn address(text: &str) -> Address {
    from_ip(text.parse().expect("an address"))
}

pub(super) fn from_ip(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => from_v4(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// An address with a port.
///
/// # Panics
/// When the text is none.
#[must_use]
#[expect(clippy::expect_used, reason = "addresses are written in the tests")]
pub fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address with a port")
}

/// A VIP's key from `address:port`.
#[must_use]
pub fn vip_key(vip: &str, port: u16, protocol: u8) -> VipKey {
    assert!(protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP);
    VipKey::new(address(vip), port.to_be_bytes(), protocol)
}

/// A `nat` VIP that selects by hash.
#[must_use]
pub fn vip(id: u32) -> Vip {
    Vip {
        id,
        table: 0,
        generation: 1,
        forward: FORWARD_NAT,
        select: SELECT_HASH,
        ..Vip::default()
    }
}

/// An instance that takes connections.
#[must_use]
pub fn instance(at: &str, port: u16) -> InstanceEntry {
    InstanceEntry {
        address: address(at),
        port: port.to_be_bytes(),
        generation: 1,
        weight: 100,
        state: INSTANCE_ACTIVE,
        ..InstanceEntry::default()
    }
}
