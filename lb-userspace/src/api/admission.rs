//! What may enter a service, and what waits: limits and how much of them is used.

use std::num::NonZeroU32;

use super::types;
use crate::registry::Service;

/// Of `service`.
pub(super) fn of(service: &Service) -> types::Admission {
    let limits = &service.spec.limits;
    let members = service.members.iter();
    types::Admission {
        max_requests: limits.service.map(NonZeroU32::get),
        instance_max_requests: limits.instance.map(NonZeroU32::get),
        in_flight: members.map(|m| u64::from(m.instance.in_flight())).sum(),
    }
}
