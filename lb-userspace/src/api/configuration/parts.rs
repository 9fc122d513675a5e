//! Services, instances, routes and VIPs, each for itself.

use axum::{
    extract::State,
    http::HeaderMap,
    response::{IntoResponse as _, Response},
};
use serde_json::{Map, Value};

use super::{
    Asked, PART, Place, Sent, answer,
    etag::{self, etag, unless_same},
};
use crate::{
    api::{
        answer::Answer,
        body::{Nothing, Object},
        document::{Unchanged, tag},
        error::ApiError,
        path::{OfInstance, OfRoute, OfService, OfVip},
        state::ApiState,
        types::{
            Change, Envelope, InstanceDocument, Part, RouteDocument, ServiceDocument, VipDocument,
        },
    },
    config::{
        Document,
        document::{self, keyed, natural, with_patch},
    },
};

/// What is configured of a service
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/services/{service}",
    tag = tag::CONFIGURATION,
    operation_id = "getService",
    params(OfService),
    responses(
        (status = OK, body = Envelope<Part>, description = "What somebody has set of it"),
        (status = NOT_MODIFIED, description = "It has the tag of If-None-Match still")
    )
)]
pub(in crate::api) async fn service(
    State(state): State<ApiState>,
    OfService { service }: OfService,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let place = Place::Service(service);
    show(&state, &place, &headers)
}

/// Configure a service as a whole, or make it
#[utoipa::path(
    put,
    path = "/api/v1/loadbalancer/services/{service}",
    tag = tag::CONFIGURATION,
    operation_id = "putService",
    params(
        OfService,
        ("dry_run" = Option<bool>, Query, description = "Only say what would change")
    ),
    request_body = ServiceDocument,
    responses(
        (status = OK, body = Envelope<Change>, description = "What that changed"),
        (status = CREATED, body = Envelope<Change>, description = "What that changed; it is new"),
        Unchanged
    )
)]
pub(in crate::api) async fn put_service(
    State(state): State<ApiState>,
    OfService { service }: OfService,
    asked: Asked,
    Object(body): Object<PART>,
) -> Result<Response, ApiError> {
    let place = Place::Service(service);
    edit(&state, asked, place, Edit::Put(body)).await
}

/// Change what is configured of a service
///
/// By a merge patch (RFC 7396): what it names changes, null removes.
#[utoipa::path(
    patch,
    path = "/api/v1/loadbalancer/services/{service}",
    tag = tag::CONFIGURATION,
    operation_id = "patchService",
    params(
        OfService,
        ("dry_run" = Option<bool>, Query, description = "Only say what would change")
    ),
    request_body = ServiceDocument,
    responses(
        (status = OK, body = Envelope<Change>, description = "What that changed"),
        Unchanged
    )
)]
pub(in crate::api) async fn patch_service(
    State(state): State<ApiState>,
    OfService { service }: OfService,
    asked: Asked,
    Object(body): Object<PART>,
) -> Result<Response, ApiError> {
    let place = Place::Service(service);
    edit(&state, asked, place, Edit::Patch(body)).await
}

/// Remove a service
#[utoipa::path(
    delete,
    path = "/api/v1/loadbalancer/services/{service}",
    tag = tag::CONFIGURATION,
    operation_id = "deleteService",
    params(
        OfService,
        ("dry_run" = Option<bool>, Query, description = "Only say what would change")
    ),
    responses(
        (status = OK, body = Envelope<Change>, description = "What that changed"),
        Unchanged
    )
)]
pub(in crate::api) async fn delete_service(
    State(state): State<ApiState>,
    OfService { service }: OfService,
    asked: Asked,
    _: Nothing,
) -> Result<Response, ApiError> {
    let place = Place::Service(service);
    edit(&state, asked, place, Edit::Delete).await
}

/// What is configured of a route
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/routes/{route}",
    tag = tag::CONFIGURATION,
    operation_id = "getRoute",
    params(OfRoute),
    responses(
        (status = OK, body = Envelope<Part>, description = "What somebody has set of it"),
        (status = NOT_MODIFIED, description = "It has the tag of If-None-Match still")
    )
)]
pub(in crate::api) async fn route(
    State(state): State<ApiState>,
    OfRoute { route }: OfRoute,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let place = Place::route(&state.keeper().view().config.document, &route);
    show(&state, &place, &headers)
}

/// Configure a route as a whole, or make it
#[utoipa::path(
    put,
    path = "/api/v1/loadbalancer/routes/{route}",
    tag = tag::CONFIGURATION,
    operation_id = "putRoute",
    params(
        OfRoute,
        ("dry_run" = Option<bool>, Query, description = "Only say what would change")
    ),
    request_body = RouteDocument,
    responses(
        (status = OK, body = Envelope<Change>, description = "What that changed"),
        (status = CREATED, body = Envelope<Change>, description = "What that changed; it is new"),
        Unchanged
    )
)]
pub(in crate::api) async fn put_route(
    State(state): State<ApiState>,
    OfRoute { route }: OfRoute,
    asked: Asked,
    Object(body): Object<PART>,
) -> Result<Response, ApiError> {
    let place = Place::route(&state.keeper().view().config.document, &route);
    edit(&state, asked, place, Edit::Put(body)).await
}

