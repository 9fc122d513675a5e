//! Who asks.

use std::{fmt, net::SocketAddr, sync::Arc};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::request::Parts,
};

use crate::{api::ApiError, model::Role};

/// Whoever sent a request, as far as it is known. The guard puts it into the request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// What it is called.
    pub(crate) name: Arc<str>,
    /// By what it is known.
    pub(crate) means: Means,
    /// What it may do.
    pub(crate) role: Role,
    /// From where it asks.
    pub(crate) peer: Peer,
}

/// By what somebody is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Means {
    /// It has shown a token; the name is the token's.
    Token,
    /// It has shown a certificate; the name is one of the certificate's.
    Certificate,
    /// It connects by a unix socket; the name is its user's.
    Socket,
    /// It connects from a loopback address.
    Loopback,
}

/// The other end of a connection. No header says anything about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// An address.
    Address(SocketAddr),
    /// A process on this machine.
    Unix(UnixPeer),
    /// Nobody knows; counts as a stranger.
    Unknown,
}

/// A process at the other end of a unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnixPeer {
    /// Its effective user.
    pub(crate) uid: u32,
    /// Its number, where the kernel knows one.
    pub(crate) pid: Option<i32>,
    /// The user's name, or its number in words.
    pub(crate) user: Arc<str>,
}

/// The names in the certificate that a peer has shown, and which a certificate authority of the
/// configuration vouches for; in a request's extensions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CertificateNames(pub(crate) Arc<[String]>);

impl Means {
    /// In logs.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Certificate => "certificate",
            Self::Socket => "user",
            Self::Loopback => "loopback",
        }
    }
}

impl Peer {
    /// The peer of a request, as whoever accepted the connection has noted it.
    pub(in crate::api) fn of(request: &Parts) -> Self {
        if let Some(peer) = request.extensions.get::<Self>() {
            return peer.clone();
        }
        let address = request.extensions.get::<ConnectInfo<SocketAddr>>();
        address.map_or(Self::Unknown, |ConnectInfo(address)| {
            Self::Address(*address)
        })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Unix(UnixPeer {
                user,
                pid: Some(pid),
                ..
            }) => write!(f, "unix, user {user}, process {pid}"),
            Self::Unix(UnixPeer { user, .. }) => write!(f, "unix, user {user}"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// In a few words, for people: who has changed something.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.means {
            Means::Loopback => f.write_str(&self.name),
            means => write!(f, "{} {}", means.as_str(), self.name),
        }
    }
}

/// For handlers that want to know. Every request that gets past the guard has a caller, but for
/// those to `/health`.
impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or(ApiError::Unauthorized(
            "expected a caller that is known, found none",
        ))
    }
}
