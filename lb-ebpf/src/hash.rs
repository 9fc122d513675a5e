//! The hash of a flow.
//!
//! Two things are taken from it: the slot of a table (its upper half) and the first source port
//! that `nat` tries (its lower half), so all 64 bits must be good. Each 64-bit word of the key is
//! multiplied by an odd constant of its own, and the products are added up: multilinear hashing, see
//! Lemire and Kaser, "Strongly universal string hashing is fast" (2014). A processor has all of these
//! multiplications under way at once, which counts where no flow is remembered and each packet is
//! hashed. What carries upwards only is then spread over all bits by the SplitMix64 finaliser (Steele,
//! Lea and Flood, OOPSLA 2014).
//!
//! Balancers that take over from one another have to hash alike, so this is not to be changed.

use lb_common::{Address, FlowKey, SLOTS, halves};

/// Odd numbers with half of their bits set, for the two halves of each address and the rest.
const FACTORS: [u64; 5] = [
    0x9e37_79b9_7f4a_7c15,
    0xd1b5_4a32_d192_ed03,
    0xaef1_7502_108e_f2d9,
    0xf135_7aea_2e62_a9c5,
    0xcbe7_7d9c_52b7_7a59,
];
const FIRST: u64 = 0xbf58_476d_1ce4_e5b9;
const SECOND: u64 = 0x94d0_49bb_1331_11eb;

/// Spreads each bit of `state` over all bits.
#[inline(always)]
#[must_use]
pub const fn finish(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(FIRST);
    let state = (state ^ (state >> 27)).wrapping_mul(SECOND);
    state ^ (state >> 31)
}

/// The sum of an address, by two of the factors.
#[inline(always)]
const fn sum(address: &Address, one: u64, other: u64) -> u64 {
    let [first, second] = halves(address);
    (first.wrapping_mul(one)).wrapping_add(second.wrapping_mul(other))
}

/// The hash of an address alone.
#[inline(always)]
#[must_use]
pub const fn address(address: &Address) -> u64 {
    let [a, b, ..] = FACTORS;
    finish(sum(address, a, b))
}

/// The hash of a flow: both addresses, both ports and the protocol. It is the same on machines of
/// either byte order.
#[inline(always)]
#[must_use]
pub const fn flow(key: &FlowKey) -> u64 {
    let [a, b, c, d, e] = FACTORS;
    let addresses = sum(&key.source, a, b).wrapping_add(sum(&key.destination, c, d));
    let rest = (u16::from_be_bytes(key.source_port) as u64) << 32
        | (u16::from_be_bytes(key.destination_port) as u64) << 16
        | key.protocol as u64;
    finish(addresses.wrapping_add(rest.wrapping_mul(e)))
}

/// The slot that a hash falls into: its upper half scaled to the table by a multiplication and a
/// shift (Lemire, "Fast random integer generation in an interval", 2019), which costs no division.
#[inline(always)]
#[must_use]
pub const fn slot(hash: u64) -> u32 {
    (((hash >> 32) * SLOTS as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::from_v4;

    fn key(client: u32, port: u16) -> FlowKey {
        FlowKey {
            source: from_v4(client.to_be_bytes()),
            destination: from_v4([10, 1, 1, 1]),
            source_port: port.to_be_bytes(),
            destination_port: [0, 80],
            protocol: 6,
            ..FlowKey::default()
        }
    }

    #[test]
    fn every_bit_of_a_tuple_changes_half_of_the_hash() {
        let base = key(0x0a00_0002, 5000);
        for bit in 0..37 * 8 {
            let mut bytes = [0_u8; 37];
            bytes[..16].copy_from_slice(&base.source);
            bytes[16..32].copy_from_slice(&base.destination);
            bytes[32..34].copy_from_slice(&base.source_port);
            bytes[34..36].copy_from_slice(&base.destination_port);
            bytes[36] = base.protocol;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let changed = FlowKey {
                source: bytes[..16].try_into().unwrap(),
                destination: bytes[16..32].try_into().unwrap(),
                source_port: [bytes[32], bytes[33]],
                destination_port: [bytes[34], bytes[35]],
                protocol: bytes[36],
                ..FlowKey::default()
            };
            let distance = (flow(&base) ^ flow(&changed)).count_ones();
            assert!(
                (12..=52).contains(&distance),
                "bit {bit} changes {distance} bits"
            );
        }
    }

    #[test]
    fn neighbouring_clients_and_ports_are_spread_evenly() {
        // 65,536 flows of 256 neighbouring addresses with 256 neighbouring ports, in 64 groups of
        // slots: 1024 expected in each, with a standard deviation of 32.
        let mut groups = [0_u32; 64];
        for client in 0..256 {
            for port in 0..256 {
                let slot = slot(flow(&key(0x0a00_0000 + client, 40_000 + port)));
                assert!((slot as usize) < SLOTS);
                groups[slot as usize * 64 / SLOTS] += 1;
            }
        }
        assert!(groups.iter().all(|n| (864..1184).contains(n)), "{groups:?}");
    }

    #[test]
    fn the_first_and_the_last_slot_are_reached() {
        assert_eq!(slot(0), 0);
        assert_eq!(slot(u64::MAX) as usize, SLOTS - 1);
    }
}
