//! Whole slots by weight.
//!
//! A table has whole slots and weights are any ratio, so somebody has to round. The largest
//! remainder method (Hamilton's, of 1792) is the one whose shares are never a slot or more off
//! the exact ones. It is fair to whoever weighs little only on average: a weight below one slot
//! would often get none, and an instance without a slot is never measured again. So whoever
//! weighs anything gets a slot, and only the rest is divided.

/// How many of `slots` each weight gets; the sum is `slots`, or everything is 0 when no weight is.
///
/// A quota is less than one slot off the exact share as long as every weight is worth a slot.
/// Weights worth less get exactly one, which the others pay for in proportion. When there are
/// more weights than slots, the heaviest get one each. Equal remainders are settled by position,
/// so callers pass weights in an order that does not change with unrelated members.
pub(super) fn quotas(weights: &[u32], slots: u32) -> Vec<u32> {
    let mut quotas = vec![0; weights.len()];
    let mut rest: Vec<usize> = (0..weights.len()).filter(|i| weights[*i] > 0).collect();
    let mut left = slots;
    if rest.len() > slots as usize {
        rest.sort_by_key(|i| std::cmp::Reverse(weights[*i]));
        rest.truncate(slots as usize);
    }
    // Giving one light weight its slot makes the others worth less, so the next may fall below.
    loop {
        let total = total(weights, &rest);
        let before = rest.len();
        rest.retain(|i| {
            let light = u64::from(weights[*i]) * u64::from(left) < total;
            if light {
                quotas[*i] = 1;
            }
            !light
        });
        left -= (before - rest.len()) as u32;
        if before == rest.len() {
            break;
        }
    }
    divide(weights, &rest, left, &mut quotas);
    quotas
}

/// The largest remainder method among `rest`.
fn divide(weights: &[u32], rest: &[usize], slots: u32, quotas: &mut [u32]) {
    let total = total(weights, rest);
    if total == 0 {
        return;
    }
    let mut left = slots;
    let mut remainders = Vec::with_capacity(rest.len());
    for &i in rest {
        let exact = u64::from(weights[i]) * u64::from(slots);
        quotas[i] = (exact / total) as u32;
        left -= quotas[i];
        remainders.push((std::cmp::Reverse(exact % total), i));
    }
    remainders.sort_unstable();
    for (_, i) in remainders.into_iter().take(left as usize) {
        quotas[i] += 1;
    }
}

fn total(weights: &[u32], of: &[usize]) -> u64 {
    of.iter().map(|i| u64::from(weights[*i])).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rounds_to_the_largest_remainders() {
        assert_eq!(quotas(&[5, 1, 1], 7), [5, 1, 1]);
        assert_eq!(quotas(&[1, 1, 1], 65_537), [21_846, 21_846, 21_845]);
        assert_eq!(quotas(&[0, 3, 0], 5), [0, 5, 0]);
        assert_eq!(quotas(&[0, 0], 5), [0, 0]);
        assert_eq!(quotas(&[], 5), [0; 0]);
        assert_eq!(quotas(&[1, 65_535], 100), [1, 99]);
        assert_eq!(quotas(&[1, 2, 3], 2), [0, 1, 1]);
    }

    proptest! {
        #[test]
        fn fills_every_slot_and_starves_nobody(
            weights in prop::collection::vec(0u32..=1_048_560, 1..200),
            slots in 200u32..70_000,
        ) {
            let quotas = quotas(&weights, slots);
            let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            let given: u32 = quotas.iter().sum();
            prop_assert_eq!(given, if total == 0 { 0 } else { slots });
            let mut all_worth_a_slot = true;
            for (weight, quota) in weights.iter().zip(&quotas) {
                prop_assert_eq!(*weight == 0, *quota == 0);
                all_worth_a_slot &=
                    *weight == 0 || u64::from(*weight) * u64::from(slots) >= total;
            }
            if all_worth_a_slot && total > 0 {
                for (weight, quota) in weights.iter().zip(&quotas) {
                    let exact = f64::from(*weight) * f64::from(slots) / total as f64;
                    prop_assert!((exact - f64::from(*quota)).abs() < 1.0);
                }
            }
        }
    }
}
