//! `/config`: the whole.

use axum::{
    extract::State,
    http::HeaderMap,
    response::{IntoResponse as _, Response},
};
use serde_json::Value;

use super::{
    Asked, Sent, WHOLE, answer,
    etag::{self, etag, unless_same},
    refused,
};
use crate::{
    api::{
        answer::Answer,
        body::{Nothing, Object},
        document::{Unchanged, tag},
        error::ApiError,
        query::unexpected,
        state::ApiState,
        types::{Change, Config, ConfigDocument, ConfigPatch, Envelope, Runtime, SetAtRunTime},
    },
    config::{
        Document, Pointer,
        document::{self, HIDDEN, keyed, pointer_text, with_patch},
    },
};

/// What is configured, and every setting in force with where it comes from
///
/// File and line, variable, flag, default, or `run time` with the revision, or with what is
/// `configured` where an order says otherwise; what waits for a restart stands in `waiting`. Secrets
/// are never shown.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/config",
    tag = tag::CONFIGURATION,
    operation_id = "getConfig",
    responses(
        (status = OK, body = Envelope<Config>, description = "The configuration"),
        (status = NOT_MODIFIED, description = "The document has the tag of If-None-Match still")
    )
)]
pub(in crate::api) async fn show(State(state): State<ApiState>, headers: HeaderMap) -> Response {
    let view = state.keeper().view();
    let document = natural(&view.config.document);
    let tag = etag(&document);
    if let Some(unchanged) = unless_same(&headers, &tag) {
        return unchanged;
    }
    let snapshot = state.snapshot();
    let mut settings = state.settings();
    let mut at_run_time = |path: &str, in_force: &str| {
        let found = settings.iter_mut().find(|setting| setting.path == path);
        let in_force = format!("{in_force:?}");
        if let Some(setting) = found
            && setting.value != in_force
        {
            setting.configured = Some(std::mem::replace(&mut setting.value, in_force));
            setting.origin = "run time".to_owned();
        }
    };
    // What of the configuration an operator can order to be another.
    for service in &snapshot.services {
        let path = format!("services.{}.algorithm", service.name());
        at_run_time(&path, service.spec.algorithm.as_str());
    }
    at_run_time("log.level", &state.log().in_force().level);
    let config = Config {
        revision: snapshot.revision,
        config_revision: view.history.number(),
        persisted: state.keeper().persists(),
        document,
        settings,
    };
    let mut response = Answer::ok(config).into_response();
    etag::tag(&mut response, Some(&tag));
    response
}

/// Make the configuration exactly this
///
/// `(secret)` stands for the secret that is set.
#[utoipa::path(
    put,
    path = "/api/v1/loadbalancer/config",
    tag = tag::CONFIGURATION,
    operation_id = "putConfig",
    params(("dry_run" = Option<bool>, Query, description = "Only say what would change")),
    request_body = ConfigDocument,
    responses(
        (status = OK, body = Envelope<Change>, description = "What that changed"),
        Unchanged
    )
)]
pub(in crate::api) async fn put(
    State(state): State<ApiState>,
    asked: Asked,
    Object(body): Object<WHOLE>,
) -> Result<Response, ApiError> {
    change(&state, asked, Value::Object(body), false).await
}

/// Change the configuration
///
/// By a merge patch (RFC 7396): what it names changes, null removes. A list of instances, routes or
/// VIPs replaces all of them; an object changes those that it names.
#[utoipa::path(
    patch,
    path = "/api/v1/loadbalancer/config",
    tag = tag::CONFIGURATION,
    operation_id = "patchConfig",
    params(("dry_run" = Option<bool>, Query, description = "Only say what would change")),
    request_body = ConfigPatch,
    responses(
        (status = OK, body = Envelope<Change>, description = "What that changed"),
        Unchanged
    )
)]
pub(in crate::api) async fn patch(
    State(state): State<ApiState>,
    asked: Asked,
    Object(body): Object<WHOLE>,
) -> Result<Response, ApiError> {
    change(&state, asked, Value::Object(body), true).await
}

async fn change(
    state: &ApiState,
    mut asked: Asked,
    body: Value,
    merges: bool,
) -> Result<Response, ApiError> {
    asked.end()?;
    let sent = Sent {
        around: Pointer::new(),
        body: body.clone(),
    };
    let condition = asked.condition.clone();
    let edit = move |now: &Document| {
        condition.check(Some(&etag(&natural(now))))?;
        if !merges {
            return Ok(keyed(body, &mut Pointer::new()));
        }
        let mut target = now.whole.clone();
        with_patch(&mut target, body, &mut Pointer::new());
        // A patch may have given something another name.
        let natural = document::natural(&target, &mut Pointer::new());
        Ok(keyed(natural, &mut Pointer::new()))
    };
    let done = state.change(&asked, sent, edit).await?;
    Ok(answer(&done, &asked, None, false))
}

/// What is set at run time: where, what, by whom, since when
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/config/runtime",
    tag = tag::CONFIGURATION,
    operation_id = "getRuntime",
    responses((status = OK, body = Envelope<Runtime>, description = "Every place that was set"))
)]
pub(in crate::api) async fn runtime(State(state): State<ApiState>) -> Answer<Runtime> {
    let view = state.keeper().view();
    let document = &view.config.document;
    let places = view.layer.places().into_iter();
    let set = places.map(|(at, value, stamp)| {
        let hidden = document
            .secrets
            .iter()
            .any(|secret| secret.starts_with(&at));
        SetAtRunTime {
            pointer: pointer_text(&at),
            value: value.map(|value| match hidden {
                true => HIDDEN.into(),
                false => value.clone(),
            }),
            config_revision: stamp.revision,
            timestamp: stamp.time.clone(),
            who: stamp.who.clone(),
        }
    });
    Answer::ok(Runtime { set: set.collect() })
}

/// Give what was set at run time back to file, environment and flags
///
/// What was set at `pointer` and below, or everywhere.
#[utoipa::path(
    delete,
    path = "/api/v1/loadbalancer/config/runtime",
    tag = tag::CONFIGURATION,
    operation_id = "deleteRuntime",
    params(
        ("dry_run" = Option<bool>, Query, description = "Only say what would change"),
        ("pointer" = Option<String>, Query, description = "A JSON pointer, such as \
            /services/web/timeouts; everything when nothing is said")
    ),
    responses(
        (status = OK, body = Envelope<Change>, description = "What that changed"),
        Unchanged
    )
)]
pub(in crate::api) async fn unset(
    State(state): State<ApiState>,
    mut asked: Asked,
    _: Nothing,
) -> Result<Response, ApiError> {
    let text = asked.parameters.one("pointer")?.unwrap_or_default();
    asked.end()?;
    let Some(at) = document::segments(&text) else {
        let expected = "a JSON pointer such as /services/web/timeouts";
        return Err(unexpected("pointer", expected, &text));
    };
    let (who, dry, condition) = (asked.who.clone(), asked.dry, asked.condition.clone());
    let done = state.changing(dry, move |keeper| {
        let now = keeper.view();
        condition.check(Some(&etag(&natural(&now.config.document))))?;
        let done = keeper.unset(&who, dry, &at);
        done.map_err(|error| refused(error, &Sent::default()))
    });
    let done = done.await?;
    Ok(answer(&done, &asked, None, false))
}

/// The document as it is shown.
pub(super) fn natural(document: &Document) -> Value {
    match document::natural(&document.shown(), &mut Pointer::new()) {
        // Nothing was configured so far.
        Value::Null => Value::Object(serde_json::Map::new()),
        whole => whole,
    }
}
