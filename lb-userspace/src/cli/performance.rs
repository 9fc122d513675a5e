//! `lb performance`.

use super::{
    Context,
    client::segment,
    error::CliError,
    format::{Lean, maybe, ms, percent, rate, table},
};
use crate::api::types::{Figures, Performance};

/// `lb performance [SERVICE] [--window DURATION]`.
pub(super) async fn performance(
    context: &mut Context<'_>,
    service: Option<&str>,
    window: humantime::Duration,
) -> Result<(), CliError> {
    let mut path = format!("/performance?window={}", segment(&window.to_string()));
    if let Some(service) = service {
        path += &format!("&service={}", segment(service));
    }
    let answer: Performance = context.client.get(&path).await?;
    // A single service is looked at more closely.
    context.show(&answer, |answer| show(answer, service.is_some()))
}

fn show(answer: &Performance, closely: bool) -> String {
    let columns = [
        (if closely { "INSTANCE" } else { "SERVICE" }, Lean::Left),
        ("REQUESTS", Lean::Right),
        ("REQ/S", Lean::Right),
        ("GOOD/S", Lean::Right),
        ("ERRORS", Lean::Right),
        ("MEAN", Lean::Right),
        ("P50", Lean::Right),
        ("P95", Lean::Right),
        ("P99", Lean::Right),
        ("MAX", Lean::Right),
    ];
    let mut rows = Vec::new();
    for service in &answer.services {
        if closely {
            let instances = service.instances.iter();
            rows.extend(instances.map(|instance| row(&instance.instance, &instance.figures)));
        } else {
            rows.push(row(&service.service, &service.figures));
        }
    }
    rows.push(row("all", &answer.total));
    table(&columns, rows)
}

fn row(name: &str, figures: &Figures) -> Vec<String> {
    vec![
        name.to_owned(),
        figures.requests.to_string(),
        rate(figures.request_rate),
        rate(figures.throughput),
        maybe(figures.error_rate, percent),
        maybe(figures.mean_ms, ms),
        maybe(figures.p50_ms, ms),
        maybe(figures.p95_ms, ms),
        maybe(figures.p99_ms, ms),
        maybe(figures.max_ms, ms),
    ]
}
