//! `/explain`: what would become of a request, and why.

use std::net::{Ipv4Addr, SocketAddr};

use axum::{
    extract::State,
    http::{
        HeaderName, HeaderValue, Method, Request, Uri,
        header::{self, HeaderMap},
    },
};

use super::{
    access::{Caller, Peer},
    answer::Answer,
    document::tag,
    error::ApiError,
    measure,
    query::{Parameters, unexpected},
    services,
    state::ApiState,
    types::{self, Candidate, Envelope, ExplainedSession, Explanation, Key, Refusal},
};
use crate::{
    balance::Random,
    l7::explain::{self, Asked, Routed},
    model::{Exclusion, HashKey, Member, Timestamp},
    registry::{self, InstanceStatus},
};

/// What would become of a request, and why
///
/// Route, service, what is hashed, and each instance as a candidate with its chance, or why it is
/// excluded. Nothing is sent anywhere, no turn is taken and nothing is counted.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/explain",
    tag = tag::STATS,
    operation_id = "explain",
    params(
        ("url" = String, Query, description = "A path, or a whole URL for the sake of its host",
            example = "/api/v1/auth/login"),
        ("method" = Option<String>, Query, description = "Method; `GET` when nothing is said"),
        ("header" = Option<Vec<String>>, Query, description = "A field such as `X-User: 7`; may be \
            repeated"),
        ("client" = Option<String>, Query, description = "Address of the client, with a port or \
            without; the asker's when nothing is said"),
        ("destination" = Option<String>, Query, description = "Address and port that the client has \
            connected to. When nothing is said, routes that have a destination are left out"),
    ),
    responses((status = OK, body = Envelope<Explanation>, description = "What would become of it"))
)]
pub(super) async fn explain(
    State(state): State<ApiState>,
    caller: Caller,
    parameters: Parameters,
) -> Result<Answer<Explanation>, ApiError> {
    let from = match caller.peer {
        Peer::Address(address) => address,
        // By a unix socket: from this machine.
        _ => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
    };
    let asked = read(parameters, from)?;
    let (snapshot, now) = (state.snapshot(), state.now());
    let told = types::AskedRequest {
        method: asked.request.method().to_string(),
        host: text(asked.request.headers().get(header::HOST)),
        path: asked.request.uri().path().to_owned(),
        client: String::new(),
        destination: asked.destination.map(|to| to.to_string()),
    };
    let of_destinations = snapshot.routes.iter();
    let of_destinations = of_destinations.filter(|route| route.destination.is_some());
    let left_out = match asked.destination {
        None => of_destinations.count(),
        Some(_) => 0,
    };
    let random = Random::new(now.0);
    let explained = explain::explain(&snapshot, state.registry().sessions(), asked, now, &random);
    let mut answer = Explanation {
        request: types::AskedRequest {
            client: explained.client.to_string(),
            ..told
        },
        routes_left_out: (left_out > 0).then_some(left_out),
        route: None,
        service: None,
        algorithm: None,
        fail_open: None,
        key: None,
        session: None,
        instance: None,
        reason: String::new(),
        refused: explained.refused.map(|reason| Refusal {
            status: reason.status(),
            reason: reason.label().to_owned(),
        }),
        candidates: Vec::new(),
    };
    match explained.routed {
        Some(routed) => routed_to(&mut answer, &routed, now),
        None => answer.reason = "lb answers itself, before any service is chosen".to_owned(),
    }
    Ok(Answer::ok(answer))
}

/// The request that the query describes.
fn read(mut parameters: Parameters, asker: SocketAddr) -> Result<Asked, ApiError> {
    let url = parameters.one("url")?;
    let method = parameters.one("method")?;
    let client = parameters.one("client")?;
    let destination = parameters.one("destination")?;
    let fields = parameters.all("header");
    parameters.end("url, method, client, destination and header")?;

    let expected = "a path such as /api/v1/users?id=7, or a URL such as http://example.org/";
    let url = url.ok_or_else(|| unexpected("url", expected, "none"))?;
    let uri = url.parse::<Uri>().ok().filter(|uri| {
        uri.path().starts_with('/') && (uri.authority().is_none() || uri.scheme().is_some())
    });
    let uri = uri.ok_or_else(|| unexpected("url", expected, &url))?;
    let method = method.unwrap_or_else(|| "GET".to_owned());
    let method = Method::from_bytes(method.as_bytes())
        .map_err(|_| unexpected("method", "a method of HTTP, such as GET", &method))?;
    let client = match client {
        None => asker,
        Some(text) => text
            .parse()
            .or_else(|_| text.parse().map(|address| SocketAddr::new(address, 0)))
            .map_err(|_| unexpected("client", "an IP address, with a port or without", &text))?,
    };
    let destination = destination.map(|text| {
        let expected = "an IP address and a port, such as 192.0.2.7:443";
        let found = text.parse::<SocketAddr>();
        found.map_err(|_| unexpected("destination", expected, &text))
    });
    let mut request = Request::new(());
    *request.headers_mut() = fields
        .iter()
        .map(|text| field(text))
        .collect::<Result<HeaderMap, _>>()?;
    // A request without one would be refused, and with the whole URL there is one anyway.
    if uri.authority().is_none() && !request.headers().contains_key(header::HOST) {
        let host = HeaderValue::from_static("localhost");
        request.headers_mut().insert(header::HOST, host);
    }
    if let Some(authority) = uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(header::HOST, host);
    }
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    Ok(Asked {
        request,
        peer: client,
        destination: destination.transpose()?,
    })
}

