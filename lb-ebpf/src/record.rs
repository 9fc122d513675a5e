//! Which packets are recorded for whom.
//!
//! Following packets must cost nothing while nobody does. So the programs on a packet's way look at one
//! word before they carry a verdict out, and only while that says that somebody follows, they hand the
//! packet on to the stage that records. There each follower's wishes are held against what became of
//! the packet, in the kernel, because what nobody wants to see should not have to cross over to user space.
//!
//! What became of a packet is known by then, and must not be another one because it was looked at:
//! everything here only reads.

use lb_common::{Counter, FOLLOW_ALL_VIPS, FOLLOW_NEW, FlowKey, Follower, MAX_VIPS, halves};

use crate::Verdict;

/// [`Fate::action`]: to the host's network stack.
pub const PASS: u32 = 0;
/// [`Fate::action`]: dropped.
pub const DROP: u32 = 1;
/// [`Fate::action`]: back out of the interface it came in by.
pub const TRANSMIT: u32 = 2;
/// [`Fate::action`]: out of [`Fate::out`].
pub const REDIRECT: u32 = 3;

/// A verdict as plain numbers, for whoever carries it out elsewhere.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// One of the actions.
    pub action: u32,
    /// The number of the counter.
    pub counter: u32,
    /// Index of the interface that the packet leaves by; 0 when it does not.
    pub out: u32,
}

impl Fate {
    /// The fate of a packet that came in by `interface`.
    #[inline(always)]
    #[must_use]
    pub const fn of(verdict: Verdict, interface: u32) -> Self {
        let (action, out) = match verdict {
            Verdict::Pass(_) => (PASS, 0),
            Verdict::Drop(_) => (DROP, 0),
            Verdict::Transmit | Verdict::Answer(_) => (TRANSMIT, interface),
            Verdict::Redirect(out) => (REDIRECT, out),
        };
        Self {
            action,
            counter: verdict.counter() as u32,
            out,
        }
    }
}

/// Whose a packet is, noted on its way as it is counted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Whose {
    /// One more than the id of its VIP; 0: of none.
    pub vip: u16,
    /// Index of its instance; 0: of none.
    pub index: u16,
    /// Not 0 when it has begun a connection.
    pub begun: u32,
}

const _: () = assert!(size_of::<Whose>() == 8);

/// Whether a follower wants packets like this one. What most followers are told apart by comes first, and the
/// rest is joined without branches: the verifier goes all ways of each, and that for every follower.
#[inline(always)]
#[must_use]
pub const fn wants(follower: &Follower, fate: &Fate, whose: Whose, key: &FlowKey) -> bool {
    if follower.counters >> (fate.counter & 63) & 1 == 0 {
        return false;
    }
    let id = (whose.vip as u32).wrapping_sub(1);
    let word = follower.vips[(id / 64) as usize & (MAX_VIPS as usize / 64 - 1)];
    // No VIP has the id that none gives.
    let of_vip = (word >> (id & 63)) & (whose.vip != 0) as u64;
    let of_all = (follower.flags & FOLLOW_ALL_VIPS != 0) as u64;
    let ([a, b], [p, q]) = (halves(&key.source), follower.prefix);
    let apart = ((a ^ p) & follower.mask[0]) | ((b ^ q) & follower.mask[1]);
    let is_old = whose.begun == 0 && is_plain(fate.counter) && follower.flags & FOLLOW_NEW != 0;
    (of_vip | of_all) & 1 != 0 && apart == 0 && !is_old
}

/// Whether a packet that a follower wants is one of its sample; chance is asked only where there is one.
#[inline(always)]
pub fn is_sample(follower: &Follower, chance: impl FnOnce() -> u32) -> bool {
    follower.sample <= 1 || (u64::from(chance()) * u64::from(follower.sample)) >> 32 == 0
}

/// Whether packets that are counted here are forwarded, and not answered.
#[inline(always)]
const fn is_plain(counter: u32) -> bool {
    counter == Counter::Transmitted as u32 || counter == Counter::Redirected as u32
}

#[cfg(test)]
mod tests {
    use lb_common::from_v4;
    use proptest::prelude::*;

    use super::*;

    fn everything() -> Follower {
        Follower {
            counters: u64::MAX,
            flags: FOLLOW_ALL_VIPS,
            ..Follower::default()
        }
    }

    fn key() -> FlowKey {
        FlowKey {
            source: from_v4([198, 51, 100, 7]),
            ..FlowKey::default()
        }
    }

    fn forwarded() -> Fate {
        Fate::of(Verdict::Redirect(3), 2)
    }

