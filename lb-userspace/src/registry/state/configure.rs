//! What a configuration makes of the state, and what sources have found.

use std::{collections::HashSet, sync::Arc};

use super::State;
use crate::{
    model::{
        AdminState, AffinityStats, Algorithm, BreakerState, Health, Instance, InstanceSpec, Served,
        ServiceGuard, ServiceLoad, ServiceName, ServiceSpec,
    },
    registry::{
        acl,
        change::{Desired, EjectionEnd, Event, RegistryError},
        check::check,
        discovery, ejection,
        ids::Taken,
        limits::RateLimits,
        service::{InstanceState, ServiceState},
        snapshot::InstanceStatus,
    },
    resilience::{Budget, Factors, Hedging, Progress, Ramp},
};

impl State {
    pub(super) fn configure(&mut self, desired: Desired) -> Result<Vec<Event>, RegistryError> {
        check(&desired)?;
        self.rate_limits = Arc::new(RateLimits::new(&desired, &self.rate_limits));
        let mut events = Vec::new();
        let mut before = std::mem::take(&mut self.services);
        let wanted: HashSet<ServiceName> = desired
            .services
            .iter()
            .map(|spec| spec.name.clone())
            .collect();
        // Removals first, so that their ids can be used again when indices are scarce.
        before.retain(|name, service| {
            let stays = wanted.contains(name);
            if !stays {
                service
                    .instances
                    .iter()
                    .for_each(|state| self.ids.free(state.instance.id));
                events.push(Event::ServiceRemoved(name.clone()));
            }
            stays
        });
        for spec in desired.services {
            let name = spec.name.clone();
            let state = self.configure_service(spec, before.remove(&name), &mut events)?;
            self.services.insert(name, state);
        }
        if !self.configured {
            self.ids.free_unclaimed();
            self.configured = true;
        }
        replace(&mut self.routes, desired.routes, || {
            events.push(Event::RoutesChanged);
        });
        replace(&mut self.vips, desired.vips, || {
            events.push(Event::VipsChanged);
        });
        let mut listeners = false;
        replace(&mut self.listeners, desired.listeners, || listeners = true);
        if *self.gateway != desired.gateway {
            self.gateway = Arc::new(desired.gateway);
            listeners = true;
        }
        if listeners {
            events.push(Event::ListenersChanged);
        }
        if *self.integration != desired.integration {
            self.integration = Arc::new(desired.integration);
            events.push(Event::IntegrationChanged);
        }
        if self.acl.spec != desired.acl {
            events.push(acl::configure(&mut self.acl, desired.acl));
        }
        Ok(events)
    }

    /// Takes over what was found for a service that is still looked for.
    pub(super) fn discovered(
        &mut self,
        name: &ServiceName,
        found: Vec<InstanceSpec>,
    ) -> Result<Vec<Event>, RegistryError> {
        let Some(mut before) = self.services.remove(name) else {
            return Ok(Vec::new());
        };
        let mut events = Vec::new();
        if before.spec.discovery.is_on() {
            let spec = ServiceSpec {
                instances: before.configured.to_vec(),
                ..(*before.spec).clone()
            };
            before.found = Some(found.into());
            before = self.configure_service(spec, Some(before), &mut events)?;
        }
        self.services.insert(name.clone(), before);
        Ok(events)
    }

    /// `spec` is as configured; what was found before is added to it.
    fn configure_service(
        &mut self,
        mut spec: ServiceSpec,
        before: Option<ServiceState>,
        events: &mut Vec<Event>,
    ) -> Result<ServiceState, RegistryError> {
        let name = spec.name.clone();
        let configured: Arc<[InstanceSpec]> = spec.instances.clone().into();
        let found = discovery::add_found(&mut spec, before.as_ref());
        let Some(before) = before else {
            events.push(Event::ServiceAdded(name));
            let load = Arc::new(ServiceLoad::new(self.workers));
            let instances = self.configure_instances(&spec, &load, None, &mut Vec::new())?;
            return Ok(ServiceState {
                algorithm: spec.algorithm,
                spec: Arc::new(spec),
                configured,
                found,
                instances,
                stats: Arc::default(),
                budget: Arc::new(Budget::new(self.workers)),
                hedging: Arc::new(Hedging::new(self.workers)),
                guard: Arc::new(ServiceGuard::new(self.workers)),
                breaker: BreakerState::default(),
                load,
                admission: Arc::default(),
                outage: Arc::default(),
                affinity: Arc::new(AffinityStats::new(self.workers)),
                served: Arc::new(Served::new(self.workers)),
                forgets: false,
            });
        };
        let keyed = before.keyed();
        let algorithm = if before.spec.algorithm == spec.algorithm {
            before.algorithm
        } else {
            spec.algorithm
        };
        if algorithm != before.algorithm {
            events.push(Event::AlgorithmChanged(name.clone(), algorithm));
        }
        let same = |a: &ServiceSpec, b: &ServiceSpec| {
            let bare = |s: &ServiceSpec| ServiceSpec {
                instances: Vec::new(),
                algorithm: Algorithm::default(),
                ..s.clone()
            };
            bare(a) == bare(b)
        };
        if !same(&before.spec, &spec) {
            events.push(Event::ServiceChanged(name));
        }
        let instances =
            self.configure_instances(&spec, &before.load, Some(before.instances), events)?;
        let mut after = ServiceState {
            spec: Arc::new(spec),
            configured,
            found,
            algorithm,
            instances,
            stats: before.stats,
            budget: before.budget,
            hedging: before.hedging,
            guard: before.guard,
            breaker: before.breaker,
            load: before.load,
            admission: before.admission,
            outage: before.outage,
            affinity: before.affinity,
            served: before.served,
            forgets: false,
        };
        if algorithm != before.algorithm {
            after.forget_factors();
        }
        events.extend(after.keys_moved(keyed));
        Ok(after)
    }

