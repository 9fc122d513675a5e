//! `lb status` and `lb stats`.

use serde::Serialize;

use super::{
    Context,
    client::segment,
    error::CliError,
    format::{self, Lean, maybe, ms, pairs, percent, rate, table},
};
use crate::api::types::{
    AnswerCount, InstanceCounts, Kernel, Requests, ServiceStats, ServicesHealth, Stats, Window,
};

/// What `lb status --json` prints.
#[derive(Debug, Serialize)]
struct Overview {
    health: ServicesHealth,
    stats: Stats,
}

/// `lb status`.
pub(super) async fn status(context: &mut Context<'_>) -> Result<(), CliError> {
    let health = context.client.get("/health").await?;
    let stats = context.client.get("/stats").await?;
    let url = context.client.url().to_owned();
    context.show(&Overview { health, stats }, |overview| {
        let Overview { health, stats } = overview;
        let mut text = format!(
            "lb {} at {url} is {}, up {}, revision {}\n",
            health.version,
            health.status.as_str(),
            format::duration(health.uptime_seconds),
            health.revision
        );
        for problem in &health.problems {
            text += &format!("! {problem}\n");
        }
        if let Some(gateway) = &stats.gateway {
            text += &format!(
                "gateway: {} connections open, {} accepted{}\n",
                gateway.open,
                gateway.accepted,
                answers(&gateway.answers)
            );
        }
        text += "\n";
        text += &services(health, stats);
        text
    })
}

/// What lb answered to requests that reached no service.
fn answers(answers: &[AnswerCount]) -> String {
    answers
        .iter()
        .map(|of| format!(", {} × {} ({})", of.count, of.status, of.reason))
        .collect()
}

fn services(health: &ServicesHealth, stats: &Stats) -> String {
    let status = |service: &str| {
        let found = health.services.iter().find(|s| s.service == service);
        found.map_or("-", |service| service.status.as_str())
    };
    let columns = [
        ("SERVICE", Lean::Left),
        ("STATUS", Lean::Left),
        ("ALGORITHM", Lean::Left),
        ("INSTANCES", Lean::Right),
        ("REQ/S", Lean::Right),
        ("SUCCESS", Lean::Right),
        ("LATENCY", Lean::Right),
        ("IN FLIGHT", Lean::Right),
        ("CONNECTIONS", Lean::Right),
    ];
    let rows = stats.services.iter().map(|service| {
        let requests = &service.requests;
        vec![
            service.service.clone(),
            status(&service.service).to_owned(),
            service.algorithm.clone(),
            of(&service.instances),
            rate(requests.last_10s.requests_per_second),
            maybe(requests.last_60s.success_rate, percent),
            maybe(requests.last_60s.mean_latency_ms, ms),
            requests.in_flight.to_string(),
            service.kernel.live_connections.to_string(),
        ]
    });
    table(&columns, rows)
}

/// Available of all.
pub(super) fn of(counts: &InstanceCounts) -> String {
    format!("{}/{}", counts.available, counts.total)
}

/// `lb stats [SERVICE]`.
pub(super) async fn stats(
    context: &mut Context<'_>,
    service: Option<&str>,
) -> Result<(), CliError> {
    if let Some(service) = service {
        let path = format!("/stats/{}", segment(service));
        let stats: ServiceStats = context.client.get(&path).await?;
        return context.show(&stats, one);
    }
    let stats: Stats = context.client.get("/stats").await?;
    context.show(&stats, |stats| {
        let columns = [
            ("SERVICE", Lean::Left),
            ("REQUESTS", Lean::Right),
            ("FAILURES", Lean::Right),
            ("SUCCESS", Lean::Right),
            ("MEAN", Lean::Right),
            ("REQ/S 10S", Lean::Right),
            ("REQ/S 60S", Lean::Right),
            ("RETRIES", Lean::Right),
            ("CONNECTIONS", Lean::Right),
            ("BYTES IN", Lean::Right),
        ];
        let total = [("all", &stats.requests, stats.retries, &stats.kernel)];
        let each = stats.services.iter().map(|service| {
            let name = service.service.as_str();
            (name, &service.requests, service.retries, &service.kernel)
        });
        let rows = each.chain(total).map(|(name, requests, retries, kernel)| {
            vec![
                name.to_owned(),
                requests.total.to_string(),
                requests.failures.to_string(),
                maybe(requests.success_rate, percent),
                maybe(requests.mean_latency_ms, ms),
                rate(requests.last_10s.requests_per_second),
                rate(requests.last_60s.requests_per_second),
                retries.to_string(),
                kernel.connections.to_string(),
                format::bytes(kernel.bytes_in),
            ]
        });
        table(&columns, rows)
    })
}

