//! The smooth weighted order: who is served in which turn.
//!
//! A cycle of turns in which each member appears as often as its weight says, spread as evenly as
//! whole turns allow: after any number of turns, no member is a whole turn ahead of its share or
//! behind it. That is the strongest promise that can be kept for all weights at once, and more
//! than the well-known "smooth weighted round robin" of nginx keeps.
//!
//! The method is the one of proportionate fairness (Baruah, Cohen, Plaxton and Varvel,
//! "Proportionate Progress", Algorithmica 1996): the k-th turn (from 0) of a member with quota
//! `q` of `n` turns must fall into the window from `⌊k·n/q⌋` to `⌈(k+1)·n/q⌉`. All windows can be
//! kept together, and giving each turn to the open window that closes first keeps them (earliest
//! deadline first is optimal for unit jobs on one machine).
//!
//! Members with the same quota have the same windows, and there are few quotas: no more than 361
//! different ones fit 65,537 turns. So what takes part is not members but *groups* of the same quota, whose
//! members take the group's turns in rotation, and as long as no other window opens, a group is served
//! at a stretch. Both queues, of windows that will open and of windows that will close, are by turn, and turns are
//! small numbers, so they are lists by turn and a bitmap ([`Queue`]), not heaps. A thousand members take a
//! fifth of the time that they took as members of their own, and that was most of what it took to bring
//! a change into the kernel.

use std::{cmp::Reverse, ops::Range};

use super::quota::quotas;

/// Builds a cycle of `turns` positions in `members`, each given by its stable key and its weight.
/// Empty when no member weighs anything or `turns` is 0.
///
/// In the first `t` turns a member with quota `q` appears `⌊t·q/turns⌋` or `⌈t·q/turns⌉` times;
/// the quota is less than one turn off the exact share, and at least one for any weight (see
/// [`super::quota`] for weights that are worth less). The same members give the same order,
/// whatever their order in the list. Members beyond the first 65,536 cannot be named and get
/// nothing.
#[must_use]
pub fn order(members: &[(u64, u32)], turns: usize) -> Vec<u16> {
    let ranked = ranked(members);
    let weights: Vec<u32> = ranked.iter().map(|p| members[usize::from(*p)].1).collect();
    let n = turns as u32;
    let quotas = quotas(&weights, n);
    let mut served: Vec<usize> = (0..ranked.len()).filter(|r| quotas[*r] > 0).collect();
    // Stable: those of one quota stay in the order of their ranks.
    served.sort_by_key(|rank| Reverse(quotas[*rank]));
    let groups = Group::all(&served, &quotas, n);
    let served: Vec<u16> = served.into_iter().map(|rank| ranked[rank]).collect();
    serve(groups, &served, n)
}

/// Gives each turn to the group whose window is open and closes first.
fn serve(mut groups: Vec<Group>, served: &[u16], turns: u32) -> Vec<u16> {
    let mut order = Vec::with_capacity(turns as usize);
    let mut next = vec![0; groups.len() + 1];
    // Windows that are open, by when they close; those yet to open, by when they open.
    let (mut open, mut shut) = (Queue::new(turns), Queue::new(turns));
    for (name, group) in (1..).zip(&groups) {
        open.push(&mut next, group.window.closes(), name);
    }
    let mut turn = 0;
    while turn < turns {
        while let Some(name) = shut.pop(&mut next, turn) {
            open.push(&mut next, groups[place(name)].window.closes(), name);
        }
        // Windows add up to the cycle, so one is open in every turn unless there is none at all.
        let Some(closes) = open.earliest(turn) else {
            break;
        };
        let Some(name) = open.first(&next, closes) else {
            break;
        };
        let group = &mut groups[place(name)];
        // Until another window opens, this one stays the first to close.
        let until = shut.earliest(turn + 1).unwrap_or(turns);
        let run = group.take(until - turn);
        turn += run.len() as u32;
        order.extend_from_slice(&served[run]);
        if group.is_over() {
            open.pop(&mut next, closes);
            if group.window.move_on() {
                shut.push(&mut next, group.window.opens, name);
            }
        }
    }
    order
}

