//! A request that follows its session.

use std::{cell::Cell, rc::Rc};

use hyper::{HeaderMap, Response};

use super::{Of, Sessions, cookie};
use crate::{
    affinity::{Claim, Ledger, Pinned, Sealed, SessionId},
    balance::{Choice, Tried, exclusion, obstacle},
    l7::worker::Worker,
    model::{
        Algorithm, Break, Exclusion, Followed, Reason, SameSite, SecureCookie, Timestamp,
        clock::unix_seconds,
    },
    registry::Service,
};

/// How a session is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// There is no session; there will be one if lb sets a cookie.
    New,
    /// By its hash, which the algorithm goes by.
    Hash,
    /// By an entry in the store.
    Entry,
    /// By lb's own cookie, with the instance and the time of issue in it.
    Cookie(u64, u32),
}

/// See the module. Made by [`super::follow`].
#[derive(Debug)]
pub(in crate::l7) struct Following {
    of: Rc<Of>,
    session: Option<SessionId>,
    way: Way,
    /// Fingerprint of the instance that the session is pinned to, if any.
    pinned: Cell<Option<u64>>,
    /// Whether the store was asked.
    looked_up: Cell<bool>,
    /// Whether the recovering instances are owed their shares of it already.
    asked: Cell<bool>,
    followed: Cell<Option<Followed>>,
    tls: bool,
}

/// An instance of `service` for a request: the balancer's choice, unless the request follows a
/// session that is pinned to one it may go to.
pub(in crate::l7) fn pick(
    following: Option<&Following>,
    worker: &Worker,
    service: &Service,
    choice: &Choice<'_>,
) -> Option<usize> {
    match following {
        None => service.balancer.pick(&service.members, choice),
        Some(following) => following.pick(worker, service, choice),
    }
}

/// Notes that the request goes to the member at `position`, which may be another one than was
/// picked: it has come to its limit, or its breaker has given its permit to another worker.
pub(in crate::l7) fn settle(
    following: Option<&Following>,
    worker: &Worker,
    service: &Service,
    choice: &Choice<'_>,
    position: usize,
) {
    if let Some(following) = following {
        following.settle(worker, service, choice, position);
    }
}

impl Following {
    /// A request for `service` with what was found in it. `elsewhere` is the session that the
    /// client has with other services.
    pub(super) fn new(
        of: &Rc<Of>,
        service: &Service,
        claim: Option<Claim>,
        elsewhere: Option<SessionId>,
        tls: bool,
    ) -> Self {
        let hashes = service.spec.algorithm == Algorithm::ConsistentHash;
        let (way, pinned) = match claim {
            None => (Way::New, None),
            Some(Claim::Own(Sealed {
                instance, issued, ..
            })) => (Way::Cookie(instance, issued), Some(instance)),
            Some(Claim::Id(_)) if hashes => (Way::Hash, None),
            Some(Claim::Id(_)) => (Way::Entry, None),
        };
        Self {
            of: Rc::clone(of),
            session: claim.map(|claim| claim.session()).or(elsewhere),
            way,
            pinned: Cell::new(pinned),
            looked_up: Cell::new(false),
            asked: Cell::new(false),
            followed: Cell::new(None),
            tls,
        }
    }

    /// What consistent hashing is to go by.
    pub(in crate::l7) fn key(&self) -> Option<u64> {
        self.session.map(SessionId::key)
    }

    fn pick(&self, worker: &Worker, service: &Service, choice: &Choice<'_>) -> Option<usize> {
        let pinned = self.pinned(worker, choice.now);
        let held = pinned.map(|instance| held(service, instance, choice));
        let (position, why) = match (service.sessions.quotas.is_empty(), held) {
            (true, Some(Ok(position))) => (position, None),
            (true, Some(Err(why))) => (balanced(service, choice)?, Some(why)),
            (true, None) => (balanced(service, choice)?, None),
            (false, held) => {
                let mut ledgers = worker.sessions.ledgers.borrow_mut();
                let ledger = ledgers.entry(self.of.scope).or_default();
                self.within_quotas(ledger, service, choice, held)?
            }
        };
        let position = match (pinned, why) {
            (Some(_), None) => position,
            _ => self.pin(worker, service, choice, position),
        };
        self.note(worker, service, pinned.is_some(), why);
        Some(position)
    }

