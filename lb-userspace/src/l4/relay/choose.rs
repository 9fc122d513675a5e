//! An instance for a client's connection, and a connection to it.
//!
//! An instance that does not accept the connection is blamed as for a failed request, and another
//! one is tried, never the same again. When none of them has a place, the service's
//! `without_instances` says what becomes of the client: it is refused at once, or it waits for as long
//! as connecting may take, which to it is what dropped packets are in the kernel: a wait in the hope of
//! better times.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use lb_common::{FlowKey, PROTOCOL_TCP};
use lb_ebpf::hash;
use socket2::SockRef;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{affinity::Client, front::Front, worker::Worker};
use crate::{
    balance::{Choice, Tried},
    l4::plan::address,
    model::{
        Algorithm, Clock, HashKey, InFlight, Instance, Opened, Outcome, Reason, RelayRefusal,
        UNLIMITED, WithoutInstances,
    },
    net,
    registry::Service,
    resilience::{Admission, Permit, Seat, Verdict},
};

/// How often an instance is chosen that another worker fills up in the same moment, before the
/// service counts as full.
const RACES: usize = 8;
/// How often a client that waits for a place looks whether one has come free; it is told of new
/// snapshots.
const AGAIN: Duration = Duration::from_millis(50);

/// The ends of a client's connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    /// The client.
    pub(super) client: SocketAddr,
    /// The VIP's address and the port that the client has connected to.
    pub(super) vip: SocketAddr,
}

/// What a connection holds at its instance until it is closed.
#[derive(Debug)]
pub(super) struct Held {
    // Given back in this order: whoever is told of room finds it.
    opened: Opened,
    _in_flight: InFlight,
    _seat: Option<Seat>,
    _news: News,
}

impl Held {
    /// The instance.
    pub(super) fn instance(&self) -> &Arc<Instance> {
        self.opened.connection().instance()
    }
}

/// Tells requests of the same service that wait for a connection.
#[derive(Debug)]
struct News {
    admission: Arc<Admission>,
    clock: Clock,
}

impl Drop for News {
    fn drop(&mut self) {
        self.admission.queue().released(&self.clock);
    }
}

/// Finds an instance of the service that `front` leads to, and connects to it; `front` is another one
/// afterwards if it has changed meanwhile.
///
/// # Errors
/// Why there is none.
pub(super) async fn connect(
    worker: &Worker,
    front: &mut Arc<Front>,
    ends: Ends,
) -> Result<(TcpStream, Held), RelayRefusal> {
    let mut revisions = worker.shared.registry.subscribe();
    let began = Instant::now();
    loop {
        revisions.mark_unchanged();
        let refused = match attempt(worker, front, ends).await {
            Ok(connected) => return Ok(connected),
            Err(refused) => refused,
        };
        let spec = &front.service.spec;
        let waits = refused != RelayRefusal::ConnectFailed
            && spec.without_instances == WithoutInstances::Drop
            && began.elapsed() < spec.timeouts.connect
            && !worker.is_draining();
        if !waits {
            return Err(refused);
        }
        tokio::select! {
            _ = revisions.changed() => {}
            () = sleep(AGAIN) => {}
        }
        match worker.shared.fronts.load().at(ends.vip) {
            Some(present) => *front = Arc::clone(present),
            None => return Err(refused),
        }
    }
}

/// Tries instances until one accepts.
async fn attempt(
    worker: &Worker,
    front: &Front,
    ends: Ends,
) -> Result<(TcpStream, Held), RelayRefusal> {
    let mut tried = Tried::default();
    let mut failed = None;
    let client = Client::of(worker, front, ends);
    for _ in 0..Tried::MOST {
        let place = match take_place(worker, front, &mut tried, ends, client.as_ref()) {
            Ok(place) => place,
            Err(reason) => return Err(failed.unwrap_or_else(|| refusal(reason))),
        };
        match open(worker, front, place, ends).await {
            Ok(connected) => {
                if let Some(client) = &client {
                    let instance = connected.1.instance().identity;
                    client.pin(instance, worker.shared.clock.now());
                }
                return Ok(connected);
            }
            Err(instance) => tried.insert(instance.id),
        }
        failed = Some(RelayRefusal::ConnectFailed);
    }
    Err(RelayRefusal::ConnectFailed)
}

pub(super) const fn refusal(reason: Reason) -> RelayRefusal {
    match reason {
        Reason::AtCapacity | Reason::ConnectionLimit | Reason::Overloaded => RelayRefusal::Limit,
        _ => RelayRefusal::NoInstance,
    }
}

/// A place at an instance.
struct Place {
    opened: Opened,
    in_flight: InFlight,
    /// If the connection is a probe.
    permit: Option<Permit<Instance>>,
    seat: Option<Seat>,
}

