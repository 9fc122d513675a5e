//! The state itself and how changes transform it.

mod configure;

use std::{collections::BTreeMap, sync::Arc};

use super::{
    acl,
    change::{Change, EjectionEnd, Event, RecoveryStep, RegistryError},
    ejection,
    ids::{Ids, KnownId},
    limits::RateLimits,
    service::{ServiceState, unmeasured, weight},
    snapshot::{InstanceStatus, Snapshot},
};
use crate::{
    model::{
        Acl, AdminState, Alarm, Algorithm, BreakerState, GatewaySpec, Health, InstanceId,
        IntegrationSpec, ListenerSpec, RouteSpec, ServiceName, VipSpec,
    },
    resilience::Factors,
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
