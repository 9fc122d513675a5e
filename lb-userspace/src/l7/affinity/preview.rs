//! A request's session, for whoever only asks what would become of the request.

use std::{net::IpAddr, sync::Arc};

use hyper::HeaderMap;

use super::{Asked, Sessions, State, following::held};
use crate::{
    affinity::{Claim, SessionId, Store, source, store::scope},
    balance::Choice,
    model::{Algorithm, Break},
    registry::Snapshot,
};

/// How a session finds its instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By lb's own cookie.
    Cookie,
    /// By an entry in memory.
    Memory,
    /// By its hash.
    Hash,
    /// Not so far.
    New,
}

impl Way {
    /// The name in the API.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Cookie => "cookie",
            Self::Memory => "memory",
            Self::Hash => "hash",
            Self::New => "new",
        }
    }
}

/// The session of a request and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preview {
    /// The session.
    pub session: SessionId,
    /// How it finds its instance.
    pub way: Way,
    /// The position of the instance that it is pinned to and may go to, or why it has to leave it;
    /// `None` when it is pinned to none.
    pub pinned: Option<Result<usize, Break>>,
}

/// The session of a request for the service at `position`, when it has one and that matters.
/// Nothing is counted, and no session lives longer for it.
pub(in crate::l7) fn preview(
    snapshot: &Snapshot,
    store: &Arc<Store>,
    position: usize,
    (headers, client): (&HeaderMap, IpAddr),
    choice: &Choice<'_>,
) -> Option<Preview> {
    let service = &snapshot.services[position];
    let sessions = Sessions::new(snapshot);
    let of = sessions.services.get(position)?.as_ref()?;
    let state = State::new(Arc::clone(store));
    let address = || client;
    let said = (headers, &address as &dyn Fn() -> IpAddr);
    let mut asked = Asked::new(&state, &sessions, of, said, choice.now, None);
    let claim = source::find(&of.spec.sources, &mut asked)?;
    let hashes = service.spec.algorithm == Algorithm::ConsistentHash;
    let session = claim.session();
    let (way, pinned) = match claim {
        Claim::Own(sealed) if of.spec.enabled => (Way::Cookie, Some(sealed.instance)),
        _ if hashes => (Way::Hash, None),
        _ if !of.spec.enabled => return None,
        _ => {
            let number = scope(service.name());
            let entries = store.find(session, choice.now);
            let entry = entries.iter().find(|entry| entry.service == number);
            let way = entry.map_or(Way::New, |_| Way::Memory);
            (way, entry.map(|entry| entry.instance))
        }
    };
    Some(Preview {
        session,
        way,
        pinned: pinned.map(|instance| held(service, instance, choice)),
    })
}
