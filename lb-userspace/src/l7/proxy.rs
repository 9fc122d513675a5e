//! The way of a request: examine, route, pick, send, answer.
//!
//! See `docs/life-of-a-request.md` for the same in prose.

use std::{convert::Infallible, rc::Rc, sync::Arc};

use hyper::{Request, Response, StatusCode, Version, body::Incoming, upgrade::OnUpgrade};

use super::{
    access::{Ending, Entry},
    admission::{self, Stay, TooEarly},
    affinity::{self, Following},
    answer,
    body::{Answer, Passed},
    breaker,
    connection::Client,
    course::Known,
    forward::forward,
    guard,
    head::{self, Seen},
    headers, key,
    management::{self, Management},
    pool::{Lease, Pool},
    router::Target,
    tally::Tally,
    tunnel,
    upload::Upload,
    worker::View,
};
use crate::{
    model::{Algorithm, Reason, ServiceStats, TimeoutSpec, Timestamp},
    registry::Service,
};

/// Answers one request of a client. Never fails: what goes wrong becomes an answer.
pub(super) async fn serve(
    client: Rc<Client>,
    mut request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let now = client.worker.clock.now();
    client.pulse.counts(now);
    let view = client.worker.view();
    let mut entry = Entry::new(&client, &request, &view, now);
    Ok(match route(&client, &view, &mut request, &mut entry, now) {
        Ok(Way::Service(target, seen)) => {
            pass(&client, &view, (target, seen), request, &mut entry, now).await
        }
        Ok(Way::Management(management)) => {
            entry.forget();
            Box::pin(management::answer(&client, management, request)).await
        }
        Err(answer) => *answer,
    })
}

/// Where a request goes.
enum Way<'a> {
    /// To the management API.
    Management(&'a Management),
    /// To a service, with what was seen in its head.
    Service(Target, Seen),
}

/// Examines a request and finds out where it goes.
///
/// # Errors
/// The answer, when it goes nowhere.
fn route<'a>(
    client: &'a Client,
    view: &View,
    request: &mut Request<Incoming>,
    entry: &mut Entry,
    now: Timestamp,
) -> Result<Way<'a>, Box<Response<Answer>>> {
    let worker = &client.worker;
    let stats = &worker.stats.answers;
    let examined = head::to_origin_form(request).and_then(|()| head::examine(request));
    let (host, seen) = match examined {
        Ok(examined) => (examined.host, examined.seen),
        Err(reason) => return Err(Box::new(refuse(client, reason, stats, entry))),
    };
    let path = request.uri().path();
    if let Some(management) = &worker.management
        && management.owns(path)
    {
        return Ok(Way::Management(management));
    }
    let proxies = &view.snapshot.gateway.trusted_proxies;
    let Some(mut target) = view.router.route(client.destination, host, path) else {
        let early = view.rates.check(None, client, request, proxies, now);
        return Err(Box::new(match early {
            Err(early) => refuse_early(client, &early, stats, entry),
            Ok(()) => refuse(client, Reason::NoRoute, stats, entry),
        }));
    };
    target.service = view.snapshot.serving(target.service);
    let service = &view.snapshot.services[target.service];
    entry.routed(worker, view, &target);
    if seen.has(Seen::MAX_FORWARDS) && head::ends_here(request) {
        return Err(Box::new(options(client, entry)));
    }
    let route = Some(target.route);
    match view.rates.check(route, client, request, proxies, now) {
        Ok(()) => Ok(Way::Service(target, seen)),
        Err(early) => {
            let answer = refuse_early(client, &early, &service.stats, entry);
            Err(Box::new(answer))
        }
    }
}

/// Passes a request on to its service, and the answer back.
async fn pass(
    client: &Client,
    view: &View,
    (target, seen): (Target, Seen),
    request: Request<Incoming>,
    entry: &mut Entry,
    now: Timestamp,
) -> Response<Answer> {
    let (worker, sessions) = (&client.worker, &view.sessions);
    let service = &view.snapshot.services[target.service];
    let (timeouts, stats) = (&service.spec.timeouts, &service.stats);
    client.pulse.arrived(now, timeouts);
    let of: (usize, &Service) = (target.service, service);
    let following = affinity::follow(client, sessions, of, request.headers(), now);
    let route = &view.snapshot.routes[target.route];
    let known = Known {
        now,
        key: key(client, view, of, &request, following.as_ref(), now),
        priority: admission::priority(service, route, &request),
        following: following.as_ref(),
    };
    let tally = &view.tallies[target.service];
    let (mut request, upgrade) = prepare(client, request, seen, tally);
    sessions.strip(request.headers_mut());
    view.tracing.strip(request.headers_mut(), &client.peer);
    entry.mark(&view.tracing, request.headers_mut());
    let permit = match guard::enter(service, now) {
        Ok(permit) => permit,
        Err(reason) => {
            let mut response = refuse(client, reason, stats, entry);
            let backend = view.snapshot.integration.breaker.as_ref();
            let asked = backend.map(|backend| backend.check_interval);
            answer::again_in(&mut response, guard::retry_after(service, asked, now));
            return response;
        }
    };
    let exchanged = forward(client, service, known, request, entry).await;
    guard::leave(worker, service, now, permit, &exchanged);
    let answer = exchanged.and_then(|done| done.into_answer(client, upgrade, timeouts, entry));
    let answer = match known.following {
        Some(following) => following.ends(worker, service, sessions, answer),
        None => answer,
    };
    answer.unwrap_or_else(|reason| {
        let mut response = refuse(client, reason, stats, entry);
        if reason == Reason::BreakerOpen {
            answer::again_in(&mut response, breaker::retry_after(service, now));
        }
        response
    })
}

