//! `lb reload`, `lb reset`, `lb debug` and `lb metrics`.

use super::{Context, error::CliError};
use crate::api::types::{Debug, Reload, Reset};

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

/// `lb reset`.
pub(super) async fn reset(context: &mut Context<'_>) -> Result<(), CliError> {
    let path = "/api/v1/admin/loadbalancer/reset";
    let done: Reset = context.client.post(path).await?;
    context.show(&done, |done| {
        let (revision, instances) = (done.revision, done.instances);
        let mut text =
            format!("measurements of {instances} instances forgotten, revision {revision}\n");
        for change in &done.changes {
            text += &format!("  {change}\n");
        }
        text
    })
}

/// `lb debug`: JSON whatever is asked for, because there is no short form of it.
pub(super) async fn debug(context: &mut Context<'_>) -> Result<(), CliError> {
    let path = "/api/v1/admin/loadbalancer/debug";
    let document: Debug = context.client.get_at(path).await?;
    context.json = true;
    context.show(&document, |_| String::new())
}

/// `lb metrics`: text whatever `--json` says, because the format is the point.
pub(super) async fn metrics(context: &mut Context<'_>) -> Result<(), CliError> {
    let text = context.client.text("/metrics").await?;
    write!(context.out, "{text}")?;
    Ok(())
}
