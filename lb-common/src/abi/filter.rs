//! Which packets may be for lb at all.
//!
//! On most hosts most packets are for no VIP. To find that out by the connection table and the VIPs
//! would cost two look-ups in hash maps. So there is a filter in front of them, as Bloom's with one
//! hash function: a bit for each address of a VIP, one for each that replies may come from, and one for
//! each that replies are sent to, which count for the ports of `nat` alone: these are addresses of the
//! host's own, whose other traffic is not to pay for it. A packet that meets no bit is for nobody here.
//! With as many VIPs as there may be, one packet in sixty meets a bit by chance, and is then looked up.

use super::{Address, FlowKey, halves};

/// Words of the bits of VIPs, and of those of sources; a power of two.
pub const FILTER_WORDS: usize = 512;
/// Words of the bits of addresses that replies are sent to, of which there are few; a power of two.
pub const REPLY_WORDS: usize = 16;

/// Bits of addresses, of either end.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AddressFilter {
    /// 1 when the bits say everything; until then, while it is 0, every packet is looked up.
    pub is_on: u32,
    /// The first port that `nat` connections have as their source.
    pub nat_port_first: u16,
    /// The last one.
    pub nat_port_last: u16,
    /// Of what lb gives `nat` connections as their source, for packets to these ports.
    pub replies: [u64; REPLY_WORDS],
    /// Of destinations: of VIPs.
    pub destinations: [u64; FILTER_WORDS],
    /// Of sources: of instances whose replies are for their clients' own addresses (`dnat`).
    pub sources: [u64; FILTER_WORDS],
}

const _: () = assert!(size_of::<AddressFilter>() == 8 + 8 * REPLY_WORDS + 16 * FILTER_WORDS);
const _: () = assert!(FILTER_WORDS * 64 == 1 << (64 - 49));

/// The bit of an address; of replies' addresses what is left of it after as many as there are.
#[inline(always)]
#[must_use]
pub const fn filter_bit(address: &Address) -> u32 {
    let [a, b] = halves(address);
    let words = a ^ b.rotate_left(23);
    (words.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 49) as u32
}

impl core::fmt::Debug for AddressFilter {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let count = |words: &[u64]| words.iter().map(|word| word.count_ones()).sum::<u32>();
        f.debug_struct("AddressFilter")
            .field("is_on", &self.is_on)
            .field("nat_ports", &(self.nat_port_first, self.nat_port_last))
            .field("replies", &count(&self.replies))
            .field("destinations", &count(&self.destinations))
            .field("sources", &count(&self.sources))
            .finish()
    }
}

impl Default for AddressFilter {
    fn default() -> Self {
        Self {
            is_on: 0,
            nat_port_first: 0,
            nat_port_last: 0,
            replies: [0; REPLY_WORDS],
            destinations: [0; FILTER_WORDS],
            sources: [0; FILTER_WORDS],
        }
    }
}

impl AddressFilter {
    /// Whether a packet with this key may be for a VIP or belong to a connection.
    #[must_use]
    pub fn expects(&self, key: &FlowKey) -> bool {
        let is_set = |words: &[u64], address: &Address| {
            let bit = filter_bit(address) as usize % (words.len() * 64);
            words[bit / 64] >> (bit % 64) & 1 != 0
        };
        let port = u16::from_be_bytes(key.destination_port);
        self.is_on == 0
            || is_set(&self.destinations, &key.destination)
            || is_set(&self.sources, &key.source)
            || (self.nat_port_first..=self.nat_port_last).contains(&port)
                && is_set(&self.replies, &key.destination)
    }

    /// Notes that packets to this address may be for VIPs.
    pub fn add_destination(&mut self, address: &Address) {
        set(&mut self.destinations, address);
    }

    /// Notes that packets to this address and the ports of `nat` may be replies.
    pub fn add_reply(&mut self, address: &Address) {
        set(&mut self.replies, address);
    }

    /// Notes that packets from this address may be replies.
    pub fn add_source(&mut self, address: &Address) {
        set(&mut self.sources, address);
    }
}

fn set(words: &mut [u64], address: &Address) {
    let bit = filter_bit(address) as usize % (words.len() * 64);
    words[bit / 64] |= 1 << (bit % 64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::from_v4;

    fn key(source: &Address, destination: &Address, port: u16) -> FlowKey {
        FlowKey {
            source: *source,
            destination: *destination,
            destination_port: port.to_be_bytes(),
            ..FlowKey::default()
        }
    }

    #[test]
    fn what_was_added_is_expected_and_hardly_anything_else() {
        let vips: [Address; 512] =
            core::array::from_fn(|i| from_v4([10, 1, (i >> 8) as u8, i as u8]));
        let mut filter = AddressFilter::default();
        let stranger = from_v4([192, 0, 2, 1]);
        assert!(filter.expects(&key(&stranger, &stranger, 80)), "it is off");
        filter.is_on = 1;
        assert!(!filter.expects(&key(&stranger, &vips[0], 80)));
        for vip in &vips {
            filter.add_destination(vip);
        }
        assert!(
            vips.iter()
                .all(|vip| filter.expects(&key(&stranger, vip, 80)))
        );
        let by_chance = (0..100_000_u32)
            .map(|i| (0x0b00_0000 + i * 257).to_be_bytes())
            .filter(|address| filter.expects(&key(&vips[0], &from_v4(*address), 80)))
            .count();
        assert!(by_chance < 2400, "{by_chance} of 100000");
    }

    #[test]
    fn an_address_counts_at_its_end_only_and_for_replies_at_its_ports() {
        let (instance, client) = (from_v4([10, 0, 0, 9]), from_v4([203, 0, 113, 7]));
        let own = from_v4([10, 0, 0, 1]);
        let mut filter = AddressFilter {
            is_on: 1,
            nat_port_first: 10_000,
            nat_port_last: 20_000,
            ..AddressFilter::default()
        };
        filter.add_source(&instance);
        filter.add_reply(&own);
        assert!(filter.expects(&key(&instance, &client, 80)));
        assert!(!filter.expects(&key(&client, &instance, 80)));
        for (port, expected) in [
            (9999, false),
            (10_000, true),
            (20_000, true),
            (20_001, false),
        ] {
            assert_eq!(
                filter.expects(&key(&client, &own, port)),
                expected,
                "{port}"
            );
        }
    }
}