    fn seen(follower: &Follower, fate: Fate, whose: Whose) -> bool {
        wants(follower, &fate, whose, &key())
    }

    const OF_VIP_0: Whose = Whose {
        vip: 1,
        index: 4,
        begun: 0,
    };

    #[test]
    fn a_fate_is_a_verdict_in_numbers() {
        let counter = |counter: Counter| counter as u32;
        for (verdict, action, counter, out) in [
            (
                Verdict::Pass(Counter::PassedNotVip),
                PASS,
                counter(Counter::PassedNotVip),
                0,
            ),
            (
                Verdict::Drop(Counter::DropTtl),
                DROP,
                counter(Counter::DropTtl),
                0,
            ),
            (
                Verdict::Transmit,
                TRANSMIT,
                counter(Counter::Transmitted),
                2,
            ),
            (
                Verdict::Answer(Counter::AnsweredEcho),
                TRANSMIT,
                counter(Counter::AnsweredEcho),
                2,
            ),
            (
                Verdict::Redirect(3),
                REDIRECT,
                counter(Counter::Redirected),
                3,
            ),
        ] {
            let fate = Fate {
                action,
                counter,
                out,
            };
            assert_eq!(Fate::of(verdict, 2), fate);
        }
    }

    #[test]
    fn nobody_wants_nothing() {
        assert!(!seen(&Follower::default(), forwarded(), OF_VIP_0));
        assert!(seen(&everything(), forwarded(), OF_VIP_0));
        assert!(seen(&everything(), forwarded(), Whose::default()));
    }

    #[test]
    fn packets_are_wanted_by_what_they_are_counted_under() {
        let mut follower = Follower {
            counters: 0,
            ..everything()
        };
        follower.want(Counter::DropTtl);
        let drop = |reason| Fate::of(Verdict::Drop(reason), 2);
        assert!(seen(&follower, drop(Counter::DropTtl), OF_VIP_0));
        assert!(!seen(&follower, drop(Counter::DropNoRoute), OF_VIP_0));
        assert!(!seen(&follower, forwarded(), OF_VIP_0));
    }

    #[test]
    fn packets_are_wanted_by_their_vip() {
        for id in [0, 1, 63, 64, MAX_VIPS - 1] {
            let mut follower = Follower {
                flags: 0,
                ..everything()
            };
            follower.want_vip(id);
            for other in 0..MAX_VIPS {
                let whose = Whose {
                    vip: other as u16 + 1,
                    ..OF_VIP_0
                };
                assert_eq!(seen(&follower, forwarded(), whose), other == id);
            }
            assert!(!seen(&follower, forwarded(), Whose::default()), "{id}");
        }
        let mut follower = Follower::default();
        follower.want_vip(MAX_VIPS);
        assert_eq!(follower, Follower::default());
    }

    #[test]
    fn only_forwarded_packets_have_to_be_new() {
        let follower = Follower {
            flags: FOLLOW_ALL_VIPS | FOLLOW_NEW,
            ..everything()
        };
        let begun = Whose {
            begun: 1,
            ..OF_VIP_0
        };
        assert!(!seen(&follower, forwarded(), OF_VIP_0));
        assert!(!seen(&follower, Fate::of(Verdict::Transmit, 2), OF_VIP_0));
        assert!(seen(&follower, forwarded(), begun));
        let drop = Fate::of(Verdict::Drop(Counter::DropTtl), 2);
        assert!(seen(&follower, drop, OF_VIP_0));
    }

    #[test]
    fn a_sample_is_one_in_so_many() {
        for (sample, expected) in [(0, 1000), (1, 1000), (2, 500), (1000, 1)] {
            let follower = Follower {
                sample,
                ..everything()
            };
            let step = u32::MAX / 1000;
            let count = (0..1000_u32)
                .filter(|at| is_sample(&follower, || at * step + 1))
                .count();
            assert!(count.abs_diff(expected) <= 1, "{sample}: {count}");
        }
    }

    proptest! {
        #[test]
        fn a_source_is_wanted_when_it_is_in_the_prefix(
            source: [u8; 16],
            flipped in 0_u8..128,
            length in 0_u8..=128,
        ) {
            let mut follower = everything();
            let mut wanted = source;
            wanted[usize::from(flipped / 8)] ^= 0x80 >> (flipped % 8);
            follower.want_source(&wanted, length);
            let key = FlowKey { source, ..FlowKey::default() };
            let found = wants(&follower, &forwarded(), OF_VIP_0, &key);
            prop_assert_eq!(found, flipped >= length);
        }
    }
}
