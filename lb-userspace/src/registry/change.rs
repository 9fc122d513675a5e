//! What can be asked of the registry, and what it says happened.

use std::{fmt, path::Path, sync::Arc};

use super::{ids::IdError, snapshot::FailOpen};
use crate::{
    balance::Moves,
    model::{
        AclList, AclSpec, AdminState, Algorithm, BreakerState, GatewaySpec, Health, InstanceId,
        InstanceSpec, IntegrationSpec, ListenerSpec, RouteSpec, ServiceName, ServiceSpec, VipSpec,
    },
    resilience::{Ejection, Factors, Progress, Ramp},
};

/// Everything that a configuration asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Services, unique by name.
    pub services: Vec<ServiceSpec>,
    /// Routes, unique by destination, host and path.
    pub routes: Vec<RouteSpec>,
    /// VIPs, unique by address, port and protocol.
    pub vips: Vec<VipSpec>,
    /// Listeners, unique by address.
    pub listeners: Vec<ListenerSpec>,
    /// Limits of client connections.
    pub gateway: GatewaySpec,
    /// Systems beside lb.
    pub integration: IntegrationSpec,
    /// Who may send to VIPs.
    pub acl: AclSpec,
}

/// A change of state.
#[derive(Clone, Debug)]
pub enum Change {
    /// Makes the state what a configuration asks for. Admin states, health and counters of
    /// instances that stay are kept, and so is an algorithm that was set at run time unless the
    /// configuration's own choice has changed since.
    Configure(Box<Desired>),
    /// Reports the instances that the sources of a service have found, all of them; ignored when
    /// the service is gone or has no source. What the configuration says of an address holds.
    Discovered {
        /// The service.
        service: ServiceName,
        /// The instances, unique by address.
        instances: Vec<InstanceSpec>,
    },
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
    /// Takes instances out of traffic for a while; those that are gone, and those that are ejected
    /// already, are left alone.
    Eject(Vec<(InstanceId, Ejection)>),
    /// Reports that ejections are over; those that were ended otherwise are left alone. The
    /// instances come back by their service's recovery, or at once when it has none.
    EndEjections(Vec<InstanceId>),
    /// Ends an instance's ejection before its time; it comes back as it would then.
    Uneject {
        /// The service.
        service: ServiceName,
        /// The instance by any of its names.
        instance: String,
    },
    /// Reports how far slow starts are; one that is over or never was is left alone.
    Ramps(Vec<(InstanceId, Option<Ramp>)>),
    /// Ends an instance's recovery, and an ejection or a slow start too: it has its whole weight as
    /// soon as nothing else is wrong.
    ForceRecovery {
        /// The service.
        service: ServiceName,
        /// The instance by any of its names.
        instance: String,
    },
    /// Reports what circuit breakers do; those of what is gone are ignored.
    Breakers {
        /// Those of instances.
        instances: Vec<(InstanceId, BreakerState)>,
        /// Those of services as a whole.
        services: Vec<(ServiceName, BreakerState)>,
    },
    /// Reports factors of weights; those of instances that are gone are ignored.
    Factors(Vec<(InstanceId, Factors)>),
    /// Forgets what was learned of a service's weights.
    Forget(ServiceName),
    /// Reports what the files of prefixes say that the ACL names; those of others are ignored.
    AclLists(Vec<AclList>),
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
    /// An instance is not found any more and finishes what it has.
    InstanceLeaving(ServiceName, String),
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
    /// What lb asks and tells systems beside it changed.
    IntegrationChanged,
    /// The source ACL changed, and how many rules it has.
    AclChanged(usize),
    /// A file of prefixes has faults, and goes by what it said before.
    AclListFaulty(Arc<Path>, String),
    /// An instance's recovery went on; `None` when it is over.
    RecoveryChanged(ServiceName, String, Option<Progress>),
    /// An instance's circuit breaker has opened, half-opened or closed.
    BreakerChanged(ServiceName, String, BreakerState),
    /// The circuit breaker of a service has opened, half-opened or closed.
    ServiceBreakerChanged(ServiceName, BreakerState),
    /// An instance is ejected.
    Ejected(ServiceName, String, Ejection),
    /// An instance's ejection is over, and why.
    EjectionEnded(ServiceName, String, EjectionEnd),
    /// An instance's slow start went on; `None` when it is over.
    RampChanged(ServiceName, String, Option<Ramp>),
    /// A service fails open, or does not any more.
    FailOpenChanged(ServiceName, Option<FailOpen>),
    /// What was learned is forgotten.
    Reset,
    /// A configuration or an operator moved keys of consistent hashing to other instances.
    KeysMoved(ServiceName, Moves),
    /// Measured factors moved weights of a service.
    FactorsChanged(ServiceName),
}

