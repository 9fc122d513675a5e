//! `/limits`: what may enter, and how much of it is used.

use std::num::NonZeroU32;

use axum::extract::State;

use super::{
    answer::Answer,
    state::ApiState,
    types::{self, Limits, RateLimit, ServiceLimits},
};
use crate::{registry::Service, resilience::RateLimiter};

/// `GET /limits`.
pub(super) async fn limits(State(state): State<ApiState>) -> Answer<Limits> {
    let snapshot = state.snapshot();
    let services = snapshot.services.iter().map(|service| ServiceLimits {
        service: service.name().to_string(),
        admission: of(service),
    });
    Answer::ok(Limits {
        services: services.collect(),
        rate_limits: snapshot.rate_limits.all().map(|l| rate_limit(l)).collect(),
    })
}

/// What may be in flight of a service's requests, and what is.
pub(super) fn of(service: &Service) -> types::Admission {
    let limits = &service.spec.limits;
    let members = service.members.iter();
    types::Admission {
        max_requests: limits.service.map(NonZeroU32::get),
        instance_max_requests: limits.instance.map(NonZeroU32::get),
        in_flight: members.map(|m| u64::from(m.instance.in_flight())).sum(),
    }
}

fn rate_limit(limiter: &RateLimiter) -> RateLimit {
    let spec = &limiter.spec;
    RateLimit {
        scope: limiter.scope.as_str().to_owned(),
        name: limiter.name.clone(),
        key: spec.key.to_string(),
        requests: spec.requests,
        per_ms: u64::try_from(spec.per.as_millis()).unwrap_or(u64::MAX),
        burst: spec.burst,
        refused: limiter.refused(),
        crowded: limiter.crowded(),
    }
}
