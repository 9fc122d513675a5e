//! The rate limits at work. A reload keeps those that it does not change, and with them what has
//! been used of their budgets.

use std::{collections::BTreeMap, sync::Arc};

use super::change::Desired;
use crate::{
    model::{RateLimitSpec, RateScope, ServiceName},
    resilience::RateLimiter,
};

/// Limits of one gateway, service or route.
pub type Limiters = Box<[Arc<RateLimiter>]>;

/// All rate limits of a configuration.
#[derive(Debug, Default)]
pub struct RateLimits {
    /// Of all requests.
    pub gateway: Limiters,
    /// Of services that have any.
    pub services: BTreeMap<ServiceName, Limiters>,
    /// Of routes, in their order.
    pub routes: Box<[Limiters]>,
}

impl RateLimits {
    /// Those that `desired` asks for.
    pub(super) fn new(desired: &Desired, before: &Self) -> Self {
        let make = |specs: &[RateLimitSpec], scope: RateScope, name: &str| -> Limiters {
            let make = |spec: &RateLimitSpec| {
                let same = |old: &&Arc<RateLimiter>| {
                    old.scope == scope && old.name == name && old.spec == *spec
                };
                let kept = before.all().find(same).cloned();
                let new = || RateLimiter::new(spec.clone(), scope, name.to_owned());
                kept.unwrap_or_else(|| Arc::new(new()))
            };
            specs.iter().map(make).collect()
        };
        let services = desired.services.iter();
        let routes = desired.routes.iter();
        Self {
            gateway: make(&desired.gateway.rate_limits, RateScope::Gateway, ""),
            services: services
                .filter(|service| !service.rate_limits.is_empty())
                .map(|service| {
                    let name = service.name.as_str();
                    let limits = make(&service.rate_limits, RateScope::Service, name);
                    (service.name.clone(), limits)
                })
                .collect(),
            routes: routes
                .map(|route| make(&route.rate_limits, RateScope::Route, &route.text()))
                .collect(),
        }
    }

    /// Every limit once: the gateway's, those of services, those of routes.
    pub fn all(&self) -> impl Iterator<Item = &Arc<RateLimiter>> {
        let services = self.services.values().chain(&self.routes).flatten();
        self.gateway.iter().chain(services)
    }
}
