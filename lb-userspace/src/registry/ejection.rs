//! Ejections, slow starts and services that fail open, as changes of state.
//!
//! Who is to be ejected is decided elsewhere, by what instances have done (see
//! [`crate::resilience::outlier`]); here is what it does to them. An ejection stands beside what
//! checks and operators say and changes neither: an instance may be ejected, unhealthy and draining
//! at once, and takes traffic when none of it holds.

use super::{
    change::{EjectionEnd, Event, RegistryError},
    service::InstanceState,
    snapshot::Snapshot,
    state::State,
};
use crate::{
    model::{InstanceId, ServiceName, ServiceSpec},
    resilience::{Ejection, Ramp},
};

impl State {
    pub(super) fn eject(&mut self, ejections: Vec<(InstanceId, Ejection)>) -> Vec<Event> {
        let mut events = Vec::new();
        for (id, ejection) in ejections {
            let Some((spec, state)) = self.find(id) else {
                continue;
            };
            if spec.outlier.is_none() || state.status.ejected.is_some() {
                continue;
            }
            state.status.ejected = Some(ejection.clone());
            if spec.recovery.is_some() {
                state.status.relapse();
            }
            let instance = state.instance.endpoint.name().to_owned();
            events.push(Event::Ejected(spec.name.clone(), instance, ejection));
        }
        events
    }

    pub(super) fn end_ejections(&mut self, ids: &[InstanceId]) -> Vec<Event> {
        let mut events = Vec::new();
        for id in ids {
            if let Some((spec, state)) = self.find(*id) {
                events.extend(end(&spec.name, state, EjectionEnd::Served));
            }
        }
        events
    }

    pub(super) fn uneject(
        &mut self,
        name: &ServiceName,
        instance: &str,
    ) -> Result<Vec<Event>, RegistryError> {
        let state = self.service(name)?.instance(instance)?;
        Ok(end(name, state, EjectionEnd::Operator)
            .into_iter()
            .collect())
    }

    pub(super) fn ramps(&mut self, ramps: &[(InstanceId, Option<Ramp>)]) -> Vec<Event> {
        let mut events = Vec::new();
        for (id, ramp) in ramps {
            let Some((spec, state)) = self.find(*id) else {
                continue;
            };
            if state.status.ramp.is_some() && state.status.ramp != *ramp {
                state.status.ramp = *ramp;
                let instance = state.instance.endpoint.name().to_owned();
                events.push(Event::RampChanged(spec.name.clone(), instance, *ramp));
            }
        }
        events
    }

    fn find(&mut self, id: InstanceId) -> Option<(&ServiceSpec, &mut InstanceState)> {
        self.services.values_mut().find_map(|service| {
            let spec = &service.spec;
            let mut instances = service.instances.iter_mut();
            let state = instances.find(|state| state.instance.id == id)?;
            Some((&**spec, state))
        })
    }
}

/// Ends the ejection of an instance, if there is one.
pub(super) fn end(
    service: &ServiceName,
    state: &mut InstanceState,
    why: EjectionEnd,
) -> Option<Event> {
    state.status.ejected.take()?;
    let instance = state.instance.endpoint.name().to_owned();
    Some(Event::EjectionEnded(service.clone(), instance, why))
}

/// Services that began or ceased to fail open from one picture to the next.
pub(super) fn fail_open_changes(before: &Snapshot, after: &Snapshot) -> Vec<Event> {
    let services = after.services.iter();
    let changed = services.filter(|service| {
        let old = before.service(service.name().as_str());
        old.and_then(|old| old.fail_open) != service.fail_open
    });
    changed
        .map(|service| Event::FailOpenChanged(service.name().clone(), service.fail_open))
        .collect()
}
