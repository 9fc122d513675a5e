//! `/sessions`: which sessions are remembered, and forgetting them.

use std::collections::HashMap;

use axum::{
    extract::{FromRequest as _, Path, Request, State, rejection::PathRejection},
    http::Method,
    response::{IntoResponse as _, Response},
};

use super::{
    answer::Answer,
    body::Nothing,
    error::ApiError,
    instances::find_service,
    measure::round,
    query::{Parameters, unexpected},
    state::ApiState,
    types::{Forgotten, ServiceSessions, Session, SessionPin, SessionStore, Sessions},
};
use crate::{
    affinity::{Entry, SessionId, Store, store::scope},
    model::{Break, Followed, Refused, Timestamp, clock::unix_seconds},
    registry::{Service, Snapshot},
};

/// Sessions of a page when nobody asks for another number, and the most.
const USUAL: usize = 100;
const MOST: usize = 10_000;

/// `GET /sessions`.
pub(super) async fn list(
    State(state): State<ApiState>,
    parameters: Parameters,
) -> Result<Answer<Sessions>, ApiError> {
    let asked = Asked::read(parameters)?;
    let (snapshot, now) = (state.snapshot(), state.now());
    let wanted = asked.wanted(&snapshot)?;
    let store = state.registry().sessions();
    let page = store.page(asked.after, asked.limit, now, |entry| match &wanted {
        Wanted::All => true,
        Wanted::Service(service) => entry.service == *service,
        Wanted::Instance(instance) => entry.instance == *instance,
    });
    let names = Names::new(&snapshot);
    Ok(Answer::ok(Sessions {
        sessions: names.sessions(&page.entries, now),
        next: page.next.map(|session| session.to_string()),
        store: figures(store),
        services: with_affinity(&snapshot).map(of_service).collect(),
    }))
}

/// `DELETE /sessions`.
pub(super) async fn clear(
    State(state): State<ApiState>,
    _: Nothing,
) -> Result<Answer<Forgotten>, ApiError> {
    let removed = state.registry().sessions().clear(unix_seconds());
    let entries = removed as u64;
    tracing::info!(entries, "all sessions were forgotten");
    Ok(Answer::ok(Forgotten { entries }))
}

/// `GET /sessions/{session}` and `DELETE /sessions/{session}`. Ids may have slashes.
pub(super) async fn below(
    State(state): State<ApiState>,
    rest: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let path = request.uri().path().to_owned();
    let Ok(Path(rest)) = rest else {
        return Err(ApiError::NoPath { path });
    };
    let session = SessionId::named(rest.trim_end_matches('/'));
    let (store, now) = (state.registry().sessions(), state.now());
    let none = || ApiError::NoSession {
        session: session.to_string(),
    };
    match *request.method() {
        Method::GET | Method::HEAD => {
            let entries = store.find(session, now);
            let names = Names::new(&state.snapshot()).sessions(&entries, now);
            let found = names.into_iter().next().ok_or_else(none)?;
            Ok(Answer::ok(found).into_response())
        }
        Method::DELETE => {
            Nothing::from_request(request, &()).await?;
            let entries = store.remove(session, now) as u64;
            if entries == 0 {
                return Err(none());
            }
            Ok(Answer::ok(Forgotten { entries }).into_response())
        }
        _ => Err(ApiError::Method {
            method: request.method().to_string(),
            allow: Some("GET, HEAD, DELETE"),
        }),
    }
}

/// What the query asks for.
#[derive(Default)]
struct Asked {
    service: Option<String>,
    instance: Option<String>,
    after: Option<SessionId>,
    limit: usize,
}

/// Which entries a list has.
enum Wanted {
    All,
    Service(u32),
    Instance(u64),
}

