//! `/breakers`: circuit breakers, and orders to them.

use std::time::Duration;

use axum::extract::State;

use super::{
    answer::Answer,
    body::{Nothing, Strict},
    document::{Conflict, NotKept, tag},
    error::{ApiError, Fault},
    instances,
    measure::{fraction, round},
    path::{OfInstance, OfService},
    state::ApiState,
    types::{
        Advice, Breaker, BreakerRules, BreakerTransitions, BreakerWindow, Breakers, Envelope,
        InstanceBreaker, ServiceBreakers,
    },
};
use crate::{
    health::breakers::follow,
    model::{BreakerSpec, BreakerState, Gate, GateState, Timestamp, WindowSum},
    registry::Service,
    resilience::{Hold, breaker},
    runtime::Order,
};

/// The longest that an advice is believed.
const LONGEST_ADVICE: u32 = 3600;

/// All circuit breakers
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/breakers",
    tag = tag::BREAKERS,
    operation_id = "listBreakers",
    responses((status = OK, body = Envelope<Breakers>, description = "The breakers by service"))
)]
pub(super) async fn all(State(state): State<ApiState>) -> Answer<Breakers> {
    let (snapshot, now) = (state.snapshot(), state.now());
    let services = snapshot.services.iter().map(|service| of(service, now));
    Answer::ok(Breakers {
        services: services.collect(),
    })
}

/// The circuit breakers of a service and its instances
///
/// State, window, time to the next probe, and rules.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/breakers/{service}",
    tag = tag::BREAKERS,
    operation_id = "getBreakers",
    params(OfService),
    responses((status = OK, body = Envelope<ServiceBreakers>, description = "The breakers"))
)]
pub(super) async fn one(
    State(state): State<ApiState>,
    OfService { service }: OfService,
) -> Result<Answer<ServiceBreakers>, ApiError> {
    let snapshot = state.snapshot();
    let service = instances::find_service(&snapshot, &service)?;
    Ok(Answer::ok(of(service, state.now())))
}

/// Hold the breaker of a service open
///
/// No request gets through until it is reset.
#[utoipa::path(
    post,
    path = "/api/v1/loadbalancer/breakers/{service}/open",
    tag = tag::BREAKERS,
    operation_id = "openServiceBreaker",
    params(OfService),
    responses(
        (status = OK, body = Envelope<ServiceBreakers>, description = "The breakers of the service"),
        NotKept
    )
)]
pub(super) async fn open_service(
    State(state): State<ApiState>,
    OfService { service }: OfService,
    _: Nothing,
) -> Result<Answer<ServiceBreakers>, ApiError> {
    hold(&state, &service, None, Hold::Open).await
}

/// Hold the breaker of an instance open
///
/// No request gets through until it is reset.
#[utoipa::path(
    post,
    path = "/api/v1/loadbalancer/breakers/{service}/{instance}/open",
    tag = tag::BREAKERS,
    operation_id = "openInstanceBreaker",
    params(OfInstance),
    responses(
        (status = OK, body = Envelope<ServiceBreakers>, description = "The breakers of the service"),
        NotKept
    )
)]
pub(super) async fn open_instance(
    State(state): State<ApiState>,
    OfInstance { service, instance }: OfInstance,
    _: Nothing,
) -> Result<Answer<ServiceBreakers>, ApiError> {
    hold(&state, &service, Some(&instance), Hold::Open).await
}

/// Hold the breaker of a service closed
///
/// Whatever fails, until it is reset.
#[utoipa::path(
    post,
    path = "/api/v1/loadbalancer/breakers/{service}/close",
    tag = tag::BREAKERS,
    operation_id = "closeServiceBreaker",
    params(OfService),
    responses(
        (status = OK, body = Envelope<ServiceBreakers>, description = "The breakers of the service"),
        NotKept
    )
)]
pub(super) async fn close_service(
    State(state): State<ApiState>,
    OfService { service }: OfService,
    _: Nothing,
) -> Result<Answer<ServiceBreakers>, ApiError> {
    hold(&state, &service, None, Hold::Closed).await
}

