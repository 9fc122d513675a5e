//! A service in the registry: what is wanted of it, what is known of its instances, and what
//! they weigh by that.

use std::sync::Arc;

use super::{
    change::{Event, RegistryError},
    outage::Outage,
    snapshot::{FailOpen, InstanceStatus, Pins, Service},
};
use crate::{
    affinity::Quota,
    balance,
    model::{
        AdminState, AffinityStats, Algorithm, BreakerState, Health, Instance, InstanceSpec, Member,
        Served, ServiceGuard, ServiceLoad, ServiceSpec, ServiceStats, UNLIMITED,
    },
    resilience::{Admission, Budget, Factors, Hedging, WeightInputs, effective_weight},
};

/// A service.
#[derive(Clone, Debug)]
pub(super) struct ServiceState {
    pub(super) spec: Arc<ServiceSpec>,
    /// The spec's instances as configured; the spec itself has those that were found, too.
    pub(super) configured: Arc<[InstanceSpec]>,
    /// The instances that sources have found; `None` before they have said anything.
    pub(super) found: Option<Arc<[InstanceSpec]>>,
    /// The algorithm in force; differs from the spec's when it was set at run time.
    pub(super) algorithm: Algorithm,
    pub(super) instances: Vec<InstanceState>,
    pub(super) stats: Arc<ServiceStats>,
    pub(super) budget: Arc<Budget>,
    pub(super) hedging: Arc<Hedging>,
    pub(super) guard: Arc<ServiceGuard>,
    /// What that does, as last heard.
    pub(super) breaker: BreakerState,
    /// Requests in flight.
    pub(super) load: Arc<ServiceLoad>,
    pub(super) admission: Arc<Admission>,
    pub(super) outage: Arc<Outage>,
    pub(super) affinity: Arc<AffinityStats>,
    pub(super) served: Arc<Served>,
    /// Whether the change at hand makes its instances forget what was learned of their weights.
    pub(super) forgets: bool,
}

/// An instance of a service.
#[derive(Clone, Debug)]
pub(super) struct InstanceState {
    pub(super) instance: Arc<Instance>,
    pub(super) status: InstanceStatus,
}

impl ServiceState {
    pub(super) fn instance(&mut self, name: &str) -> Result<&mut InstanceState, RegistryError> {
        let names = || self.instances.iter().map(|s| s.instance.endpoint.name());
        let matching = |s: &InstanceState| s.instance.endpoint.matches(name);
        let Some(position) = self.instances.iter().position(matching) else {
            return Err(RegistryError::NoInstance {
                service: self.spec.name.clone(),
                found: name.to_owned(),
                known: names().collect::<Vec<_>>().join(", "),
            });
        };
        Ok(&mut self.instances[position])
    }

    /// What instances weigh by, and why when that is not what they are.
    ///
    /// When none would take traffic, those that only wait for their recovery do: one that may fail
    /// is better than an answer that is sure to be an error. When there are none of these either,
    /// or fewer stand than the service asks for, checks and ejections are not believed any more:
    /// the rest would break under the load of all, or what finds fault is at fault itself. What an
    /// operator has said always holds.
    fn weighed(&self) -> (Vec<InstanceStatus>, Option<FailOpen>) {
        let statuses = || self.instances.iter().map(|state| &state.status);
        let standing = statuses().filter(|status| status.stands()).count();
        let wanted = statuses().filter(|status| status.is_wanted()).count();
        let too_few =
            |threshold: u32| standing as u64 * 1_000_000 < u64::from(threshold) * wanted as u64;
        let waits = |status: &InstanceStatus| unhurried(status).stands();
        let why = match self.spec.fail_open {
            _ if wanted == 0 => None,
            _ if standing == 0 && statuses().any(waits) => Some(FailOpen::OnlyRecovering),
            // Another service takes over; better one that works than one that may not.
            Some(_) if standing == 0 && self.spec.fallback.is_some() => None,
            Some(_) if standing == 0 => Some(FailOpen::NoneLeft),
            Some(spec) if too_few(spec.threshold) => Some(FailOpen::TooFew),
            _ => None,
        };
        let weighed = statuses().map(|status| match why {
            None => status.clone(),
            Some(FailOpen::OnlyRecovering) => unhurried(status),
            Some(FailOpen::NoneLeft | FailOpen::TooFew) => trusted(status),
        });
        (weighed.collect(), why)
    }

    /// Factors belong to the algorithm that asked for them. Whether there were any. What the
    /// instances have measured, which all snapshots share, goes when the change is made.
    pub(super) fn forget_factors(&mut self) -> bool {
        let mut any = false;
        for state in &mut self.instances {
            any |= state.status.factors != Factors::NONE;
            state.status.factors = Factors::NONE;
        }
        self.forgets = true;
        any
    }

    /// Makes its instances forget, if the change asks for it.
    pub(super) fn settle(&mut self) {
        if std::mem::take(&mut self.forgets) {
            let instances = self.instances.iter();
            instances.for_each(|state| state.instance.measured.forget());
        }
    }

    /// What its instances are to consistent hashing; `None` when the service does not hash.
    pub(super) fn keyed(&self) -> Option<Vec<(u64, u32)>> {
        let hashes = self.algorithm == Algorithm::ConsistentHash;
        let statuses = hashes.then(|| self.weighed().0)?;
        let identities = self.instances.iter().map(|state| state.instance.identity);
        let weights = statuses.iter().map(|status| weight(status, self.algorithm));
        Some(identities.zip(weights).collect())
    }

