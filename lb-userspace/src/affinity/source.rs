//! Finding a session's id in a request.

use std::net::IpAddr;

use super::{SessionId, seal::Sealed};
use crate::model::SessionSource;

/// What a request has to say, each part asked for when its turn comes.
pub trait Claims {
    /// The value of a header, by its name in lower case.
    fn header(&self, name: &str) -> Option<&[u8]>;

    /// The value of a cookie.
    fn cookie(&self, name: &str) -> Option<&[u8]>;

    /// The session of the bearer token, if there is one to be believed.
    fn token(&mut self) -> Option<SessionId>;

    /// The client's address.
    fn address(&self) -> IpAddr;

    /// What lb's own cookie says, if there is one to be believed.
    fn own(&mut self) -> Option<Sealed>;
}

/// A session that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// By an id that says nothing of an instance.
    Id(SessionId),
    /// By lb's own cookie.
    Own(Sealed),
}

impl Claim {
    /// The session.
    #[must_use]
    pub const fn session(&self) -> SessionId {
        match self {
            Self::Id(session) => *session,
            Self::Own(sealed) => sealed.session,
        }
    }
}

/// The first of `sources` that finds a session decides. An empty value is none.
pub fn find(sources: &[SessionSource], claims: &mut impl Claims) -> Option<Claim> {
    let id = |value: Option<&[u8]>| {
        let value = value.map(<[u8]>::trim_ascii).unwrap_or_default();
        (!value.is_empty()).then(|| Claim::Id(SessionId::of(value)))
    };
    sources.iter().find_map(|source| match source {
        SessionSource::Header(name) => id(claims.header(name)),
        SessionSource::Cookie(name) => id(claims.cookie(name)),
        SessionSource::Jwt => claims.token().map(Claim::Id),
        SessionSource::Address => Some(Claim::Id(SessionId::of_address(claims.address()))),
        SessionSource::Own => claims.own().map(Claim::Own),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::AffinitySpec;

    #[derive(Default)]
    struct Said {
        headers: Vec<(&'static str, &'static str)>,
        cookie: Option<&'static str>,
        token: Option<SessionId>,
        own: Option<Sealed>,
        asked: usize,
    }

    impl Claims for Said {
        fn header(&self, name: &str) -> Option<&[u8]> {
            let found = self.headers.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.as_bytes())
        }

        fn cookie(&self, name: &str) -> Option<&[u8]> {
            assert_eq!(name, "sid");
            self.cookie.map(str::as_bytes)
        }

        fn token(&mut self) -> Option<SessionId> {
            self.asked += 1;
            self.token
        }

        fn address(&self) -> IpAddr {
            IpAddr::from([192, 0, 2, 7])
        }

        fn own(&mut self) -> Option<Sealed> {
            self.asked += 1;
            self.own
        }
    }

    #[test]
    fn the_first_source_decides_and_later_ones_are_not_asked() {
        let mut sources = AffinitySpec::default().sources;
        sources.insert(3, SessionSource::Cookie("sid".to_owned()));
        let own = Sealed {
            session: SessionId(9),
            instance: 1,
            issued: 2,
        };
        let mut said = Said {
            headers: vec![("x-session-id", "a"), ("session-id", "b")],
            cookie: Some("c"),
            token: Some(SessionId(7)),
            own: Some(own),
            asked: 0,
        };
        let id = |text: &str| Some(Claim::Id(SessionId::of(text.as_bytes())));
        assert_eq!(find(&sources, &mut said), id("a"));
        said.headers[0].1 = " ";
        assert_eq!(find(&sources, &mut said), id("b"));
        assert_eq!(said.asked, 0);
        said.headers.clear();
        assert_eq!(find(&sources, &mut said), Some(Claim::Id(SessionId(7))));
        said.token = None;
        assert_eq!(find(&sources, &mut said), id("c"));
        said.cookie = None;
        assert_eq!(find(&sources, &mut said), Some(Claim::Own(own)));
        said.own = None;
        assert_eq!(find(&sources, &mut said), None);
        assert_eq!(find(&[], &mut said), None);
        sources.push(SessionSource::Address);
        assert_eq!(find(&sources, &mut said), id("192.0.2.7"));
    }
}
