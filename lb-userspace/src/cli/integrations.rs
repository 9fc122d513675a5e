//! `lb integrations`.

use super::{
    Context,
    error::CliError,
    format::{Lean, table},
};
use crate::api::types::{BackendWord, Integration, Integrations};

/// `lb integrations`.
pub(super) async fn integrations(context: &mut Context<'_>) -> Result<(), CliError> {
    let all: Integrations = context.client.get("/integrations").await?;
    context.show(&all, |all| {
        let mut text = exchanges(&all.integrations);
        let failing = all.integrations.iter().filter(|one| one.state == "failing");
        for one in failing {
            let error = one.error.as_deref().unwrap_or_default();
            text = format!("{}\n! {}: {error}", text.trim_end(), one.integration);
        }
        if !all.breakers.is_empty() {
            text = format!("{}\n\n{}", text.trim_end(), words(&all.breakers));
        }
        text
    })
}

fn exchanges(list: &[Integration]) -> String {
    let columns = [
        ("INTEGRATION", Lean::Left),
        ("STATE", Lean::Left),
        ("URL", Lean::Left),
        ("OK", Lean::Right),
        ("FAILED", Lean::Right),
        ("DELIVERED", Lean::Right),
        ("WAITING", Lean::Right),
        ("DROPPED", Lean::Right),
        ("LAST SUCCESS", Lean::Left),
    ];
    let dash = || "-".to_owned();
    let rows = list.iter().map(|one| {
        vec![
            one.integration.clone(),
            one.state.clone(),
            one.url.clone().unwrap_or_else(dash),
            one.succeeded.to_string(),
            one.failed.to_string(),
            one.delivered.to_string(),
            one.waiting.to_string(),
            one.dropped.to_string(),
            one.last_success.clone().unwrap_or_else(dash),
        ]
    });
    table(&columns, rows)
}

fn words(list: &[BackendWord]) -> String {
    let columns = [
        ("SERVICE", Lean::Left),
        ("BACKEND SAYS", Lean::Left),
        ("HEARD", Lean::Left),
        ("MISSED", Lean::Right),
    ];
    let dash = || "-".to_owned();
    let rows = list.iter().map(|word| {
        vec![
            word.service.clone(),
            word.state.clone().unwrap_or_else(dash),
            word.heard.clone().unwrap_or_else(dash),
            word.missed.to_string(),
        ]
    });
    table(&columns, rows)
}
