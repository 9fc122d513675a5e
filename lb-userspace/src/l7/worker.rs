//! A worker: one thread, one runtime, and everything that its requests need, shared with nobody.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    net::{SocketAddr, TcpListener as StdListener},
    ops::Deref,
    rc::Rc,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Waker},
    time::Duration,
};

use arc_swap::{ArcSwap, Cache};
use hyper::server::conn::http1;
use tokio::{
    net::TcpStream,
    runtime::RuntimeMetrics,
    sync::{Notify, mpsc},
    time::Instant,
};

use super::{
    access::AccessLog,
    admission::RateTable,
    affinity, connection,
    lines::Lines,
    management::Management,
    pool::Pool,
    pulse::{Closed, Pulse},
    room::{self, Bells},
    router::Router,
    spare::Buffers,
    tally::Tally,
    trace::{Ids, SpanQueue, Tracing},
};
use crate::{
    balance::Random,
    model::{AdminState, Clock, InstanceId, Reason, ServiceStats},
    net::{Accepting, Steered},
    registry::{Around, Registry, Snapshot},
};

/// How often idle connections are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// How long requests that were told that lb ends have to pass that on.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// What is counted for the gateway as a whole.
#[derive(Debug, Default)]
pub struct GatewayStats {
    /// Answers of lb's own to requests that reached no service.
    pub answers: ServiceStats,
    accepted: AtomicU64,
    open: AtomicU64,
    closed: [AtomicU64; Closed::ALL.len()],
    unlogged: Arc<AtomicU64>,
    /// Connections that were handed over to it, and that should have been.
    handed: AtomicU64,
    orphaned: AtomicU64,
    /// The runtimes of the workers, in their order.
    runtimes: RwLock<Vec<RuntimeMetrics>>,
}

impl GatewayStats {
    /// Counters at zero; `lost` is the access log's own.
    pub(super) fn new(lost: Option<Arc<AtomicU64>>) -> Self {
        Self {
            unlogged: lost.unwrap_or_default(),
            ..Self::default()
        }
    }

    /// Requests that the access log should have and has not.
    #[must_use]
    pub fn unlogged(&self) -> u64 {
        self.unlogged.load(Relaxed)
    }

    /// Connections for VIPs of the gateway that the kernel has handed over to it.
    #[must_use]
    pub fn steered(&self) -> Steered {
        Steered {
            handed: self.handed.load(Relaxed),
            orphaned: self.orphaned.load(Relaxed),
        }
    }

    /// Notes how many there were.
    pub(super) fn set_steered(&self, steered: Steered) {
        self.handed.store(steered.handed, Relaxed);
        self.orphaned.store(steered.orphaned, Relaxed);
    }

    /// How long each worker has not waited for something to do, since it was started.
    #[must_use]
    pub fn busy(&self) -> Vec<Duration> {
        let runtimes = self.runtimes.read().unwrap_or_else(PoisonError::into_inner);
        let busy = |runtime: &RuntimeMetrics| runtime.worker_total_busy_duration(0);
        runtimes.iter().map(busy).collect()
    }

    /// Notes a worker's runtime.
    pub(crate) fn runs(&self, runtime: RuntimeMetrics) {
        let mut runtimes = self
            .runtimes
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        runtimes.push(runtime);
    }

    /// Client connections accepted.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// Client connections open now, tunnels not included.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open.load(Relaxed)
    }

    /// Connections that lb has closed for this reason.
    #[must_use]
    pub fn closings(&self, why: Closed) -> u64 {
        self.closed[why as usize].load(Relaxed)
    }

    /// Counts a connection that lb closes.
    pub(super) fn closed(&self, why: Closed) {
        self.closed[why as usize].fetch_add(1, Relaxed);
    }

    /// Counts what hyper has refused, and answered, by itself.
    pub(super) fn refused(&self, error: &hyper::Error) {
        if error.is_parse() {
            self.answers.answered(Reason::BadRequest);
        }
    }
}

/// What a worker is told.
#[derive(Debug)]
pub(super) enum Order {
    /// Accept on this socket, which is bound to that address.
    Open(SocketAddr, StdListener),
    /// Accept no more at that address.
    Close(SocketAddr),
    /// Accept nothing more, finish what is begun, and end at the deadline at the latest.
    Drain(std::time::Instant),
}

/// The snapshot as a worker uses it.
#[derive(Debug)]
pub(super) struct View {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) router: Rc<Router>,
    pub(super) rates: Rc<RateTable>,
    pub(super) sessions: Rc<affinity::Sessions>,
    /// What counts for each service, in the order of the snapshot.
    pub(super) tallies: Rc<[Rc<Tally>]>,
    pub(super) tracing: Tracing,
    pub(super) protocol: http1::Builder,
}

/// Lets a cache own what holds the published snapshots.
#[derive(Debug)]
struct Published(Arc<Registry>);

impl Deref for Published {
    type Target = ArcSwap<Snapshot>;

