//! The state itself and how changes transform it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use super::{
    acl,
    change::{Change, Desired, EjectionEnd, Event, RecoveryStep, RegistryError},
    check::check,
    discovery, ejection,
    ids::{Ids, KnownId, Taken},
    limits::RateLimits,
    service::{InstanceState, ServiceState, unmeasured, weight},
    snapshot::{InstanceStatus, Snapshot},
};
use crate::{
    model::{
        Acl, AdminState, AffinityStats, Alarm, Algorithm, BreakerState, GatewaySpec, Health,
        Instance, InstanceId, InstanceSpec, IntegrationSpec, ListenerSpec, RouteSpec, Served,
        ServiceGuard, ServiceLoad, ServiceName, ServiceSpec, VipSpec,
    },
    resilience::{Budget, Factors, Hedging, Progress, Ramp},
};

/// Everything that the registry knows. Cheap to clone: a change works on a copy.
#[derive(Clone, Debug)]
pub(super) struct State {
    workers: usize,
    ids: Ids,
    alarm: Arc<Alarm>,
    pub(super) services: BTreeMap<ServiceName, ServiceState>,
    routes: Arc<[RouteSpec]>,
    vips: Arc<[VipSpec]>,
    listeners: Arc<[ListenerSpec]>,
    gateway: Arc<GatewaySpec>,
    integration: Arc<IntegrationSpec>,
    acl: Arc<Acl>,
    rate_limits: Arc<RateLimits>,
    /// Whether a configuration has been applied.
    configured: bool,
    /// Whether the change at hand is a configuration.
    reconfigured: bool,
    /// Whether it is a reset.
    reset: bool,
}

impl State {
    pub(super) fn new(
        workers: usize,
        known: impl IntoIterator<Item = KnownId>,
        alarm: Arc<Alarm>,
    ) -> Self {
        Self {
            workers,
            ids: Ids::new(known),
            alarm,
            services: BTreeMap::new(),
            routes: Arc::default(),
            vips: Arc::default(),
            listeners: Arc::default(),
            gateway: Arc::default(),
            integration: Arc::default(),
            acl: Arc::default(),
            rate_limits: Arc::default(),
            configured: false,
            reconfigured: false,
            reset: false,
        }
    }

    pub(super) const fn workers(&self) -> usize {
        self.workers
    }

    /// Applies `change` and says what changed. On an error `self` is to be thrown away.
    pub(super) fn apply(&mut self, change: Change) -> Result<Vec<Event>, RegistryError> {
        self.reconfigured = matches!(change, Change::Configure(_));
        self.reset = matches!(change, Change::Reset);
        match change {
            Change::Configure(desired) => self.configure(*desired),
            Change::Discovered { service, instances } => self.discovered(&service, instances),
            Change::Admin {
                service,
                instance,
                state,
            } => self.admin(&service, &instance, state),
            Change::Algorithm { service, algorithm } => self.algorithm(&service, algorithm),
            Change::Reset => Ok(self.reset()),
            Change::Health { id, health, detail } => Ok(self.health(id, health, detail)),
            Change::Recovery(steps) => Ok(self.recovery(&steps)),
            Change::Eject(ejections) => Ok(self.eject(ejections)),
            Change::EndEjections(ids) => Ok(self.end_ejections(&ids)),
            Change::Uneject { service, instance } => self.uneject(&service, &instance),
            Change::Ramps(ramps) => Ok(self.ramps(&ramps)),
            Change::ForceRecovery { service, instance } => self.force(&service, &instance),
            Change::Breakers {
                instances,
                services,
            } => {
                let mut events = self.breakers(&instances);
                events.extend(self.service_breakers(&services));
                Ok(events)
            }
            Change::Factors(factors) => Ok(self.factors(&factors)),
            Change::Forget(service) => self.forget(&service),
            Change::AclLists(lists) => Ok(acl::take_lists(&mut self.acl, lists)),
        }
    }

