//! Reading the configuration again.
//!
//! The file, the environment of the process and its flags are merged exactly as at the start. What
//! comes out is applied whole, or, when it has a single fault, not at all: the daemon goes on with
//! what it has and says so.

use std::sync::Arc;

use crate::{
    api::{Access, Fault, Prepared, Reload, ReloadFailure, Reloaded},
    config::{self, Sources},
    model::DaemonSpec,
    registry::{Change, Registry},
    telemetry::LogFilter,
};

/// Reloads the configuration from where it was first read.
#[derive(Debug)]
pub(super) struct Reloader {
    sources: Sources,
    registry: Arc<Registry>,
    access: Arc<Access>,
    log: LogFilter,
    /// What the process was started with: these settings change at a restart only.
    running: DaemonSpec,
}

impl Reloader {
    /// A reloader of `sources` for a process that was started with `running`.
    #[must_use]
    pub(super) const fn new(
        sources: Sources,
        registry: Arc<Registry>,
        access: Arc<Access>,
        log: LogFilter,
        running: DaemonSpec,
    ) -> Self {
        Self {
            sources,
            registry,
            access,
            log,
            running,
        }
    }

    /// The hook that the management API calls. Reading a file and resolving names block, so they
    /// get a thread of their own.
    #[must_use]
    pub(super) fn hook(self: &Arc<Self>) -> Reload {
        let reloader = Arc::clone(self);
        Arc::new(move || {
            let reloader = Arc::clone(&reloader);
            Box::pin(async move {
                let outcome = tokio::task::spawn_blocking(move || reloader.reload()).await;
                outcome.unwrap_or_else(|stopped| {
                    Err(ReloadFailure {
                        message: stopped.to_string(),
                        faults: Vec::new(),
                    })
                })
            })
        })
    }

    /// Reads and applies the configuration.
    ///
    /// # Errors
    /// Every fault of the configuration; nothing has changed then.
    pub(super) fn reload(&self) -> Result<Reloaded, ReloadFailure> {
        let outcome = self.try_reload();
        match &outcome {
            Ok(done) => {
                let (revision, changes) = (done.revision, done.changes.len());
                tracing::info!(revision, changes, "configuration reloaded");
                for setting in &done.needs_restart {
                    tracing::warn!(setting, "this setting has changed and waits for a restart");
                }
            }
            Err(failure) => {
                tracing::error!(%failure, "the configuration was not reloaded; nothing has changed");
                for fault in &failure.faults {
                    tracing::error!(%fault, "fault in the configuration");
                }
            }
        }
        outcome
    }

    fn try_reload(&self) -> Result<Reloaded, ReloadFailure> {
        let config = config::load(&self.sources).map_err(|faults| ReloadFailure {
            message: faults.headline(),
            faults: faults.list().iter().map(shown).collect(),
        })?;
        let needs_restart = config::needs_restart(&self.running, &config.daemon);
        // Read before anything changes: a reload is whole or not at all.
        let prepared = Prepared::new(&config.daemon.api).map_err(|error| ReloadFailure {
            message: error.to_string(),
            faults: Vec::new(),
        })?;
        let applied = self
            .registry
            .apply(Change::Configure(Box::new(config.desired)));
        let applied = applied.map_err(|refused| ReloadFailure {
            message: refused.to_string(),
            faults: Vec::new(),
        })?;
        self.access.replace(prepared);
        // It parsed when it was read, so this cannot fail while there is a log.
        if let Err(error) = self.log.configure(&config.daemon.log.filter) {
            tracing::error!(%error, "the log keeps its filter");
        }
        Ok(Reloaded {
            revision: applied.revision,
            changes: applied.events.iter().map(ToString::to_string).collect(),
            needs_restart: needs_restart.into_iter().map(str::to_owned).collect(),
            settings: config.settings,
        })
    }
}

/// A fault of the configuration in the form of the API.
fn shown(fault: &config::Fault) -> Fault {
    Fault {
        pointer: fault.path.pointer(),
        origin: Some(fault.origin.to_string()),
        expected: fault.expected.clone(),
        found: fault.found.clone().unwrap_or_else(|| "nothing".to_owned()),
    }
}
