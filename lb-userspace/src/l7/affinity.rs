//! Session affinity on the way of a request.
//!
//! A request's session is looked for when its route is known ([`claims`]), before fields are
//! rewritten: [`follow`] makes a [`Following`] of what was found, which then stands in for the
//! balancer wherever an instance is picked, and adds a cookie to the answer where one is due. For a
//! service without affinity there is none, and that is a branch.
//!
//! What is worked out of the configuration stands in the worker's view ([`Sessions`]). What a
//! worker has learned of tokens and cookies, and the accounts of recovering instances, are its own
//! ([`State`]); the store alone is everybody's.

mod claims;
mod cookie;
mod following;
mod preview;
pub(super) mod token;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
};

use hyper::HeaderMap;

use self::{
    claims::Asked,
    token::{Verified, Verifier},
};
use super::connection::Client;
use crate::{
    affinity::{Cache, Keyring, Ledger, Sealed, Store, source, store},
    model::{AffinitySpec, HashKey, IpPrefix, SessionSpec, Timestamp},
    registry::{Service, Snapshot},
};

pub(super) use self::following::{Following, pick, settle};
pub(super) use self::preview::preview;
pub use self::preview::{Preview, Way};

/// Tokens that a worker verifies in a second, which takes at most a fifth of its time. Beyond that
/// tokens that are not known already count as not there: a flood of forged ones must not keep a
/// worker from its work.
const VERIFICATIONS: u32 = 4000;

/// Shards of the store that a worker sweeps each second: all of them within 16 seconds.
const SWEPT: usize = store::SHARDS / 16;

/// Affinity as configured.
#[derive(Debug)]
pub(super) struct Sessions {
    /// By the position of the service; `None` where nobody asks for sessions.
    services: Box<[Option<Rc<Of>>]>,
    /// `None` when the system had no random numbers for a key; then no cookie is set.
    keyring: Option<Keyring>,
    /// What the names of lb's own cookies begin with, when any service sets one.
    prefix: Option<String>,
    /// Who is believed when they tell a client's address.
    proxies: Vec<IpPrefix>,
}

/// Affinity of one service.
#[derive(Debug)]
struct Of {
    spec: AffinitySpec,
    service: String,
    scope: u32,
    cookie: String,
    verifier: Option<Verifier>,
}

impl Sessions {
    /// What `snapshot` asks for.
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        let common = &snapshot.gateway.sessions;
        let services = snapshot.services.iter();
        let services: Box<[_]> = services.map(|service| Of::new(service, common)).collect();
        let any = services.iter().flatten().any(|of| of.spec.sets_cookie());
        Self {
            services,
            keyring: keyring(common),
            prefix: any.then(|| common.cookie.clone()),
            proxies: snapshot.gateway.trusted_proxies.clone(),
        }
    }

    /// Takes lb's own cookies out of a request.
    pub(super) fn strip(&self, headers: &mut HeaderMap) {
        if let Some(prefix) = &self.prefix {
            cookie::strip(headers, prefix);
        }
    }
}

/// The keys of cookies. Those that a process makes for itself are the same for all its workers
/// and through all its reloads.
fn keyring(common: &SessionSpec) -> Option<Keyring> {
    let keys = common.cookie_keys.iter().map(|key| &*key.0);
    let ring = match common.cookie_keys.is_empty() {
        true => Keyring::of_process(),
        false => Keyring::new(keys),
    };
    ring.inspect_err(|error| tracing::error!(%error, "sessions get no cookies"))
        .ok()
}

impl Of {
    fn new(service: &Service, common: &SessionSpec) -> Option<Rc<Self>> {
        let spec = &service.spec.affinity;
        let scope = store::scope(service.name());
        let hashed = service.spec.hash_key == HashKey::Session;
        (spec.enabled || hashed).then(|| {
            Rc::new(Self {
                spec: spec.clone(),
                service: service.name().to_string(),
                scope,
                cookie: cookie::name(&common.cookie, scope),
                verifier: Verifier::new(&spec.jwt_keys),
            })
        })
    }
}

/// What a worker knows of sessions.
#[derive(Debug)]
pub(super) struct State {
    store: Arc<Store>,
    tokens: RefCell<Cache<Option<Verified>>>,
    cookies: RefCell<Cache<Option<Sealed>>>,
    /// By the number of the service.
    ledgers: RefCell<HashMap<u32, Ledger>>,
    /// The second at hand, and how many tokens were verified in it.
    verified: Cell<(u64, u32)>,
}

impl State {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            tokens: RefCell::default(),
            cookies: RefCell::default(),
            ledgers: RefCell::default(),
            verified: Cell::default(),
        }
    }

    /// Forgets what followed from a configuration that no longer holds.
    pub(super) fn reconfigured(&self) {
        self.tokens.borrow_mut().clear();
        self.cookies.borrow_mut().clear();
    }

    /// Gives back the memory of sessions that have expired.
    pub(super) fn sweep(&self, now: Timestamp) {
        self.store.sweep(SWEPT, now);
    }

    /// Whether there is time to verify another token.
    fn may_verify(&self, now: Timestamp) -> bool {
        let (second, count) = self.verified.get();
        let count = if second == now.seconds() { count } else { 0 };
        self.verified.set((now.seconds(), count + 1));
        count < VERIFICATIONS
    }
}

/// The affinity of a request for a service, at its position among all, whose fields are as the
/// client sent them; `None` when the service has none.
pub(super) fn follow(
    client: &Client,
    sessions: &Sessions,
    (position, service): (usize, &Service),
    headers: &HeaderMap,
    now: Timestamp,
) -> Option<Following> {
    let of = sessions.services.get(position)?.as_ref()?;
    if !of.spec.enabled {
        return None;
    }
    let worker = &client.worker;
    let counts = Some((&*service.affinity, worker.index));
    let address = || client.peer.client(headers, &sessions.proxies);
    let said = (headers, &address as &dyn Fn() -> IpAddr);
    let mut asked = Asked::new(&worker.sessions, sessions, of, said, now, counts);
    let claim = source::find(&of.spec.sources, &mut asked);
    let elsewhere = match claim {
        None if of.spec.sets_cookie() => asked.elsewhere(),
        _ => None,
    };
    let tls = client.peer.is_secure(headers);
    Some(Following::new(of, service, claim, elsewhere, tls))
}

/// What consistent hashing goes by where it hashes sessions that have no affinity; `None` where
/// sessions are not hashed, or there is none.
pub(super) fn key(
    client: &Client,
    sessions: &Sessions,
    (position, service): (usize, &Service),
    headers: &HeaderMap,
    now: Timestamp,
) -> Option<u64> {
    let of = sessions.services.get(position)?.as_ref()?;
    let worker = &client.worker;
    let counts = Some((&*service.affinity, worker.index));
    let address = || client.peer.client(headers, &sessions.proxies);
    let said = (headers, &address as &dyn Fn() -> IpAddr);
    let mut asked = Asked::new(&worker.sessions, sessions, of, said, now, counts);
    source::find(&of.spec.sources, &mut asked).map(|claim| claim.session().key())
}
