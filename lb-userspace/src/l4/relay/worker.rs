//! A worker of the relay: one thread, one runtime, its own sockets and connections.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    net::{SocketAddr, TcpListener as StdListener},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at},
};

use super::{
    choose::Ends,
    connection,
    front::Fronts,
    lines::{LOOK, Line, Lines},
};
use crate::{
    balance::Random,
    l4::plan,
    model::{Clock, DatapathSpec, InstanceId, claim},
    net::Accepting,
    registry::{Around, Registry},
};

/// How long connections that were cut have for their last words.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// What the workers of a relay have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) spec: DatapathSpec,
    pub(super) registry: Arc<Registry>,
    pub(super) clock: Clock,
    pub(super) fronts: ArcSwap<Fronts>,
    /// Clients' connections, those included that wait for an instance.
    pub(super) open: AtomicU32,
}

impl Shared {
    /// Without any front.
    pub(super) fn new(spec: DatapathSpec, registry: Arc<Registry>, clock: Clock) -> Self {
        Self {
            spec,
            registry,
            clock,
            fronts: ArcSwap::default(),
            open: AtomicU32::new(0),
        }
    }
}

/// A place among all connections, of which there are only so many.
#[derive(Debug)]
pub(super) struct Room<'a>(&'a AtomicU32);

impl<'a> Room<'a> {
    /// `None` when there are as many as there may be.
    pub(super) fn take(shared: &'a Shared) -> Option<Self> {
        claim(&shared.open, shared.spec.max_connections).then(|| Self(&shared.open))
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// What a worker is told.
#[derive(Debug)]
pub(super) enum Order {
    /// Accept on this socket, which is bound to that address.
    Open(SocketAddr, StdListener),
    /// Accept no more at that address.
    Close(SocketAddr),
    /// There is another snapshot: cut what has nothing to live for.
    Look,
    /// Accept nothing more, let connections end, and end at the deadline at the latest.
    Drain(std::time::Instant),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) random: Random,
    /// To be told of every transition of a circuit breaker.
    pub(super) breakers: Arc<Notify>,
    pub(super) lines: Lines,
    living: RefCell<Rc<Living>>,
    serving: Cell<usize>,
    draining: Cell<bool>,
}

impl Worker {
    pub(super) fn new(index: usize, shared: Arc<Shared>) -> Rc<Self> {
        let seed = shared.clock.now().0 ^ ((index as u64 + 1) << 32);
        Rc::new(Self {
            index,
            random: Random::new(seed),
            breakers: shared.registry.breakers(),
            lines: Lines::default(),
            living: Rc::new(Living::new(Arc::default())).into(),
            serving: Cell::default(),
            draining: Cell::new(false),
            shared,
        })
    }

    /// What choosing an instance has to do with others.
    pub(super) fn around(&self) -> Around<'_> {
        Around {
            clock: &self.shared.clock,
            breakers: &self.breakers,
        }
    }

    /// Whether the relay ends, so that nobody should wait for anything.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Follows orders until the one to drain has been carried out, or nobody is left to give any.
    pub(super) async fn run(self: Rc<Self>, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut listeners: HashMap<SocketAddr, Accepting> = HashMap::new();
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let deadline = loop {
            let order = tokio::select! {
                order = orders.recv() => order,
                _ = looks.tick() => {
                    self.look();
                    continue;
                }
            };
            match order {
                Some(Order::Open(address, socket)) => {
                    match Accepting::start(socket, self.server(address)) {
                        Ok(accepting) => drop(listeners.insert(address, accepting)),
                        Err(error) => {
                            tracing::error!(%address, %error, "cannot accept at this address");
                        }
                    }
                }
                Some(Order::Close(address)) => {
                    if let Some(accepting) = listeners.remove(&address) {
                        accepting.abort();
                    }
                }
                Some(Order::Look) => self.cut(),
                Some(Order::Drain(at)) => break Instant::from_std(at),
                None => break Instant::now(),
            }
        };
        for (address, accepting) in listeners.drain() {
            accepting.stop(self.server(address)).await;
        }
        self.drain(deadline).await;
    }

    /// What is done with the connections that come in at an address.
    fn server(self: &Rc<Self>, vip: SocketAddr) -> impl Fn(TcpStream, SocketAddr) + 'static {
        let worker = Rc::clone(self);
        move |stream, client| worker.serve(stream, Ends { client, vip })
    }

    fn serve(self: &Rc<Self>, stream: TcpStream, ends: Ends) {
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let _serving = Serving::new(&worker.serving);
            connection::serve(&worker, stream, ends).await;
        });
    }

    /// Once a [`LOOK`].
    fn look(&self) {
        self.lines.look(&self.shared.spec);
        self.cut();
    }

    /// Whether a connection may go on.
    pub(super) fn keeps(&self, line: &Line) -> bool {
        self.living().keeps(line)
    }

    /// Cuts what has nothing to live for.
    fn cut(&self) {
        let living = self.living();
        self.lines.cut(|line| living.keeps(line));
    }

    /// What there is to live for at this moment.
    fn living(&self) -> Rc<Living> {
        let fronts = self.shared.fronts.load();
        let mut living = self.living.borrow_mut();
        if !Arc::ptr_eq(&living.fronts, &fronts) {
            *living = Rc::new(Living::new(Arc::clone(&fronts)));
        }
        Rc::clone(&living)
    }

    async fn drain(&self, deadline: Instant) {
        self.draining.set(true);
        let nobody = async {
            while self.serving.get() > 0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let looking = async {
            loop {
                sleep(LOOK).await;
                self.look();
            }
        };
        tokio::select! {
            _ = timeout_at(deadline, nobody) => {}
            () = looking => {}
        }
        self.lines.cut(|_| false);
        let last = async {
            while self.lines.count() > 0 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        // Who has not gone by then goes with the runtime.
        let _ = timeout(LAST_WORDS, last).await;
    }
}

/// What connections live for: VIPs that are there, and instances that are not down.
#[derive(Debug)]
struct Living {
    fronts: Arc<Fronts>,
    /// Members of the services that VIPs lead to, and of their fallbacks. Ids are of one service each.
    instances: HashSet<InstanceId>,
}

impl Living {
    fn new(fronts: Arc<Fronts>) -> Self {
        let services = fronts.all().iter().flat_map(|front| front.services());
        let members = services.flat_map(|of| of.members.iter().zip(of.statuses.iter()));
        let instances = members
            .filter(|(member, status)| !plan::is_down(status, member.weight))
            .map(|(member, _)| member.instance.id)
            .collect();
        Self { fronts, instances }
    }

    fn keeps(&self, line: &Line) -> bool {
        self.instances.contains(&line.instance.id) && self.fronts.keeps(&line.front)
    }
}

/// A client's connection, as long as it is served.
#[derive(Debug)]
struct Serving<'a>(&'a Cell<usize>);

impl<'a> Serving<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
