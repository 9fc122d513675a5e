//! What would become of a request, and why, without sending it anywhere.
//!
//! The request takes the way of [`super::proxy`] as far as the pick: the same examination of its
//! head, the same router, the same key, the same exclusions. What the pick would be is asked of a
//! balancer of its own ([`crate::balance::odds()`]), so nothing that serves requests notices.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use hyper::Request;

use super::{
    head,
    headers::Peer,
    key,
    router::{Router, Target},
};
use crate::{
    balance::{Random, odds},
    model::{Algorithm, Exclusion, Reason, RouteSpec, Timestamp},
    registry::{Service, Snapshot},
};

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
    /// Hash of the request's key, where the algorithm hashes.
    pub key: Option<u64>,
    /// What speaks for and against each member; same positions.
    pub candidates: Vec<Candidate>,
}

/// What speaks for or against a member.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Why it gets no new request; `None` when it may be picked.
    pub exclusion: Option<Exclusion>,
    /// Its chance of being picked, 0 to 1.
    pub chance: f64,
}

/// Explains `request`, as it would come from `peer`. `random` makes the picks.
#[must_use]
pub fn explain(
    snapshot: &Snapshot,
    mut request: Request<()>,
    peer: SocketAddr,
    now: Timestamp,
    random: &Random,
) -> Explanation {
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
    let target = Router::new(snapshot).route(host, request.uri().path());
    let Some(Target { service, route }) = target else {
        return refused(Reason::NoRoute);
    };
    let service = Arc::clone(&snapshot.services[service]);
    let key = (service.spec.algorithm == Algorithm::ConsistentHash)
        .then(|| key::hash(&service.spec.hash_key, &request, peer, || client));
    let candidates = candidates(&service, key.unwrap_or_default(), now, random);
    let nobody = candidates.iter().all(|candidate| candidate.chance == 0.0);
    Explanation {
        client,
        refused: nobody.then_some(Reason::NoInstance),
        routed: Some(Routed {
            route: snapshot.routes[route].clone(),
            service,
            key,
            candidates,
        }),
    }
}

fn candidates(service: &Service, key: u64, now: Timestamp, random: &Random) -> Vec<Candidate> {
    let chances = odds(&*service.rehearsal(), &service.members, key, now, random);
    let positions = 0..service.members.len();
    positions
        .zip(chances)
        .map(|(position, chance)| Candidate {
            exclusion: service.exclusion(position, now),
            chance,
        })
        .collect()
}
