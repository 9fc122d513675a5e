//! Who may use the API.
//!
//! | who | what |
//! |---|---|
//! | anybody | `GET /health`, `/livez`, `/readyz` |
//! | shows one of the configured tokens as `Authorization: Bearer …` | what the token's role allows |
//! | shows a certificate by TLS that an authority of the configuration vouches for, with a name that is configured | what the name's role allows, unless a page of another site makes a browser do it |
//! | connects by a unix socket | what the role of socket peers allows, guarded as below |
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

mod audit;
mod browser;
mod budget;
mod caller;
mod keyring;
mod roles;
mod standing;

use std::{
    net::IpAddr,
    sync::{Arc, atomic::AtomicU64},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use axum::{
    extract::{Request, State},
    http::{Method, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use rustls::ServerConfig;
use tokio::sync::watch;

pub use self::audit::Audit;
pub(crate) use self::caller::{Caller, CertificateNames, Means, Peer, UnixPeer};
use self::{audit::Record, budget::Budgets};
pub(super) use self::{
    budget::tell,
    standing::{Ending, Standing},
};
use super::{error::ApiError, state::ApiState};
use crate::{
    config::tls::{self, TlsError},
    model::{AccessSpec, ApiSpec, ClientSpec, Role, Timestamp},
};

/// Who may use the API: the rule in force, which a reload replaces, and what is written down.
#[derive(Debug)]
pub struct Access {
    rule: ArcSwap<Rule>,
    tls: ArcSwapOption<ServerConfig>,
    audit: Audit,
    /// Says that there is another rule.
    rules: watch::Sender<()>,
}

/// A rule whose files have been read.
#[derive(Debug)]
pub struct Prepared {
    spec: AccessSpec,
    tls: Option<Arc<ServerConfig>>,
}

impl Prepared {
    /// Reads what `spec` names.
    ///
    /// # Errors
    /// When a file of TLS is not what it should be.
    pub fn new(spec: &ApiSpec) -> Result<Self, TlsError> {
        Ok(Self {
            spec: spec.access.clone(),
            tls: spec.tls.as_ref().map(tls::server).transpose()?,
        })
    }
}

/// A rule, and what its budgets have left.
#[derive(Debug)]
struct Rule {
    spec: AccessSpec,
    budgets: Option<Arc<Budgets>>,
}

impl Access {
    /// The rule that was prepared.
    #[must_use]
    pub fn new(prepared: Prepared, audit: Audit) -> Arc<Self> {
        let Prepared { spec, tls } = prepared;
        let budgets = spec.rates.map(|rates| Arc::new(Budgets::new(rates)));
        Arc::new(Self {
            rule: ArcSwap::from_pointee(Rule { spec, budgets }),
            tls: ArcSwapOption::new(tls),
            audit,
            rules: watch::Sender::new(()),
        })
    }

    /// Puts another rule in force: for the requests, and for TLS the connections, from now on, and for
    /// the streams that there are ([`Standing`]).
    /// Budgets that have not changed go on as they are: a reload forgives nothing.
    pub fn replace(&self, prepared: Prepared) {
        let Prepared { spec, tls } = prepared;
        let before = self.rule.load();
        let kept = before.budgets.as_ref();
        let kept = kept.filter(|budgets| Some(budgets.rates()) == spec.rates);
        let new = || spec.rates.map(|rates| Arc::new(Budgets::new(rates)));
        let budgets = kept.cloned().or_else(new);
        self.rule.store(Arc::new(Rule { spec, budgets }));
        self.tls.store(tls);
        self.rules.send_replace(());
    }

    /// Whether whoever has sent a request that was let through would still be, to what needs this role.
    /// It takes from no budget.
    fn lets(&self, request: &Parts, needed: Role) -> bool {
        let caller = self.rule.load().identify(request, &Peer::of(request), None);
        caller.is_ok_and(|caller| caller.role >= needed)
    }

    /// Lines that the audit log's file has not got.
    pub(super) fn unaudited(&self) -> u64 {
        self.audit.lost()
    }

    /// The counter of these.
    pub(super) fn unaudited_counter(&self) -> Arc<AtomicU64> {
        self.audit.lost_counter()
    }

    /// TLS for a connection that comes in now, where there is any.
    pub(super) fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls.load_full()
    }
}

/// Lets a request through or answers it, and writes down every attempt to change something and
/// everything that is refused.
pub(super) async fn guard(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let verdict = state.access().rule.load().judge(&parts, state.now());
    let changing = changes(&parts.method);
    let revision = || state.snapshot().revision;
    let mut record = Record::new(&parts, revision());
    let response = match verdict {
        Ok(caller) => {
            if let Some(caller) = caller {
                record.known(&caller);
                parts.extensions.insert(caller);
            }
            next.run(Request::from_parts(parts, body)).await
        }
        Err(Refusal { error, caller }) => {
            if let Some(caller) = &caller {
                record.known(caller);
            }
            error.into_response()
        }
    };
    if changing || audit::refuses(response.status()) {
        record.answered(&response, revision());
        state.access().audit.write(record, state.now());
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

/// Why a request is not let through, and whose it is, if that is known.
#[derive(Debug)]
struct Refusal {
    error: ApiError,
    caller: Option<Caller>,
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self {
            error,
            caller: None,
        }
    }
}

impl Rule {
    #[expect(
        clippy::result_large_err,
        reason = "once a request of the control plane, and turned into an answer at once"
    )]
    /// The rule of the module: who asks, when it may. `None` where it does not matter.
    fn judge(&self, request: &Parts, now: Timestamp) -> Result<Option<Caller>, Refusal> {
        let path = request.uri.path();
        if roles::is_open(path) && roles::reads(&request.method) {
            return Ok(None);
        }
        let peer = Peer::of(request);
        let guesses = self.budgets.as_deref().map(|budgets| (budgets, now));
        let caller = self.identify(request, &peer, guesses);
        if let Some(budgets) = &self.budgets {
            let known = caller.as_ref().ok();
            let taken = budgets.take(now, known, &peer);
            taken.map_err(|error| Refusal {
                error,
                caller: known.cloned(),
            })?;
        }
        let caller = caller?;
        let needed = roles::needed(&request.method, path);
        if caller.role < needed {
            let error = ApiError::Role {
                needed,
                caller: caller.to_string(),
                role: caller.role,
            };
            let caller = Some(caller);
            return Err(Refusal { error, caller });
        }
        Ok(Some(caller))
    }

    /// Who asks. Wrong tokens are guesses, which may have a budget.
    fn identify(
        &self,
        request: &Parts,
        peer: &Peer,
        guesses: Option<(&Budgets, Timestamp)>,
    ) -> Result<Caller, ApiError> {
        let caller = |name, means, role| Caller {
            name,
            means,
            role,
            peer: peer.clone(),
        };
        let near = self.by_place(request, peer, &caller);
        let shown = keyring::bearer(&request.headers);
        if let Some(shown) = shown {
            // Who is let in anyway is no stranger that guesses; whom a proxy passes on may be one.
            let guesses = guesses.filter(|_| !matches!(near, Ok(Some(_))));
            if let Some((budgets, now)) = guesses {
                budgets.may_try(now, peer)?;
            }
            if let Some(token) = keyring::find(&self.spec.tokens, shown) {
                return Ok(caller(Arc::clone(&token.name), Means::Token, token.role));
            }
            if let Some((budgets, now)) = guesses {
                budgets.failed(now, peer);
            }
        }
        let certificate = request.extensions.get::<CertificateNames>();
        if let Some(client) = certificate.and_then(|names| self.client(names)) {
            // A browser shows its certificate to whatever page asks for it.
            browser::refuse_other_sites(request)?;
            return Ok(caller(
                Arc::clone(&client.name),
                Means::Certificate,
                client.role,
            ));
        }
        if let Some(caller) = near? {
            return Ok(caller);
        }
        if let Some(CertificateNames(names)) = certificate.filter(|names| !names.0.is_empty()) {
            return Err(ApiError::Forbidden(format!(
                "expected a certificate with a name of api.tls.clients, or a token; found one of {}",
                names.join(", ")
            )));
        }
        Err(match (self.spec.tokens.is_empty(), shown) {
            (true, _) if is_local(peer) => ApiError::Unauthorized(
                "expected a request that no proxy has passed on, because no token is configured \
                 (api.tokens), and a role for local peers (api.loopback_role, api.socket_role)",
            ),
            (true, _) => ApiError::Unauthorized(
                "expected a request from a loopback address, because no token is configured \
                 (api.tokens); found one from elsewhere",
            ),
            (false, None) => ApiError::Unauthorized(
                "expected the header Authorization: Bearer <token>, found none",
            ),
            (false, Some(_)) => ApiError::WrongToken,
        })
    }

    /// The client of a certificate, by any of its names.
    fn client(&self, CertificateNames(names): &CertificateNames) -> Option<&ClientSpec> {
        let mut clients = self.spec.clients.iter();
        clients.find(|client| names.iter().any(|name| *name == *client.name))
    }

    /// Who asks, by where it asks from.
    fn by_place(
        &self,
        request: &Parts,
        peer: &Peer,
        caller: &impl Fn(Arc<str>, Means, Role) -> Caller,
    ) -> Result<Option<Caller>, ApiError> {
        let found = match peer {
            Peer::Address(address) if is_loopback(address.ip()) => {
                let name = || "loopback".into();
                self.spec
                    .loopback
                    .map(|role| (name(), Means::Loopback, role))
            }
            Peer::Unix(peer) => {
                let name = || Arc::clone(&peer.user);
                self.spec.socket.map(|role| (name(), Means::Socket, role))
            }
            Peer::Address(_) | Peer::Unknown => None,
        };
        let Some((name, means, role)) = found else {
            return Ok(None);
        };
        if browser::is_forwarded(&request.headers) {
            return Ok(None);
        }
        browser::refuse_pages(request)?;
        Ok(Some(caller(name, means, role)))
    }
}

fn is_local(peer: &Peer) -> bool {
    match peer {
        Peer::Address(address) => is_loopback(address.ip()),
        Peer::Unix(_) => true,
        Peer::Unknown => false,
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
pub(super) mod tests;
