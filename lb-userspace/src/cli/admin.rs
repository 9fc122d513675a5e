//! `lb reload` and `lb metrics`.

use super::{Context, error::CliError};
use crate::api::types::Reload;

/// `lb reload`.
pub(super) async fn reload(context: &mut Context<'_>) -> Result<(), CliError> {
    let done: Reload = context
        .client
        .post("/api/v1/admin/loadbalancer/reload")
        .await?;
    context.show(&done, |done| {
        let mut text = if done.changes.is_empty() {
            format!("nothing changed, revision {}\n", done.revision)
        } else {
            format!("reloaded, revision {}\n", done.revision)
        };
        for change in &done.changes {
            text += &format!("  {change}\n");
        }
        for setting in &done.needs_restart {
            text += &format!("! {setting} has changed and waits for a restart\n");
        }
        text
    })
}

/// `lb metrics`: text whatever `--json` says, because the format is the point.
pub(super) async fn metrics(context: &mut Context<'_>) -> Result<(), CliError> {
    let text = context.client.text("/metrics").await?;
    write!(context.out, "{text}")?;
    Ok(())
}
