//! `/breakers`: circuit breakers, and orders to them.

use std::time::Duration;

use axum::{
    extract::{FromRequest as _, Path, Request, State, rejection::PathRejection},
    http::Method,
};

use super::{
    answer::Answer,
    body::{Nothing, Strict},
    error::{ApiError, Fault},
    instances,
    measure::{fraction, round},
    path::{self, BreakerPath, BreakerVerb},
    state::ApiState,
    types::{
        Advice, Breaker, BreakerRules, BreakerTransitions, BreakerWindow, Breakers,
        InstanceBreaker, ServiceBreakers,
    },
};
use crate::{
    health::breakers::follow,
    model::{BreakerSpec, BreakerState, Gate, GateState, Timestamp, WindowSum},
    registry::Service,
    resilience::{Hold, breaker},
};

/// The longest that an advice is believed.
const LONGEST_ADVICE: u32 = 3600;

/// `GET /breakers`.
pub(super) async fn all(State(state): State<ApiState>) -> Answer<Breakers> {
    let (snapshot, now) = (state.snapshot(), state.now());
    let services = snapshot.services.iter().map(|service| of(service, now));
    Answer::ok(Breakers {
        services: services.collect(),
    })
}

/// Everything below `/breakers/`: a service, or an order to its breaker or to that of an instance,
/// whose name may have slashes.
pub(super) async fn below(
    State(state): State<ApiState>,
    rest: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Answer<ServiceBreakers>, ApiError> {
    let path = request.uri().path().to_owned();
    let no_path = || ApiError::NoPath { path };
    let Ok(Path(rest)) = rest else {
        return Err(no_path());
    };
    let method = request.method().clone();
    let wrong = |allow| ApiError::Method {
        method: method.to_string(),
        allow: Some(allow),
    };
    match path::breaker(&rest).ok_or_else(no_path)? {
        BreakerPath {
            service,
            order: None,
        } => {
            if !matches!(method, Method::GET | Method::HEAD) {
                return Err(wrong("GET,HEAD"));
            }
            let snapshot = state.snapshot();
            let service = instances::find_service(&snapshot, service)?;
            Ok(Answer::ok(of(service, state.now())))
        }
        BreakerPath {
            service,
            order: Some((instance, verb)),
        } => {
            if method != Method::POST {
                return Err(wrong("POST"));
            }
            order(&state, service, instance, verb, request).await
        }
    }
}

async fn order(
    state: &ApiState,
    service: &str,
    instance: Option<&str>,
    verb: BreakerVerb,
    request: Request,
) -> Result<Answer<ServiceBreakers>, ApiError> {
    let snapshot = state.snapshot();
    let service = instances::find_service(&snapshot, service)?;
    let now = state.now();
    match (verb, instance) {
        (BreakerVerb::Advise, _) => {
            let Strict(advice) = Strict::<Advice>::from_request(request, &()).await?;
            advise(service, advice, now)?;
        }
        (BreakerVerb::Hold(hold), None) => {
            Nothing::from_request(request, &()).await?;
            if hold == Hold::Release {
                // What was advised is part of what is to be forgotten.
                breaker::advise(&service.guard, None, now);
            }
            breaker::hold(&service.guard.gate, hold, now);
        }
        (BreakerVerb::Hold(hold), Some(name)) => {
            Nothing::from_request(request, &()).await?;
            let position = instances::find(service, name)?;
            breaker::hold(&service.members[position].instance.gate, hold, now);
        }
    }
    // The kernel's tables follow before the answer, so that who reads it sees the effect.
    follow(state.registry(), now);
    state.registry().breakers().notify_one();
    state.report_holding(state.snapshot().revision).await;
    Ok(Answer::ok(of(service, state.now())))
}

fn advise(service: &Service, advice: Advice, now: Timestamp) -> Result<(), ApiError> {
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
    let advised = guard.advised(now);
    ServiceBreakers {
        service: service.name().to_string(),
        breaker: with_window(&guard.gate, spec.service.as_ref(), now, window),
        rules: spec.service.as_ref().map(rules),
        advised_for_seconds: advised.map(|until| round((until - now).as_secs_f64())),
        instance_rules: spec.instance.as_ref().map(rules),
        all_open: spec.all_open.as_str().to_owned(),
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
