//! How many connections the kernel may give each instance.
//!
//! The program refuses an instance a connection beyond its ceiling by itself, in the moment that the
//! connection begins, so the limit of an instance is simply its ceiling, and is exact.
//!
//! The limit of a service is the sum over its instances, which no packet adds up. It is shared out
//! instead: every instance gets a ceiling that is what it has and a part of what the service may have
//! beyond that, so that the ceilings add up to the limit and it is never exceeded. Where connections
//! come and go unevenly a part may run out while another is not needed; so the parts are looked at
//! [`PERIOD`] by period and shared out anew when one of them runs low. Until then a connection that
//! does not find room at one instance goes to another one, so nothing is refused unless all that are
//! tried are out of room.
//!
//! Ceilings are lowered before others are raised, and are raised only by what is left then: what the
//! kernel has begun meanwhile is counted again in between.

use std::{collections::BTreeMap, time::Duration};

use super::{
    datapath::{Datapath, DatapathError},
    reconcile::Reconciler,
};
use crate::{
    model::UNLIMITED,
    registry::{Service, Snapshot},
};

/// How often what a service may have is shared out anew.
pub(crate) const PERIOD: Duration = Duration::from_millis(100);

/// The ceilings that are in the kernel, by index; an instance without an entry has none.
#[derive(Debug, Default)]
pub(crate) struct Ceilings {
    present: BTreeMap<u16, u64>,
    /// Whether there is anything to share out.
    shares: bool,
}

/// An instance as sharing out sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    index: u16,
    /// Connections that it has.
    live: u64,
    /// The most that it may have.
    most: u64,
    /// What its part is in proportion to.
    weight: u64,
}

impl Ceilings {
    /// Whether the limit of a service has to be shared out again and again.
    pub(crate) const fn shares(&self) -> bool {
        self.shares
    }

    /// Brings the ceilings to what `snapshot` asks for.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub(crate) fn apply(
        &mut self,
        snapshot: &Snapshot,
        state: &Reconciler,
        datapath: &mut dyn Datapath,
    ) -> Result<(), DatapathError> {
        let mut wanted = BTreeMap::new();
        self.shares = false;
        for service in snapshot.behind_vips() {
            match service.spec.limits.connections {
                None => wanted.extend(own(service)),
                Some(limit) => {
                    self.shares = true;
                    let limit = u64::from(limit.get());
                    self.share_out(service, limit, state, datapath, &mut wanted)?;
                }
            }
        }
        let gone: Vec<u16> = (self.present.keys())
            .filter(|index| !wanted.contains_key(*index))
            .copied()
            .collect();
        for (index, most) in wanted {
            self.put(datapath, index, most)?;
        }
        for index in gone {
            datapath.put_ceiling(index, None)?;
            self.present.remove(&index);
        }
        Ok(())
    }

    /// Lowers what is too high now, and says in `wanted` what everything is to be.
    fn share_out(
        &mut self,
        service: &Service,
        limit: u64,
        state: &Reconciler,
        datapath: &mut dyn Datapath,
        wanted: &mut BTreeMap<u16, u64>,
    ) -> Result<(), DatapathError> {
        let before = places(service, state, datapath)?;
        if self.holds(&before, limit) {
            wanted.extend(before.iter().map(|p| (p.index, self.present[&p.index])));
            return Ok(());
        }
        let aims = parts(&before, limit);
        for (place, aim) in before.iter().zip(&aims) {
            let present = self.present.get(&place.index);
            if present.is_none_or(|present| present > aim) {
                self.put(datapath, place.index, *aim)?;
            }
        }
        // Nothing begins beyond these any more; what has begun before they were written counts.
        let after = places(service, state, datapath)?;
        let bound = |place: &Place| self.present[&place.index].max(place.live);
        let mut left = limit.saturating_sub(after.iter().map(bound).sum());
        for (place, aim) in after.iter().zip(aims) {
            let present = self.present[&place.index];
            let more = aim.saturating_sub(present).min(left);
            left -= more;
            wanted.insert(place.index, present + more);
        }
        Ok(())
    }

    /// Whether the ceilings of a service add up to its limit, and no instance is about to run out of
    /// its part.
    fn holds(&self, places: &[Place], limit: u64) -> bool {
        let ceilings: Option<Vec<u64>> = (places.iter())
            .map(|place| self.present.get(&place.index).copied())
            .collect();
        let Some(ceilings) = ceilings else {
            return false;
        };
        let fair = parts(places, limit);
        let runs_low = |((place, ceiling), fair): ((&Place, &u64), &u64)| {
            let (free, due) = (
                ceiling.saturating_sub(place.live),
                fair.saturating_sub(place.live),
            );
            *ceiling > place.most || free < due.div_ceil(2)
        };
        let mut all = places.iter().zip(&ceilings).zip(&fair);
        ceilings.iter().sum::<u64>() <= limit && !all.any(runs_low)
    }

    fn put(
        &mut self,
        datapath: &mut dyn Datapath,
        index: u16,
        most: u64,
    ) -> Result<(), DatapathError> {
        if self.present.get(&index) != Some(&most) {
            datapath.put_ceiling(index, Some(most))?;
            self.present.insert(index, most);
        }
        Ok(())
    }
}