    fn configure(&mut self, desired: Desired) -> Result<Vec<Event>, RegistryError> {
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
    fn discovered(
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

    pub(super) fn service(
        &mut self,
        name: &ServiceName,
    ) -> Result<&mut ServiceState, RegistryError> {
        if !self.services.contains_key(name) {
            let known: Vec<&str> = self.services.keys().map(ServiceName::as_str).collect();
            let (found, known) = (name.to_string(), known.join(", "));
            return Err(RegistryError::NoService { found, known });
        }
        self.services
            .get_mut(name)
            .ok_or_else(|| RegistryError::NoService {
                found: name.to_string(),
                known: String::new(),
            })
    }

    fn admin(
        &mut self,
        name: &ServiceName,
        instance: &str,
        admin: AdminState,
    ) -> Result<Vec<Event>, RegistryError> {
        let service = self.service(name)?;
        let keyed = service.keyed();
        let state = service.instance(instance)?;
        if state.status.admin == admin {
            return Ok(Vec::new());
        }
        state.status.admin = admin;
        let instance = state.instance.endpoint.name().to_owned();
        let mut events = vec![Event::AdminChanged(name.clone(), instance, admin)];
        events.extend(service.keys_moved(keyed));
        Ok(events)
    }

    fn algorithm(
        &mut self,
        name: &ServiceName,
        algorithm: Algorithm,
    ) -> Result<Vec<Event>, RegistryError> {
        let service = self.service(name)?;
        if service.algorithm == algorithm {
            return Ok(Vec::new());
        }
        service.algorithm = algorithm;
        service.forget_factors();
        Ok(vec![Event::AlgorithmChanged(name.clone(), algorithm)])
    }

    fn reset(&mut self) -> Vec<Event> {
        let mut events = vec![Event::Reset];
        for service in self.services.values_mut() {
            let name = &service.spec.name;
            if service.algorithm != service.spec.algorithm {
                service.algorithm = service.spec.algorithm;
                events.push(Event::AlgorithmChanged(name.clone(), service.algorithm));
            }
            for state in &mut service.instances {
                events.extend(ejection::end(name, state, EjectionEnd::Reset));
                if state.status.admin != AdminState::Enabled {
                    state.status.admin = AdminState::Enabled;
                    let instance = state.instance.endpoint.name().to_owned();
                    events.push(Event::AdminChanged(
                        name.clone(),
                        instance,
                        AdminState::Enabled,
                    ));
                }
            }
            let name = name.clone();
            if service.forget_factors() {
                events.push(Event::FactorsChanged(name));
            }
        }
        events
    }

    fn health(&mut self, id: InstanceId, health: Health, detail: Arc<str>) -> Vec<Event> {
        for service in self.services.values_mut() {
            for state in &mut service.instances {
                if state.instance.id == id && service.spec.health_check.is_some() {
                    if state.status.health == health {
                        return Vec::new();
                    }
                    let is_back = state.status.health == Health::Unhealthy;
                    state.status.health = health;
                    state.status.detail = Arc::clone(&detail);
                    if health == Health::Unhealthy && service.spec.recovery.is_some() {
                        state.status.relapse();
                    }
                    let name = service.spec.name.clone();
                    let instance = state.instance.endpoint.name().to_owned();
                    let changed = Event::HealthChanged(name.clone(), instance, health, detail);
                    // What its requests ran into was that it was down.
                    let ended = is_back
                        .then(|| ejection::end(&name, state, EjectionEnd::Healthy))
                        .flatten();
                    return [changed].into_iter().chain(ended).collect();
                }
            }
        }
        Vec::new()
    }

    fn recovery(&mut self, steps: &[RecoveryStep]) -> Vec<Event> {
        let mut events = Vec::new();
        for service in self.services.values_mut() {
            for state in &mut service.instances {
                let step = steps.iter().find(|step| step.id == state.instance.id);
                if let Some(step) = step
                    && state.status.recovery == Some(step.from)
                    && step.to != Some(step.from)
                {
                    state.status.recovery = step.to;
                    let name = service.spec.name.clone();
                    let instance = state.instance.endpoint.name().to_owned();
                    events.push(Event::RecoveryChanged(name, instance, step.to));
                }
            }
        }
        events
    }

    fn force(&mut self, name: &ServiceName, instance: &str) -> Result<Vec<Event>, RegistryError> {
        let state = self.service(name)?.instance(instance)?;
        let ended = ejection::end(name, state, EjectionEnd::Operator);
        let mut events: Vec<Event> = ended.into_iter().collect();
        let instance = || state.instance.endpoint.name().to_owned();
        if state.status.ramp.take().is_some() {
            events.push(Event::RampChanged(name.clone(), instance(), None));
        }
        if state.status.recovery.take().is_some() {
            events.push(Event::RecoveryChanged(name.clone(), instance(), None));
        }
        Ok(events)
    }

    fn breakers(&mut self, states: &[(InstanceId, BreakerState)]) -> Vec<Event> {
        let mut events = Vec::new();
        for service in self.services.values_mut() {
            for state in &mut service.instances {
                let new = states.iter().find(|(id, _)| *id == state.instance.id);
                if let Some((_, breaker)) = new
                    && state.status.breaker != *breaker
                {
                    state.status.breaker = *breaker;
                    let name = service.spec.name.clone();
                    let instance = state.instance.endpoint.name().to_owned();
                    events.push(Event::BreakerChanged(name, instance, *breaker));
                }
            }
        }
        events
    }

    fn forget(&mut self, name: &ServiceName) -> Result<Vec<Event>, RegistryError> {
        let moved = self.service(name)?.forget_factors();
        let event = moved.then(|| Event::FactorsChanged(name.clone()));
        Ok(event.into_iter().collect())
    }

    fn service_breakers(&mut self, states: &[(ServiceName, BreakerState)]) -> Vec<Event> {
        let mut events = Vec::new();
        for (name, breaker) in states {
            if let Some(service) = self.services.get_mut(name)
                && service.breaker != *breaker
            {
                service.breaker = *breaker;
                events.push(Event::ServiceBreakerChanged(name.clone(), *breaker));
            }
        }
        events
    }

    fn factors(&mut self, factors: &[(InstanceId, Factors)]) -> Vec<Event> {
        let mut events = Vec::new();
        for service in self.services.values_mut() {
            let mut moved = false;
            for state in &mut service.instances {
                let new = factors.iter().find(|(id, _)| *id == state.instance.id);
                if let Some((_, factors)) = new
                    && factors.measured.is_finite()
                    && factors.reported.is_finite()
                {
                    let both = |status: &InstanceStatus| {
                        let algorithm = service.algorithm;
                        (
                            weight(status, algorithm),
                            weight(&unmeasured(status), algorithm),
                        )
                    };
                    let status = InstanceStatus {
                        factors: *factors,
                        ..state.status.clone()
                    };
                    // Only a step of the quantised weight is a change.
                    if both(&status) != both(&state.status) {
                        state.status = status;
                        moved = true;
                    }
                }
            }
            if moved {
                events.push(Event::FactorsChanged(service.spec.name.clone()));
            }
        }
        events
    }

    /// Does what reaches beyond the state, once the change is sure to be made.
    pub(super) fn settle(&mut self) {
        self.services.values_mut().for_each(ServiceState::settle);
    }

    /// The picture that follows `before`. Services that did not change keep their allocation, and
    /// with it their balancer's turn counters.
    pub(super) fn snapshot(&self, before: &Snapshot) -> Snapshot {
        let revision = before.revision + 1;
        let services: Vec<_> = self
            .services
            .values()
            .map(|service| match before.service(service.spec.name.as_str()) {
                Some(old) if service.is_same_as(old) => Arc::clone(old),
                _ => Arc::new(service.build(self.workers)),
            })
            .collect();
        Snapshot {
            revision,
            configured: if self.reconfigured {
                revision
            } else {
                before.configured
            },
            reset: if self.reset { revision } else { before.reset },
            diverted: Snapshot::divert(&services),
            services,
            routes: Arc::clone(&self.routes),
            vips: Arc::clone(&self.vips),
            listeners: Arc::clone(&self.listeners),
            gateway: Arc::clone(&self.gateway),
            integration: Arc::clone(&self.integration),
            acl: Arc::clone(&self.acl),
            rate_limits: Arc::clone(&self.rate_limits),
        }
    }
}

/// Replaces `place` by `new` and calls `changed`, unless both are equal.
fn replace<T: PartialEq>(place: &mut Arc<[T]>, new: Vec<T>, changed: impl FnOnce()) {
    if **place != *new {
        *place = new.into();
        changed();
    }
}