    fn deref(&self) -> &Self::Target {
        self.0.published()
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) index: usize,
    pub(super) clock: Clock,
    pub(super) random: Random,
    pub(super) pool: Rc<Pool>,
    pub(super) bells: Arc<Bells>,
    pub(super) buffers: Rc<Buffers>,
    /// Bytes of requests' bodies that are kept to be sent again.
    pub(super) kept_bytes: Cell<usize>,
    pub(super) connections: Connections,
    pub(super) lines: Lines,
    pub(super) tunnels: Rc<Cell<usize>>,
    pub(super) stats: Arc<GatewayStats>,
    pub(super) management: Option<Management>,
    pub(super) access: Option<Arc<AccessLog>>,
    /// Where recorded traces go.
    pub(super) spans: SpanQueue,
    /// For ids of traces and spans.
    pub(super) ids: Ids,
    /// To be told of every transition of a circuit breaker.
    pub(super) breakers: Arc<Notify>,
    pub(super) sessions: affinity::State,
    cache: RefCell<Cache<Published, Arc<Snapshot>>>,
    view: RefCell<Rc<View>>,
}

impl Worker {
    /// A worker that serves what `registry` publishes.
    pub(super) fn new(
        index: usize,
        registry: Arc<Registry>,
        clock: Clock,
        management: Option<Management>,
        (access, spans): (Option<Arc<AccessLog>>, SpanQueue),
        stats: Arc<GatewayStats>,
        bells: Arc<Bells>,
    ) -> Rc<Self> {
        let snapshot = registry.snapshot();
        let gateway = &snapshot.gateway;
        Rc::new(Self {
            index,
            random: Random::new(clock.now().0 ^ ((index as u64 + 1) << 32)),
            pool: Pool::new(gateway.pool_idle_per_instance, clock.clone()),
            bells,
            clock,
            buffers: Rc::default(),
            kept_bytes: Cell::default(),
            connections: Connections::default(),
            lines: Lines::default(),
            tunnels: Rc::default(),
            stats,
            management,
            access,
            spans,
            ids: Ids::new(),
            breakers: registry.breakers(),
            sessions: affinity::State::new(Arc::clone(registry.sessions())),
            cache: Cache::new(Published(registry)).into(),
            view: Rc::new(View {
                router: Rc::new(Router::new(&snapshot)),
                rates: Rc::new(RateTable::new(&snapshot)),
                sessions: Rc::new(affinity::Sessions::new(&snapshot)),
                tallies: Tally::all(&snapshot, index),
                tracing: Tracing::new(&gateway.tracing),
                protocol: connection::protocol(gateway),
                snapshot,
            })
            .into(),
        })
    }

