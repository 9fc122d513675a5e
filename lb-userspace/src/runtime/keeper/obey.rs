//! Orders, as the keeper obeys them: tried, brought to the disk, carried out.

use std::sync::Arc;

use super::{
    super::orders::{Order, Orders},
    ChangeError, Inner, Keeper, View,
};
use crate::{
    config::Config,
    model::{Algorithm, Instance, ServiceName, Timestamp},
    registry::{Applied, Change, RegistryError, Service, Snapshot},
    resilience::breaker,
};

impl Keeper {
    /// Carries out an operator's order, and keeps it.
    ///
    /// # Errors
    /// When it is about something that does not exist, or cannot be kept; nothing has changed then.
    pub fn order(&self, order: &Order, now: Timestamp) -> Result<Applied, ChangeError> {
        let mut inner = self.lock();
        let change = order.change();
        if let Some(change) = &change {
            self.registry.preview(change.clone())?;
        }
        let snapshot = self.registry.snapshot();
        let (service, member) = found(&snapshot, order)?;
        let configured = configured(&inner.config, order.service());
        let configured = configured.unwrap_or(service.spec.algorithm);
        let name = member.map(|instance| instance.endpoint.name());
        let mut state = inner.state.clone();
        state.orders.note(order, name, configured);
        if state.orders != inner.state.orders {
            self.write_or_restore(&state, &inner.state)?;
        }
        inner.state = state;
        self.publish_orders(&inner);
        if let Some(change) = change {
            return Ok(self.registry.apply(change)?);
        }
        if let Order::Breaker { hold, .. } = order {
            let gate = member.map_or(&service.guard.gate, |instance| &instance.gate);
            breaker::hold(gate, *hold, now);
        }
        Ok(Applied {
            revision: snapshot.revision,
            events: Vec::new(),
        })
    }

    /// Sees to it that what was ordered holds for instances that have come meanwhile. Blocks while a
    /// change is on its way.
    pub fn obey(&self, now: Timestamp) {
        let inner = self.lock();
        let orders = &inner.state.orders;
        if orders.are_none() {
            return;
        }
        if let Err(error) = orders.carry_out(&self.registry, now) {
            tracing::warn!(%error, "what was ordered does not hold");
        }
    }

    /// Forgets all orders and what was learned.
    ///
    /// # Errors
    /// When that cannot be kept; nothing has changed then.
    pub fn reset(&self) -> Result<Applied, ChangeError> {
        let mut inner = self.lock();
        let mut state = inner.state.clone();
        state.orders = Orders::default();
        if state.orders != inner.state.orders {
            self.write_or_restore(&state, &inner.state)?;
        }
        inner.state = state;
        self.publish_orders(&inner);
        Ok(self.registry.apply(Change::Reset)?)
    }

    /// The same after an order, which leaves the configuration as it is.
    fn publish_orders(&self, inner: &Inner) {
        let view = self.view();
        self.view.store(Arc::new(View {
            drains: inner.state.orders.drains().into(),
            ..(*view).clone()
        }));
    }
}

/// What an order is about.
fn found<'s>(
    snapshot: &'s Snapshot,
    order: &Order,
) -> Result<(&'s Service, Option<&'s Instance>), RegistryError> {
    let service =
        snapshot
            .service(order.service().as_str())
            .ok_or_else(|| RegistryError::NoService {
                found: order.service().to_string(),
                known: snapshot.service_names(),
            })?;
    let Some(name) = order.instance() else {
        return Ok((service, None));
    };
    let position = service
        .find(name)
        .ok_or_else(|| RegistryError::NoInstance {
            service: order.service().clone(),
            found: name.to_owned(),
            known: service.instance_names(),
        })?;
    Ok((service, Some(&service.members[position].instance)))
}

/// The algorithm that a service has by its configuration.
fn configured(config: &Config, service: &ServiceName) -> Option<Algorithm> {
    let mut services = config.desired.services.iter();
    let found = services.find(|spec| spec.name == *service);
    found.map(|spec| spec.algorithm)
}
