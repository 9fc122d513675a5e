//! Wiring: how the parts become a daemon, in the order in which they start and stop.
//!
//! Start: configuration, log, kernel path (it knows ids from an earlier run), registry, checks,
//! gateway, and the management API's own listener last: who gets an answer from it finds everything
//! in place. Stop: the listeners first. The kernel path is left attached: stopping the daemon is not
//! a reason to stop traffic.

mod file_watch;
mod prefix_files;
mod reload;
pub(crate) mod rights;
mod signals;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::sync::watch;

use self::signals::{Order, Signals};
use crate::{
    api::{self, Access, ApiState, Audit, Prepared},
    config::{Overrides, Sources},
    discovery::{self, FileWatch},
    health,
    integration::{self, Integrations},
    l4,
    l7::{self, Management, Spans},
    model::Clock,
    net::Steer,
    registry::Registry,
    runtime::{self, Keeper, Loaded},
    telemetry::{self, LineWriter, LogFilter},
};

/// Threads of the control plane: checks and API calls wait, they do not compute.
const CONTROL_THREADS: usize = 1;

/// How long a start waits for the first answers of sources of instances. Whoever has not answered by
/// then is served without.
const FIRST_ANSWERS: Duration = Duration::from_secs(10);

/// How long the last lines of a log of lines may take, and the last words to systems beside lb.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// When the configuration has faults or something that it asks for cannot be had.
pub fn run(flags: Overrides) -> anyhow::Result<()> {
    let sources = Sources::of_process(flags);
    // Before it is read, so that no change goes unnoticed.
    let file = sources.file.clone().map(FileWatch::marked);
    let loaded = runtime::load_to_run(&sources)?;
    let config = &loaded.config;
    let log = telemetry::logging::init(&config.daemon.log)?;
    for notice in &config.notices {
        tracing::warn!(%notice, "configuration");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("lb-control")
        .on_thread_start(rights::give_up)
        .enable_all()
        .build()
        .context("cannot start the control plane's runtime")?;
    let result = runtime.block_on(serve(sources, loaded, log, file));
    // A check or an API call in flight is not worth waiting for.
    runtime.shutdown_background();
    result
}

async fn serve(
    sources: Sources,
    loaded: Loaded,
    log: LogFilter,
    file: Option<FileWatch>,
) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let clock = Clock::real();
    let config = Arc::clone(&loaded.config);
    let daemon = &config.daemon;
    let (stop, stopped) = watch::channel(false);

    let mut packet_path = l4::open(&daemon.datapath, !config.desired.vips.is_empty())?;
    let mut listeners = Vec::new();
    for address in &daemon.api.listen {
        listeners.push(api::Listener::bind(address, &daemon.api.socket).await?);
    }
    rights::give_up();
    if let Some(file) = &sources.file {
        rights::check_file(file);
    }
    let known = std::mem::take(&mut packet_path.known);
    let registry = Arc::new(Registry::new(daemon.workers, known));
    let keeper = Arc::new(Keeper::new(sources, loaded, Arc::clone(&registry)));
    keeper.start(clock.now())?;
    let (for_packets, mut end) = (Arc::clone(&registry), stopped.clone());
    let (now, workers) = (clock.clone(), daemon.workers);
    let packet_path = l4::run(packet_path, for_packets, now, workers, async move {
        drop(end.wait_for(|stop| *stop).await);
    })?;

    let checked = Arc::clone(&registry);
    tokio::spawn(health::run(checked, clock.clone(), stopped.clone()));

    tokio::spawn(prefix_files::run(Arc::clone(&registry), stopped.clone()));

    let (audit, audit_log) = Audit::open(&daemon.audit_log)?;
    let access = Access::new(Prepared::new(&daemon.api)?, audit);
    keeper.taken_part_in(reload::party(&access, &log));
    let (for_state, hook) = (Arc::clone(&registry), reload::hook(&keeper));
    let state = ApiState::new(
        for_state,
        clock.clone(),
        access,
        log,
        packet_path.handle,
        hook,
        Arc::clone(&keeper),
    )?;
    state.metrics().limit(&daemon.metrics);
    state.configured(&config.settings);
    tokio::spawn(obey(&keeper, &registry, &clock, stopped.clone()));
    find_instances(&registry, &clock, &state, stopped.clone()).await;
    let management = daemon.api.on_gateway.then(|| Management {
        service: api::service(state.clone()),
        runtime: tokio::runtime::Handle::current(),
        prefixes: &api::PREFIXES,
    });
    let (access, access_log) = telemetry::access_log::open(&daemon.access_log)?.unzip();
    let for_proxy = Arc::clone(&registry);
    let steer: Box<dyn Steer> = Box::<l4::Steerer>::default();
    let proxy = l7::start(
        for_proxy,
        clock.clone(),
        workers,
        management,
        access,
        Some(steer),
    )?;
    state.set_gateway(Arc::clone(proxy.stats()));
    let spans = proxy.take_spans().unwrap_or_else(Spans::none);
    let integrations = integrate(&state, registry, clock, spans, &stopped);
    let integrations = tokio::spawn(integrations);
    tokio::spawn(api::end_drains(state.clone(), stopped.clone()));
    // Whoever has asked while the gateway started has waited in the queue: an answer means that it
    // serves.
    let (mut served, mut sockets) = (Vec::new(), Vec::new());
    for (listener, socket) in listeners {
        sockets.extend(socket);
        served.push(tokio::spawn(serve_api(
            listener,
            state.clone(),
            stopped.clone(),
        )));
    }
    tokio::spawn(api::watch_packet_path(state.clone(), stopped));
    match file {
        Some(file) if daemon.watch => drop(tokio::spawn(file_watch::run(file, state.clone()))),
        None if daemon.watch => tracing::warn!("reload.watch is on, but there is no file to watch"),
        _ => {}
    }
    let version = env!("CARGO_PKG_VERSION");
    let environment = config.environment.as_deref();
    tracing::info!(version, environment, "lb is running");

    loop {
        match signals.next().await {
            // Its outcome is in the log, and for the API in the state.
            Order::Reload => drop(state.reload("SIGHUP").await),
            Order::Reopen => {
                let logs = access_log.iter().chain(&audit_log);
                logs.for_each(LineWriter::reopen);
            }
            Order::Stop => break,
        }
    }
    state.stop();
    let patience = state.snapshot().gateway.drain_timeout;
    finish((proxy, packet_path.relay), patience, &mut signals).await;
    stop.send_replace(true);
    for served in served {
        // It bounds the time that it takes for its last answers.
        drop(served.await);
    }
    drop(sockets);
    for log in access_log.into_iter().chain(audit_log) {
        log.finish(LAST_LINES);
    }
    // What waits for systems beside lb gets a last chance; its own limits are shorter.
    drop(tokio::time::timeout(LAST_LINES, integrations).await);
    tracing::info!("lb has stopped; the packet path, if there is one, goes on without it");
    Ok(())
}

