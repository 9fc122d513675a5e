//! Health, from four points of view.
//!
//! `/livez` is for whoever restarts lb when it hangs: an answer is the answer.
//!
//! `/readyz` is for whoever sends traffic here or elsewhere. It answers 503 while the daemon starts
//! or shuts down, and where VIPs are configured that no packet path serves: another lb may serve
//! them. It stays ready when instances fail, because every lb in front of them would be taken out of
//! rotation at once.
//!
//! `/health` is what an orchestrator or a balancer in front of lb asks. It answers 200 as long as
//! the daemon serves at all, with `degraded` when something behind it does not: restarting lb, or
//! taking it out of rotation, mends no instance. It answers 503 in one case, while the daemon
//! shuts down, because that is when traffic should go elsewhere.
//!
//! `/api/v1/loadbalancer/health` is what an operator asks: each service and what is wrong with it.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};

use super::{
    answer::Answer,
    discovery,
    document::tag,
    integrations, measure,
    state::ApiState,
    types::{Envelope, GatewayHealth, Liveness, Readiness, ServiceHealth, ServicesHealth, Status},
};
use crate::{
    l4::{PathMode, Report},
    model::Health,
    registry::{FailOpen, InstanceStatus, Service, Snapshot},
};

/// Whether the gateway serves
///
/// Open to all, and without names. 200 as long as the daemon serves at all, with `degraded` when
/// something behind it does not; 503 from the moment it begins to shut down.
#[utoipa::path(
    get,
    path = "/health",
    tag = tag::HEALTH,
    operation_id = "getGatewayHealth",
    security(()),
    responses(
        (status = OK, body = Envelope<GatewayHealth>, description = "It serves"),
        (status = SERVICE_UNAVAILABLE, body = Envelope<GatewayHealth>, description = "It shuts down")
    )
)]
pub(super) async fn gateway(State(state): State<ApiState>) -> Answer<GatewayHealth> {
    let snapshot = state.snapshot();
    let serving = snapshot.services.iter().filter(|s| serves(s)).count();
    let services = snapshot.services.len();
    let problem = packet_path_problem(&state, &snapshot);
    let mut problems: Vec<String> = problem.into_iter().map(str::to_owned).collect();
    if serving < services {
        problems.push(format!(
            "{} of {services} services have no instance that is fit to take traffic",
            services - serving
        ));
    }
    let sources = state.discovery().sources();
    let failing = sources
        .iter()
        .filter(|(.., report)| report.state.is_trouble());
    let failing = failing.count();
    if failing > 0 {
        problems.push(format!(
            "{failing} of {} sources of instances fail",
            sources.len()
        ));
    }
    let status = match (state.stopping(), problems.is_empty()) {
        (true, _) => Status::Stopping,
        (false, true) => Status::Healthy,
        (false, false) => Status::Degraded,
    };
    let code = if state.stopping() {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    Answer::with_status(
        code,
        GatewayHealth {
            status,
            problems,
            uptime_seconds: measure::round(state.uptime().as_secs_f64()),
            services,
            serving,
        },
    )
}

/// Whether the daemon is alive
///
/// 200 as long as it answers at all: what gives none has to be restarted.
#[utoipa::path(
    get,
    path = "/livez",
    tag = tag::HEALTH,
    operation_id = "getLiveness",
    security(()),
    responses((status = OK, body = Envelope<Liveness>, description = "It is"))
)]
pub(super) async fn liveness(State(state): State<ApiState>) -> Answer<Liveness> {
    Answer::ok(Liveness {
        uptime_seconds: measure::round(state.uptime().as_secs_f64()),
    })
}

/// Whether traffic may be sent here
///
/// 503 while the daemon starts or shuts down, and where VIPs are configured that no packet path
/// serves. Instances that fail do not matter: they fail for every lb in front of them.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = tag::HEALTH,
    operation_id = "getReadiness",
    security(()),
    responses(
        (status = OK, body = Envelope<Readiness>, description = "It may"),
        (status = SERVICE_UNAVAILABLE, body = Envelope<Readiness>, description = "It may not")
    )
)]
pub(super) async fn readiness(State(state): State<ApiState>) -> Answer<Readiness> {
    let snapshot = state.snapshot();
    let report = state.report();
    let held = report.mode.is_some() && report.reconcile.revision > 0 && report.unserved == 0;
    let reasons: Vec<String> = [
        (state.stopping(), "the daemon shuts down"),
        (state.gateway().is_none(), "the gateway is not there yet"),
        (
            !snapshot.vips.is_empty() && !held,
            "VIPs are configured, but the packet path is not there to serve them",
        ),
    ]
    .into_iter()
    .filter(|(applies, _)| *applies)
    .map(|(_, reason)| reason.to_owned())
    .collect();
    let ready = reasons.is_empty();
    let code = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Answer::with_status(code, Readiness { ready, reasons })
}

