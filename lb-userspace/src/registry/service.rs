//! A service in the registry: what is wanted of it, what is known of its instances, and what
//! they weigh by that.

use std::sync::Arc;

use super::{
    change::RegistryError,
    snapshot::{InstanceStatus, Service},
};
use crate::{
    balance,
    model::{
        Algorithm, Instance, Member, ServiceGuard, ServiceLoad, ServiceSpec, ServiceStats,
        UNLIMITED,
    },
    resilience::{Admission, Budget, Factors, WHOLE, WeightInputs, effective_weight},
};

/// A service.
#[derive(Clone, Debug)]
pub(super) struct ServiceState {
    pub(super) spec: Arc<ServiceSpec>,
    /// The algorithm in force; differs from the spec's when it was set at run time.
    pub(super) algorithm: Algorithm,
    pub(super) instances: Vec<InstanceState>,
    pub(super) stats: Arc<ServiceStats>,
    pub(super) budget: Arc<Budget>,
    pub(super) guard: Arc<ServiceGuard>,
    /// Requests in flight.
    pub(super) load: Arc<ServiceLoad>,
    pub(super) admission: Arc<Admission>,
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

    /// What instances weigh by. When none would take traffic, those that only wait for their
    /// recovery do: one that may fail is better than an answer that is sure to be an error.
    fn weighed(&self) -> Vec<InstanceStatus> {
        let statuses = || self.instances.iter().map(|state| state.status.clone());
        if statuses().any(|status| weight(&status, self.algorithm) > 0) {
            return statuses().collect();
        }
        let forced = |status: InstanceStatus| InstanceStatus {
            recovery: status.recovery.filter(|progress| progress.share > 0),
            ..status
        };
        statuses().map(forced).collect()
    }

    /// Factors belong to the algorithm that asked for them. Whether there were any.
    pub(super) fn forget_factors(&mut self) -> bool {
        let mut any = false;
        for state in &mut self.instances {
            any |= state.status.factors != Factors::NONE;
            state.status.factors = Factors::NONE;
            state.instance.measured.forget();
        }
        any
    }

    pub(super) fn is_same_as(&self, old: &Service) -> bool {
        old.spec.algorithm == self.algorithm
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
        let members: Arc<[Member]> = self
            .instances
            .iter()
            .zip(self.weighed())
            .zip(&self.spec.instances)
            .map(|((state, status), spec)| Member {
                instance: Arc::clone(&state.instance),
                weight: weight(&status, self.algorithm),
                recovering: status.recovery.is_some(),
                base: weight(&unmeasured(&status), self.algorithm),
                most: self
                    .spec
                    .limits
                    .of_instance(spec.max_requests, share(&status)),
            })
            .collect();
        let spec = ServiceSpec {
            algorithm: self.algorithm,
            ..(*self.spec).clone()
        };
        Service {
            limited: spec.limits.service.is_some()
                || members.iter().any(|member| member.most != UNLIMITED),
            spec: Arc::new(spec),
            balancer: balance::build_bounded(
                self.algorithm,
                &members,
                workers,
                self.spec.hash_bound,
            ),
            members,
            statuses: self
                .instances
                .iter()
                .map(|state| state.status.clone())
                .collect(),
            stats: Arc::clone(&self.stats),
            budget: Arc::clone(&self.budget),
            admission: Arc::clone(&self.admission),
            guard: Arc::clone(&self.guard),
        }
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
        share: share(status),
        factors: status.factors,
    })
}

/// The share of its weight that an instance has, in percent.
fn share(status: &InstanceStatus) -> u8 {
    status.recovery.map_or(WHOLE, |progress| progress.share)
}
