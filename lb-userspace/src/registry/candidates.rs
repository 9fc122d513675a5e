//! What speaks for and against each instance of a service, asked without serving anybody.

use super::Service;
use crate::{
    balance::{Balancer, Random, odds},
    model::{Exclusion, Timestamp},
};

/// What speaks for or against a member.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Why it gets nothing new; `None` when it may be picked.
    pub exclusion: Option<Exclusion>,
    /// Its chance of being picked, 0 to 1.
    pub chance: f64,
}

impl Service {
    /// The members as candidates for something with this key, in their order. `balancer` serves nobody.
    #[must_use]
    pub fn candidates(
        &self,
        balancer: &dyn Balancer,
        key: u64,
        now: Timestamp,
        random: &Random,
    ) -> Vec<Candidate> {
        let chances = odds(balancer, &self.members, key, now, random);
        (0..self.members.len())
            .zip(chances)
            .map(|(position, chance)| Candidate {
                exclusion: self.exclusion(position, now),
                chance,
            })
            .collect()
    }
}