/// Why an ejection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EjectionEnd {
    /// Its time is over.
    Served,
    /// Checks that had found the instance down find it up.
    Healthy,
    /// An operator ended it.
    Operator,
    /// What had led to it is forgotten.
    Reset,
    /// The service does not eject any more.
    Off,
}

impl EjectionEnd {
    /// In a few words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Served => "its time is over",
            Self::Healthy => "it was down and is healthy",
            Self::Operator => "an operator ended it",
            Self::Reset => "what had led to it is forgotten",
            Self::Off => "the service does not eject any more",
        }
    }
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
            // Part of every start, like the weights above.
            Self::RampChanged(service, instance, Some(ramp)) => {
                tracing::debug!(revision, %service, instance, share = ramp.share, "slow start");
            }
            Self::Ejected(service, instance, ejection) => {
                let (by, detail) = (ejection.by.as_str(), &ejection.detail);
                let seconds = (ejection.until - ejection.since).as_secs_f64();
                let times = ejection.times;
                tracing::warn!(
                    revision, %service, instance, by, %detail, seconds, times, "instance ejected"
                );
            }
            Self::FailOpenChanged(service, Some(why)) => {
                let why = why.as_str();
                tracing::warn!(revision, %service, why, "service fails open");
            }
            Self::AclListFaulty(file, fault) => {
                let file = file.display();
                tracing::error!(revision, %file, fault, "a file of prefixes has faults; what it said before holds");
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
            Self::InstanceLeaving(service, i) => write!(
                f,
                "instance {i} of {service} is not found any more and finishes what it has"
            ),
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
            Self::KeysMoved(service, Moves { moved, needed }) => write!(
                f,
                "{:.1} % of the keys of {service} go to another instance, {:.1} % have to",
                moved * 100.0,
                needed * 100.0
            ),
            Self::RoutesChanged => f.write_str("routes changed"),
            Self::VipsChanged => f.write_str("VIPs changed"),
            Self::ListenersChanged => f.write_str("listeners or their limits changed"),
            Self::IntegrationChanged => f.write_str("integrations changed"),
            Self::AclChanged(1) => f.write_str("source ACL changed, it has 1 rule"),
            Self::AclChanged(rules) => write!(f, "source ACL changed, it has {rules} rules"),
            Self::AclListFaulty(file, fault) => {
                write!(
                    f,
                    "{} of the source ACL has faults: {fault}",
                    file.display()
                )
            }
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
            Self::Ejected(service, i, ejection) => write!(
                f,
                "instance {i} of {service} is ejected for {:.0} s: {}",
                (ejection.until - ejection.since).as_secs_f64(),
                ejection.detail
            ),
            Self::EjectionEnded(service, i, why) => {
                let why = why.as_str();
                write!(
                    f,
                    "instance {i} of {service} is not ejected any more: {why}"
                )
            }
            Self::RampChanged(service, i, None) => {
                write!(f, "slow start of instance {i} of {service} is over")
            }
            Self::RampChanged(service, i, Some(ramp)) => {
                let share = ramp.share;
                write!(
                    f,
                    "instance {i} of {service} starts at {share} % of its weight"
                )
            }
            Self::FailOpenChanged(service, None) => {
                write!(f, "service {service} does not fail open any more")
            }
            Self::FailOpenChanged(service, Some(why)) => {
                write!(f, "service {service} fails open: {}", why.as_str())
            }
            Self::ServiceBreakerChanged(service, state) => {
                write!(f, "circuit breaker of {service} is now {}", state.as_str())
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