/// Hold the breaker of an instance closed
///
/// Whatever fails, until it is reset.
#[utoipa::path(
    post,
    path = "/api/v1/loadbalancer/breakers/{service}/{instance}/close",
    tag = tag::BREAKERS,
    operation_id = "closeInstanceBreaker",
    params(OfInstance),
    responses(
        (status = OK, body = Envelope<ServiceBreakers>, description = "The breakers of the service"),
        NotKept
    )
)]
pub(super) async fn close_instance(
    State(state): State<ApiState>,
    OfInstance { service, instance }: OfInstance,
    _: Nothing,
) -> Result<Answer<ServiceBreakers>, ApiError> {
    hold(&state, &service, Some(&instance), Hold::Closed).await
}

/// Close the breaker of a service and let it go by its rules
///
/// What was advised of a service is forgotten, too.
#[utoipa::path(
    post,
    path = "/api/v1/loadbalancer/breakers/{service}/reset",
    tag = tag::BREAKERS,
    operation_id = "resetServiceBreaker",
    params(OfService),
    responses(
        (status = OK, body = Envelope<ServiceBreakers>, description = "The breakers of the service"),
        NotKept
    )
)]
pub(super) async fn reset_service(
    State(state): State<ApiState>,
    OfService { service }: OfService,
    _: Nothing,
) -> Result<Answer<ServiceBreakers>, ApiError> {
    hold(&state, &service, None, Hold::Release).await
}

/// Close the breaker of an instance and let it go by its rules
#[utoipa::path(
    post,
    path = "/api/v1/loadbalancer/breakers/{service}/{instance}/reset",
    tag = tag::BREAKERS,
    operation_id = "resetInstanceBreaker",
    params(OfInstance),
    responses(
        (status = OK, body = Envelope<ServiceBreakers>, description = "The breakers of the service"),
        NotKept
    )
)]
pub(super) async fn reset_instance(
    State(state): State<ApiState>,
    OfInstance { service, instance }: OfInstance,
    _: Nothing,
) -> Result<Answer<ServiceBreakers>, ApiError> {
    hold(&state, &service, Some(&instance), Hold::Release).await
}

/// Say what somebody else knows of a service
///
/// `{"works": false}` makes the closed breaker of the service half-open: probes pass, the rest is
/// refused until enough of them succeed. It is 409 when the breaker of the service is off.
#[utoipa::path(
    post,
    path = "/api/v1/loadbalancer/breakers/{service}/advise",
    tag = tag::BREAKERS,
    operation_id = "adviseBreaker",
    params(OfService),
    request_body = Advice,
    responses(
        (status = OK, body = Envelope<ServiceBreakers>, description = "The breakers of the service"),
        Conflict
    )
)]
pub(super) async fn advise(
    State(state): State<ApiState>,
    OfService { service }: OfService,
    Strict(advice): Strict<Advice>,
) -> Result<Answer<ServiceBreakers>, ApiError> {
    let snapshot = state.snapshot();
    let service = instances::find_service(&snapshot, &service)?;
    heed(service, advice, state.now())?;
    followed(&state, service).await
}

async fn hold(
    state: &ApiState,
    service: &str,
    instance: Option<&str>,
    hold: Hold,
) -> Result<Answer<ServiceBreakers>, ApiError> {
    let snapshot = state.snapshot();
    let service = instances::find_service(&snapshot, service)?;
    if let Some(name) = instance {
        instances::find(service, name)?;
    } else if hold == Hold::Release {
        // What was advised is part of what is to be forgotten.
        breaker::advise(&service.guard, None, state.now());
    }
    let order = Order::Breaker {
        service: service.name().clone(),
        instance: instance.map(str::to_owned),
        hold,
    };
    state.ordering(order).await?;
    followed(state, service).await
}

/// The kernel's tables follow before the answer, so that who reads it sees the effect.
async fn followed(
    state: &ApiState,
    service: &Service,
) -> Result<Answer<ServiceBreakers>, ApiError> {
    follow(state.registry(), state.now());
    state.registry().breakers().notify_one();
    state.report_holding(state.snapshot().revision).await;
    Ok(Answer::ok(of(service, state.now())))
}

