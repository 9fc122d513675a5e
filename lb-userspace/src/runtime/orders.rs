//! What operators have ordered of what is configured: admin states, another algorithm, breakers
//! that are held.
//!
//! Orders are no part of the configuration, and no revision has them: to take back a change of
//! last week must not bring an instance into traffic that somebody has taken out this morning. They
//! are kept where the rest is kept, and go with the service or instance that they are about.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    model::{AdminState, Algorithm, Gate, ServiceName, Timestamp},
    registry::{Change, Registry, RegistryError},
    resilience::{Hold, breaker},
};

/// An order.
#[derive(Clone, Debug)]
pub enum Order {
    /// An instance is to be in an admin state, by any of its names.
    Admin {
        /// The service.
        service: ServiceName,
        /// The instance.
        instance: String,
        /// The state.
        state: AdminState,
        /// When a drain is over, and what becomes of the instance then.
        deadline: Option<Deadline>,
    },
    /// A service is to have an algorithm.
    Algorithm {
        /// The service.
        service: ServiceName,
        /// The algorithm.
        algorithm: Algorithm,
    },
    /// A circuit breaker is to be held, or not any more: that of the service, or of an instance.
    Breaker {
        /// The service.
        service: ServiceName,
        /// The instance, by any of its names.
        instance: Option<String>,
        /// The order.
        hold: Hold,
    },
}

impl Order {
    /// The service that it is about.
    #[must_use]
    pub const fn service(&self) -> &ServiceName {
        let (Self::Admin { service, .. }
        | Self::Algorithm { service, .. }
        | Self::Breaker { service, .. }) = self;
        service
    }

    /// The instance that it is about, if it is about one.
    #[must_use]
    pub fn instance(&self) -> Option<&str> {
        match self {
            Self::Admin { instance, .. } => Some(instance),
            Self::Algorithm { .. } => None,
            Self::Breaker { instance, .. } => instance.as_deref(),
        }
    }

    /// What it asks of the registry. Breakers are not the registry's.
    pub(super) fn change(&self) -> Option<Change> {
        match self {
            Self::Admin {
                service,
                instance,
                state,
                ..
            } => Some(Change::Admin {
                service: service.clone(),
                instance: instance.clone(),
                state: *state,
            }),
            Self::Algorithm { service, algorithm } => Some(Change::Algorithm {
                service: service.clone(),
                algorithm: *algorithm,
            }),
            Self::Breaker { .. } => None,
        }
    }
}

/// The end of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deadline {
    /// When, in milliseconds since 1970: it holds across a restart.
    pub at_ms: u64,
    /// What becomes of the instance then.
    pub then: Then,
}

/// A drain that ends at some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// The service.
    pub service: String,
    /// The instance, as configured.
    pub instance: String,
    /// The end.
    pub deadline: Deadline,
}

/// What becomes of an instance whose drain is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// What is left is closed, and it is disabled.
    Disable,
    /// It is removed, sooner if nothing is left.
    Remove,
}

/// All orders that hold, by service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Orders(BTreeMap<String, ServiceOrders>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceOrders {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    algorithm: Option<AlgorithmOrder>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    breaker: Option<Held>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    instances: BTreeMap<String, InstanceOrders>,
}

/// Another algorithm than the configured one, for as long as that is the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AlgorithmOrder {
    ordered: String,
    configured: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InstanceOrders {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    admin: Option<Taken>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline: Option<Deadline>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    breaker: Option<Held>,
}

/// An admin state other than enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Taken {
    Draining,
    Disabled,
}

/// How a breaker is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Held {
    Open,
    Closed,
}

impl Held {
    const fn of(hold: Hold) -> Option<Self> {
        match hold {
            Hold::Open => Some(Self::Open),
            Hold::Closed => Some(Self::Closed),
            Hold::Release => None,
        }
    }

    const fn order(self) -> Hold {
        match self {
            Self::Open => Hold::Open,
            Self::Closed => Hold::Closed,
        }
    }
}