/// Change what is configured of a route
///
/// By a merge patch (RFC 7396): what it names changes, null removes.
#[utoipa::path(
    patch,
    path = "/api/v1/loadbalancer/routes/{route}",
    tag = tag::CONFIGURATION,
    operation_id = "patchRoute",
    params(
        OfRoute,
        ("dry_run" = Option<bool>, Query, description = "Only say what would change")
    ),
    request_body = RouteDocument,
    responses(
        (status = OK, body = Envelope<Change>, description = "What that changed"),
        Unchanged
    )
)]
pub(in crate::api) async fn patch_route(
    State(state): State<ApiState>,
    OfRoute { route }: OfRoute,
    asked: Asked,
    Object(body): Object<PART>,
) -> Result<Response, ApiError> {
    let place = Place::route(&state.keeper().view().config.document, &route);
    edit(&state, asked, place, Edit::Patch(body)).await
}

/// Remove a route
#[utoipa::path(
    delete,
    path = "/api/v1/loadbalancer/routes/{route}",
    tag = tag::CONFIGURATION,
    operation_id = "deleteRoute",
    params(
        OfRoute,
        ("dry_run" = Option<bool>, Query, description = "Only say what would change")
    ),
    responses(
        (status = OK, body = Envelope<Change>, description = "What that changed"),
        Unchanged
    )
)]
pub(in crate::api) async fn delete_route(
    State(state): State<ApiState>,
    OfRoute { route }: OfRoute,
    asked: Asked,
    _: Nothing,
) -> Result<Response, ApiError> {
    let place = Place::route(&state.keeper().view().config.document, &route);
    edit(&state, asked, place, Edit::Delete).await
}

/// What is configured of a VIP
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/vips/{vip}",
    tag = tag::CONFIGURATION,
    operation_id = "getVip",
    params(OfVip),
    responses(
        (status = OK, body = Envelope<Part>, description = "What somebody has set of it"),
        (status = NOT_MODIFIED, description = "It has the tag of If-None-Match still")
    )
)]
pub(in crate::api) async fn vip(
    State(state): State<ApiState>,
    OfVip { vip }: OfVip,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let place = Place::Vip(vip);
    show(&state, &place, &headers)
}

/// Configure a VIP as a whole, or make it
#[utoipa::path(
    put,
    path = "/api/v1/loadbalancer/vips/{vip}",
    tag = tag::CONFIGURATION,
    operation_id = "putVip",
    params(
        OfVip,
        ("dry_run" = Option<bool>, Query, description = "Only say what would change")
    ),
    request_body = VipDocument,
    responses(
        (status = OK, body = Envelope<Change>, description = "What that changed"),
        (status = CREATED, body = Envelope<Change>, description = "What that changed; it is new"),
        Unchanged
    )
)]
pub(in crate::api) async fn put_vip(
    State(state): State<ApiState>,
    OfVip { vip }: OfVip,
    asked: Asked,
    Object(body): Object<PART>,
) -> Result<Response, ApiError> {
    let place = Place::Vip(vip);
    edit(&state, asked, place, Edit::Put(body)).await
}

/// Change what is configured of a VIP
///
/// By a merge patch (RFC 7396): what it names changes, null removes.
#[utoipa::path(
    patch,
    path = "/api/v1/loadbalancer/vips/{vip}",
    tag = tag::CONFIGURATION,
    operation_id = "patchVip",
    params(
        OfVip,
        ("dry_run" = Option<bool>, Query, description = "Only say what would change")
    ),
    request_body = VipDocument,
    responses(
        (status = OK, body = Envelope<Change>, description = "What that changed"),
        Unchanged
    )
)]
pub(in crate::api) async fn patch_vip(
    State(state): State<ApiState>,
    OfVip { vip }: OfVip,
    asked: Asked,
    Object(body): Object<PART>,
) -> Result<Response, ApiError> {
    let place = Place::Vip(vip);
    edit(&state, asked, place, Edit::Patch(body)).await
}

/// Remove a VIP
#[utoipa::path(
    delete,
    path = "/api/v1/loadbalancer/vips/{vip}",
    tag = tag::CONFIGURATION,
    operation_id = "deleteVip",
    params(
        OfVip,
        ("dry_run" = Option<bool>, Query, description = "Only say what would change")
    ),
    responses(
        (status = OK, body = Envelope<Change>, description = "What that changed"),
        Unchanged
    )
)]
pub(in crate::api) async fn delete_vip(
    State(state): State<ApiState>,
    OfVip { vip }: OfVip,
    asked: Asked,
    _: Nothing,
) -> Result<Response, ApiError> {
    let place = Place::Vip(vip);
    edit(&state, asked, place, Edit::Delete).await
}