impl Asked {
    fn read(mut parameters: Parameters) -> Result<Self, ApiError> {
        let limit = parameters.one("limit")?.map_or(Ok(USUAL), |text| {
            let number = text.parse().ok().filter(|limit| (1..=MOST).contains(limit));
            number.ok_or_else(|| unexpected("limit", "a number from 1 to 10000", &text))
        })?;
        let asked = Self {
            service: parameters.one("service")?,
            instance: parameters.one("instance")?,
            after: parameters.one("after")?.map(|text| SessionId::named(&text)),
            limit,
        };
        parameters.end("service, instance, after and limit")?;
        if let (None, Some(instance)) = (&asked.service, &asked.instance) {
            let expected = "the parameter service beside it";
            return Err(unexpected("instance", expected, instance));
        }
        Ok(asked)
    }

    fn wanted(&self, snapshot: &Snapshot) -> Result<Wanted, ApiError> {
        let Some(service) = &self.service else {
            return Ok(Wanted::All);
        };
        let service = find_service(snapshot, service)?;
        let Some(instance) = &self.instance else {
            return Ok(Wanted::Service(scope(service.name())));
        };
        match service.find(instance) {
            Some(position) => Ok(Wanted::Instance(
                service.members[position].instance.identity,
            )),
            None => Err(ApiError::NoInstance {
                service: service.name().to_string(),
                found: instance.clone(),
                known: service
                    .members
                    .iter()
                    .map(|member| member.instance.endpoint.name().to_owned())
                    .collect(),
            }),
        }
    }
}

/// What services and instances in entries are called.
struct Names {
    services: HashMap<u32, String>,
    instances: HashMap<u64, String>,
}

impl Names {
    fn new(snapshot: &Snapshot) -> Self {
        let named = |service: &Service| (scope(service.name()), service.name().to_string());
        let members = snapshot.services.iter().flat_map(|s| s.members.iter());
        Self {
            services: snapshot.services.iter().map(|s| named(s)).collect(),
            instances: members
                .map(|member| {
                    let instance = &member.instance;
                    (instance.identity, instance.endpoint.name().to_owned())
                })
                .collect(),
        }
    }

    /// Sessions of entries, those of one next to each other.
    fn sessions(&self, entries: &[Entry], now: Timestamp) -> Vec<Session> {
        let same = |one: &Entry, other: &Entry| one.session == other.session;
        let sessions = entries.chunk_by(same).filter_map(|entries| {
            let mut pins: Vec<_> = entries.iter().map(|entry| self.pin(entry, now)).collect();
            pins.sort_by(|one, other| one.service.cmp(&other.service));
            let session = entries.first()?.session.to_string();
            Some(Session { session, pins })
        });
        sessions.collect()
    }

    fn pin(&self, entry: &Entry, now: Timestamp) -> SessionPin {
        SessionPin {
            service: self.services.get(&entry.service).cloned(),
            instance: self.instances.get(&entry.instance).cloned(),
            age_seconds: round((now - entry.pinned).as_secs_f64()),
            expires_in_seconds: round((entry.expires - now).as_secs_f64()),
        }
    }
}

fn figures(store: &Store) -> SessionStore {
    SessionStore {
        entries: store.len() as u64,
        capacity: store.capacity() as u64,
        memory_bytes: store.memory() as u64,
        expired: store.expired(),
        evicted: store.evicted(),
    }
}

fn with_affinity(snapshot: &Snapshot) -> impl Iterator<Item = &Service> {
    let services = snapshot.services.iter().map(|service| &**service);
    services.filter(|service| service.spec.affinity.enabled)
}

fn of_service(service: &Service) -> ServiceSessions {
    let stats = &service.affinity;
    let hits = stats.followed(Followed::Hit);
    let pinned = hits + stats.followed(Followed::Broken);
    ServiceSessions {
        service: service.name().to_string(),
        ttl_seconds: service.spec.affinity.ttl.as_secs_f64(),
        requests: Followed::ALL
            .iter()
            .map(|followed| (followed.label().to_owned(), stats.followed(*followed)))
            .collect(),
        hit_rate: (pinned > 0).then(|| round(hits as f64 / pinned as f64)),
        breaks: Break::ALL
            .iter()
            .map(|reason| (reason.label().to_owned(), stats.breaks(*reason)))
            .collect(),
        refused: Refused::ALL
            .iter()
            .map(|claim| (claim.label().to_owned(), stats.refused(*claim)))
            .collect(),
    }
}