/// The limits of a service's instances, where they have any.
fn own(service: &Service) -> impl Iterator<Item = (u16, u64)> {
    let members = service.members.iter();
    let limited = members.filter(|member| member.most_connections.instance != UNLIMITED);
    limited.map(|member| {
        let most = u64::from(member.most_connections.instance);
        (member.instance.id.index, most)
    })
}

fn places(
    service: &Service,
    state: &Reconciler,
    datapath: &dyn Datapath,
) -> Result<Vec<Place>, DatapathError> {
    let members = service.members.iter().zip(service.packet_weights());
    let place = |(member, weight): (&crate::model::Member, u32)| {
        let id = member.instance.id;
        // The figures of an index are another instance's until it has been taken over.
        let is_ours = |entry: &lb_common::InstanceEntry| entry.generation == id.generation;
        let is_there = state.instances().get(&id.index).is_some_and(is_ours);
        Ok(Place {
            index: id.index,
            live: if is_there {
                datapath.live(id.index)?
            } else {
                0
            },
            most: match member.most_connections.instance {
                UNLIMITED => u64::MAX - 1,
                most => u64::from(most),
            },
            weight: u64::from(weight),
        })
    };
    members.map(place).collect()
}

/// Ceilings that add up to no more than `limit`: what each has, as far as that may be, and its part of
/// what is left by weight. What one may not have goes to the others.
fn parts(places: &[Place], limit: u64) -> Vec<u64> {
    let mut ceilings: Vec<u64> = places.iter().map(|p| p.live.min(p.most)).collect();
    // Those that have more than they may, after a reload, leave nothing to be shared out.
    let live: u64 = places.iter().map(|place| place.live).sum();
    let mut left = limit.saturating_sub(live);
    while left > 0 {
        let takes = |at: usize| places[at].weight > 0 && ceilings[at] < places[at].most;
        let open: Vec<usize> = (0..places.len()).filter(|at| takes(*at)).collect();
        let sum: u64 = open.iter().map(|at| places[*at].weight).sum();
        if sum == 0 {
            break;
        }
        let (whole, before) = (left, left);
        for at in &open {
            let exact = u128::from(whole) * u128::from(places[*at].weight) / u128::from(sum);
            let part = u64::try_from(exact).unwrap_or(u64::MAX);
            let part = part.min(places[*at].most - ceilings[*at]).min(left);
            ceilings[*at] += part;
            left -= part;
        }
        if left == before || left < open.len() as u64 {
            // Whole connections that are left over go to the first that may have one.
            for at in &open {
                if left > 0 && ceilings[*at] < places[*at].most {
                    ceilings[*at] += 1;
                    left -= 1;
                }
            }
        }
    }
    ceilings
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(index: u16, live: u64, most: u64, weight: u64) -> Place {
        Place {
            index,
            live,
            most,
            weight,
        }
    }

    #[test]
    fn what_is_left_is_shared_out_by_weight_and_as_each_may_have() {
        let all = u64::MAX - 1;
        let places = [place(1, 4, all, 1), place(2, 0, all, 2), place(3, 1, 2, 1)];
        // Eleven are left: 2.75 for the first, 5.5 for the second, one for the third.
        let parts = parts(&places, 16);
        assert_eq!(parts.iter().sum::<u64>(), 16);
        assert_eq!(parts[2], 2);
        assert!(parts[1] > parts[0] - 4, "{parts:?}");
        // More than there may be: nothing for anybody.
        assert_eq!(super::parts(&places, 3), [4, 0, 1]);
        let drained = [place(1, 2, all, 0), place(2, 0, all, 5)];
        assert_eq!(super::parts(&drained, 10), [2, 8]);
        let none = [place(1, 0, all, 0)];
        assert_eq!(super::parts(&none, 10), [0]);
    }

    proptest! {
        #[test]
        fn parts_never_add_up_to_more_and_leave_nothing_that_somebody_may_have(
            places in prop::collection::vec((0u64..20, 0u64..40, 0u64..2000), 1..9),
            limit in 1u64..200,
        ) {
            let places: Vec<Place> = (1..)
                .zip(places)
                .map(|(index, (live, most, weight))| place(index, live.min(most), most, weight))
                .collect();
            let parts = parts(&places, limit);
            let live: u64 = places.iter().map(|p| p.live).sum();
            let sum: u64 = parts.iter().sum();
            prop_assert!(sum <= limit.max(live));
            for (place, part) in places.iter().zip(&parts) {
                prop_assert!(*part >= place.live && *part <= place.most);
                let takes = place.weight > 0 && *part < place.most;
                prop_assert!(!takes || sum >= limit, "{places:?} {parts:?}");
            }
        }
    }
}
