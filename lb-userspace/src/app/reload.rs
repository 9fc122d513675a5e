//! Reading the configuration again.
//!
//! The file, the environment of the process and its flags are merged exactly as at the start. What
//! comes out is applied whole, or, when it has a single fault, not at all: the daemon goes on with
//! what it has and says so.

use std::sync::Arc;

use crate::{
    api::{Access, Fault, Prepared, Reload, ReloadFailure, Reloaded},
    runtime::{ChangeError, Keeper, Party},
    telemetry::LogFilter,
};

/// The hook that the management API calls. Reading a file and resolving names block, so they get a
/// thread of their own.
#[must_use]
pub(super) fn hook(keeper: &Arc<Keeper>) -> Reload {
    let keeper = Arc::clone(keeper);
    Arc::new(move |who| {
        let keeper = Arc::clone(&keeper);
        Box::pin(async move {
            let outcome = tokio::task::spawn_blocking(move || reload(&keeper, &who)).await;
            outcome.unwrap_or_else(|stopped| {
                Err(ReloadFailure {
                    message: stopped.to_string(),
                    faults: Vec::new(),
                })
            })
        })
    })
}

/// What follows the configuration beside the registry: who may use the API, and what is logged.
#[must_use]
pub(super) fn party(access: &Arc<Access>, log: &LogFilter) -> Party {
    let (access, log) = (Arc::clone(access), log.clone());
    Party::new(move |config| {
        // Read before anything changes: a change is whole or not at all.
        let prepared = Prepared::new(&config.daemon.api).map_err(|error| error.to_string())?;
        let (access, log) = (Arc::clone(&access), log.clone());
        let filter = config.daemon.log.filter.clone();
        Ok(Box::new(move || {
            access.replace(prepared);
            // It parsed when it was read, so this cannot fail while there is a log.
            if let Err(error) = log.configure(&filter) {
                tracing::error!(%error, "the log keeps its filter");
            }
        }))
    })
}

/// Reads and applies the configuration.
fn reload(keeper: &Keeper, who: &str) -> Result<Reloaded, ReloadFailure> {
    let outcome = keeper.reload(who);
    match outcome {
        Ok(done) => {
            let (revision, changes) = (done.revision, done.changes.len());
            tracing::info!(revision, changes, "configuration reloaded");
            for setting in &done.needs_restart {
                tracing::warn!(setting, "this setting has changed and waits for a restart");
            }
            Ok(Reloaded {
                revision,
                configuration: done.configuration,
                changes: done.changes,
                needs_restart: done.needs_restart,
                settings: done.config.settings.clone(),
            })
        }
        Err(refused) => {
            tracing::error!(%refused, "the configuration was not reloaded; nothing has changed");
            let mut shown = Vec::new();
            if let ChangeError::Faults { faults, .. } = &refused {
                for fault in faults.list() {
                    tracing::error!(%fault, "fault in the configuration");
                }
                shown = faults.list().iter().map(Fault::of).collect();
            }
            Err(ReloadFailure {
                message: refused.to_string(),
                faults: shown,
            })
        }
    }
}
