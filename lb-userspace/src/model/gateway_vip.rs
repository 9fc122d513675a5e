//! Addresses and ports that clients of the gateway connect to: those that it serves without listening
//! at each, and those that a route is for.

use std::{cmp::Reverse, collections::BTreeMap, fmt, net::SocketAddr};

use super::{IpPrefix, Ports};

/// A range of addresses, and ports of them: TCP connections to these are the gateway's, or have a
/// route of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GatewayVip {
    /// The addresses.
    pub prefix: IpPrefix,
    /// The ports of each.
    pub ports: Ports,
}

impl GatewayVip {
    /// Whether a connection can be to both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let (prefix, beside) = (self.prefix, other.prefix);
        (prefix.covers(beside) || beside.covers(prefix)) && self.ports.overlap(other.ports)
    }

    /// Whether a connection to this address and port is to it.
    #[must_use]
    pub fn holds(self, destination: SocketAddr) -> bool {
        self.prefix.contains(destination.ip()) && self.ports.hold(destination.port())
    }
}

impl fmt::Display for GatewayVip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prefix, ports) = (self.prefix, self.ports);
        let address = prefix.address();
        let longest = if address.is_ipv4() { 32 } else { 128 };
        match (address.is_ipv4(), prefix.length() == longest) {
            (true, true) => write!(f, "{address}:{ports}"),
            (true, false) => write!(f, "{prefix}:{ports}"),
            (false, true) => write!(f, "[{address}]:{ports}"),
            (false, false) => write!(f, "[{prefix}]:{ports}"),
        }
    }
}

/// The one that a connection is to; of several the narrowest.
#[must_use]
pub fn holder(vips: &[GatewayVip], destination: SocketAddr) -> Option<GatewayVip> {
    let held = vips.iter().filter(|vip| vip.holds(destination));
    let width = |vip: &&GatewayVip| (vip.prefix.length(), Reverse(vip.ports.count()));
    held.max_by_key(width).copied()
}

/// The ports that each range of addresses has, those of ranges around it included: whoever looks an
/// address up finds the longest range alone. Ranges of ports are in order and apart from each other.
#[must_use]
pub fn ports_by_prefix(vips: &[GatewayVip]) -> BTreeMap<IpPrefix, Vec<(u16, u16)>> {
    let mut all = BTreeMap::new();
    for vip in vips {
        let around = vips.iter().filter(|other| other.prefix.covers(vip.prefix));
        let mut ports: Vec<(u16, u16)> = around.map(|other| other.ports.ends()).collect();
        ports.sort_unstable();
        let mut apart: Vec<(u16, u16)> = Vec::with_capacity(ports.len());
        for (first, last) in ports {
            match apart.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last);
                }
                _ => apart.push((first, last)),
            }
        }
        all.insert(vip.prefix, apart);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(prefix: &str, ports: Ports) -> GatewayVip {
        GatewayVip {
            prefix: prefix.parse().unwrap(),
            ports,
        }
    }

    #[test]
    fn a_connection_is_to_the_narrowest_of_those_that_hold_it() {
        let vips = [
            vip("10.0.0.0/8", Ports::Any),
            vip("10.1.0.0/16", Ports::Range(80, 90)),
            vip("10.1.0.0/16", Ports::One(85)),
            vip("fd00::/8", Ports::One(80)),
        ];
        let of = |destination: &str| {
            let found = holder(&vips, destination.parse().unwrap());
            found.map(|vip| vip.to_string())
        };
        assert_eq!(of("10.1.2.3:85").as_deref(), Some("10.1.0.0/16:85"));
        assert_eq!(of("10.1.2.3:86").as_deref(), Some("10.1.0.0/16:80-90"));
        assert_eq!(of("10.1.2.3:91").as_deref(), Some("10.0.0.0/8:any"));
        assert_eq!(of("[fd00::1]:80").as_deref(), Some("[fd00::/8]:80"));
        assert_eq!(of("[fd00::1]:81"), None);
    }

    #[test]
    fn a_range_has_the_ports_of_those_around_it() {
        let all = ports_by_prefix(&[
            vip("10.0.0.0/8", Ports::Range(80, 90)),
            vip("10.1.0.0/16", Ports::One(443)),
            vip("10.1.2.3", Ports::One(91)),
            vip("10.1.2.3", Ports::Range(85, 88)),
            vip("10.2.0.0/16", Ports::Any),
            vip("fd00::/8", Ports::One(80)),
        ]);
        let of = |prefix: &str| &*all[&prefix.parse::<IpPrefix>().unwrap()];
        assert_eq!(of("10.0.0.0/8"), [(80, 90)]);
        assert_eq!(of("10.1.0.0/16"), [(80, 90), (443, 443)]);
        assert_eq!(of("10.1.2.3"), [(80, 91), (443, 443)]);
        assert_eq!(of("10.2.0.0/16"), [(0, u16::MAX)]);
        assert_eq!(of("fd00::/8"), [(80, 80)]);
        assert_eq!(all.len(), 5);
    }

    #[test]
    fn they_overlap_where_addresses_and_ports_do() {
        let wide = vip("10.0.0.0/8", Ports::Range(80, 90));
        for (prefix, ports, expected) in [
            ("10.1.0.0/16", Ports::Any, true),
            ("0.0.0.0/0", Ports::One(90), true),
            ("10.1.2.3", Ports::Range(90, 99), true),
            ("10.1.2.3", Ports::One(91), false),
            ("11.0.0.0/8", Ports::Any, false),
            ("::/0", Ports::Any, false),
        ] {
            let other = vip(prefix, ports);
            assert_eq!(wide.overlaps(other), expected, "{other}");
            assert_eq!(other.overlaps(wide), expected, "{other}");
        }
    }

    #[test]
    fn they_are_shown_as_they_are_written() {
        for (prefix, ports, text) in [
            ("192.0.2.0/24", Ports::One(80), "192.0.2.0/24:80"),
            ("192.0.2.7", Ports::Any, "192.0.2.7:any"),
            (
                "2001:db8::/64",
                Ports::Range(8000, 8999),
                "[2001:db8::/64]:8000-8999",
            ),
            ("2001:db8::1", Ports::One(80), "[2001:db8::1]:80"),
        ] {
            assert_eq!(vip(prefix, ports).to_string(), text);
        }
    }
}