fn heed(service: &Service, advice: Advice, now: Timestamp) -> Result<(), ApiError> {
    if service.spec.breakers.service.is_none() {
        let name = service.name();
        return Err(ApiError::Conflict(format!(
            "an advice is for the circuit breaker of a service, and that of {name} is off \
             (breaker.service.enabled)"
        )));
    }
    if !(1..=LONGEST_ADVICE).contains(&advice.seconds) {
        return Err(ApiError::Body {
            expected: "an advice that can be followed".to_owned(),
            faults: vec![Fault {
                origin: None,
                pointer: "/seconds".to_owned(),
                expected: format!("1 to {LONGEST_ADVICE}"),
                found: advice.seconds.to_string(),
            }],
        });
    }
    let time = Duration::from_secs(advice.seconds.into());
    breaker::advise(&service.guard, (!advice.works).then_some(time), now);
    Ok(())
}

fn of(service: &Service, now: Timestamp) -> ServiceBreakers {
    let (spec, guard) = (&service.spec.breakers, &service.guard);
    let window = |seconds| guard.window(now, seconds);
    let seconds = |until: Timestamp| round((until - now).as_secs_f64());
    ServiceBreakers {
        service: service.name().to_string(),
        breaker: with_window(&guard.gate, spec.service.as_ref(), now, window),
        rules: spec.service.as_ref().map(rules),
        advised_for_seconds: guard.advised(now).map(seconds),
        refused_for_seconds: guard.refused(now).map(seconds),
        instance_rules: spec.instance.as_ref().map(rules),
        all_open: spec.all_open.as_str().to_owned(),
        max_out: fraction(spec.max_out),
        most_out: service.most_out(),
        out: service.out(now),
        instances: service
            .members
            .iter()
            .map(|member| {
                let instance = &member.instance;
                let window = |seconds| instance.blamed(now, seconds);
                let spec = spec.instance.as_ref();
                InstanceBreaker {
                    instance: instance.endpoint.name().to_owned(),
                    breaker: with_window(&instance.gate, spec, now, window),
                    spared: instance.is_spared(now),
                    spared_seconds: instance.spared(),
                }
            })
            .collect(),
    }
}

fn with_window(
    gate: &Gate,
    spec: Option<&BreakerSpec>,
    now: Timestamp,
    window: impl Fn(u64) -> WindowSum,
) -> Breaker {
    let seconds = match (gate.state(), spec) {
        (GateState::Closed { since, .. }, Some(spec)) => Some(breaker::seconds(spec, since, now)),
        _ => None,
    };
    Breaker {
        window: seconds.map(window).map(|sum| BreakerWindow {
            requests: sum.requests,
            failures: sum.failures,
        }),
        ..state(gate, now)
    }
}

/// What the state itself says.
pub(super) fn state(gate: &Gate, now: Timestamp) -> Breaker {
    let state = gate.state();
    let wait = match state {
        GateState::Open { until, .. } => Some(round((until - now).as_secs_f64())),
        _ => None,
    };
    let (run, passed, trips) = match state {
        GateState::Closed { run, .. } => (Some(run), None, None),
        GateState::Open { trips, .. } => (None, None, Some(trips)),
        GateState::HalfOpen { passed, trips, .. } => (None, Some(passed), Some(trips)),
        GateState::HeldOpen | GateState::HeldClosed => (None, None, None),
    };
    Breaker {
        state: state.kind(now).as_str().to_owned(),
        held: state.is_held(),
        consecutive_failures: run,
        window: None,
        probe_in_seconds: wait,
        probes_passed: passed,
        opened_in_a_row: trips,
        transitions: BreakerTransitions {
            open: gate.transitions(BreakerState::Open),
            half_open: gate.transitions(BreakerState::HalfOpen),
            closed: gate.transitions(BreakerState::Closed),
        },
    }
}

fn rules(spec: &BreakerSpec) -> BreakerRules {
    BreakerRules {
        consecutive_failures: spec.failures,
        failure_ratio: fraction(spec.ratio),
        window_seconds: spec.window.as_secs(),
        min_requests: spec.min_requests,
        open_seconds: spec.open.as_secs_f64(),
        max_open_seconds: spec.max_open.as_secs_f64(),
        probes: spec.probes,
        successes: spec.successes,
    }
}
