//! What would become of a request, and why, without sending it anywhere.
//!
//! The request takes the way of [`super::proxy`] as far as the pick: the same examination of its
//! head, the same router, the same key, the same exclusions. What the pick would be is asked of a
//! balancer of its own ([`Service::candidates`]), so nothing that serves requests notices.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use hyper::Request;

use super::{
    affinity::{self, Preview, Way},
    head,
    headers::Peer,
    key,
    router::{Router, Target},
};
use crate::{
    affinity::Store,
    balance::{Choice, Random, Tried},
    model::{Algorithm, Reason, RouteSpec, Timestamp},
    registry::{Candidate, Service, Snapshot},
};

/// A request that nobody has sent.
#[derive(Debug)]
pub struct Asked {
    /// Its head.
    pub request: Request<()>,
    /// Who would send it.
    pub peer: SocketAddr,
    /// What that one would have connected to; unknown, routes that have a destination do not match.
    pub destination: Option<SocketAddr>,
}

/// What would become of a request.
#[derive(Debug)]
pub struct Explanation {
    /// The client, as trusted proxies tell it.
    pub client: IpAddr,
    /// The route that matches, and where it leads; `None` when lb answers before that.
    pub routed: Option<Routed>,
    /// Why lb would answer the request itself.
    pub refused: Option<Reason>,
}

/// A request that has found its service.
#[derive(Debug)]
pub struct Routed {
    /// The route that matches best.
    pub route: RouteSpec,
    /// Its service.
    pub service: Arc<Service>,
    /// The session that the request belongs to, where sessions matter.
    pub session: Option<Preview>,
    /// Hash of the request's key, where the algorithm hashes.
    pub key: Option<u64>,
    /// What speaks for and against each member; same positions.
    pub candidates: Vec<Candidate>,
}

/// Explains `asked`. `random` makes the picks.
#[must_use]
pub fn explain(
    snapshot: &Snapshot,
    store: &Arc<Store>,
    asked: Asked,
    now: Timestamp,
    random: &Random,
) -> Explanation {
    let Asked {
        mut request,
        peer,
        destination,
    } = asked;
    let proxies = &snapshot.gateway.trusted_proxies;
    let client = Peer::new(peer.ip(), proxies).client(request.headers(), proxies);
    let refused = |reason| Explanation {
        client,
        routed: None,
        refused: Some(reason),
    };
    let examined = head::to_origin_form(&mut request).and_then(|()| head::examine(&request));
    let host = match examined {
        Ok(examined) => examined.host,
        Err(reason) => return refused(reason),
    };
    let target = Router::new(snapshot).route(destination, host, request.uri().path());
    let Some(Target { service, route }) = target else {
        return refused(Reason::NoRoute);
    };
    let service = snapshot.serving(service);
    let choice = Choice {
        key: 0,
        worker: 0,
        now,
        random,
        tried: &Tried::default(),
    };
    let said = (request.headers(), client);
    let session = affinity::preview(snapshot, store, service, said, &choice);
    let service = Arc::clone(&snapshot.services[service]);
    let hash = || key::hash(&service.spec.hash_key, &request, peer, || client);
    let key = match session {
        Some(Preview {
            session,
            way: Way::Hash | Way::Cookie,
            ..
        }) => session.key(),
        _ => hash(),
    };
    let key = (service.spec.algorithm == Algorithm::ConsistentHash).then_some(key);
    let key_of = key.unwrap_or_default();
    let mut candidates = service.candidates(&*service.rehearsal(), key_of, now, random);
    if let Some(Ok(pinned)) = session.and_then(|session| session.pinned) {
        for (position, candidate) in candidates.iter_mut().enumerate() {
            candidate.chance = f64::from(u8::from(position == pinned));
        }
    }
    let nobody = candidates.iter().all(|candidate| candidate.chance == 0.0);
    Explanation {
        client,
        refused: refusal(&service, nobody, &choice),
        routed: Some(Routed {
            route: snapshot.routes[route].clone(),
            service,
            session,
            key,
            candidates,
        }),
    }
}

/// What lb would answer itself; `nobody` says whether no candidate would be picked.
fn refusal(service: &Service, nobody: bool, choice: &Choice<'_>) -> Option<Reason> {
    if service.guard.refused(choice.now).is_some() {
        return Some(Reason::BreakerBackendOpen);
    }
    if service.guard.gate.exclusion(choice.now).is_some() {
        return Some(Reason::ServiceBreakerOpen);
    }
    nobody.then(|| service.nobody(choice).err()).flatten()
}