/// What consistent hashing goes by; nothing for other algorithms.
fn key(
    client: &Client,
    view: &View,
    of: (usize, &Service),
    request: &Request<Incoming>,
    following: Option<&Following>,
    now: Timestamp,
) -> u64 {
    let spec = &of.1.spec;
    if spec.algorithm != Algorithm::ConsistentHash {
        return 0;
    }
    let fields = request.headers();
    let session = match following {
        Some(following) => following.key(),
        None => affinity::key(client, &view.sessions, of, fields, now),
    };
    session.unwrap_or_else(|| {
        let proxies = &view.snapshot.gateway.trusted_proxies;
        let address = || client.peer.client(fields, proxies);
        key::hash(&spec.hash_key, request, client.address, address)
    })
}

/// An answer of lb's own.
fn refuse(
    client: &Client,
    reason: Reason,
    stats: &ServiceStats,
    entry: &mut Entry,
) -> Response<Answer> {
    let now = client.worker.clock.now();
    entry.ends(Ending::Refused(reason));
    entry.over(now);
    client.pulse.answered(now);
    let mut response = answer::local(reason, stats);
    answer::ends_connection(response.headers_mut(), &client.pulse);
    response
}

/// The answer to a request that came too early.
#[cold]
fn refuse_early(
    client: &Client,
    early: &TooEarly,
    stats: &ServiceStats,
    entry: &mut Entry,
) -> Response<Answer> {
    let mut response = refuse(client, TooEarly::REASON, stats, entry);
    early.tell(&mut response);
    response
}

/// The answer to an `OPTIONS` that was to go no further than here (RFC 9110, 7.6.2).
fn options(client: &Client, entry: &mut Entry) -> Response<Answer> {
    entry.ends(Ending::Answered(StatusCode::NO_CONTENT.as_u16()));
    client.pulse.answered(client.worker.clock.now());
    let mut response = Response::new(Answer::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    answer::ends_connection(response.headers_mut(), &client.pulse);
    response
}

/// Makes of a client's request the one that instances get, and keeps aside what turns the
/// client's connection into a tunnel.
fn prepare(
    client: &Client,
    mut request: Request<Incoming>,
    seen: Seen,
    tally: &Rc<Tally>,
) -> (Request<Upload>, Option<OnUpgrade>) {
    let upgrade = tunnel::is_wanted(&request, seen).then(|| hyper::upgrade::on(&mut request));
    headers::request(request.headers_mut(), seen, &client.peer, upgrade.is_some());
    *request.version_mut() = Version::HTTP_11;
    let upload = |body| Upload::new(body, &client.worker, &client.pulse, tally);
    (request.map(upload), upgrade)
}

/// An instance's answer with what it holds.
#[derive(Debug)]
pub(super) struct Exchanged {
    pub(super) answer: Response<Incoming>,
    pub(super) lease: Lease,
    pub(super) stay: Stay,
}

impl Exchanged {
    /// Makes of an instance's answer the one that the client gets.
    fn into_answer(
        self,
        client: &Client,
        upgrade: Option<OnUpgrade>,
        timeouts: &TimeoutSpec,
        entry: &mut Entry,
    ) -> Result<Response<Answer>, Reason> {
        let Self {
            mut answer,
            lease,
            stay,
        } = self;
        let worker = &client.worker;
        let tunnels = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        headers::answer(answer.headers_mut(), tunnels)?;
        *answer.version_mut() = Version::HTTP_11;
        let now = worker.clock.now();
        if tunnels {
            // An instance that switches without having been asked would be talking to a client
            // that does not listen.
            let upgrade = upgrade.ok_or(Reason::BadAnswer)?;
            entry.ends(Ending::Answered(answer.status().as_u16()));
            let upgraded = hyper::upgrade::on(&mut answer);
            let busy = (lease.in_use, stay);
            tunnel::open(client, upgrade, upgraded, busy, timeouts.tunnel);
            return Ok(answer.map(|_| Answer::Empty));
        }
        answer::ends_connection(answer.headers_mut(), &client.pulse);
        entry.ends(Ending::Answered(answer.status().as_u16()));
        if hyper::body::Body::is_end_stream(answer.body()) {
            Pool::give_back(&worker.pool, lease, now);
            client.pulse.answered(now);
            entry.over(now);
            return Ok(answer.map(|_| Answer::Empty));
        }
        client.pulse.answering(now, timeouts.idle);
        Ok(answer.map(|body| {
            Answer::Passing(Passed {
                body,
                worker: Rc::clone(worker),
                pulse: Arc::clone(&client.pulse),
                lease: Some(lease),
                ended: false,
                _stay: stay,
                entry: entry.take(),
            })
        }))
    }
}
