//! The OpenAPI document: what all operations have in common, and where it is served.
//!
//! Each operation is described at its handler, its schemas at the types that it speaks. What is the
//! same for many is added here by rule, so that no handler can forget it: who may ask, and how a
//! request is refused that does not fit. An operation says itself only what it refuses beyond that
//! ([`Conflict`] and its like).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use axum::{
    body::Bytes,
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use utoipa::{
    IntoResponses, PartialSchema as _,
    openapi::{
        ComponentsBuilder, ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder,
        PathItem, Paths, Ref, RefOr, Required, Response as Answer, ResponseBuilder, Schema,
        extensions::Extensions,
        path::{Operation, Parameter, ParameterIn},
        request_body::RequestBody,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
        tag::TagBuilder,
    },
};

use super::{
    access,
    error::{Fault, Problem},
};

/// Groups of operations, as `tag = …` of an operation names them, in the order of the document.
pub(super) mod tag {
    pub(in crate::api) const HEALTH: &str = "Health";
    pub(in crate::api) const STATS: &str = "Statistics";
    pub(in crate::api) const INSTANCES: &str = "Instances";
    pub(in crate::api) const ALGORITHMS: &str = "Algorithms";
    pub(in crate::api) const BREAKERS: &str = "Circuit breakers";
    pub(in crate::api) const RECOVERY: &str = "Recovery";
    pub(in crate::api) const SESSIONS: &str = "Sessions";
    pub(in crate::api) const CONFIGURATION: &str = "Configuration";
    pub(in crate::api) const PACKET_PATH: &str = "Packet path";
    pub(in crate::api) const ADMINISTRATION: &str = "Administration";
    pub(in crate::api) const DOCUMENTATION: &str = "Documentation";

    pub(super) const ALL: [(&str, &str); 11] = [
        (
            HEALTH,
            "Whether the gateway, the services and their instances work.",
        ),
        (
            STATS,
            "What was asked, answered and measured, and what would become of a request.",
        ),
        (
            INSTANCES,
            "What lb knows of instances, and taking them out of service and back.",
        ),
        (ALGORITHMS, "How services choose their instances."),
        (
            BREAKERS,
            "Circuit breakers of services and instances, and orders to them.",
        ),
        (
            RECOVERY,
            "Instances that come back step by step after they were down.",
        ),
        (SESSIONS, "Which instance each session goes to."),
        (
            CONFIGURATION,
            "Services, routes, VIPs, limits and settings in force.",
        ),
        (
            PACKET_PATH,
            "The packet path in the kernel: how it is attached and what it counts.",
        ),
        (ADMINISTRATION, "The daemon itself."),
        (DOCUMENTATION, "This document, and a page to browse it."),
    ];
}

const DESCRIPTION: &str = "\
Everything that lb knows can be read here, and what may be changed at run time is changed here. \
The command line is a client of this API and of nothing else.

**Access.** A peer that connects from a loopback address or by a unix socket needs no token, unless \
its request was passed on by a proxy (`Forwarded`, `X-Forwarded-For`, `X-Real-IP`, `Via`) or comes \
from a page of another site (`Host`, `Origin`, `Sec-Fetch-Site`). Everybody else shows a \
configured token as `Authorization: Bearer …`, or a configured certificate by TLS. `x-role` of an operation is the role that it needs: \
`read`, `operate` or `configure`, each of which includes the former. `/health`, `/livez` and `/readyz` are open to all.

**Answers.** A success is `{\"success\": true, \"timestamp\": …, \"data\": …}`, a refusal \
`application/problem+json` (RFC 9457) with one entry in `errors` for each fault. Rates, shares and \
scores are fractions from 0 to 1; names that end in `_ms` are milliseconds, in `_seconds` seconds. \
What was not measured is absent, never zero. Answers are about the moment, and nobody may keep \
them. `Accept` is looked at by `/metrics` alone: every other resource has one form.