    /// What choosing an instance has to do with others.
    pub(super) fn around(&self) -> Around<'_> {
        Around {
            clock: &self.clock,
            breakers: &self.breakers,
        }
    }

    /// The current snapshot, compiled. One relaxed load when nothing has changed.
    pub(super) fn view(&self) -> Rc<View> {
        let mut cache = self.cache.borrow_mut();
        let current = cache.load();
        let mut view = self.view.borrow_mut();
        if !Arc::ptr_eq(current, &view.snapshot) {
            *view = Rc::new(self.compile(current, &view));
        }
        Rc::clone(&view)
    }

    #[cold]
    fn compile(&self, snapshot: &Arc<Snapshot>, before: &View) -> View {
        self.pool.set_most(snapshot.gateway.pool_idle_per_instance);
        let same_routes = snapshot.configured == before.snapshot.configured;
        if !same_routes {
            self.sessions.reconfigured();
        }
        View {
            snapshot: Arc::clone(snapshot),
            sessions: if same_routes {
                Rc::clone(&before.sessions)
            } else {
                Rc::new(affinity::Sessions::new(snapshot))
            },
            tallies: if same_routes {
                Rc::clone(&before.tallies)
            } else {
                Tally::all(snapshot, self.index)
            },
            // While nothing was configured, services stay where they are.
            router: if same_routes {
                Rc::clone(&before.router)
            } else {
                Rc::new(Router::new(snapshot))
            },
            rates: if same_routes {
                Rc::clone(&before.rates)
            } else {
                Rc::new(RateTable::new(snapshot))
            },
            tracing: Tracing::new(&snapshot.gateway.tracing),
            protocol: connection::protocol(&snapshot.gateway),
        }
    }

    /// Follows orders until the order to drain has been carried out, or nobody is left to give
    /// any.
    pub(super) async fn run(self: Rc<Self>, mut orders: mpsc::UnboundedReceiver<Order>) {
        let sweeper = tokio::task::spawn_local(Rc::clone(&self).sweep());
        let (bells, pool) = (Arc::clone(&self.bells), Rc::clone(&self.pool));
        let giver = tokio::task::spawn_local(room::give_way(bells, self.index, pool));
        let mut listeners: HashMap<SocketAddr, Accepting> = HashMap::new();
        let mut deadline = None;
        while let Some(order) = orders.recv().await {
            match order {
                Order::Open(address, socket) => match Accepting::start(socket, self.server()) {
                    Ok(accepting) => {
                        listeners.insert(address, accepting);
                    }
                    Err(error) => {
                        tracing::error!(%address, %error, "cannot accept at this address");
                    }
                },
                Order::Close(address) => {
                    if let Some(accepting) = listeners.remove(&address) {
                        accepting.stop(self.server()).await;
                    }
                }
                Order::Drain(at) => {
                    deadline = Some(Instant::from_std(at));
                    break;
                }
            }
        }
        for (_, accepting) in listeners.drain() {
            accepting.stop(self.server()).await;
        }
        if let Some(deadline) = deadline {
            self.drain(deadline).await;
        }
        sweeper.abort();
        giver.abort();
    }

    /// What is done with connections that come in.
    fn server(self: &Rc<Self>) -> impl Fn(TcpStream, SocketAddr) + 'static {
        let worker = Rc::clone(self);
        move |stream, address| worker.serve(stream, address)
    }

    fn serve(self: &Rc<Self>, stream: TcpStream, address: SocketAddr) {
        self.stats.accepted.fetch_add(1, Relaxed);
        tokio::task::spawn_local(connection::serve(Rc::clone(self), stream, address));
    }

    async fn drain(&self, deadline: Instant) {
        self.connections.drain();
        self.pool.clear();
        let busy = || self.connections.count() + self.tunnels.get() > 0;
        while busy() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.connections.end();
        let last = Instant::now() + LAST_WORDS;
        while self.connections.count() > 0 && Instant::now() < last {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Looks through the idle connections once in a while, cuts those that were given up, and lets go
    /// of old snapshots when no request comes to do it.
    async fn sweep(self: Rc<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let view = self.view();
            let snapshot = &view.snapshot;
            let wanted: HashSet<InstanceId> = snapshot
                .services
                .iter()
                .flat_map(|service| service.members.iter().zip(service.statuses.iter()))
                .filter(|(_, status)| status.admin == AdminState::Enabled)
                .map(|(member, _)| member.instance.id)
                .collect();
            let wanted = |id| wanted.contains(&id);
            let timeout = snapshot.gateway.pool_idle_timeout;
            self.pool.sweep(self.clock.now(), timeout, wanted);
            self.sessions.sweep(self.clock.now());
            self.lines.sweep();
        }
    }
}

/// The client connections of a worker, so that they can be told that lb ends.
#[derive(Debug, Default)]
pub(super) struct Connections {
    draining: Cell<bool>,
    next: Cell<u64>,
    open: RefCell<HashMap<u64, Entry>>,
}

#[derive(Debug)]
struct Entry {
    pulse: Arc<Pulse>,
    /// How to wake the connection's task, once it has run.
    waker: Option<Waker>,
}

/// A connection's entry among the [`Connections`] of its worker.
#[derive(Debug)]
pub(super) struct Place<'a> {
    worker: &'a Worker,
    number: u64,
    noted: Cell<bool>,
}

impl Worker {
    /// Enters a connection.
    pub(super) fn enter(&self, pulse: &Arc<Pulse>) -> Place<'_> {
        let connections = &self.connections;
        let number = connections.next.get();
        connections.next.set(number + 1);
        let entry = Entry {
            pulse: Arc::clone(pulse),
            waker: None,
        };
        connections.open.borrow_mut().insert(number, entry);
        self.stats.open.fetch_add(1, Relaxed);
        Place {
            worker: self,
            number,
            noted: Cell::new(false),
        }
    }
}

impl Place<'_> {
    /// Notes how to wake the connection's task, which stays the same for its whole life.
    pub(super) fn note(&self, cx: &Context<'_>) {
        if self.noted.replace(true) {
            return;
        }
        let mut open = self.worker.connections.open.borrow_mut();
        if let Some(entry) = open.get_mut(&self.number) {
            entry.waker = Some(cx.waker().clone());
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut open = self.worker.connections.open.borrow_mut();
        open.remove(&self.number);
        self.worker.stats.open.fetch_sub(1, Relaxed);
    }
}

impl Connections {
    /// Whether connections are to end after the exchange that they are in.
    pub(super) fn are_draining(&self) -> bool {
        self.draining.get()
    }

    fn count(&self) -> usize {
        self.open.borrow().len()
    }

    fn drain(&self) {
        self.draining.set(true);
        self.wake();
    }

    fn end(&self) {
        let open = self.open.borrow();
        open.values().for_each(|entry| entry.pulse.end());
        drop(open);
        self.wake();
    }

    fn wake(&self) {
        let open = self.open.borrow();
        let wakers = open.values().filter_map(|entry| entry.waker.as_ref());
        wakers.for_each(Waker::wake_by_ref);
    }
}