    fn settle(&self, worker: &Worker, service: &Service, choice: &Choice<'_>, position: usize) {
        let instance = service.members[position].instance.identity;
        if let Some(pinned) = self.pinned.get()
            && pinned != instance
        {
            self.pin(worker, service, choice, position);
            self.note(worker, service, true, Some(Break::Unavailable));
        }
        let quotas = &service.sessions.quotas;
        if !quotas.is_empty() {
            let mut ledgers = worker.sessions.ledgers.borrow_mut();
            let ledger = ledgers.entry(self.of.scope).or_default();
            ledger.give(quotas, position);
        }
    }

    /// The instance that the session is pinned to.
    fn pinned(&self, worker: &Worker, now: Timestamp) -> Option<u64> {
        if self.way == Way::Entry
            && let Some(session) = self.session
            && !self.looked_up.replace(true)
        {
            let store = &worker.sessions.store;
            let pinned = store.get(session, self.of.scope, self.of.spec.ttl, now);
            self.pinned.set(pinned);
        }
        self.pinned.get()
    }

    /// The choice while instances recover: see [`crate::affinity::quota`]. Where the session's hash
    /// decides, it goes on deciding, as its weight is what the instance has of all hashes.
    fn within_quotas(
        &self,
        ledger: &mut Ledger,
        service: &Service,
        choice: &Choice<'_>,
        held: Option<Result<usize, Break>>,
    ) -> Option<(usize, Option<Break>)> {
        let quotas = &service.sessions.quotas;
        if !self.asked.replace(true) {
            ledger.ask(quotas, choice.now);
        }
        if self.way == Way::Hash {
            return Some((balanced(service, choice)?, None));
        }
        let may = |position| exclusion(&service.members[position], choice).is_none();
        let pinned = held.is_some();
        let (position, why) = match (ledger.demands(quotas, may), held) {
            (Some(owed), Some(Ok(position))) if owed == position => (position, None),
            (Some(owed), held) => {
                let why = held.and_then(Result::err).unwrap_or(Break::Recovery);
                (owed, pinned.then_some(why))
            }
            (None, Some(Ok(position))) if !ledger.refuses(quotas, position) => (position, None),
            (None, held) => {
                let why = held.and_then(Result::err).unwrap_or(Break::Quota);
                let (free, any) = unrefused(ledger, service, choice);
                // Nobody else is there: better too much for one that recovers than an error.
                let position = free.or_else(|| held.and_then(Result::ok)).or(any)?;
                let stays = held.is_some_and(|held| held == Ok(position));
                (position, (pinned && !stays).then_some(why))
            }
        };
        Some((position, why))
    }

    /// Pins the session to the member at `position`, or finds that another request of the session
    /// has pinned it meanwhile. Returns where the request is to go.
    fn pin(
        &self,
        worker: &Worker,
        service: &Service,
        choice: &Choice<'_>,
        position: usize,
    ) -> usize {
        let mut position = position;
        let identity = |position: usize| service.members[position].instance.identity;
        if let (Way::Entry, Some(session)) = (self.way, self.session) {
            let (scope, ttl) = (self.of.scope, self.of.spec.ttl);
            let store = &worker.sessions.store;
            let before = self.pinned.get();
            let pin = |to, instead| store.pin(session, scope, to, instead, ttl, choice.now);
            if let Pinned::There(other) = pin(identity(position), before) {
                match held(service, other, choice) {
                    Ok(found) => position = found,
                    Err(_) => drop(pin(identity(position), Some(other))),
                }
            }
        }
        if self.way != Way::Hash {
            self.pinned.set(Some(identity(position)));
        }
        position
    }