/// Configure an instance as a whole, or make it
#[utoipa::path(
    put,
    path = "/api/v1/loadbalancer/instances/{service}/{instance}",
    tag = tag::CONFIGURATION,
    operation_id = "putInstance",
    params(
        OfInstance,
        ("dry_run" = Option<bool>, Query, description = "Only say what would change")
    ),
    request_body = InstanceDocument,
    responses(
        (status = OK, body = Envelope<Change>, description = "What that changed"),
        (status = CREATED, body = Envelope<Change>, description = "What that changed; it is new"),
        Unchanged
    )
)]
pub(in crate::api) async fn put_instance(
    State(state): State<ApiState>,
    OfInstance { service, instance }: OfInstance,
    asked: Asked,
    Object(body): Object<PART>,
) -> Result<Response, ApiError> {
    let place = Place::instance(&state.snapshot(), &service, &instance);
    edit(&state, asked, place, Edit::Put(body)).await
}

/// Change what is configured of an instance
///
/// By a merge patch (RFC 7396): what it names changes, null removes.
#[utoipa::path(
    patch,
    path = "/api/v1/loadbalancer/instances/{service}/{instance}",
    tag = tag::CONFIGURATION,
    operation_id = "patchInstance",
    params(
        OfInstance,
        ("dry_run" = Option<bool>, Query, description = "Only say what would change")
    ),
    request_body = InstanceDocument,
    responses(
        (status = OK, body = Envelope<Change>, description = "What that changed"),
        Unchanged
    )
)]
pub(in crate::api) async fn patch_instance(
    State(state): State<ApiState>,
    OfInstance { service, instance }: OfInstance,
    asked: Asked,
    Object(body): Object<PART>,
) -> Result<Response, ApiError> {
    let place = Place::instance(&state.snapshot(), &service, &instance);
    edit(&state, asked, place, Edit::Patch(body)).await
}

/// What is to become of a part.
#[derive(Clone, Debug)]
pub(in crate::api) enum Edit {
    /// This, and nothing else.
    Put(Map<String, Value>),
    /// What it is, but for this.
    Patch(Map<String, Value>),
    /// Nothing.
    Delete,
}

impl Edit {
    /// The document with the part as it is asked to be.
    fn of(self, place: &Place, now: &Document) -> Result<Value, ApiError> {
        let mut pointer = place.pointer();
        let mut target = now.whole.clone();
        place.has_owner(now)?;
        let part = match (self, now.at(&pointer).cloned()) {
            (Self::Put(body), _) => Some(place.of(body)?),
            (Self::Patch(_) | Self::Delete, None) => return Err(place.missing(now)),
            (Self::Delete, Some(_)) => None,
            (Self::Patch(patch), Some(mut part)) => {
                with_patch(&mut part, Value::Object(patch), &mut pointer);
                let natural = natural(&part, &mut pointer);
                place.keeps_name(&natural)?;
                Some(keyed(natural, &mut pointer))
            }
        };
        document::put(&mut target, &pointer, part);
        Ok(target)
    }

    fn body(&self) -> Value {
        match self {
            Self::Put(body) | Self::Patch(body) => Value::Object(body.clone()),
            Self::Delete => Value::Null,
        }
    }
}

/// Makes a change of a part.
pub(in crate::api) async fn edit(
    state: &ApiState,
    mut asked: Asked,
    place: Place,
    edit: Edit,
) -> Result<Response, ApiError> {
    asked.end()?;
    let sent = Sent {
        around: place.pointer(),
        body: edit.body(),
    };
    let created = matches!(edit, Edit::Put(_)) && {
        let document = &state.keeper().view().config.document;
        document.at(&place.pointer()).is_none()
    };
    let (to, condition) = (place.clone(), asked.condition.clone());
    let edit = move |now: &Document| {
        condition.check(to.tag(now).as_deref())?;
        edit.of(&to, now)
    };
    let done = state.change(&asked, sent, edit).await?;
    Ok(answer(&done, &asked, Some(&place), created))
}

/// Removes an instance whose drain is over; one that is gone is no error.
pub(in crate::api) async fn removed_later(
    state: &ApiState,
    service: String,
    name: String,
) -> Result<(), ApiError> {
    let asked = Asked::by_lb("end of a drain");
    let place = Place::Instance {
        service,
        name,
        serves: false,
    };
    let edit = move |now: &Document| {
        let mut target = now.whole.clone();
        document::put(&mut target, &place.pointer(), None);
        Ok(target)
    };
    state.change(&asked, Sent::default(), edit).await.map(drop)
}

fn show(state: &ApiState, place: &Place, headers: &HeaderMap) -> Result<Response, ApiError> {
    let view = state.keeper().view();
    let document = &view.config.document;
    let config = place
        .shown(document)
        .ok_or_else(|| place.missing(document))?;
    let tag = etag(&config);
    if let Some(unchanged) = unless_same(headers, &tag) {
        return Ok(unchanged);
    }
    let part = Part {
        name: place.name().to_owned(),
        config_revision: view.history.number(),
        config,
    };
    let mut response = Answer::ok(part).into_response();
    etag::tag(&mut response, Some(&tag));
    Ok(response)
}
