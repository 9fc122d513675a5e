//! `lb limits`.

use super::{
    Context,
    error::CliError,
    format::{Lean, table},
};
use crate::api::types::{Limits, RateLimit, ServiceLimits};

/// `lb limits`.
pub(super) async fn limits(context: &mut Context<'_>) -> Result<(), CliError> {
    let limits: Limits = context.client.get("/limits").await?;
    context.show(&limits, |limits| {
        let mut text = services(&limits.services);
        if !limits.rate_limits.is_empty() {
            text = format!("{}\n\n{}", text.trim_end(), rates(&limits.rate_limits));
        }
        text
    })
}

fn services(list: &[ServiceLimits]) -> String {
    let columns = [
        ("SERVICE", Lean::Left),
        ("IN FLIGHT", Lean::Right),
        ("MAX", Lean::Right),
        ("INSTANCE MAX", Lean::Right),
        ("CONNECTIONS", Lean::Right),
        ("MAX", Lean::Right),
        ("INSTANCE MAX", Lean::Right),
        ("NEW/S", Lean::Right),
        ("SOURCE NEW/S", Lean::Right),
        ("COOKIES ABOVE", Lean::Right),
        ("ADAPTIVE", Lean::Right),
        ("WAITING", Lean::Right),
        ("QUEUE", Lean::Right),
    ];
    let rows = list.iter().map(|service| {
        let admission = &service.admission;
        vec![
            service.service.clone(),
            admission.in_flight.to_string(),
            number(admission.max_requests),
            number(admission.instance_max_requests),
            // The proxy's and the kernel's have the same limit, each for itself.
            format!(
                "{} + {}",
                admission.connections, admission.kernel_connections
            ),
            number(admission.max_connections),
            number(admission.instance_max_connections),
            number(admission.new_connections),
            number(admission.source_new_connections),
            number(admission.syn_cookies_above),
            number(admission.concurrency.map(|limit| limit.limit)),
            number(admission.queue.map(|queue| queue.waiting)),
            number(admission.queue.map(|queue| queue.size)),
        ]
    });
    table(&columns, rows)
}

fn rates(list: &[RateLimit]) -> String {
    let columns = [
        ("RATE LIMIT OF", Lean::Left),
        ("KEY", Lean::Left),
        ("REQUESTS", Lean::Right),
        ("PER", Lean::Right),
        ("BURST", Lean::Right),
        ("REFUSED", Lean::Right),
    ];
    let rows = list.iter().map(|limit| {
        let per = std::time::Duration::from_millis(limit.per_ms);
        vec![
            format!("{} {}", limit.scope, limit.name)
                .trim_end()
                .to_owned(),
            limit.key.clone(),
            limit.requests.to_string(),
            humantime::format_duration(per).to_string(),
            limit.burst.to_string(),
            limit.refused.to_string(),
        ]
    });
    table(&columns, rows)
}

fn number(limit: Option<u32>) -> String {
    limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string())
}