/// The positions of `members` in the order of their keys, which is the same in every process.
pub(super) fn ranked(members: &[(u64, u32)]) -> Vec<u16> {
    let mut ranked: Vec<u16> = (0..=u16::MAX).take(members.len()).collect();
    ranked.sort_by_key(|position| members[usize::from(*position)]);
    ranked
}

/// Members with the same quota: a part of the list of all that are served.
struct Group {
    /// The window in which each of them gets its next turn.
    window: Window,
    members: Range<u32>,
    /// Who is next.
    next: u32,
}

impl Group {
    /// All groups, of a list in which the members of each stand together.
    fn all(served: &[usize], quotas: &[u32], turns: u32) -> Vec<Self> {
        let same = served.chunk_by(|a, b| quotas[*a] == quotas[*b]);
        let mut start = 0;
        same.map(|members| {
            let end = start + members.len() as u32;
            let group = Self {
                window: Window::first(quotas[members[0]], turns),
                members: start..end,
                next: start,
            };
            start = end;
            group
        })
        .collect()
    }

    /// Who is served next, so many at most.
    fn take(&mut self, most: u32) -> Range<usize> {
        let first = self.next;
        self.next = self.members.end.min(first + most);
        first as usize..self.next as usize
    }

    /// Whether everybody has got the turn of this window; if so, it is the first one's turn again.
    fn is_over(&mut self) -> bool {
        let is_over = self.next == self.members.end;
        if is_over {
            self.next = self.members.start;
        }
        is_over
    }
}

/// The window of a group's next turns.
struct Window {
    /// Turns that each member must get.
    quota: u32,
    /// Turns that it has got.
    done: u32,
    /// The turn from which on the next one may be given: the whole part of `done · turns / quota`.
    opens: u32,
    /// The rest of that division.
    rest: u32,
    /// `turns / quota`, and the rest of that.
    step: (u32, u32),
}

impl Window {
    fn first(quota: u32, turns: u32) -> Self {
        let divisor = quota.max(1);
        Self {
            quota,
            done: 0,
            opens: 0,
            rest: 0,
            step: (turns / divisor, turns % divisor),
        }
    }

    /// Where the window after this one opens, and the rest.
    const fn next(&self) -> (u32, u32) {
        let (opens, rest) = (self.opens + self.step.0, self.rest + self.step.1);
        // Both are below the quota, so their sum is a whole one at most.
        if rest >= self.quota {
            (opens + 1, rest - self.quota)
        } else {
            (opens, rest)
        }
    }

    /// The turn before which the turn must be given, `(done + 1) · turns / quota` rounded up.
    const fn closes(&self) -> u32 {
        let (opens, rest) = self.next();
        opens + (rest > 0) as u32
    }

    /// Goes on to the window after this one; whether there is one.
    const fn move_on(&mut self) -> bool {
        (self.opens, self.rest) = self.next();
        self.done += 1;
        self.done < self.quota
    }
}

/// Where the group with a name is. Names are from 1 on; 0 is none.
const fn place(name: u16) -> usize {
    name as usize - 1
}

/// Groups by turn, those of the same turn in the order in which they have come. A group is in one queue
/// at a time, so both queues share the links, which are by its name.
struct Queue {
    /// The last group of each turn, which links to the first one.
    last: Vec<u16>,
    /// Which turns have groups, and which words of that are not zero.
    turns: Vec<u64>,
    words: Vec<u64>,
}

impl Queue {
    /// For turns up to `most`.
    fn new(most: u32) -> Self {
        let most = most as usize;
        let words = most / 64 + 1;
        Self {
            last: vec![0; most + 1],
            turns: vec![0; words],
            words: vec![0; words / 64 + 1],
        }
    }