**Methods.** `HEAD` works wherever `GET` does, `OPTIONS` everywhere; another method than those of \
a path is answered with 405, and `Allow` says which there are. Of slashes at the end of a path one \
or none makes no difference.

**Names of instances** are URLs and stand in paths percent-encoded, as one segment: \
`http%3A%2F%2Flocalhost%3A8081`. The plain form works, too \
(`…/instances/main-backend/http://localhost:8081/drain`), and so does `localhost:8081`.";

/// Makes the document of paths and the schemas that they name.
pub(super) fn complete(mut paths: Paths, schemas: Vec<(String, RefOr<Schema>)>) -> OpenApi {
    for (path, item) in &mut paths.paths {
        for (method, operation) in operations(item) {
            add_refusals(operation, path, &method);
        }
    }
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("One of the tokens of `api.tokens`, or `api.token`."))
        .build();
    let schemas = refer(schemas);
    let mut components = ComponentsBuilder::new()
        .schema("Problem", Problem::schema())
        .schema("Fault", Fault::schema())
        .schemas_from_iter(schemas)
        .security_scheme("bearer", SecurityScheme::Http(bearer));
    for refusal in REFUSALS {
        components = components.response(refusal.name, refusal.response());
    }
    let tags = tag::ALL.map(|(name, description)| {
        TagBuilder::new()
            .name(name)
            .description(Some(description))
            .build()
    });
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("lb management API")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(DESCRIPTION))
                .license(Some(
                    LicenseBuilder::new()
                        .name("MIT OR Apache-2.0")
                        .identifier(Some("MIT OR Apache-2.0"))
                        .build(),
                ))
                .build(),
        )
        .tags(Some(tags))
        .security(Some([
            SecurityRequirement::default(),
            SecurityRequirement::new("bearer", [""; 0]),
        ]))
        .paths(paths)
        .components(Some(components.build()))
        .build()
}

/// Lets each envelope refer to the document that it holds: utoipa repeats the whole of it.
fn refer(mut schemas: Vec<(String, RefOr<Schema>)>) -> Vec<(String, RefOr<Schema>)> {
    let names: BTreeSet<String> = schemas.iter().map(|(name, _)| name.clone()).collect();
    for (name, schema) in &mut schemas {
        let held = name.strip_prefix("Envelope_");
        if let Some(held) = held.filter(|held| names.contains(*held))
            && let RefOr::T(Schema::Object(envelope)) = schema
        {
            let reference = Ref::from_schema_name(held);
            envelope
                .properties
                .insert("data".to_owned(), reference.into());
        }
    }
    schemas
}

