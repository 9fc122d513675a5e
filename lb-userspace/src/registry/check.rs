//! What a configuration must fulfil before it is applied.

use std::collections::HashSet;

use super::change::{Desired, RegistryError};
use crate::model::ServiceName;

/// Refuses a configuration that contradicts itself. The configuration's own checks come first and
/// say it with line and column; this is for callers that build a [`Desired`] otherwise.
pub(super) fn check(desired: &Desired) -> Result<(), RegistryError> {
    let mut names = HashSet::new();
    for spec in &desired.services {
        once(&mut names, spec.name.clone(), || {
            format!("service {}", spec.name)
        })?;
        let mut endpoints = HashSet::new();
        for instance in &spec.instances {
            once(&mut endpoints, instance.endpoint.address(), || {
                format!("endpoint {} of service {}", instance.endpoint, spec.name)
            })?;
        }
    }
    let mut routes = HashSet::new();
    for route in &desired.routes {
        let what = || format!("route {:?}", route.text());
        let matched = (route.destination, &route.host, &route.path);
        once(&mut routes, matched, what)?;
        defined(&names, &route.service, what)?;
    }
    for (number, vip) in desired.vips.iter().enumerate() {
        let what = || format!("VIP {vip}");
        if desired.vips[..number]
            .iter()
            .any(|other| vip.collides(other))
        {
            return Err(RegistryError::Twice { what: what() });
        }
        defined(&names, &vip.service, what)?;
    }
    let mut listeners = HashSet::new();
    for listener in &desired.listeners {
        let what = || format!("listener {}", listener.address);
        once(&mut listeners, listener.address, what)?;
    }
    Ok(())
}

fn once<T: Eq + std::hash::Hash>(
    seen: &mut HashSet<T>,
    value: T,
    what: impl FnOnce() -> String,
) -> Result<(), RegistryError> {
    if seen.insert(value) {
        Ok(())
    } else {
        Err(RegistryError::Twice { what: what() })
    }
}

fn defined(
    names: &HashSet<ServiceName>,
    found: &ServiceName,
    what: impl FnOnce() -> String,
) -> Result<(), RegistryError> {
    if names.contains(found) {
        Ok(())
    } else {
        Err(RegistryError::Dangling {
            what: what(),
            found: found.clone(),
        })
    }
}
