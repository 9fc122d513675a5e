//! What a change of members does to the keys of consistent hashing.

use lb_common::SLOTS;

use super::maglev::table;

/// How many keys go to another member after a change, as shares of all keys, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moves {
    /// Those that do.
    pub moved: f64,
    /// Those that have to, because their member has a smaller share than before or none at all.
    /// What is moved beyond it is the price of a table that depends on the members alone.
    pub needed: f64,
}

/// What changes when `before` becomes `after`, each a member's stable key and its weight; the order
/// does not matter. Nothing moves when there was nobody before, and all does when nobody is left.
/// Builds two tables, which takes about 2 ms for 1000 members.
#[must_use]
pub fn moves(before: &[(u64, u32)], after: &[(u64, u32)]) -> Moves {
    let tables = [before, after].map(|members| -> Vec<u64> {
        let slots = table(members, SLOTS);
        slots
            .iter()
            .map(|slot| members[usize::from(*slot)].0)
            .collect()
    });
    let [old, new] = &tables;
    if old.is_empty() || new.is_empty() {
        let all = f64::from(!old.is_empty());
        return Moves {
            moved: all,
            needed: all,
        };
    }
    let moved = old.iter().zip(new).filter(|(old, new)| old != new).count();
    let kept = counts(new);
    let of = |key: u64| {
        let found = kept.binary_search_by_key(&key, |(owner, _)| *owner);
        found.map_or(0, |at| kept[at].1)
    };
    let lost = |(key, slots): (u64, usize)| slots.saturating_sub(of(key));
    let needed: usize = counts(old).into_iter().map(lost).sum();
    let share = |slots: usize| slots as f64 / SLOTS as f64;
    Moves {
        moved: share(moved),
        needed: share(needed),
    }
}

/// How many slots each owner has, by owner.
fn counts(owners: &[u64]) -> Vec<(u64, usize)> {
    let mut sorted = owners.to_vec();
    sorted.sort_unstable();
    let runs = sorted.chunk_by(|one, other| one == other);
    runs.map(|run| (run[0], run.len())).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn alike(keys: std::ops::Range<u64>) -> Vec<(u64, u32)> {
        keys.map(|key| (key, 1)).collect()
    }

    #[test]
    fn what_goes_moves_and_hardly_anything_else() {
        let ten = alike(0..10);
        assert_eq!(moves(&ten, &ten), Moves::default());
        let mut turned = ten.clone();
        turned.reverse();
        assert_eq!(moves(&ten, &turned), Moves::default());
        let one_less = moves(&ten, &ten[1..]);
        assert!((one_less.needed - 0.1).abs() < 0.001, "{one_less:?}");
        assert!((0.1..0.11).contains(&one_less.moved), "{one_less:?}");
        let all = Moves {
            moved: 1.0,
            needed: 1.0,
        };
        assert_eq!(moves(&ten, &alike(10..20)), all);
        assert_eq!(moves(&ten, &[]), all);
        assert_eq!(moves(&[], &ten), Moves::default());
    }

    #[test]
    fn a_weight_moves_what_it_takes() {
        let mut heavier = alike(0..4);
        heavier[0].1 = 2;
        // From a quarter to two fifths.
        let moved = moves(&alike(0..4), &heavier);
        assert!((moved.needed - 0.15).abs() < 0.001, "{moved:?}");
        assert!(moved.moved < 0.19, "{moved:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn what_must_move_does(
            before in prop::collection::vec(0u32..9, 1..12),
            after in prop::collection::vec(0u32..9, 1..12),
        ) {
            let keyed = |weights: &[u32]| -> Vec<(u64, u32)> {
                (5..).zip(weights.iter().copied()).collect()
            };
            let Moves { moved, needed } = moves(&keyed(&before), &keyed(&after));
            prop_assert!((0.0..=1.0).contains(&moved));
            prop_assert!(needed <= moved, "{needed} {moved}");
        }
    }
}