    fn push(&mut self, next: &mut [u16], turn: u32, name: u16) {
        let last = std::mem::replace(&mut self.last[turn as usize], name);
        if last == 0 {
            next[usize::from(name)] = name;
            let word = turn / 64;
            self.turns[word as usize] |= 1 << (turn % 64);
            self.words[word as usize / 64] |= 1 << (word % 64);
        } else {
            next[usize::from(name)] = std::mem::replace(&mut next[usize::from(last)], name);
        }
    }

    /// The group that has come first of those of a turn.
    fn first(&self, next: &[u16], turn: u32) -> Option<u16> {
        let last = self.last[turn as usize];
        (last != 0).then(|| next[usize::from(last)])
    }

    /// Takes it out.
    fn pop(&mut self, next: &mut [u16], turn: u32) -> Option<u16> {
        let first = self.first(next, turn)?;
        let last = self.last[turn as usize];
        if first != last {
            next[usize::from(last)] = next[usize::from(first)];
            return Some(first);
        }
        self.last[turn as usize] = 0;
        let word = turn / 64;
        let bits = &mut self.turns[word as usize];
        *bits &= !(1 << (turn % 64));
        if *bits == 0 {
            self.words[word as usize / 64] &= !(1 << (word % 64));
        }
        Some(first)
    }

    /// The first turn that has a group, when none before `from` has one.
    fn earliest(&self, from: u32) -> Option<u32> {
        let near = from / 64;
        let bits = *self.turns.get(near as usize)?;
        if bits != 0 {
            return Some(near * 64 + bits.trailing_zeros());
        }
        let start = near as usize / 64;
        let at = start + self.words[start..].iter().position(|words| *words != 0)?;
        let word = at as u32 * 64 + self.words[at].trailing_zeros();
        Some(word * 64 + self.turns[word as usize].trailing_zeros())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn interleaves() {
        let keyed = |weights: &[u32]| -> Vec<(u64, u32)> { (0..).zip(weights.to_vec()).collect() };
        assert_eq!(order(&keyed(&[1, 1, 1]), 6), [0, 1, 2, 0, 1, 2]);
        assert_eq!(order(&keyed(&[5, 1, 1]), 7), [0, 0, 0, 1, 0, 2, 0]);
        assert_eq!(order(&keyed(&[0, 2]), 3), [1, 1, 1]);
        assert_eq!(order(&keyed(&[0]), 3), [0; 0]);
        assert_eq!(order(&[], 3), [0; 0]);
        assert_eq!(order(&keyed(&[1]), 0), [0; 0]);
    }

    proptest! {
        #[test]
        fn nobody_is_ever_a_turn_ahead_or_behind(
            weights in prop::collection::vec(0u32..=1_048_560, 1..40),
            turns in 40usize..2000,
        ) {
            let members: Vec<(u64, u32)> = (7..).zip(weights.clone()).collect();
            let quotas = quotas(&weights, turns as u32);
            let order = order(&members, turns);
            prop_assert_eq!(order.len(), if weights.iter().all(|w| *w == 0) { 0 } else { turns });
            let mut served = vec![0u64; weights.len()];
            for (turn, position) in (1u64..).zip(&order) {
                served[usize::from(*position)] += 1;
                for (served, quota) in served.iter().zip(&quotas) {
                    let exact = turn * u64::from(*quota);
                    prop_assert!(*served >= exact / turns as u64);
                    prop_assert!(*served <= exact.div_ceil(turns as u64));
                }
            }
        }

        #[test]
        fn the_order_of_the_list_does_not_matter(
            weights in prop::collection::vec(0u32..100, 1..40),
            rotation in 0usize..40,
        ) {
            let members: Vec<(u64, u32)> = (7..).zip(weights).collect();
            let mut turned = members.clone();
            turned.rotate_left(rotation % members.len());
            let keys = |of: &[(u64, u32)]| -> Vec<u64> {
                order(of, 500).iter().map(|p| of[usize::from(*p)].0).collect()
            };
            prop_assert_eq!(keys(&members), keys(&turned));
        }
    }
}