/// What asks and tells systems beside lb, until `stopped`.
fn integrate(
    state: &ApiState,
    registry: Arc<Registry>,
    clock: Clock,
    spans: Spans,
    stopped: &watch::Receiver<bool>,
) -> impl Future<Output = ()> + use<> {
    let integrations = Arc::<Integrations>::default();
    state.set_integrations(Arc::clone(&integrations));
    let metrics = state.metrics().clone();
    let source: integration::Source = Arc::new(move |include| metrics.samples(include));
    let stopped = stopped.clone();
    integration::run(registry, clock, source, spans, integrations, stopped)
}

/// Lets requests in flight and relayed connections finish, at most for `patience`; a second order to
/// stop ends the wait.
async fn finish(
    (proxy, relay): (l7::Proxy, Option<l4::Relay>),
    patience: Duration,
    signals: &mut Signals,
) {
    tracing::info!(
        ?patience,
        "stopping: no new connections, requests in flight finish"
    );
    let relayed = tokio::task::spawn_blocking(move || {
        relay.into_iter().for_each(|relay| relay.shutdown(patience));
    });
    let finished = tokio::task::spawn_blocking(move || proxy.shutdown(patience));
    let finished = async { tokio::join!(finished, relayed) };
    let again = async { while signals.next().await != Order::Stop {} };
    tokio::select! {
        _ = finished => {}
        () = again => tracing::warn!("told to stop again: requests in flight are cut"),
    }
}

/// Looks for instances from here on; returns when the services have what the first looks find.
async fn find_instances(
    registry: &Arc<Registry>,
    clock: &Clock,
    state: &ApiState,
    mut stopped: watch::Receiver<bool>,
) {
    let handle = state.discovery().clone();
    let looking = discovery::run(Arc::clone(registry), clock.clone(), handle);
    tokio::spawn(async move {
        tokio::select! {
            () = looking => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    });
    if !state.discovery().first_answers(FIRST_ANSWERS).await {
        tracing::warn!(limit = ?FIRST_ANSWERS, "a source of instances has not answered so far");
    }
}

/// Sees to it that orders hold for instances that sources name, for as long as the daemon runs.
fn obey(
    keeper: &Arc<Keeper>,
    registry: &Registry,
    clock: &Clock,
    mut stopped: watch::Receiver<bool>,
) -> impl Future<Output = ()> + use<> {
    let (keeper, clock) = (Arc::clone(keeper), clock.clone());
    let mut revisions = registry.subscribe();
    async move {
        loop {
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() { return },
                _ = stopped.wait_for(|stopped| *stopped) => return,
            }
            let (keeper, now) = (Arc::clone(&keeper), clock.now());
            // A panic in there has been told of already.
            let _ = tokio::task::spawn_blocking(move || keeper.obey(now)).await;
        }
    }
}

async fn serve_api(listener: api::Listener, state: ApiState, stopped: watch::Receiver<bool>) {
    if let Err(error) = api::serve(listener, state, stopped).await {
        tracing::error!(%error, "the management API's own listener has failed");
    }
}