fn take_place(
    worker: &Worker,
    front: &Front,
    tried: &mut Tried,
    ends: Ends,
    client: Option<&Client<'_>>,
) -> Result<Place, Reason> {
    let service = &front.service;
    let (clock, key) = (&worker.shared.clock, key(service, ends));
    let seat = if service.limited {
        let most = service.spec.limits.service.map_or(UNLIMITED, u32::from);
        Some(
            service
                .admission
                .enter(most, clock)
                .ok_or(Reason::AtCapacity)?,
        )
    } else {
        None
    };
    let mut lacking = Reason::AtCapacity;
    for _ in 0..RACES {
        let choice = choice(worker, tried, key);
        let own = client.and_then(|client| client.position(service, &choice));
        let picked = own.or_else(|| pick(worker, front, tried, key));
        let choice = self::choice(worker, tried, key);
        let (position, permit) = match service.admit(worker.around(), &choice, picked) {
            Ok(chosen) => chosen,
            Err(reason) => {
                lacking = reason;
                break;
            }
        };
        let member = &service.members[position];
        let (instance, algorithm) = (&member.instance, service.spec.algorithm);
        let Some(in_flight) = instance.try_begin(member.most, algorithm, worker.index, clock)
        else {
            continue;
        };
        let Some(opened) = instance.try_connect(&member.most_connections, worker.index) else {
            lacking = Reason::ConnectionLimit;
            continue;
        };
        return Ok(Place {
            opened,
            in_flight,
            permit,
            seat,
        });
    }
    seat.into_iter().for_each(Seat::unused);
    Err(lacking)
}

fn choice<'a>(worker: &'a Worker, tried: &'a Tried, key: u64) -> Choice<'a> {
    Choice {
        key,
        worker: worker.index,
        now: worker.shared.clock.now(),
        random: &worker.random,
        tried,
    }
}

/// After a failure one that has not failed its last connection, if there is any such.
fn pick(worker: &Worker, front: &Front, tried: &mut Tried, key: u64) -> Option<usize> {
    [true, false].into_iter().find_map(|well| {
        tried.set_only_well(well);
        let choice = choice(worker, tried, key);
        front.balancer.pick(&front.service.members, &choice)
    })
}

/// What consistent hashing goes by, hashed as in the kernel.
pub(super) fn key(service: &Service, ends: Ends) -> u64 {
    let by_source = service.spec.hash_key == HashKey::Source
        || service.spec.affinity.of_connections().is_some();
    match (service.spec.algorithm, by_source) {
        (Algorithm::ConsistentHash, true) => hash::address(&address(ends.client.ip())),
        (Algorithm::ConsistentHash, false) => hash::flow(&FlowKey {
            source: address(ends.client.ip()),
            destination: address(ends.vip.ip()),
            source_port: ends.client.port().to_be_bytes(),
            destination_port: ends.vip.port().to_be_bytes(),
            protocol: PROTOCOL_TCP,
            pad: 0,
            pad_end: [0; 2],
        }),
        _ => 0,
    }
}

/// Connects to an instance and tells those that measure how that went.
///
/// # Errors
/// The instance, when it did not accept in time.
async fn open(
    worker: &Worker,
    front: &Front,
    place: Place,
    ends: Ends,
) -> Result<(TcpStream, Held), Arc<Instance>> {
    let service = &front.service;
    let Place {
        opened,
        mut in_flight,
        permit,
        seat,
    } = place;
    let instance = Arc::clone(in_flight.instance());
    let target = front.target(instance.endpoint.address(), ends.vip.port());
    let connecting = timeout(service.spec.timeouts.connect, TcpStream::connect(target));
    let connected = match connecting.await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    let (outcome, verdict) = match &connected {
        Ok(_) => (Outcome::Success, Verdict::Success),
        // Nobody is to blame but this machine.
        Err(error) if net::is_own(error) => return Err(instance),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            (Outcome::Failure, Verdict::Failure)
        }
        Err(_) => (Outcome::Refused, Verdict::Failure),
    };
    in_flight.judge(outcome);
    weigh(worker, service, &in_flight, permit, verdict);
    let Ok(stream) = connected else {
        return Err(instance);
    };
    // Without either the connection still works.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_keepalive(&net::KEEPALIVE);
    let held = Held {
        opened,
        _in_flight: in_flight,
        _seat: seat,
        _news: News {
            admission: Arc::clone(&service.admission),
            clock: worker.shared.clock.clone(),
        },
    };
    Ok((stream, held))
}

/// Tells the breaker of an instance.
fn weigh(
    worker: &Worker,
    service: &Service,
    in_flight: &InFlight,
    permit: Option<Permit<Instance>>,
    verdict: Verdict,
) {
    if permit.is_none() && verdict == Verdict::Success && in_flight.instance().gate.is_quiet() {
        return;
    }
    let (now, chance) = (worker.shared.clock.now(), worker.random.bits());
    let changed = service.weigh(worker.index, in_flight, permit, verdict, now, chance);
    if changed.is_some_and(|step| step.is_transition()) {
        worker.breakers.notify_one();
    }
}
