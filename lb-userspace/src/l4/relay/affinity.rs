//! Clients that stay with their instance.
//!
//! A client that a relay remembers is a session, known by the client's address, among all others that
//! lb remembers: a client that comes by a VIP and by the gateway, for the same service, stays with one
//! instance. It does for as long as that takes new connections.

use std::{net::IpAddr, time::Duration};

use super::{choose::Ends, front::Front, worker::Worker};
use crate::{
    affinity::{SessionId, Store, store::scope},
    balance::{Choice, exclusion},
    model::{Algorithm, Timestamp},
    registry::Service,
};

/// What is remembered of a client.
#[derive(Debug)]
pub(super) struct Client<'a> {
    store: &'a Store,
    session: SessionId,
    service: u32,
    ttl: Duration,
    /// Fingerprint of the instance that it has had.
    pinned: Option<u64>,
}

/// How long clients of a service are remembered; `None` when they are not.
fn ttl(service: &Service) -> Option<Duration> {
    // Hashing keeps clients together without.
    let hashes = service.spec.algorithm == Algorithm::ConsistentHash;
    let ttl = service.spec.affinity.of_connections();
    ttl.filter(|_| !hashes)
}

/// The position of the instance with this fingerprint, if that may have another connection.
fn position(service: &Service, pinned: u64, choice: &Choice<'_>) -> Option<usize> {
    let position = service.place(pinned)?;
    exclusion(&service.members[position], choice)
        .is_none()
        .then_some(position)
}

/// The position of the instance that a client would stay with, without prolonging anything.
pub(super) fn remembered(
    store: &Store,
    service: &Service,
    client: IpAddr,
    choice: &Choice<'_>,
) -> Option<usize> {
    ttl(service)?;
    let scope = scope(service.name());
    let entries = store.find(SessionId::of_address(client), choice.now);
    let entry = entries.into_iter().find(|entry| entry.service == scope)?;
    position(service, entry.instance, choice)
}

impl<'a> Client<'a> {
    /// A client of the service that `front` leads to; `None` when that remembers none.
    pub(super) fn of(worker: &'a Worker, front: &Front, ends: Ends) -> Option<Self> {
        let ttl = ttl(&front.service)?;
        let store = worker.shared.registry.sessions();
        let session = SessionId::of_address(ends.client.ip());
        let service = scope(front.service.name());
        let now = worker.shared.clock.now();
        Some(Self {
            store,
            session,
            service,
            ttl,
            pinned: store.get(session, service, ttl, now),
        })
    }

    /// The position of its instance, if that may have another connection of its.
    pub(super) fn position(&self, service: &Service, choice: &Choice<'_>) -> Option<usize> {
        position(service, self.pinned?, choice)
    }

    /// Remembers the instance with this fingerprint.
    pub(super) fn pin(&self, instance: u64, now: Timestamp) {
        let (session, service, ttl) = (self.session, self.service, self.ttl);
        // Whoever was faster has pinned it too.
        let _ = self
            .store
            .pin(session, service, instance, self.pinned, ttl, now);
    }
}