/// Health of the services
///
/// The status of each, and what is wrong with it in the words of the checks.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/health",
    tag = tag::HEALTH,
    operation_id = "getHealth",
    responses((status = OK, body = Envelope<ServicesHealth>, description = "The health of the services"))
)]
pub(super) async fn services(State(state): State<ApiState>) -> Answer<ServicesHealth> {
    let snapshot = state.snapshot();
    let services: Vec<ServiceHealth> = snapshot
        .services
        .iter()
        .map(|one| service(one, snapshot.instead_of(one.name().as_str())))
        .collect();
    let mut problems = packet_path_problems(&state, &snapshot);
    problems.extend(
        services
            .iter()
            .filter(|service| service.status != Status::Healthy)
            .map(|service| {
                let why = service.fail_open.as_ref();
                format!(
                    "service {}: {} of {} instances take traffic{}",
                    service.service,
                    service.instances.available,
                    service.instances.total,
                    why.map_or_else(String::new, |why| format!(", it fails open ({why})"))
                )
            }),
    );
    problems.extend(discovery::problems(&state));
    problems.extend(integrations::problems(&state));
    if let Some(error) = state.last_reload().and_then(|reload| reload.error) {
        problems.push(format!("the last reload was refused: {error}"));
    }
    Answer::ok(ServicesHealth {
        status: if state.stopping() {
            Status::Stopping
        } else {
            overall(&snapshot, &problems)
        },
        problems,
        uptime_seconds: measure::round(state.uptime().as_secs_f64()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: snapshot.revision,
        last_reload: state.last_reload(),
        services,
    })
}

/// What is wrong with the packet path, without names.
fn packet_path_problem(state: &ApiState, snapshot: &Snapshot) -> Option<&'static str> {
    let report = state.report();
    if !snapshot.vips.is_empty() && report.mode.is_none() {
        Some("VIPs are configured, but the packet path is not there to serve them")
    } else if report.unserved > 0 {
        Some("VIPs are configured that cannot be relayed")
    } else if !snapshot.vips.is_empty() && is_makeshift(&report) {
        Some("VIPs are relayed by the daemon, because the kernel path is not there")
    } else if report.reconcile.error.is_some() {
        Some("the kernel does not hold the current state")
    } else {
        None
    }
}

/// Whether VIPs are relayed though nobody has asked for that.
fn is_makeshift(report: &Report) -> bool {
    report.mode == Some(PathMode::Relay) && !report.reason.is_empty()
}

/// What is wrong with the packet path, a line each; `/datapath` has the whole of it. Its own
/// warnings name each VIP and instance.
fn packet_path_problems(state: &ApiState, snapshot: &Snapshot) -> Vec<String> {
    let report = state.report();
    let why = match &report.reconcile.error {
        Some(why) => Some(why),
        None => {
            Some(&report.reason).filter(|_| is_makeshift(&report) || report.warnings.is_empty())
        }
    };
    let problem = packet_path_problem(state, snapshot);
    let mut problems: Vec<String> = problem
        .zip(why)
        .map(|(problem, why)| format!("{problem}: {why}"))
        .into_iter()
        .collect();
    problems.extend(report.warnings.iter().cloned());
    for problem in &mut problems {
        // The kernel's verifier is wordy.
        if let Some(end) = problem.find('\n') {
            problem.truncate(end);
        }
    }
    problems
}

fn overall(snapshot: &Snapshot, problems: &[String]) -> Status {
    let none_serves = !snapshot.services.iter().any(|service| serves(service));
    match (problems.is_empty(), snapshot.services.is_empty()) {
        (true, _) => Status::Healthy,
        (false, false) if none_serves => Status::Unhealthy,
        (false, _) => Status::Degraded,
    }
}

fn serves(service: &Service) -> bool {
    let mut statuses = service.statuses.iter();
    service.fail_open == Some(FailOpen::OnlyRecovering) || statuses.any(InstanceStatus::stands)
}

/// How a service is, and `instead` the one that serves in its place.
fn service(service: &Service, instead: Option<&Arc<Service>>) -> ServiceHealth {
    let instances = measure::counts(service);
    // An instance that an operator took out, or that is configured with weight 0, is as it
    // should be.
    let wanted = service.statuses.iter().filter(|s| s.is_wanted()).count();
    let status = if instead.is_some() {
        Status::Degraded
    } else if !serves(service) {
        Status::Unhealthy
    } else if instances.available < wanted || service.fail_open.is_some() {
        Status::Degraded
    } else {
        Status::Healthy
    };
    let available = service.members.iter().filter(|member| member.weight > 0);
    let scores: Vec<f32> = available.map(|m| m.instance.measured.score()).collect();
    ServiceHealth {
        service: service.name().to_string(),
        status,
        instances,
        score: (!scores.is_empty()).then(|| scores.iter().sum::<f32>() / scores.len() as f32),
        unhealthy: service
            .members
            .iter()
            .zip(service.statuses.iter())
            .filter(|(_, status)| status.health == Health::Unhealthy)
            .map(|(member, status)| format!("{}: {}", member.instance.endpoint, status.detail))
            .collect(),
        ejected: service
            .members
            .iter()
            .zip(service.statuses.iter())
            .filter_map(|(member, status)| {
                let detail = &status.ejected.as_ref()?.detail;
                Some(format!("{}: {detail}", member.instance.endpoint))
            })
            .collect(),
        fail_open: measure::fail_open(service),
        served_by: instead.map(|service| service.name().to_string()),
    }
}
