//! What would become of a client's connection, and why, without making any.
//!
//! It takes the way of a real one as far as the pick: the same ACL, the same fronts, the same key, the client's
//! instance where one is remembered. What the pick would be is asked of a balancer of its own, so nothing
//! that serves connections notices.

use std::{net::SocketAddr, sync::Arc};

use super::{
    affinity,
    choose::{Ends, key, refusal},
    front::{rehearsal, serving},
};
use crate::{
    affinity::Store,
    balance::{Choice, Random, Tried},
    model::{RelayRefusal, Timestamp, VipSpec},
    registry::{Candidate, Service, Snapshot},
};

/// What would become of a connection to a VIP.
#[derive(Debug)]
pub struct Relayed {
    /// The VIP.
    pub vip: VipSpec,
    /// The service that serves it: the one that it leads to, or its fallback in its place.
    pub service: Arc<Service>,
    /// Why the relay would reset it. Whether an instance accepts connections nobody knows before.
    pub refused: Option<RelayRefusal>,
    /// The position of the instance that the client stays with.
    pub pinned: Option<usize>,
    /// What speaks for and against each member; same positions.
    pub candidates: Vec<Candidate>,
}

/// Explains a connection from `client` to `vip`; `None` when that is no VIP that is relayed. `is_full` says
/// whether the relay has as many connections as it may have.
#[must_use]
pub fn explain(
    snapshot: &Snapshot,
    store: &Store,
    (client, vip): (SocketAddr, SocketAddr),
    is_full: bool,
    (now, random): (Timestamp, &Random),
) -> Option<Relayed> {
    let ends = Ends { client, vip };
    let (spec, service) = serving(snapshot, vip)?;
    let service = Arc::clone(service);
    let choice = Choice {
        key: key(&service, ends),
        worker: 0,
        now,
        random,
        tried: &Tried::default(),
    };
    let mut candidates = service.candidates(&*rehearsal(&service), choice.key, now, random);
    let pinned = affinity::remembered(store, &service, client.ip(), &choice);
    if let Some(pinned) = pinned {
        for (position, candidate) in candidates.iter_mut().enumerate() {
            candidate.chance = f64::from(u8::from(position == pinned));
        }
    }
    let refused = if snapshot.acl.denies(client.ip()) {
        Some(RelayRefusal::SourceDenied)
    } else if is_full {
        Some(RelayRefusal::MaxConnections)
    } else if is_at_limit(&service) {
        Some(RelayRefusal::Limit)
    } else if candidates.iter().all(|candidate| candidate.chance == 0.0) {
        service.nobody(&choice).err().map(refusal)
    } else {
        None
    };
    Some(Relayed {
        vip: spec.clone(),
        service,
        refused,
        pinned,
        candidates,
    })
}

/// Whether the service has as many connections and requests as it may have.
fn is_at_limit(service: &Service) -> bool {
    let most = service.spec.limits.service.map(u32::from);
    service.limited && most.is_some_and(|most| service.admission.inside() >= most)
}