    /// Notes what became of the affinity: once a request, but every instance that it had to leave.
    fn note(&self, worker: &Worker, service: &Service, had: bool, why: Option<Break>) {
        // What was pinned with this very request had no affinity to break.
        let fresh = matches!(self.followed.get(), Some(Followed::Miss | Followed::None));
        let followed = match (why, self.way) {
            (Some(_), _) if fresh => return,
            (Some(why), _) => {
                service.affinity.broke(worker.index, why);
                Followed::Broken
            }
            (None, _) if self.followed.get().is_some() => return,
            (None, Way::New) => Followed::None,
            (None, Way::Hash) => Followed::Hashed,
            (None, _) if had => Followed::Hit,
            (None, _) => Followed::Miss,
        };
        self.followed.set(Some(followed));
    }

    /// Counts the request and gives the client its cookie, if one is due, with the answer of an
    /// instance.
    pub(in crate::l7) fn ends<B>(
        &self,
        worker: &Worker,
        service: &Service,
        sessions: &Sessions,
        mut answer: Result<Response<B>, Reason>,
    ) -> Result<Response<B>, Reason> {
        if let Some(followed) = self.followed.get() {
            service.affinity.follow(worker.index, followed);
        }
        if let Ok(answer) = &mut answer {
            self.hand_out(sessions, answer.headers_mut());
        }
        answer
    }

    /// A cookie is due when the session is new, when it has moved, and when half the time of the one
    /// that the client has is over.
    fn hand_out(&self, sessions: &Sessions, headers: &mut HeaderMap) {
        let spec = &self.of.spec;
        let (Some(keyring), Some(instance)) = (&sessions.keyring, self.pinned.get()) else {
            return;
        };
        let half = spec.ttl.as_secs() / 2;
        let due = match self.way {
            Way::New => spec.sets_cookie(),
            Way::Cookie(before, _) if before != instance => true,
            Way::Cookie(_, issued) => u64::from(unix_seconds().saturating_sub(issued)) >= half,
            Way::Hash | Way::Entry => false,
        };
        if !due || cookie::is_for_all(headers) {
            return;
        }
        let session = self.session.map_or_else(|| keyring.new_session(), Ok);
        let value = session.and_then(|session| {
            let issued = unix_seconds();
            let sealed = Sealed {
                session,
                instance,
                issued,
            };
            keyring.seal(&sealed, &self.of.service)
        });
        // Without random numbers there is no cookie, and the next request asks again.
        if let Ok(value) = value {
            let tls = match spec.secure {
                SecureCookie::Auto => self.tls || spec.same_site == SameSite::None,
                SecureCookie::Always => true,
                SecureCookie::Never => false,
            };
            cookie::set(headers, &self.of.cookie, &value, spec, tls);
        }
    }
}

fn balanced(service: &Service, choice: &Choice<'_>) -> Option<usize> {
    service.balancer.pick(&service.members, choice)
}

/// The position of `instance`, if a request whose session is pinned to it may go there.
pub(super) fn held(service: &Service, instance: u64, choice: &Choice<'_>) -> Result<usize, Break> {
    let position = service.place(instance).ok_or(Break::Gone)?;
    let member = &service.members[position];
    match exclusion(member, choice) {
        None => Ok(position),
        Some(Exclusion::Tried) => Err(Break::Failed),
        Some(Exclusion::Weightless) if service.keeps_sessions(position) => {
            match obstacle(member, choice) {
                None => Ok(position),
                Some(Exclusion::Tried) => Err(Break::Failed),
                Some(_) => Err(Break::Unavailable),
            }
        }
        Some(_) => Err(Break::Unavailable),
    }
}

/// The balancer's choice among those that have not had their share, and among all.
fn unrefused(
    ledger: &Ledger,
    service: &Service,
    choice: &Choice<'_>,
) -> (Option<usize>, Option<usize>) {
    let quotas = &service.sessions.quotas;
    let mut tried = *choice.tried;
    let mut first = None;
    for _ in 0..Tried::MOST {
        let among = Choice {
            tried: &tried,
            ..*choice
        };
        let Some(position) = balanced(service, &among) else {
            break;
        };
        first = first.or(Some(position));
        if !ledger.refuses(quotas, position) {
            return (Some(position), first);
        }
        tried.insert(service.members[position].instance.id);
    }
    (None, first)
}