    /// The keys that go to another instance, now that the instances are no more what `before` says.
    pub(super) fn keys_moved(&self, before: Option<Vec<(u64, u32)>>) -> Option<Event> {
        let (before, after) = (before?, self.keyed()?);
        let moves = (before != after).then(|| balance::moves(&before, &after))?;
        (moves.moved > 0.0).then(|| Event::KeysMoved(self.spec.name.clone(), moves))
    }

    pub(super) fn is_same_as(&self, old: &Service) -> bool {
        old.spec.algorithm == self.algorithm
            && old.breaker == self.breaker
            && ServiceSpec {
                algorithm: self.algorithm,
                ..(*self.spec).clone()
            } == *old.spec
            && old.members.len() == self.instances.len()
            && self
                .instances
                .iter()
                .zip(old.members.iter())
                .zip(old.statuses.iter())
                .all(|((new, member), status)| {
                    Arc::ptr_eq(&new.instance, &member.instance) && new.status == *status
                })
    }

    pub(super) fn build(&self, workers: usize) -> Service {
        let (weighed, fail_open) = self.weighed();
        let limit = self
            .spec
            .outlier
            .map_or(0, |spec| spec.consecutive_failures);
        for state in &self.instances {
            state.instance.failures.set_limit(limit);
        }
        let members: Arc<[Member]> = self
            .instances
            .iter()
            .zip(weighed)
            .zip(&self.spec.instances)
            .map(|((state, status), spec)| Member {
                instance: Arc::clone(&state.instance),
                weight: weight(&status, self.algorithm),
                recovering: status.recovery.is_some() || status.ramp.is_some(),
                base: weight(&unmeasured(&status), self.algorithm),
                most: self
                    .spec
                    .limits
                    .of_instance(spec.max_requests, status.share()),
                most_connections: self.spec.limits.connections(spec.max_connections),
            })
            .collect();
        let sessions = Arc::new(self.pins(&members));
        let spec = ServiceSpec {
            algorithm: self.algorithm,
            ..(*self.spec).clone()
        };
        Service {
            limited: spec.limits.service.is_some()
                || spec.concurrency.is_some()
                || members
                    .iter()
                    .any(|member| member.most != UNLIMITED || member.most_connections.is_limited()),
            spec: Arc::new(spec),
            balancer: balance::build_bounded(self.algorithm, &members, workers, self.spec.bound()),
            members,
            statuses: self
                .instances
                .iter()
                .map(|state| state.status.clone())
                .collect(),
            stats: Arc::clone(&self.stats),
            budget: Arc::clone(&self.budget),
            hedging: Arc::clone(&self.hedging),
            admission: Arc::clone(&self.admission),
            outage: Arc::clone(&self.outage),
            guard: Arc::clone(&self.guard),
            breaker: self.breaker,
            fail_open,
            sessions,
            affinity: Arc::clone(&self.affinity),
            served: Arc::clone(&self.served),
        }
    }

    /// What sessions need to know of `members`.
    fn pins(&self, members: &[Member]) -> Pins {
        if !self.spec.affinity.enabled {
            return Pins::default();
        }
        let mut places: Vec<(u64, u16)> = (0..=u16::MAX)
            .zip(members)
            .map(|(position, member)| (member.instance.identity, position))
            .collect();
        places.sort_unstable();
        let keeps = (0..=u16::MAX).zip(&self.instances).filter(|(_, state)| {
            let enabled = InstanceStatus {
                admin: AdminState::Enabled,
                ..state.status.clone()
            };
            state.status.admin == AdminState::Draining && weight(&enabled, self.algorithm) > 0
        });
        Pins {
            places: places.into(),
            keeps: keeps.map(|(position, _)| position).collect(),
            quotas: quotas(self.algorithm, members).into(),
        }
    }
}

/// What recovering members are to get: their part of the weights that the algorithm goes by.
fn quotas(algorithm: Algorithm, members: &[Member]) -> Vec<Quota> {
    let weight = |member: &Member| match algorithm.goes_by_measures() {
        true => f64::from(member.base),
        false => f64::from(member.weight),
    };
    let total: f64 = members.iter().map(weight).sum();
    let recovering = members.iter().enumerate();
    recovering
        .filter(|(_, member)| member.recovering && member.weight > 0)
        .map(|(position, member)| Quota {
            position,
            identity: member.instance.identity,
            share: weight(member) / total,
        })
        .collect()
}

/// `status` without the wait for a recovery; one that has begun has its share.
fn unhurried(status: &InstanceStatus) -> InstanceStatus {
    InstanceStatus {
        recovery: status.recovery.filter(|progress| progress.share > 0),
        ..status.clone()
    }
}

/// `status` as if nothing spoke against it but its operator.
fn trusted(status: &InstanceStatus) -> InstanceStatus {
    InstanceStatus {
        health: Health::Unknown,
        ejected: None,
        ..unhurried(status)
    }
}

/// A status without what lb has measured.
pub(super) fn unmeasured(status: &InstanceStatus) -> InstanceStatus {
    InstanceStatus {
        factors: status.factors.unmeasured(),
        ..status.clone()
    }
}

/// What an instance of `status` weighs under `algorithm`.
pub(super) fn weight(status: &InstanceStatus, algorithm: Algorithm) -> u32 {
    effective_weight(&WeightInputs {
        configured: status.weight,
        algorithm,
        admin: status.admin,
        health: status.health,
        ejected: status.ejected.is_some(),
        share: status.share(),
        factors: status.factors,
    })
}
