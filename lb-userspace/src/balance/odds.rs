//! How likely each member is to be picked at this moment.
//!
//! Reading an algorithm's mind would mean a second copy of its rules, which would be right until
//! the first one changes. So a balancer is asked, with the members as they are, and what it picks
//! is counted. It must be one of its own: picks take turns and teach, and whoever wants to know
//! about the next request must not change it.

use super::{Balancer, Choice, Random, Tried};
use crate::model::{Member, Timestamp};

/// Picks that are counted: a chance is right to about one part in a hundred.
const PICKS: u32 = 2000;

/// The chance of each member, 0 to 1, in the order of `members`; all zero when none would be picked.
///
/// `balancer` is not one that serves requests. Requests in flight stay as they are between the
/// picks, and an instance that is due to be tried for the sake of knowledge stays due, so for
/// algorithms that look at load this is the chance of the next request, not of many.
#[must_use]
pub fn odds(
    balancer: &dyn Balancer,
    members: &[Member],
    key: u64,
    now: Timestamp,
    random: &Random,
) -> Vec<f64> {
    let tried = Tried::default();
    let choice = Choice {
        key,
        worker: 0,
        now,
        random,
        tried: &tried,
    };
    let mut counts = vec![0u32; members.len()];
    for _ in 0..PICKS {
        let Some(position) = balancer.pick(members, &choice) else {
            break;
        };
        counts[position] += 1;
    }
    let share = |count: u32| f64::from(count) / f64::from(PICKS);
    counts.into_iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{build, tests::members};
    use super::*;
    use crate::model::Algorithm;

    fn of(algorithm: Algorithm, members: &[Member], key: u64) -> Vec<f64> {
        let balancer = build(algorithm, members, 1);
        odds(&*balancer, members, key, Timestamp(1), &Random::new(7))
    }

    #[test]
    fn turns_give_shares_and_a_hash_gives_certainty() {
        let members = members(&[2, 1, 1, 0]);
        let turns = of(Algorithm::WeightedRoundRobin, &members, 0);
        assert_eq!(turns, [0.5, 0.25, 0.25, 0.0]);
        for key in 0..10 {
            let hashed = of(Algorithm::ConsistentHash, &members, key << 40);
            let chosen = hashed.iter().filter(|chance| **chance > 0.0);
            assert_eq!(chosen.copied().collect::<Vec<_>>(), [1.0]);
        }
    }

    #[test]
    fn with_nobody_to_pick_nobody_has_a_chance() {
        for algorithm in Algorithm::ALL {
            assert_eq!(of(algorithm, &members(&[0, 0]), 1), [0.0, 0.0]);
            assert_eq!(of(algorithm, &[], 1), [0.0; 0]);
        }
    }

    #[test]
    fn load_counts() {
        let members = members(&[1, 1]);
        let _busy = super::super::tests::occupy(&members[0], 5);
        assert_eq!(of(Algorithm::LeastConnections, &members, 0), [0.0, 1.0]);
    }
}
