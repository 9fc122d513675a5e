//! What a request says of its session.

use std::net::IpAddr;

use hyper::{HeaderMap, header};

use super::{Of, Sessions, State, Verified, cookie};
use crate::{
    affinity::{Claims, Sealed, SessionId},
    l7::headers::value,
    model::{AffinityStats, Refused, Timestamp, clock::unix_seconds},
};

/// The longest a cookie's time of issue may be ahead of lb's clock, in seconds: another lb has
/// set it.
const SKEW: u32 = 60;

/// A request that is asked.
pub(super) struct Asked<'a> {
    state: &'a State,
    sessions: &'a Sessions,
    of: &'a Of,
    headers: &'a HeaderMap,
    client: &'a dyn Fn() -> IpAddr,
    now: Timestamp,
    /// Where to count what is not believed, and for which worker.
    counts: Option<(&'a AffinityStats, usize)>,
}

impl<'a> Asked<'a> {
    pub(super) fn new(
        state: &'a State,
        sessions: &'a Sessions,
        of: &'a Of,
        (headers, client): (&'a HeaderMap, &'a dyn Fn() -> IpAddr),
        now: Timestamp,
        counts: Option<(&'a AffinityStats, usize)>,
    ) -> Self {
        Self {
            state,
            sessions,
            of,
            headers,
            client,
            now,
            counts,
        }
    }

    /// The session that another service's cookie names: a client has one session, however many
    /// services it uses.
    pub(super) fn elsewhere(&self) -> Option<SessionId> {
        let prefix = self.sessions.prefix.as_deref()?;
        cookie::pairs(self.headers).find_map(|(name, value)| {
            let scope = cookie::scope(prefix, name)?;
            let others = self.sessions.services.iter().flatten();
            let other = others.into_iter().find(|of| of.scope == scope)?;
            let sealed = self.open(other, value)?;
            self.is_timely(other, &sealed).then_some(sealed.session)
        })
    }

    fn open(&self, of: &Of, value: &[u8]) -> Option<Sealed> {
        let keyring = self.sessions.keyring.as_ref()?;
        let mut known = self.state.cookies.borrow_mut();
        known
            .get_or(of.scope, value, || Some(keyring.open(value, &of.service)))
            .flatten()
    }

    fn is_timely(&self, of: &Of, sealed: &Sealed) -> bool {
        let now = unix_seconds();
        let ttl = u32::try_from(of.spec.ttl.as_secs()).unwrap_or(u32::MAX);
        sealed.issued > self.state.store.cleared()
            && sealed.issued <= now.saturating_add(SKEW)
            && now < sealed.issued.saturating_add(ttl)
    }

    fn refuse(&self, claim: Refused) {
        if let Some((stats, worker)) = self.counts {
            stats.refuse(worker, claim);
        }
    }
}

impl Claims for Asked<'_> {
    fn header(&self, name: &str) -> Option<&[u8]> {
        value(self.headers, name).map(header::HeaderValue::as_bytes)
    }

    fn cookie(&self, name: &str) -> Option<&[u8]> {
        let mut pairs = cookie::pairs(self.headers);
        let found = pairs.find(|(known, _)| *known == name.as_bytes());
        found.map(|(_, value)| value)
    }

    fn token(&mut self) -> Option<SessionId> {
        let token = bearer(self.headers.get(header::AUTHORIZATION)?.as_bytes())?;
        let mut known = self.state.tokens.borrow_mut();
        let verified = known.get_or(self.of.scope, token, || match &self.of.verifier {
            None => Some(Some(Verified::unchecked(token))),
            Some(verifier) if self.state.may_verify(self.now) => Some(verifier.verify(token)),
            // Not now, but the next time perhaps.
            Some(_) => None,
        });
        let session = verified
            .flatten()
            .and_then(|verified| verified.at(unix_seconds()));
        if session.is_none() {
            self.refuse(Refused::Token);
        }
        session
    }

    fn address(&self) -> IpAddr {
        (self.client)()
    }

    fn own(&mut self) -> Option<Sealed> {
        let value = self.cookie(&self.of.cookie)?;
        let sealed = self.open(self.of, value);
        let believed = sealed.filter(|sealed| self.is_timely(self.of, sealed));
        if believed.is_none() {
            self.refuse(Refused::Cookie);
        }
        believed
    }
}

/// The token of `Authorization: Bearer …` (RFC 6750, 2.1); schemes know no case.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(7)?;
    let token = rest.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bearer_tokens_count() {
        for (value, token) in [
            ("Bearer abc", Some(&b"abc"[..])),
            ("bearer  a.b.c ", Some(b"a.b.c")),
            ("Bearer ", None),
            ("Bearer", None),
            ("Basic YTpi", None),
            ("", None),
        ] {
            assert_eq!(bearer(value.as_bytes()), token, "{value:?}");
        }
    }
}