fn field(text: &str) -> Result<(HeaderName, HeaderValue), ApiError> {
    text.split_once(':')
        .and_then(|(name, value)| {
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            Some((name, HeaderValue::from_str(value.trim()).ok()?))
        })
        .ok_or_else(|| unexpected("header", "a field such as X-User: 7", text))
}

fn text(value: Option<&HeaderValue>) -> String {
    value.map_or_else(String::new, |value| {
        String::from_utf8_lossy(value.as_bytes()).into_owned()
    })
}

fn routed_to(answer: &mut Explanation, routed: &Routed, now: Timestamp) {
    let service = &routed.service;
    let spec = &service.spec;
    answer.route = Some(services::route(&routed.route));
    answer.service = Some(spec.name.to_string());
    answer.algorithm = Some(spec.algorithm.to_string());
    answer.fail_open = measure::fail_open(service);
    answer.key = routed.key.map(|hash| Key {
        source: spec.hash_key.to_string(),
        hash: format!("{hash:016x}"),
    });
    answer.session = routed.session.map(|session| {
        let name = |at: usize| service.members[at].instance.endpoint.name().to_owned();
        let pinned = session.pinned;
        ExplainedSession {
            session: session.session.to_string(),
            way: session.way.label().to_owned(),
            instance: pinned.and_then(Result::ok).map(name),
            broken: pinned
                .and_then(Result::err)
                .map(|why| why.label().to_owned()),
        }
    });
    let all = service.members.iter().zip(service.statuses.iter());
    answer.candidates = all
        .zip(&routed.candidates)
        .map(|((member, status), candidate)| of_member(member, status, *candidate, now))
        .collect();
    let likeliest = answer.candidates.iter().filter(|one| one.chance > 0.0);
    let likeliest = likeliest.max_by(|a, b| a.chance.total_cmp(&b.chance));
    answer.instance = likeliest.map(|one| one.instance.clone());
    answer.reason = reason(answer, routed);
}

fn of_member(
    member: &Member,
    status: &InstanceStatus,
    candidate: registry::Candidate,
    now: Timestamp,
) -> Candidate {
    let instance = &member.instance;
    Candidate {
        instance: instance.endpoint.name().to_owned(),
        chance: measure::round(candidate.chance),
        excluded: candidate.exclusion.map(|why| why.label().to_owned()),
        detail: match candidate.exclusion {
            Some(Exclusion::Unhealthy) => Some(status.detail.to_string()),
            Some(Exclusion::Ejected) => status.ejected.as_ref().map(|e| e.detail.to_string()),
            _ => None,
        },
        spared: instance.is_spared(now),
        effective_weight: measure::weight(member.weight),
        recovery: status.recovery.as_ref().map(|p| measure::recovery(p, now)),
        in_flight: instance.in_flight(),
        latency_ms: instance
            .latency
            .get(now)
            .map(|latency| measure::round(latency.as_secs_f64() * 1e3)),
        success_rate: instance.measured.success(),
        score: instance.measured.score(),
    }
}

/// The reason in a sentence.
fn reason(answer: &Explanation, routed: &Routed) -> String {
    let service = &routed.service;
    let open = answer.candidates.iter().filter(|c| c.excluded.is_none());
    let (open, all) = (open.count(), answer.candidates.len());
    let Some(instance) = &answer.instance else {
        return format!(
            "none of the {all} instances of {} may be picked",
            service.name()
        );
    };
    if let Some(Ok(_)) = routed.session.and_then(|session| session.pinned) {
        return format!("its session is pinned to {instance}");
    }
    let certain = answer.candidates.iter().any(|one| one.chance >= 1.0);
    let rule = service.spec.algorithm.description();
    match (open, &service.spec.hash_key) {
        (1, _) => format!("{instance} is the only candidate of {all}"),
        _ if routed.key.is_some() && routed.session.is_some() => {
            format!("{rule}, here its session: it belongs to {instance}")
        }
        (_, key) if routed.key.is_some() && matches!(key, HashKey::Source | HashKey::Session) => {
            format!("{rule}, here the client's address: it belongs to {instance}")
        }
        (_, key) if routed.key.is_some() => {
            format!("{rule}, here {key}: it belongs to {instance}")
        }
        _ if certain => format!("{rule}: {instance} among {open} candidates of {all}"),
        _ => format!("{rule}: most likely {instance} among {open} candidates of {all}"),
    }
}