/// The operations of a path with their methods.
pub(super) fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    [
        (Method::GET, &mut item.get),
        (Method::PUT, &mut item.put),
        (Method::POST, &mut item.post),
        (Method::PATCH, &mut item.patch),
        (Method::DELETE, &mut item.delete),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// A refusal that many operations have in common.
struct Refusal {
    status: StatusCode,
    name: &'static str,
    description: &'static str,
}

const BAD_REQUEST: Refusal = Refusal {
    status: StatusCode::BAD_REQUEST,
    name: "BadRequest",
    description: "The query or the body does not fit; `errors` says where.",
};
const UNAUTHORIZED: Refusal = Refusal {
    status: StatusCode::UNAUTHORIZED,
    name: "Unauthorized",
    description: "No token was shown, one that nobody has, or none is configured.",
};
const FORBIDDEN: Refusal = Refusal {
    status: StatusCode::FORBIDDEN,
    name: "Forbidden",
    description: "The caller lacks the role, the `Host` is foreign, or a page of another site asks.",
};
const NOT_FOUND: Refusal = Refusal {
    status: StatusCode::NOT_FOUND,
    name: "NotFound",
    description: "Something that the request names does not exist; `known` lists what does.",
};
const TIMEOUT: Refusal = Refusal {
    status: StatusCode::REQUEST_TIMEOUT,
    name: "BodyTooSlow",
    description: "The body took longer than 10 s.",
};
const CONFLICT: Refusal = Refusal {
    status: StatusCode::CONFLICT,
    name: "Conflict",
    description: "The state does not allow it.",
};
const TOO_LARGE: Refusal = Refusal {
    status: StatusCode::PAYLOAD_TOO_LARGE,
    name: "BodyTooLarge",
    description: "The body is longer than 64 KiB, or than what a configuration may have.",
};
const MEDIA_TYPE: Refusal = Refusal {
    status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
    name: "UnsupportedMediaType",
    description: "The body is not said to be JSON.",
};
const UNPROCESSABLE: Refusal = Refusal {
    status: StatusCode::UNPROCESSABLE_ENTITY,
    name: "BadConfiguration",
    description: "The configuration has faults; `errors` lists all of them, and nothing has changed.",
};

const TOO_MANY: Refusal = Refusal {
    status: StatusCode::TOO_MANY_REQUESTS,
    name: "TooManyRequests",
    description: "The caller, or its address, has used up what `api.rate_limit` allows; \
        `Retry-After` says when there is more.",
};
const METRICS_OFF: Refusal = Refusal {
    status: StatusCode::NOT_FOUND,
    name: "MetricsOff",
    description: "Metrics are off.",
};

const PRECONDITION: Refusal = Refusal {
    status: StatusCode::PRECONDITION_FAILED,
    name: "PreconditionFailed",
    description: "What is to be changed has another tag than the request names.",
};
const NO_PRECONDITION: Refusal = Refusal {
    status: StatusCode::PRECONDITION_REQUIRED,
    name: "PreconditionRequired",
    description: "The request has no `If-Match`, and `api.require_if_match` asks for it.",
};
const NOT_KEPT: Refusal = Refusal {
    status: StatusCode::INSUFFICIENT_STORAGE,
    name: "NotKept",
    description: "The change cannot be written to the state file; nothing has changed.",
};
const UNAVAILABLE: Refusal = Refusal {
    status: StatusCode::SERVICE_UNAVAILABLE,
    name: "Unavailable",
    description: "Too many follow already, or the daemon shuts down.",
};

const REFUSALS: [Refusal; 15] = [
    BAD_REQUEST,
    UNAUTHORIZED,
    FORBIDDEN,
    NOT_FOUND,
    TIMEOUT,
    CONFLICT,
    TOO_LARGE,
    MEDIA_TYPE,
    UNPROCESSABLE,
    TOO_MANY,
    METRICS_OFF,
    PRECONDITION,
    NO_PRECONDITION,
    NOT_KEPT,
    UNAVAILABLE,
];

impl Refusal {
    fn response(&self) -> Answer {
        let problem = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name("Problem")))
            .build();
        ResponseBuilder::new()
            .description(self.description)
            .content("application/problem+json", problem)
            .build()
    }

    fn entry(&self) -> (String, RefOr<Answer>) {
        let name = Ref::from_response_name(self.name);
        (self.status.as_str().to_owned(), name.into())
    }
}

/// 409: for `responses(…)` of operations that the state may not allow.
pub(super) struct Conflict;

impl IntoResponses for Conflict {
    fn responses() -> BTreeMap<String, RefOr<Answer>> {
        BTreeMap::from([CONFLICT.entry()])
    }
}

/// 404: for `responses(…)` of operations whose query names something.
pub(super) struct NotFound;

impl IntoResponses for NotFound {
    fn responses() -> BTreeMap<String, RefOr<Answer>> {
        BTreeMap::from([NOT_FOUND.entry()])
    }
}

/// 404: for `responses(…)` of what tells metrics.
pub(super) struct MetricsOff;

impl IntoResponses for MetricsOff {
    fn responses() -> BTreeMap<String, RefOr<Answer>> {
        BTreeMap::from([METRICS_OFF.entry()])
    }
}

/// For `responses(…)` of operations that change the configuration.
pub(super) struct Unchanged;

