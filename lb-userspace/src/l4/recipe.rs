//! What a table is made of.
//!
//! A table is 262 KB, but it follows from an order and a handful of shares. Recipes are what the
//! reconciler compares and remembers; slots are worked out only when a table has to be written.

use lb_common::{SLOTS, Table};

use crate::balance;

/// In which order the slots of a table name its instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order {
    /// Maglev: most slots stay where they are when members come and go.
    Maglev,
    /// Smooth weighted: successive slots alternate as the weights say.
    Smooth,
}

/// A member of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Share {
    /// Fingerprint of service and endpoint: what places the instance in a Maglev table, so that a
    /// restart or another index moves no flow.
    pub(crate) identity: u64,
    /// Generation of the index.
    pub(crate) generation: u16,
    /// Instance index, what the slots hold.
    pub(crate) index: u16,
    /// Effective weight, at least 1, without common factors.
    pub(crate) weight: u32,
}

/// What a table is made of; equal recipes make equal tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recipe {
    order: Order,
    shares: Vec<Share>,
}

impl Recipe {
    /// A recipe of the shares whose weight is not 0.
    pub(crate) fn new(order: Order, shares: impl IntoIterator<Item = Share>) -> Self {
        let mut shares: Vec<Share> = shares.into_iter().filter(|s| s.weight > 0).collect();
        // The order of the configuration must not matter, and only ratios do.
        shares.sort_unstable();
        let divisor = shares.iter().fold(0, |d, share| gcd(d, share.weight));
        for share in &mut shares {
            share.weight /= divisor;
        }
        Self { order, shares }
    }

    /// Whether no instance may take traffic.
    pub(crate) const fn is_empty(&self) -> bool {
        self.shares.is_empty()
    }

    /// The recipe of those members that `keep` says.
    pub(crate) fn only(&self, keep: impl Fn(&Share) -> bool) -> Self {
        Self::new(self.order, self.shares.iter().filter(|s| keep(s)).copied())
    }

    /// The members.
    pub(crate) fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// The table, all slots clear.
    pub(crate) fn table(&self) -> Box<Table> {
        let mut table = empty_table();
        if self.is_empty() {
            return table;
        }
        let members: Vec<(u64, u32)> = self.shares.iter().map(|s| (s.identity, s.weight)).collect();
        let positions = match self.order {
            Order::Maglev => balance::maglev::table(&members, SLOTS),
            Order::Smooth => balance::order::order(&members, SLOTS),
        };
        for (slot, position) in table.slots.iter_mut().zip(positions) {
            // A position that named no share would be a fault of the builder; 0 drops, visibly.
            *slot = self
                .shares
                .get(usize::from(position))
                .map_or(0, |share| share.index);
        }
        table
    }
}

/// A table whose slots all name none.
pub(crate) fn empty_table() -> Box<Table> {
    Box::new(Table::settled([0; SLOTS]))
}

const fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn share(index: u16, weight: u32) -> Share {
        Share {
            identity: u64::from(index) * 0x9e37_79b9,
            generation: 0,
            index,
            weight,
        }
    }

    fn counts(table: &Table) -> std::collections::BTreeMap<u16, usize> {
        let mut counts = std::collections::BTreeMap::new();
        for slot in table.slots {
            *counts.entry(slot).or_default() += 1;
        }
        counts
    }

    #[test]
    fn without_weight_every_slot_is_none() {
        let recipe = Recipe::new(Order::Maglev, [share(1, 0)]);
        assert!(recipe.is_empty());
        assert!(recipe.table().slots.iter().all(|slot| *slot == 0));
    }

    #[test]
    fn only_ratios_and_members_matter() {
        let a = Recipe::new(Order::Smooth, [share(1, 16), share(2, 48)]);
        let b = Recipe::new(Order::Smooth, [share(2, 3), share(1, 1), share(3, 0)]);
        assert_eq!(a, b);
        assert_ne!(a, Recipe::new(Order::Maglev, [share(1, 1), share(2, 3)]));
    }

    /// Slots that change hands from one table to another, and those of them that are neither the
    /// gain of the instance that recovers nor its loss.
    fn moved(before: &Table, after: &Table, recovering: u16) -> (usize, usize) {
        let changed = before.slots.iter().zip(&after.slots);
        let changed = changed.filter(|(before, after)| before != after);
        changed.fold((0, 0), |(all, others), (before, after)| {
            let own = *before == recovering || *after == recovering;
            (all + 1, others + usize::from(!own))
        })
    }

    /// A step of a recovery, an ejection and a drain move what they have to, and next to nothing
    /// between instances that they are no concern of.
    #[test]
    fn a_step_of_a_recovery_moves_no_more_flows_than_it_demands() {
        for members in [3_u16, 10, 100] {
            let table = |share: u32| {
                let shares = (1..=members).map(|index| match index {
                    1 => self::share(1, 16 * share),
                    _ => self::share(index, 1600),
                });
                Recipe::new(Order::Maglev, shares).table()
            };
            let mut before = table(0);
            for percent in (10..=100).step_by(10).chain([0]) {
                let after = table(percent);
                let had = counts(&before).get(&1).copied().unwrap_or_default();
                let has = counts(&after).get(&1).copied().unwrap_or_default();
                let (all, others) = moved(&before, &after, 1);
                let demanded = had.abs_diff(has);
                // Maglev's own promise is "few", not "none".
                assert!(
                    all - others <= demanded + demanded / 4 + SLOTS / 100,
                    "{members} at {percent} %: {all} moved for {demanded}"
                );
                assert!(
                    others <= SLOTS / 50,
                    "{members} at {percent} %: {others} between others"
                );
                before = after;
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn slots_are_shared_as_the_weights_say(
            weights in prop::collection::vec(0u32..200, 1..12),
            smooth: bool,
        ) {
            let order = if smooth { Order::Smooth } else { Order::Maglev };
            let shares = weights.iter().enumerate().map(|(i, w)| share(i as u16 + 1, *w));
            let counts = counts(&Recipe::new(order, shares).table());
            let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            for (i, weight) in weights.iter().enumerate() {
                let found = counts.get(&(i as u16 + 1)).copied().unwrap_or(0) as f64;
                let ideal = if sum == 0 {
                    0.0
                } else {
                    SLOTS as f64 * f64::from(*weight) / sum as f64
                };
                // Of the smooth order a last, incomplete round is cut off.
                prop_assert!((found - ideal).abs() <= weights.len() as f64 + 1.0,
                    "{found} slots for an ideal of {ideal}");
            }
        }
    }
}
