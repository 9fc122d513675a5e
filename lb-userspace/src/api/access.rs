//! Who may use the API.
//!
//! | who | what |
//! |---|---|
//! | anybody | `GET /health`, `/livez`, `/readyz` |
//! | shows one of the configured tokens as `Authorization: Bearer …` | what the token's role allows |
//! | connects from a loopback address, without a proxy in between | what the role of loopback peers allows, guarded as below |
//! | everybody else | 401 |
//!
//! Whoever is known but lacks the role that a request needs (see [`roles`]) gets 403, and is told
//! which role that is. A handler that wants to know who asks takes a [`Caller`].
//!
//! **The peer is the socket's peer.** No header makes a request local. Headers only take the
//! privilege away: a request from loopback that carries `Forwarded`, `X-Forwarded-For`,
//! `X-Real-IP` or `Via` was passed on by a proxy on this machine for somebody else, and needs the
//! token like that somebody would. A proxy that adds none of these makes its clients local; do not
//! let one pass on the API's paths.
//!
//! **Browsers are on loopback too**, and run pages from anywhere; see [`browser`]. A bearer token
//! makes these checks needless: no page has it. Who shows a token is who the token says, whatever
//! the address would allow.

mod browser;
mod caller;
mod keyring;
mod roles;

use std::{net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use axum::{
    extract::{Request, State},
    http::{Method, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

pub(crate) use self::caller::{Caller, Means, Peer};
use super::{conventions::RequestId, error::ApiError, state::ApiState};
use crate::model::{AccessSpec, Role};

/// Who may use the API: the rule in force, which a reload replaces.
#[derive(Debug)]
pub struct Access(ArcSwap<AccessSpec>);

impl Access {
    /// The rule that `spec` asks for.
    #[must_use]
    pub fn new(spec: &AccessSpec) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(spec.clone())))
    }

    /// Puts another rule in force, for the requests from now on.
    pub fn replace(&self, spec: &AccessSpec) {
        self.0.store(Arc::new(spec.clone()));
    }
}

/// Paths that anybody may read: they name nothing.
const OPEN: [&str; 3] = ["/health", "/livez", "/readyz"];

/// Lets a request through or answers it, and writes down every attempt to change something.
pub(super) async fn guard(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let verdict = judge(&parts, &state.access().0.load());
    let changing = changes(&parts.method);
    let (method, path) = (parts.method.clone(), parts.uri.path().to_owned());
    let peer = Peer::of(&parts);
    let id = parts.extensions.get::<RequestId>().cloned();
    let (response, caller) = match verdict {
        Ok(caller) => {
            let who = caller.as_ref().map(ToString::to_string);
            if let Some(caller) = caller {
                parts.extensions.insert(caller);
            }
            (next.run(Request::from_parts(parts, body)).await, who)
        }
        Err(refusal) => (refusal.into_response(), None),
    };
    if changing {
        let status = response.status().as_u16();
        let caller = caller.as_deref().unwrap_or("nobody known");
        let request = id.as_ref().map(RequestId::as_str);
        tracing::info!(caller, %peer, %method, path, status, request, "management request");
    }
    response
}

fn changes(method: &Method) -> bool {
    !roles::reads(method)
}

/// The role that a documented request needs; parameters of the path stand for themselves.
pub(super) fn role(method: &Method, path: &str) -> Role {
    roles::needed(method, path)
}

/// The rule of the module: who asks, when it may. `None` where it does not matter.
fn judge(request: &Parts, spec: &AccessSpec) -> Result<Option<Caller>, ApiError> {
    let path = request.uri.path();
    if OPEN.contains(&path.strip_suffix('/').unwrap_or(path)) && roles::reads(&request.method) {
        return Ok(None);
    }
    let caller = identify(request, spec)?;
    let needed = roles::needed(&request.method, path);
    if caller.role < needed {
        return Err(ApiError::Role {
            needed,
            caller: caller.to_string(),
            role: caller.role,
        });
    }
    Ok(Some(caller))
}

fn identify(request: &Parts, spec: &AccessSpec) -> Result<Caller, ApiError> {
    let peer = Peer::of(request);
    let shown = keyring::bearer(&request.headers);
    if let Some(token) = shown.and_then(|shown| keyring::find(&spec.tokens, shown)) {
        return Ok(Caller {
            name: Arc::clone(&token.name),
            means: Means::Token,
            role: token.role,
            peer,
        });
    }
    if let (Some(role), true) = (spec.loopback, is_local(peer))
        && !browser::is_forwarded(&request.headers)
    {
        browser::refuse_pages(request)?;
        return Ok(Caller {
            name: "loopback".into(),
            means: Means::Loopback,
            role,
            peer,
        });
    }
    Err(match (spec.tokens.is_empty(), shown) {
        (true, _) if is_local(peer) => ApiError::Unauthorized(
            "expected a request that no proxy has passed on, because no token is configured \
             (api.tokens), and a role for peers on a loopback address (api.loopback_role)",
        ),
        (true, _) => ApiError::Unauthorized(
            "expected a request from a loopback address, because no token is configured \
             (api.tokens); found one from elsewhere",
        ),
        (false, None) => {
            ApiError::Unauthorized("expected the header Authorization: Bearer <token>, found none")
        }
        (false, Some(_)) => ApiError::WrongToken,
    })
}

fn is_local(peer: Peer) -> bool {
    match peer {
        Peer::Address(address) => is_loopback(address.ip()),
        Peer::Unknown => false,
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
pub(super) mod tests;
