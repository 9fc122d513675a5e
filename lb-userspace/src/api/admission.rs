//! `/limits`: what may enter, and how much of it is used.

use std::{
    num::NonZeroU32,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::extract::State;

use super::{
    answer::Answer,
    document::tag,
    measure,
    state::ApiState,
    types::{self, Envelope, Limits, RateLimit, ServiceLimits},
};
use crate::{
    model::{Instance, QueueSpec},
    registry::Service,
    resilience::RateLimiter,
};

/// What may enter, and how much of it is used
///
/// Requests in flight of each service with their limits and queues, and rate limits with what they
/// refused.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/limits",
    tag = tag::CONFIGURATION,
    operation_id = "getLimits",
    responses((status = OK, body = Envelope<Limits>, description = "The limits"))
)]
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
    let members = || service.members.iter().map(|member| &member.instance);
    let live = |instance: &Arc<Instance>| instance.kernel.live.load(Ordering::Relaxed);
    types::Admission {
        max_requests: limits.service.map(NonZeroU32::get),
        instance_max_requests: limits.instance.map(NonZeroU32::get),
        in_flight: members().map(|one| u64::from(one.in_flight())).sum(),
        max_connections: limits.connections.map(NonZeroU32::get),
        instance_max_connections: limits.instance_connections.map(NonZeroU32::get),
        new_connections: limits.arrivals.service.map(|rate| rate.per_second.get()),
        new_connections_burst: limits.arrivals.service.map(|rate| rate.burst.get()),
        source_new_connections: limits.arrivals.source.map(|rate| rate.per_second.get()),
        source_new_connections_burst: limits.arrivals.source.map(|rate| rate.burst.get()),
        syn_cookies_above: limits.arrivals.cookies_above,
        connections: members().map(|one| u64::from(one.connections.open())).sum(),
        kernel_connections: members().map(live).sum(),
        concurrency: service.spec.concurrency.as_ref().map(|spec| {
            let concurrency = service.admission.concurrency();
            let ms = |base: Duration| measure::round(base.as_secs_f64() * 1e3);
            types::Concurrency {
                limit: concurrency.limit(spec),
                min: spec.min,
                max: spec.max,
                base_ms: concurrency.base().map(ms),
            }
        }),
        queue: service.spec.queue.as_ref().map(|spec| queue(service, spec)),
    }
}

fn queue(service: &Service, spec: &QueueSpec) -> types::Queue {
    let queue = service.admission.queue();
    let (counts, sum_us) = queue.waits().read();
    let served = counts.iter().sum();
    types::Queue {
        waiting: queue.waiting(),
        size: spec.size,
        timeout_ms: ms(spec.timeout),
        target_ms: ms(spec.target),
        interval_ms: ms(spec.interval),
        served,
        mean_wait_ms: measure::share(sum_us, served).map(|us| measure::round(us / 1e3)),
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn rate_limit(limiter: &RateLimiter) -> RateLimit {
    let spec = &limiter.spec;
    RateLimit {
        scope: limiter.scope.as_str().to_owned(),
        name: limiter.name.clone(),
        key: spec.key.to_string(),
        requests: spec.requests,
        per_ms: ms(spec.per),
        burst: spec.burst,
        refused: limiter.refused(),
        crowded: limiter.crowded(),
    }
}