fn one(stats: &ServiceStats) -> String {
    let mut lines = vec![
        ("service", stats.service.clone()),
        ("algorithm", stats.algorithm.clone()),
        ("instances", of(&stats.instances)),
        ("retries", stats.retries.to_string()),
    ];
    if let Some(why) = &stats.fail_open {
        lines.push(("fails open", why.clone()));
    }
    if let Some(fallback) = &stats.served_by {
        lines.push(("served by", fallback.clone()));
    }
    lines.extend(requests(&stats.requests));
    lines.extend(kernel(&stats.kernel));
    let mut text = pairs(lines);
    for retries in &stats.retry_causes {
        text += &format!("retried after {}: {}\n", retries.reason, retries.count);
    }
    for hedges in &stats.hedges {
        text += &format!("hedged, {}: {}\n", hedges.reason, hedges.count);
    }
    for refusals in &stats.retry_refusals {
        text += &format!("not retried for {}: {}\n", refusals.reason, refusals.count);
    }
    for answers in &stats.answers {
        text += &format!(
            "answered by lb with {} ({}): {}\n",
            answers.status, answers.reason, answers.count
        );
    }
    let columns = [
        ("INSTANCE", Lean::Left),
        ("WEIGHT", Lean::Right),
        ("REQUESTS", Lean::Right),
        ("SHARE", Lean::Right),
        ("SHARE 60S", Lean::Right),
        ("CONNECTIONS", Lean::Right),
        ("SHARE", Lean::Right),
    ];
    let rows = stats.shares.iter().map(|share| {
        vec![
            share.instance.clone(),
            maybe(share.weight, percent),
            share.requests.to_string(),
            maybe(share.request_share, percent),
            maybe(share.request_share_60s, percent),
            share.connections.to_string(),
            maybe(share.connection_share, percent),
        ]
    });
    text + "\n" + &table(&columns, rows)
}

/// The lines that describe what the kernel balanced.
pub(super) fn kernel(kernel: &Kernel) -> [(&'static str, String); 2] {
    [
        (
            "connections",
            format!(
                "{} open, {} so far",
                kernel.live_connections, kernel.connections
            ),
        ),
        (
            "packets",
            format!(
                "{} in ({}), {} out ({}), {} dropped",
                kernel.packets_in,
                format::bytes(kernel.bytes_in),
                kernel.packets_out,
                format::bytes(kernel.bytes_out),
                kernel.dropped
            ),
        ),
    ]
}

/// The lines that describe requests.
pub(super) fn requests(requests: &Requests) -> Vec<(&'static str, String)> {
    let window = |window: &Window| {
        format!(
            "{} ({}/s), success {}, mean {}",
            window.requests,
            rate(window.requests_per_second),
            maybe(window.success_rate, percent),
            maybe(window.mean_latency_ms, ms)
        )
    };
    vec![
        (
            "requests",
            format!(
                "{} ({} failed), success {}, mean {}",
                requests.total,
                requests.failures,
                maybe(requests.success_rate, percent),
                maybe(requests.mean_latency_ms, ms)
            ),
        ),
        ("last 10 s", window(&requests.last_10s)),
        ("last 60 s", window(&requests.last_60s)),
        ("in flight", requests.in_flight.to_string()),
    ]
}
