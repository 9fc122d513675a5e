//! What the endpoints share.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use super::{
    Access, ApiError, Fault,
    events::Places,
    types::{self, LastReload},
};
use crate::{
    config::Setting,
    discovery,
    integration::Integrations,
    l4,
    l7::GatewayStats,
    model::{Clock, Timestamp},
    registry::{Applied, Happening, Registry, Snapshot},
    runtime::{Changed, Keeper, Order},
    telemetry::{LogFilter, Metrics, MetricsError},
};

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// The revision that is now current.
    pub revision: u64,
    /// The revision of the configuration.
    pub configuration: u64,
    /// What changed, a phrase each; empty when the configuration asks for what already is.
    pub changes: Vec<String>,
    /// Settings whose new values wait for a restart of the daemon.
    pub needs_restart: Vec<String>,
    /// Every setting as it was read, those included that wait.
    pub settings: Vec<Setting>,
}

/// Why a reload changed nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ReloadFailure {
    /// One sentence.
    pub message: String,
    /// Every fault that was found.
    pub faults: Vec<Fault>,
}

/// Reads the configuration again and applies it, whole or not at all. Whoever asks is named.
pub type Reload = Arc<
    dyn Fn(String) -> Pin<Box<dyn Future<Output = Result<Reloaded, ReloadFailure>> + Send>>
        + Send
        + Sync,
>;

/// What the endpoints share; a clone is another handle to the same.
#[derive(Clone)]
pub struct ApiState(Arc<Inner>);

struct Inner {
    registry: Arc<Registry>,
    clock: Clock,
    packet_path: l4::Handle,
    access: Arc<Access>,
    log: LogFilter,
    discovery: discovery::Handle,
    reload: Reload,
    keeper: Arc<Keeper>,
    /// One reload at a time; a second one waits and then reads the file as it is by then.
    reloading: tokio::sync::Mutex<()>,
    last_reload: Mutex<Option<LastReload>>,
    settings: Mutex<Vec<types::Setting>>,
    metrics: Metrics,
    started: Timestamp,
    stopping: watch::Sender<bool>,
    streams: Places,
}

impl fmt::Debug for ApiState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiState")
            .field("registry", &self.0.registry)
            .field("started", &self.0.started)
            .finish_non_exhaustive()
    }
}

impl ApiState {
    /// State of an API over `registry` and the packet path, for those that `access` lets in.
    /// `reload` is what `POST …/reload` calls; the uptime counts from now.
    ///
    /// # Errors
    /// When the metrics cannot be set up, which takes two of one name.
    pub fn new(
        registry: Arc<Registry>,
        clock: Clock,
        access: Arc<Access>,
        log: LogFilter,
        packet_path: l4::Handle,
        reload: Reload,
        keeper: Arc<Keeper>,
    ) -> Result<Self, MetricsError> {
        let started = clock.now();
        let discovery = discovery::Handle::default();
        let metrics = Metrics::new(
            Arc::clone(&registry),
            clock.clone(),
            packet_path.clone(),
            discovery.clone(),
            access.unaudited_counter(),
        )?;
        Ok(Self(Arc::new(Inner {
            registry,
            clock,
            packet_path,
            access,
            log,
            discovery,
            reload,
            keeper,
            reloading: tokio::sync::Mutex::default(),
            last_reload: Mutex::default(),
            settings: Mutex::default(),
            metrics,
            started,
            stopping: watch::Sender::new(false),
            streams: Places::default(),
        })))
    }

    /// The registry.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// The keeper of the configuration.
    #[must_use]
    pub fn keeper(&self) -> &Arc<Keeper> {
        &self.0.keeper
    }

