//! What was found for a service, beside what is configured.
//!
//! The configuration has the last word about an address that both name. A service that is left to
//! sources alone, none of which has said anything yet, keeps the instances that it has: who replaces
//! a list by a name must not lose all traffic for the time of the first look-up.

use std::{collections::HashSet, sync::Arc};

use super::service::ServiceState;
use crate::model::{InstanceSpec, ServiceSpec};

/// Adds to `spec`, which is as configured, what was found. Returns what was found, for the next
/// configuration.
pub(super) fn add_found(
    spec: &mut ServiceSpec,
    before: Option<&ServiceState>,
) -> Option<Arc<[InstanceSpec]>> {
    if !spec.discovery.is_on() {
        return None;
    }
    let before = before?;
    let Some(found) = &before.found else {
        if spec.instances.is_empty() {
            spec.instances = before.spec.instances.clone();
        }
        return None;
    };
    let configured: HashSet<_> = spec
        .instances
        .iter()
        .map(|instance| instance.endpoint.address())
        .collect();
    let new = found
        .iter()
        .filter(|instance| !configured.contains(&instance.endpoint.address()));
    spec.instances.extend(new.cloned());
    Some(Arc::clone(found))
}