impl IntoResponses for Unchanged {
    fn responses() -> BTreeMap<String, RefOr<Answer>> {
        let refusals = [
            CONFLICT,
            UNPROCESSABLE,
            PRECONDITION,
            NO_PRECONDITION,
            NOT_KEPT,
        ];
        refusals.iter().map(Refusal::entry).collect()
    }
}

/// 507: for `responses(…)` of orders, which are kept.
pub(super) struct NotKept;

impl IntoResponses for NotKept {
    fn responses() -> BTreeMap<String, RefOr<Answer>> {
        BTreeMap::from([NOT_KEPT.entry()])
    }
}

/// 503: for `responses(…)` of operations that last.
pub(super) struct Unavailable;

impl IntoResponses for Unavailable {
    fn responses() -> BTreeMap<String, RefOr<Answer>> {
        BTreeMap::from([UNAVAILABLE.entry()])
    }
}

/// 422: for `responses(…)` of operations that take a configuration.
pub(super) struct BadConfiguration;

impl IntoResponses for BadConfiguration {
    fn responses() -> BTreeMap<String, RefOr<Answer>> {
        BTreeMap::from([UNPROCESSABLE.entry()])
    }
}

/// A body that may be missing is described as one that may be `null`, which is something else: says
/// so in the way that the specification has for it.
fn may_be_missing(body: &mut RequestBody) {
    for content in body.content.values_mut() {
        let RefOr::T(content) = content else {
            continue;
        };
        let Some(RefOr::T(Schema::OneOf(either))) = &content.schema else {
            continue;
        };
        let mut items = either.items.iter();
        let named = items.find(|item| matches!(item, RefOr::Ref(_)));
        if let Some(named) = named.cloned() {
            content.schema = Some(named);
            body.required = Some(Required::False);
        }
    }
}

/// Adds what follows from the form of an operation.
fn add_refusals(operation: &mut Operation, path: &str, method: &Method) {
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        may_be_missing(body);
    }
    let parameters = operation.parameters.iter().flatten();
    let has_query = parameters
        .filter_map(inline)
        .any(|parameter| matches!(parameter.parameter_in, ParameterIn::Query));
    let changes = *method != Method::GET;
    // Without a word of its own an operation has the rule of the whole document.
    let guarded = operation.security.is_none();
    if guarded {
        let role = access::role(method, path).as_str();
        operation.extensions = Some(Extensions::builder().add("x-role", role).build());
    }
    let rules = [
        (has_query || changes, BAD_REQUEST),
        (guarded, UNAUTHORIZED),
        (guarded, FORBIDDEN),
        (guarded, TOO_MANY),
        (path.contains('{'), NOT_FOUND),
        (changes, TIMEOUT),
        (changes, TOO_LARGE),
        (operation.request_body.is_some(), MEDIA_TYPE),
    ];
    for (applies, refusal) in rules {
        if applies {
            let (status, response) = refusal.entry();
            operation
                .responses
                .responses
                .entry(status)
                .or_insert(response);
        }
    }
}

/// What stands in the operation itself; nothing of ours is kept elsewhere.
fn inline(parameter: &RefOr<Parameter>) -> Option<&Parameter> {
    match parameter {
        RefOr::T(parameter) => Some(parameter),
        RefOr::Ref(_) => None,
    }
}

/// Made once: it is the same for every request.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let document = super::endpoints().document();
    match serde_json::to_vec(&document) {
        Ok(json) => json.into(),
        Err(error) => {
            tracing::error!(%error, "the OpenAPI document cannot be written as JSON");
            Bytes::new()
        }
    }
});

/// This document
///
/// In OpenAPI 3.1, made from the code that serves it. On the API's own listener it is at
/// `/api/v1/openapi.json`, too.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/openapi.json",
    tag = tag::DOCUMENTATION,
    operation_id = "getDocument",
    responses((status = OK, body = Object, description = "An OpenAPI document"))
)]
pub(super) async fn openapi() -> Response {
    // The same until the daemon is another: it may be kept, and has to be asked about.
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, DOCUMENT.clone()).into_response()
}
