//! What can be asked of the registry, and what it says happened.

use std::{fmt, sync::Arc};

use super::ids::IdError;
use crate::{
    model::{
        AdminState, Algorithm, BreakerState, GatewaySpec, Health, InstanceId, ListenerSpec,
        RouteSpec, ServiceName, ServiceSpec, VipSpec,
    },
    resilience::{Factors, Progress},
};

/// Everything that a configuration asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Services, unique by name.
    pub services: Vec<ServiceSpec>,
    /// Routes, unique by host and path.
    pub routes: Vec<RouteSpec>,
    /// VIPs, unique by address, port and protocol.
    pub vips: Vec<VipSpec>,
    /// Listeners, unique by address.
    pub listeners: Vec<ListenerSpec>,
    /// Limits of client connections.
    pub gateway: GatewaySpec,
}

/// A change of state.
#[derive(Clone, Debug)]
pub enum Change {
    /// Makes the state what a configuration asks for. Admin states, health and counters of
    /// instances that stay are kept, and so is an algorithm that was set at run time unless the
    /// configuration's own choice has changed since.
    Configure(Box<Desired>),
    /// Sets an instance's admin state.
    Admin {
        /// The service.
        service: ServiceName,
        /// The instance by any of its names.
        instance: String,
        /// The state.
        state: AdminState,
    },
    /// Sets a service's algorithm.
    Algorithm {
        /// The service.
        service: ServiceName,
        /// The algorithm.
        algorithm: Algorithm,
    },
    /// Undoes what was set at run time (admin states, algorithms) and forgets factors from
    /// measurements. What the instances themselves have measured is theirs to forget.
    Reset,
    /// Reports what the checks say of an instance; ignored when the instance is gone.
    Health {
        /// The instance.
        id: InstanceId,
        /// The verdict.
        health: Health,
        /// Why, for people.
        detail: Arc<str>,
    },
    /// Reports how far recoveries are; one that is not what `from` says any more is left alone.
    Recovery(Vec<RecoveryStep>),
    /// Ends an instance's recovery: it has its whole weight as soon as nothing else is wrong.
    ForceRecovery {
        /// The service.
        service: ServiceName,
        /// The instance by any of its names.
        instance: String,
    },
    /// Reports what circuit breakers do; those of instances that are gone are ignored.
    Breakers(Vec<(InstanceId, BreakerState)>),
    /// Reports factors of weights; those of instances that are gone are ignored.
    Factors(Vec<(InstanceId, Factors)>),
    /// Forgets what was learned of a service's weights.
    Forget(ServiceName),
}

/// A step of an instance's recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryStep {
    /// The instance.
    pub id: InstanceId,
    /// How far it was when the step was worked out.
    pub from: Progress,
    /// How far it is now; `None` when it has recovered.
    pub to: Option<Progress>,
}

/// What [`super::Registry::apply`] did.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The revision that is now current.
    pub revision: u64,
    /// What changed; empty when nothing did.
    pub events: Vec<Event>,
}

/// One thing that changed.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A service is new.
    ServiceAdded(ServiceName),
    /// A service is gone.
    ServiceRemoved(ServiceName),
    /// Settings of a service changed other than its members.
    ServiceChanged(ServiceName),
    /// An instance is new.
    InstanceAdded(ServiceName, String),
    /// An instance is gone.
    InstanceRemoved(ServiceName, String),
    /// An instance's configured weight changed.
    WeightChanged(ServiceName, String, u16),
    /// An instance's admin state changed.
    AdminChanged(ServiceName, String, AdminState),
    /// An instance's health changed, and why.
    HealthChanged(ServiceName, String, Health, Arc<str>),
    /// A service's algorithm changed.
    AlgorithmChanged(ServiceName, Algorithm),
    /// Routes changed.
    RoutesChanged,
    /// VIPs changed.
    VipsChanged,
    /// Listeners or their limits changed.
    ListenersChanged,
    /// An instance's recovery went on; `None` when it is over.
    RecoveryChanged(ServiceName, String, Option<Progress>),
    /// An instance's circuit breaker has opened, half-opened or closed.
    BreakerChanged(ServiceName, String, BreakerState),
    /// What was learned is forgotten.
    Reset,
    /// Measured factors moved weights of a service.
    FactorsChanged(ServiceName),
}

impl Event {
    pub(super) fn log(&self, revision: u64) {
        match self {
            // Part of normal balancing, once a second at worst: not worth a line each.
            Self::FactorsChanged(service) => {
                tracing::debug!(revision, %service, "measured weights changed");
            }
            Self::HealthChanged(service, instance, health, detail) => {
                let health = health.as_str();
                tracing::info!(revision, %service, instance, health, %detail, "health changed");
            }
            other => tracing::info!(revision, change = %other, "state changed"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceAdded(service) => write!(f, "service {service} added"),
            Self::ServiceRemoved(service) => write!(f, "service {service} removed"),
            Self::ServiceChanged(service) => write!(f, "settings of service {service} changed"),
            Self::InstanceAdded(service, i) => write!(f, "instance {i} added to {service}"),
            Self::InstanceRemoved(service, i) => write!(f, "instance {i} removed from {service}"),
            Self::WeightChanged(service, i, weight) => {
                write!(f, "weight of instance {i} of {service} is now {weight}")
            }
            Self::AdminChanged(service, i, admin) => {
                write!(f, "instance {i} of {service} is now {}", admin.as_str())
            }
            Self::HealthChanged(service, i, health, detail) => {
                write!(
                    f,
                    "instance {i} of {service} is now {}: {detail}",
                    health.as_str()
                )
            }
            Self::AlgorithmChanged(service, algorithm) => {
                write!(f, "algorithm of {service} is now {algorithm}")
            }
            Self::RoutesChanged => f.write_str("routes changed"),
            Self::VipsChanged => f.write_str("VIPs changed"),
            Self::ListenersChanged => f.write_str("listeners or their limits changed"),
            Self::RecoveryChanged(service, i, progress) => match progress {
                None => write!(f, "instance {i} of {service} has recovered"),
                Some(Progress {
                    share: 0, relapses, ..
                }) => write!(
                    f,
                    "instance {i} of {service} waits before it recovers, relapses so far: {relapses}"
                ),
                Some(Progress { share, .. }) => {
                    write!(
                        f,
                        "instance {i} of {service} recovers at {share} % of its weight"
                    )
                }
            },
            Self::BreakerChanged(service, i, state) => {
                let state = state.as_str();
                write!(
                    f,
                    "circuit breaker of instance {i} of {service} is now {state}"
                )
            }
            Self::Reset => f.write_str("learned state forgotten"),
            Self::FactorsChanged(service) => write!(f, "measured weights of {service} changed"),
        }
    }
}

/// Why a change was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// No such service.
    #[error("expected the name of a service, found {found:?}; services are: {known}")]
    NoService {
        /// What was given.
        found: String,
        /// The services that exist.
        known: String,
    },
    /// No such instance.
    #[error(
        "expected an instance of service {service}, found {found:?}; its instances are: {known}"
    )]
    NoInstance {
        /// The service.
        service: ServiceName,
        /// What was given.
        found: String,
        /// The instances that exist.
        known: String,
    },
    /// A route or VIP names a service that is not defined.
    #[error("expected {what} to name a defined service, found {found:?}")]
    Dangling {
        /// Which route or VIP.
        what: String,
        /// What it names.
        found: ServiceName,
    },
    /// Something is defined twice.
    #[error("expected {what} once, found it twice")]
    Twice {
        /// What.
        what: String,
    },
    /// Too many instances.
    #[error(transparent)]
    Ids(#[from] IdError),
}
