//! `lb explain`.

use super::{
    Context,
    args::Explain,
    client::segment,
    error::CliError,
    format::{Lean, maybe, ms, pairs, percent, table, weight},
};
use crate::api::types::{Candidate, Explanation};

/// `lb explain URL`.
pub(super) async fn explain(context: &mut Context<'_>, asked: &Explain) -> Result<(), CliError> {
    let mut path = format!("/explain?url={}", segment(&asked.target));
    let method = asked.method.iter().map(|method| ("method", method));
    let fields = asked.headers.iter().map(|field| ("header", field));
    let client = asked.client.iter().map(|client| ("client", client));
    let to = asked.connected_to.iter().map(|to| ("destination", to));
    for (name, value) in method.chain(fields).chain(client).chain(to) {
        path += &format!("&{name}={}", segment(value));
    }
    let answer: Explanation = context.client.get(&path).await?;
    context.show(&answer, show)
}

fn show(answer: &Explanation) -> String {
    let mut rows = Vec::new();
    if let (Some(route), Some(service)) = (&answer.route, &answer.service) {
        let destination = route.destination.iter().map(|to| format!("{to} "));
        let destination: String = destination.collect();
        let text = format!("{destination}{} {}", route.host, route.path);
        rows.push(("Route", text));
        rows.push(("Service", service.clone()));
    }
    rows.extend(answer.algorithm.clone().map(|name| ("Algorithm", name)));
    rows.extend(answer.fail_open.clone().map(|why| ("Fails open", why)));
    let key = answer.key.as_ref();
    rows.extend(key.map(|key| ("Key", format!("{} ({})", key.source, key.hash))));
    rows.extend(answer.session.as_ref().map(|session| {
        let leaves = session.broken.as_deref();
        let leaves = leaves.map_or_else(String::new, |why| format!(", leaves its instance: {why}"));
        let text = format!("{} ({}){leaves}", session.session, session.way);
        ("Session", text)
    }));
    if let Some(refused) = &answer.refused {
        rows.push(("Answer", format!("{} {}", refused.status, refused.reason)));
    }
    rows.extend(answer.instance.clone().map(|name| ("Instance", name)));
    rows.push(("Why", answer.reason.clone()));
    rows.extend(answer.routes_left_out.map(|count| {
        let text = format!("{count} with a destination: --destination says which one is meant");
        ("Routes left out", text)
    }));
    let mut text = pairs(rows);
    if !answer.candidates.is_empty() {
        let columns = [
            ("INSTANCE", Lean::Left),
            ("CHANCE", Lean::Right),
            ("WEIGHT", Lean::Right),
            ("IN FLIGHT", Lean::Right),
            ("LATENCY", Lean::Right),
            ("SUCCESS", Lean::Right),
            ("SCORE", Lean::Right),
            ("EXCLUDED", Lean::Left),
        ];
        text += &format!("\n{}", table(&columns, answer.candidates.iter().map(row)));
    }
    text
}

fn row(candidate: &Candidate) -> Vec<String> {
    let excluded = candidate.excluded.iter().chain(&candidate.detail);
    let excluded: Vec<&str> = excluded.map(String::as_str).collect();
    let recovery = candidate.recovery.as_ref();
    let recovery = recovery.map(|one| format!("recovering at {}", percent(one.share)));
    vec![
        candidate.instance.clone(),
        percent(candidate.chance),
        weight(candidate.effective_weight),
        candidate.in_flight.to_string(),
        maybe(candidate.latency_ms, ms),
        percent(f64::from(candidate.success_rate)),
        format!("{:.2}", candidate.score),
        match (excluded.is_empty(), recovery) {
            (true, None) if candidate.spared => "no: fails, and is spared".to_owned(),
            (true, None) => "-".to_owned(),
            (true, Some(recovery)) => recovery,
            (false, _) => excluded.join(": "),
        },
    ]
}
