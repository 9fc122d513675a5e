//! `/sessions`: which sessions are remembered, and forgetting them.

use std::collections::HashMap;

use axum::{
    extract::{RawQuery, State},
    http::{HeaderName, header},
    response::AppendHeaders,
};

use super::{
    answer::Answer,
    body::Nothing,
    document::{NotFound, tag},
    error::ApiError,
    instances::find_service,
    measure::round,
    path::OfSession,
    query::{Parameters, unexpected},
    state::ApiState,
    types::{Envelope, Forgotten, ServiceSessions, Session, SessionPin, SessionStore, Sessions},
};
use crate::{
    affinity::{Entry, SessionId, Store, store::scope},
    model::{Break, Followed, Refused, Timestamp, clock::unix_seconds},
    registry::{Service, Snapshot},
};

/// Sessions of a page when nobody asks for another number, and the most.
const USUAL: usize = 100;
const MOST: usize = 10_000;

/// The sessions that are remembered, and how affinity does
///
/// Sessions of lb's own cookie carry their instance with them, those of `consistent_hash` follow
/// from their id; neither is remembered.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/sessions",
    tag = tag::SESSIONS,
    operation_id = "listSessions",
    params(
        ("service" = Option<String>, Query, description = "Only sessions of this service",
            example = "main-backend"),
        ("instance" = Option<String>, Query, description = "Only sessions at this instance of the \
            service"),
        ("limit" = Option<usize>, Query, description = "Most sessions; 100 when nothing is said",
            minimum = 1, maximum = 10000),
        ("after" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses(
        (
            status = OK,
            body = Envelope<Sessions>,
            description = "A page of sessions",
            headers(("Link" = String, description = "The page after this one: `rel=\"next\"`"))
        ),
        NotFound
    )
)]
pub(super) async fn list(
    State(state): State<ApiState>,
    RawQuery(query): RawQuery,
    parameters: Parameters,
) -> Result<(Links, Answer<Sessions>), ApiError> {
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
    let next = page.next.map(|session| session.to_string());
    let link = next.as_deref().map(|next| link(query.as_deref(), next));
    let sessions = Sessions {
        sessions: names.sessions(&page.entries, now),
        next,
        store: figures(store),
        services: with_affinity(&snapshot).map(of_service).collect(),
    };
    Ok((AppendHeaders(link), Answer::ok(sessions)))
}

/// The page after a page, where there is one.
type Links = AppendHeaders<Option<(HeaderName, String)>>;

/// The same question with another beginning (RFC 8288).
fn link(query: Option<&str>, next: &str) -> (HeaderName, String) {
    let asked = query.unwrap_or_default().split('&');
    let asked = asked.filter(|pair| !pair.is_empty() && !pair.starts_with("after="));
    let after = format!("after={next}");
    let query: Vec<&str> = asked.chain([after.as_str()]).collect();
    (
        header::LINK,
        format!("<?{}>; rel=\"next\"", query.join("&")),
    )
}

/// Forget all sessions
///
/// lb's own cookies included: those that were issued by then count no more at this lb.
#[utoipa::path(
    delete,
    path = "/api/v1/loadbalancer/sessions",
    tag = tag::SESSIONS,
    operation_id = "forgetSessions",
    responses((status = OK, body = Envelope<Forgotten>, description = "How many entries there were"))
)]
pub(super) async fn clear(
    State(state): State<ApiState>,
    _: Nothing,
) -> Result<Answer<Forgotten>, ApiError> {
    let removed = state.registry().sessions().clear(unix_seconds());
    let entries = removed as u64;
    tracing::info!(entries, "all sessions were forgotten");
    Ok(Answer::ok(Forgotten { entries }))
}

/// Where a session goes
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/sessions/{session}",
    tag = tag::SESSIONS,
    operation_id = "getSession",
    params(OfSession),
    responses((status = OK, body = Envelope<Session>, description = "The session"))
)]
pub(super) async fn one(
    State(state): State<ApiState>,
    OfSession { session }: OfSession,
) -> Result<Answer<Session>, ApiError> {
    let session = SessionId::named(&session);
    let now = state.now();
    let entries = state.registry().sessions().find(session, now);
    let names = Names::new(&state.snapshot()).sessions(&entries, now);
    let found = names.into_iter().next();
    found.map(Answer::ok).ok_or_else(|| unknown(session))
}

/// Forget a session in all services
#[utoipa::path(
    delete,
    path = "/api/v1/loadbalancer/sessions/{session}",
    tag = tag::SESSIONS,
    operation_id = "forgetSession",
    params(OfSession),
    responses((status = OK, body = Envelope<Forgotten>, description = "How many entries it had"))
)]
pub(super) async fn forget(
    State(state): State<ApiState>,
    OfSession { session }: OfSession,
    _: Nothing,
) -> Result<Answer<Forgotten>, ApiError> {
    let session = SessionId::named(&session);
    let entries = state.registry().sessions().remove(session, state.now()) as u64;
    if entries == 0 {
        return Err(unknown(session));
    }
    Ok(Answer::ok(Forgotten { entries }))
}

fn unknown(session: SessionId) -> ApiError {
    ApiError::NoSession {
        session: session.to_string(),
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
