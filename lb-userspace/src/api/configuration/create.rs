//! New services, instances, routes and VIPs.

use axum::{extract::State, response::Response};
use serde_json::{Map, Value};

use super::{Asked, PART, Place, Sent, answer};
use crate::{
    api::{
        body::Object,
        document::{Unchanged, tag},
        error::{ApiError, Fault},
        path::OfService,
        state::ApiState,
        types::{Change, Envelope, NewInstance, NewRoute, NewService, NewVip},
    },
    config::{
        Document,
        document::{self, keyed},
    },
};

/// Make a service
#[utoipa::path(
    post,
    path = "/api/v1/loadbalancer/services",
    tag = tag::CONFIGURATION,
    operation_id = "createService",
    params(("dry_run" = Option<bool>, Query, description = "Only say what would change")),
    request_body = NewService,
    responses(
        (status = OK, body = Envelope<Change>, description = "What it would change"),
        (status = CREATED, body = Envelope<Change>, description = "What that changed; `Location` is its path"),
        Unchanged
    )
)]
pub(in crate::api) async fn service(
    State(state): State<ApiState>,
    asked: Asked,
    Object(mut body): Object<PART>,
) -> Result<Response, ApiError> {
    let sent = Value::Object(body.clone());
    let name = match body.remove("name") {
        Some(Value::String(name)) => name,
        other => {
            return Err(ApiError::Body {
                expected: "the name of the service as name".to_owned(),
                faults: vec![Fault {
                    origin: None,
                    pointer: "/name".to_owned(),
                    expected: "the name of a service".to_owned(),
                    found: other.map_or_else(|| "nothing".to_owned(), |other| other.to_string()),
                }],
            });
        }
    };
    make(&state, asked, Place::Service(name), body, sent).await
}

/// Add an instance to a service
#[utoipa::path(
    post,
    path = "/api/v1/loadbalancer/instances/{service}",
    tag = tag::CONFIGURATION,
    operation_id = "createInstance",
    params(
        OfService,
        ("dry_run" = Option<bool>, Query, description = "Only say what would change")
    ),
    request_body = NewInstance,
    responses(
        (status = OK, body = Envelope<Change>, description = "What it would change"),
        (status = CREATED, body = Envelope<Change>, description = "What that changed; `Location` is its path"),
        Unchanged
    )
)]
pub(in crate::api) async fn instance(
    State(state): State<ApiState>,
    OfService { service }: OfService,
    asked: Asked,
    Object(body): Object<PART>,
) -> Result<Response, ApiError> {
    let place = |name| Place::Instance {
        service,
        name,
        serves: false,
    };
    make_named(&state, asked, place, body).await
}

/// Send the requests of a host and path to a service
#[utoipa::path(
    post,
    path = "/api/v1/loadbalancer/routes",
    tag = tag::CONFIGURATION,
    operation_id = "createRoute",
    params(("dry_run" = Option<bool>, Query, description = "Only say what would change")),
    request_body = NewRoute,
    responses(
        (status = OK, body = Envelope<Change>, description = "What it would change"),
        (status = CREATED, body = Envelope<Change>, description = "What that changed; `Location` is its path"),
        Unchanged
    )
)]
pub(in crate::api) async fn route(
    State(state): State<ApiState>,
    asked: Asked,
    Object(body): Object<PART>,
) -> Result<Response, ApiError> {
    make_named(&state, asked, Place::Route, body).await
}

/// Balance connections to an address over a service
#[utoipa::path(
    post,
    path = "/api/v1/loadbalancer/vips",
    tag = tag::CONFIGURATION,
    operation_id = "createVip",
    params(("dry_run" = Option<bool>, Query, description = "Only say what would change")),
    request_body = NewVip,
    responses(
        (status = OK, body = Envelope<Change>, description = "What it would change"),
        (status = CREATED, body = Envelope<Change>, description = "What that changed; `Location` is its path"),
        Unchanged
    )
)]
pub(in crate::api) async fn vip(
    State(state): State<ApiState>,
    asked: Asked,
    Object(body): Object<PART>,
) -> Result<Response, ApiError> {
    make_named(&state, asked, Place::Vip, body).await
}

/// Makes what is named by what is configured of it.
async fn make_named(
    state: &ApiState,
    asked: Asked,
    place: impl FnOnce(String) -> Place,
    body: Map<String, Value>,
) -> Result<Response, ApiError> {
    let sent = Value::Object(body.clone());
    // Without a name reading it finds what is missing.
    let place = place("#0".to_owned());
    let place = match document::name_in(&place.around(), &sent) {
        Some(name) => place.named(name),
        None => place,
    };
    make(state, asked, place, body, sent).await
}

async fn make(
    state: &ApiState,
    mut asked: Asked,
    place: Place,
    body: Map<String, Value>,
    sent: Value,
) -> Result<Response, ApiError> {
    asked.end()?;
    let sent = Sent {
        around: place.pointer(),
        body: sent,
    };
    let to = place.clone();
    let edit = move |now: &Document| {
        let pointer = to.pointer();
        to.has_owner(now)?;
        if now.at(&pointer).is_some() {
            return Err(to.taken());
        }
        let mut target = now.whole.clone();
        let part = keyed(Value::Object(body), &mut pointer.clone());
        document::put(&mut target, &pointer, Some(part));
        Ok(target)
    };
    let done = state.change(&asked, sent, edit).await?;
    Ok(answer(&done, &asked, Some(&place), true))
}