    /// The current snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.registry.snapshot()
    }

    /// The time for figures.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// The packet path's latest report, a second old at most.
    #[must_use]
    pub fn report(&self) -> Arc<l4::Report> {
        self.0.packet_path.report()
    }

    /// The packet path's report of just now. Figures of instances are read along with it, so
    /// whoever asks whether a drain is over asks for this first.
    pub async fn fresh_report(&self) -> Arc<l4::Report> {
        let latest = self.report();
        if latest.mode.is_none() {
            // Nobody is there who could make another.
            return latest;
        }
        self.0.packet_path.fresh(self.now()).await
    }

    /// The packet path's report once the kernel holds `revision`, with the figures of that moment
    /// or later.
    pub(super) async fn report_holding(&self, revision: u64) -> Arc<l4::Report> {
        let latest = self.report();
        if latest.mode.is_none() {
            return latest;
        }
        self.0.packet_path.holding(revision).await
    }

    /// How long this state has existed.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.now() - self.0.started
    }

    /// How the sources of instances do; whoever asks them writes it there.
    #[must_use]
    pub fn discovery(&self) -> &discovery::Handle {
        &self.0.discovery
    }

    /// What the daemon logs.
    pub(super) fn log(&self) -> &LogFilter {
        &self.0.log
    }

    /// Who may use the API.
    pub(crate) fn access(&self) -> &Access {
        &self.0.access
    }

    /// Notes that the daemon is shutting down: `/health` answers 503 from now on, so that whoever
    /// stands in front of lb sends new connections elsewhere while the last requests finish.
    /// Streams of events end, for they would never finish.
    pub fn stop(&self) {
        self.0.stopping.send_replace(true);
    }

    pub(super) fn stopping(&self) -> bool {
        *self.0.stopping.borrow()
    }

    /// Turns true when the daemon is shutting down.
    pub(super) fn stopped(&self) -> watch::Receiver<bool> {
        self.0.stopping.subscribe()
    }

    /// The places of streams of events.
    pub(super) fn streams(&self) -> &Places {
        &self.0.streams
    }

    /// The packet path.
    pub(super) fn packet_path(&self) -> &l4::Handle {
        &self.0.packet_path
    }

    /// Reloads the configuration and remembers how it went. A signal handler calls this too, so
    /// that the API tells of every reload, whoever asked for it.
    ///
    /// # Errors
    /// When the new configuration has faults; nothing has changed then.
    pub async fn reload(&self, who: &str) -> Result<Reloaded, ReloadFailure> {
        let _one_at_a_time = self.0.reloading.lock().await;
        let result = (self.0.reload)(who.to_owned()).await;
        let error = result.as_ref().err().map(ToString::to_string);
        if let Ok(done) = &result {
            self.reconfigured(&done.settings, &done.needs_restart);
        }
        self.0.metrics.reloaded(error.is_none());
        self.0.registry.feed().publish(happening(&result));
        *lock(&self.0.last_reload) = Some(LastReload {
            timestamp: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            success: error.is_none(),
            error,
        });
        result
    }

    /// Notes the settings that the daemon was started with.
    pub fn configured(&self, settings: &[Setting]) {
        *lock(&self.0.settings) = settings.iter().map(shown).collect();
    }

    /// Asks the keeper of the configuration for a change, which blocks: on the disk, and on name
    /// servers. Changes take turns. The answer is there when the kernel has the change, too.
    pub(super) async fn changing(
        &self,
        dry: bool,
        change: impl FnOnce(&Keeper) -> Result<Changed, ApiError> + Send + 'static,
    ) -> Result<Changed, ApiError> {
        let _one_at_a_time = self.0.reloading.lock().await;
        let done = self.blocking(change).await?;
        if !dry {
            self.reconfigured(&done.config.settings, &done.needs_restart);
            self.report_holding(done.revision).await;
        }
        Ok(done)
    }

    /// The same for an order, which is no change of the configuration.
    pub(super) async fn ordering(&self, order: Order) -> Result<Applied, ApiError> {
        let now = self.now();
        let order = move |keeper: &Keeper| keeper.order(&order, now).map_err(ApiError::from);
        self.blocking(order).await
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Keeper) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let keeper = Arc::clone(&self.0.keeper);
        let done = tokio::task::spawn_blocking(move || work(&keeper)).await;
        done.unwrap_or_else(|stopped| Err(ApiError::Conflict(stopped.to_string())))
    }

    /// Notes the settings of a reload or a change. What waits for a restart is not in force.
    fn reconfigured(&self, read: &[Setting], needs_restart: &[String]) {
        let mut settings = lock(&self.0.settings);
        let mut now: Vec<_> = read.iter().map(shown).collect();
        let waiting = now
            .iter_mut()
            .filter(|setting| needs_restart.contains(&setting.path));
        for setting in waiting {
            if let Some(old) = settings.iter().find(|old| old.path == setting.path) {
                let old = types::Setting {
                    waiting: None,
                    ..old.clone()
                };
                let new = std::mem::replace(setting, old);
                setting.waiting = Some(new.value);
            }
        }
        *settings = now;
    }

    /// The settings in force, but for what was set at run time.
    pub(super) fn settings(&self) -> Vec<types::Setting> {
        lock(&self.0.settings).clone()
    }

    /// How the last reload went; `None` before the first.
    #[must_use]
    pub fn last_reload(&self) -> Option<LastReload> {
        lock(&self.0.last_reload).clone()
    }

    /// Adds the counters of the proxy, which starts after the API that it serves. Called once;
    /// further calls change nothing.
    pub fn set_gateway(&self, stats: Arc<GatewayStats>) {
        // A second proxy in one process would be a defect of the wiring, and not one to stop for.
        let _ = self.0.metrics.gateway().set(stats);
    }

    /// The counters of the proxy, once it runs.
    #[must_use]
    pub fn gateway(&self) -> Option<&Arc<GatewayStats>> {
        self.0.metrics.gateway().get()
    }

    /// Adds the reports of the integrations. Called once; further calls change nothing.
    pub fn set_integrations(&self, integrations: Arc<Integrations>) {
        let _ = self.0.metrics.beside().set(integrations);
    }

    /// The reports of the integrations, once they run.
    #[must_use]
    pub fn integrations(&self) -> Option<&Arc<Integrations>> {
        self.0.metrics.beside().get()
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }
}

fn happening(reload: &Result<Reloaded, ReloadFailure>) -> Happening {
    match reload {
        Ok(done) => Happening::Reloaded {
            revision: done.revision,
            changes: done.changes.len(),
            needs_restart: done.needs_restart.clone(),
        },
        Err(failure) => Happening::ReloadRefused {
            why: failure.message.clone(),
            faults: failure.faults.len(),
        },
    }
}

fn shown(setting: &Setting) -> types::Setting {
    types::Setting {
        path: setting.path.to_string(),
        value: setting.value.clone(),
        origin: setting.origin.to_string(),
        configured: None,
        waiting: None,
    }
}

/// No holder of these locks can leave half a value behind.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