    /// The instances of `spec`; `before` are those of the same service before, `None` when it is
    /// new.
    fn configure_instances(
        &mut self,
        spec: &ServiceSpec,
        load: &Arc<ServiceLoad>,
        before: Option<Vec<InstanceState>>,
        events: &mut Vec<Event>,
    ) -> Result<Vec<InstanceState>, RegistryError> {
        // Who joins a service that runs starts slowly; those who begin together share everything
        // from the first request on.
        let joins = before.as_ref().is_some_and(|before| !before.is_empty());
        let mut before = before.unwrap_or_default();
        before.retain(|state| {
            let endpoint = &state.instance.endpoint;
            let stays = spec
                .instances
                .iter()
                .any(|wanted| wanted.endpoint == *endpoint);
            if !stays {
                self.ids.free(state.instance.id);
                let instance = endpoint.name().to_owned();
                events.push(Event::InstanceRemoved(spec.name.clone(), instance));
            }
            stays
        });
        let mut instances = Vec::with_capacity(spec.instances.len());
        for InstanceSpec {
            endpoint,
            weight,
            leaving,
            ..
        } in &spec.instances
        {
            let found = before
                .iter()
                .position(|state| state.instance.endpoint == *endpoint);
            let mut state = if let Some(position) = found {
                before.swap_remove(position)
            } else {
                let Taken { id, is_down } = self.ids.take(&spec.name, endpoint)?;
                let service = spec.name.clone();
                let instance =
                    Instance::new(id, service.clone(), endpoint.clone(), Arc::clone(load))
                        .with_alarm(Arc::clone(&self.alarm));
                events.push(Event::InstanceAdded(service, endpoint.name().to_owned()));
                InstanceState {
                    instance: Arc::new(instance),
                    status: InstanceStatus {
                        weight: *weight,
                        admin: AdminState::default(),
                        health: if is_down {
                            Health::Unhealthy
                        } else {
                            Health::default()
                        },
                        detail: if is_down {
                            "down before the restart, not checked since".into()
                        } else {
                            "not checked".into()
                        },
                        recovery: is_down.then(Progress::default),
                        breaker: BreakerState::default(),
                        ejected: None,
                        ramp: spec.slow_start.filter(|_| joins).map(|spec| Ramp {
                            share: spec.min,
                            ends: None,
                        }),
                        factors: Factors::NONE,
                    },
                }
            };
            if state.status.weight != *weight {
                state.status.weight = *weight;
                let instance = endpoint.name().to_owned();
                events.push(if *leaving {
                    Event::InstanceLeaving(spec.name.clone(), instance)
                } else {
                    Event::WeightChanged(spec.name.clone(), instance, *weight)
                });
            }
            if spec.health_check.is_none() {
                // What checks once said must not outlive them.
                state.status.health = Health::Unknown;
                state.status.detail = "checks are off".into();
            }
            if spec.recovery.is_none() || (found.is_none() && spec.health_check.is_none()) {
                state.status.recovery = None;
            }
            if spec.outlier.is_none() {
                events.extend(ejection::end(&spec.name, &mut state, EjectionEnd::Off));
            }
            if spec.slow_start.is_none() {
                state.status.ramp = None;
            }
            instances.push(state);
        }
        Ok(instances)
    }
}

/// Replaces `place` by `new` and calls `changed`, unless both are equal.
fn replace<T: PartialEq>(place: &mut Arc<[T]>, new: Vec<T>, changed: impl FnOnce()) {
    if **place != *new {
        *place = new.into();
        changed();
    }
}