impl Orders {
    /// Notes an order. `name` is the configured name of the instance that it is about, and
    /// `configured` the algorithm that the service has by its configuration.
    pub(super) fn note(&mut self, order: &Order, name: Option<&str>, configured: Algorithm) {
        let orders = self.0.entry(order.service().to_string()).or_default();
        let instance = name.map(|name| orders.instances.entry(name.to_owned()).or_default());
        match (order, instance) {
            (
                Order::Admin {
                    state, deadline, ..
                },
                Some(instance),
            ) => {
                instance.admin = match state {
                    AdminState::Enabled => None,
                    AdminState::Draining => Some(Taken::Draining),
                    AdminState::Disabled => Some(Taken::Disabled),
                };
                instance.deadline = *deadline;
            }
            (Order::Breaker { hold, .. }, Some(instance)) => instance.breaker = Held::of(*hold),
            (Order::Breaker { hold, .. }, None) => orders.breaker = Held::of(*hold),
            (Order::Algorithm { algorithm, .. }, _) => {
                orders.algorithm = (*algorithm != configured).then(|| AlgorithmOrder {
                    ordered: algorithm.as_str().to_owned(),
                    configured: configured.as_str().to_owned(),
                });
            }
            (Order::Admin { .. }, None) => {}
        }
        self.tidy();
    }

    /// Keeps the orders of what is configured: `instances` says whether a service may have an
    /// instance of that name, and `algorithm` its algorithm.
    pub(super) fn keep(
        &mut self,
        instances: impl Fn(&str, &str) -> bool,
        algorithm: impl Fn(&str) -> Option<Algorithm>,
    ) {
        self.0.retain(|service, orders| {
            let Some(configured) = algorithm(service) else {
                return false;
            };
            let stays = |order: &AlgorithmOrder| order.configured == configured.as_str();
            orders.algorithm = orders.algorithm.take().filter(stays);
            orders.instances.retain(|name, _| instances(service, name));
            true
        });
        self.tidy();
    }

    fn tidy(&mut self) {
        self.0.retain(|_, orders| {
            let none = InstanceOrders::default();
            orders.instances.retain(|_, orders| *orders != none);
            *orders != ServiceOrders::default()
        });
    }

    /// The drains that end at some time.
    pub(super) fn drains(&self) -> Vec<Drain> {
        let services = self.0.iter();
        let all = services.flat_map(|(service, orders)| {
            let instances = orders.instances.iter();
            instances.filter_map(move |(name, orders)| {
                Some(Drain {
                    service: service.clone(),
                    instance: name.clone(),
                    deadline: orders.deadline?,
                })
            })
        });
        all.collect()
    }

    /// Carries out those orders whose service or instance is there and is not as ordered: all of
    /// them after a start, and that of an instance which comes when its source names it (again).
    pub(super) fn carry_out(
        &self,
        registry: &Registry,
        now: Timestamp,
    ) -> Result<(), RegistryError> {
        for (service, orders) in &self.0 {
            let Ok(name) = ServiceName::new(service) else {
                continue;
            };
            let snapshot = registry.snapshot();
            let Some(found) = snapshot.service(service) else {
                continue;
            };
            let ordered = orders.algorithm.as_ref();
            if let Some(Ok(algorithm)) = ordered.map(|order| order.ordered.parse()) {
                let service = name.clone();
                registry.apply(Change::Algorithm { service, algorithm })?;
            }
            hold(&found.guard.gate, orders.breaker, now);
            for (instance, orders) in &orders.instances {
                let Some(position) = found.find(instance) else {
                    continue;
                };
                hold(&found.members[position].instance.gate, orders.breaker, now);
                let state = match orders.admin {
                    None => continue,
                    Some(Taken::Draining) => AdminState::Draining,
                    Some(Taken::Disabled) => AdminState::Disabled,
                };
                if found.statuses[position].admin != state {
                    registry.apply(Change::Admin {
                        service: name.clone(),
                        instance: instance.clone(),
                        state,
                    })?;
                }
            }
        }
        registry.breakers().notify_one();
        Ok(())
    }

    /// Whether there are none.
    pub(super) fn are_none(&self) -> bool {
        self.0.is_empty()
    }
}

fn hold(gate: &Gate, held: Option<Held>, now: Timestamp) {
    if let Some(held) = held {
        breaker::hold(gate, held.order(), now);
    }
}
