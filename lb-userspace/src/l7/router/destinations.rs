//! From the address and port that a client has connected to, to what is for them.
//!
//! The longest range of addresses comes first; of one range, a port before several, fewer ports before
//! more, and of equally many those that begin lower. Ranges are found by their lengths, of which there
//! are few, and single ports by searching, so hundreds of destinations cost no more than some.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use crate::model::{GatewayVip, IpPrefix, Ports};

/// See the module.
#[derive(Debug)]
pub(super) struct Destinations<T> {
    /// The lengths that ranges of addresses have, longest first; those of IPv4 before those of IPv6.
    lengths: [Vec<u8>; 2],
    /// In order of the range.
    ranges: Vec<(IpPrefix, OfPorts<T>)>,
}

/// What is for the ports of a range of addresses.
#[derive(Debug)]
struct OfPorts<T> {
    /// The most specific first, so single ports before all others and in their order.
    all: Vec<(Ports, T)>,
    /// How many are single ports.
    single: usize,
}

impl<T> Default for Destinations<T> {
    fn default() -> Self {
        Self {
            lengths: [Vec::new(), Vec::new()],
            ranges: Vec::new(),
        }
    }
}

impl<T> Destinations<T> {
    /// What is for each destination, every one of which is there once.
    pub(super) fn new(all: impl IntoIterator<Item = (GatewayVip, T)>) -> Self {
        let mut by_range: BTreeMap<IpPrefix, Vec<(Ports, T)>> = BTreeMap::new();
        for (GatewayVip { prefix, ports }, what) in all {
            by_range.entry(prefix).or_default().push((ports, what));
        }
        let lengths = [true, false].map(|v4| {
            let ranges = by_range.keys();
            let ranges = ranges.filter(|range| range.address().is_ipv4() == v4);
            let lengths: BTreeSet<u8> = ranges.map(|range| range.length()).collect();
            lengths.into_iter().rev().collect()
        });
        let ranges = by_range.into_iter();
        Self {
            lengths,
            ranges: ranges.map(|(range, all)| (range, all.into())).collect(),
        }
    }

    /// Whether there are none.
    pub(super) const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// All that is for any destination.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let ranges = self.ranges.iter_mut().flat_map(|(_, of)| &mut of.all);
        ranges.map(|(_, what)| what)
    }

    /// The first that `choose` finds in what is for `destination`, most specific first. An IPv4 address in
    /// IPv6 clothes counts as the IPv4 address that it is.
    pub(super) fn find<R>(
        &self,
        destination: SocketAddr,
        mut choose: impl FnMut(&T) -> Option<R>,
    ) -> Option<R> {
        let address = destination.ip().to_canonical();
        let lengths = &self.lengths[usize::from(address.is_ipv6())];
        lengths.iter().find_map(|length| {
            let range = IpPrefix::around(address, *length);
            let at = self
                .ranges
                .binary_search_by_key(&range, |(range, _)| *range);
            self.ranges[at.ok()?]
                .1
                .holding(destination.port())
                .find_map(&mut choose)
        })
    }
}

impl<T> From<Vec<(Ports, T)>> for OfPorts<T> {
    fn from(mut all: Vec<(Ports, T)>) -> Self {
        all.sort_by_key(|(ports, _)| (ports.count(), ports.ends().0));
        let single = all.partition_point(|(ports, _)| ports.count() == 1);
        Self { all, single }
    }
}

impl<T> OfPorts<T> {
    /// What is for this port, the most specific first.
    fn holding(&self, port: u16) -> impl Iterator<Item = &T> {
        let (single, several) = self.all.split_at(self.single);
        let one = single.binary_search_by_key(&port, |(ports, _)| ports.ends().0);
        let one = one.ok().map(|at| &single[at]);
        let several = several.iter().filter(move |(ports, _)| ports.hold(port));
        one.into_iter().chain(several).map(|(_, what)| what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_comes_first_and_leaves_the_rest_to_the_others() {
        let all = [
            ("0.0.0.0/0", Ports::Any),
            ("10.0.0.0/8", Ports::Range(80, 90)),
            ("10.0.0.0/8", Ports::One(443)),
            ("10.0.0.0/8", Ports::One(80)),
            ("10.0.0.0/8", Ports::Any),
            ("10.0.0.0/8", Ports::Range(85, 95)),
            ("10.0.0.0/8", Ports::Range(1, 65535)),
            ("10.0.0.0/8", Ports::Range(88, 91)),
            ("10.0.0.7", Ports::One(80)),
            ("::/0", Ports::One(80)),
        ];
        let all = all.map(|(prefix, ports)| GatewayVip {
            prefix: prefix.parse().unwrap(),
            ports,
        });
        let destinations = Destinations::new(all.into_iter().map(|one| (one, one)));
        for (destination, expected) in [
            (
                "10.0.0.7:80",
                "10.0.0.7:80 10.0.0.0/8:80 10.0.0.0/8:80-90 10.0.0.0/8:1-65535 10.0.0.0/8:any \
                 0.0.0.0/0:any",
            ),
            (
                "[::ffff:10.1.1.1]:443",
                "10.0.0.0/8:443 10.0.0.0/8:1-65535 10.0.0.0/8:any 0.0.0.0/0:any",
            ),
            (
                "10.1.1.1:89",
                "10.0.0.0/8:88-91 10.0.0.0/8:80-90 10.0.0.0/8:85-95 10.0.0.0/8:1-65535 \
                 10.0.0.0/8:any 0.0.0.0/0:any",
            ),
            ("11.0.0.1:80", "0.0.0.0/0:any"),
            ("[2001:db8::1]:80", "[::/0]:80"),
            ("[2001:db8::1]:81", ""),
        ] {
            let mut seen = Vec::new();
            let nothing = destinations.find(destination.parse().unwrap(), |one| {
                seen.push(one.to_string());
                None::<()>
            });
            assert_eq!((seen.join(" ").as_str(), nothing), (expected, None));
        }
        let second = |seen: &mut u8| {
            *seen += 1;
            (*seen == 2).then_some(())
        };
        let mut seen = 0;
        let found = destinations.find("10.0.0.7:80".parse().unwrap(), |one| {
            second(&mut seen).map(|()| one.to_string())
        });
        assert_eq!((found.as_deref(), seen), (Some("10.0.0.0/8:80"), 2));
    }
}
