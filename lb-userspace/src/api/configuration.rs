//! Changes of the configuration.
//!
//! Every change is a question of what the whole document should be instead, and takes the one way
//! that [`crate::runtime`] describes; what differs from endpoint to endpoint is which part of the
//! document is put, merged or taken away. What a change did is answered alike everywhere, and so is
//! what was wrong with it: with pointers into the body that was sent.

pub(super) mod create;
mod etag;
pub(super) mod parts;
mod place;
pub(super) mod revisions;
pub(super) mod whole;

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
    response::{IntoResponse as _, Response},
};
use serde_json::Value;

use super::{
    access::Caller,
    answer::Answer,
    error::{ApiError, Fault},
    query::{Parameters, unexpected},
    state::ApiState,
    types,
};
use crate::{
    config::{
        Document, Pointer,
        document::{self, pointer_text},
    },
    runtime::{ChangeError, Changed},
};

pub(super) use etag::{Condition, etag, tag, unless_same};
pub(super) use parts::{Edit, edit, removed_later};
pub(super) use place::Place;

/// Most bytes of a whole configuration.
const WHOLE: usize = 16 << 20;

/// Most bytes of a part of one.
const PART: usize = 1 << 20;

/// What a request for a change says beside its body.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) who: String,
    pub(super) dry: bool,
    pub(super) condition: Condition,
    /// The request in a few words, for the revision.
    pub(super) cause: String,
    /// Parameters of the query that are this endpoint's own.
    pub(super) parameters: Parameters,
}

impl FromRequestParts<ApiState> for Asked {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let who = Caller::from_request_parts(parts, state).await?.to_string();
        let mut parameters = Parameters::from_request_parts(parts, state).await?;
        let dry = match parameters.one("dry_run")?.as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => return Err(unexpected("dry_run", "true or false", other)),
        };
        Ok(Self {
            who,
            dry,
            condition: Condition::of(state, &parts.headers),
            cause: format!("{} {}", parts.method, short(parts.uri.path())),
            parameters,
        })
    }
}

impl Asked {
    /// What lb asks itself.
    fn by_lb(cause: &str) -> Self {
        Self {
            who: "lb".to_owned(),
            dry: false,
            condition: Condition::default(),
            cause: cause.to_owned(),
            parameters: Parameters::default(),
        }
    }

    /// Nothing else is in the query.
    pub(super) fn end(&mut self) -> Result<(), ApiError> {
        std::mem::take(&mut self.parameters).end("dry_run")
    }
}

/// A path without what all have in common.
fn short(path: &str) -> &str {
    let base = "/api/v1/loadbalancer";
    path.strip_prefix(base)
        .unwrap_or(path)
        .trim_end_matches('/')
}

/// Where the body of a change belongs in the document: what faults say is said of the body.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent {
    pub(super) around: Pointer,
    pub(super) body: Value,
}

impl ApiState {
    /// Changes the configuration as `edit` says.
    pub(super) async fn change(
        &self,
        asked: &Asked,
        sent: Sent,
        edit: impl FnOnce(&Document) -> Result<Value, ApiError> + Send + 'static,
    ) -> Result<Changed, ApiError> {
        let (who, cause, dry) = (asked.who.clone(), asked.cause.clone(), asked.dry);
        self.changing(dry, move |keeper| {
            let result = keeper.change(&who, &cause, dry, |now| edit(now).map_err(Refusal::Edit));
            result.map_err(|refusal| match refusal {
                Refusal::Edit(error) => error,
                Refusal::Change(error) => refused(error, &sent),
            })
        })
        .await
    }
}

/// Why an edit came to nothing.
enum Refusal {
    Edit(ApiError),
    Change(ChangeError),
}

impl From<ChangeError> for Refusal {
    fn from(error: ChangeError) -> Self {
        Self::Change(error)
    }
}

/// Why a change was refused, in the terms of what was sent.
pub(super) fn refused(error: ChangeError, sent: &Sent) -> ApiError {
    let ChangeError::Faults { faults, stamp } = error else {
        return error.into();
    };
    let message = faults.headline();
    let faults = faults.list().iter().map(|fault| {
        let own = match (&fault.origin, &stamp) {
            (crate::config::Origin::RunTime(by), Some(stamp)) => by == stamp,
            _ => false,
        };
        let at: Pointer = fault.path.segments().collect();
        let inside = at.strip_prefix(sent.around.as_slice());
        let shown = Fault::of(fault);
        match inside {
            Some(inside) if own => Fault {
                pointer: pointer_text(&document::place_in(&sent.body, &sent.around, inside)),
                origin: None,
                ..shown
            },
            _ if own => Fault {
                origin: None,
                ..shown
            },
            _ => shown,
        }
    });
    ApiError::Configuration {
        message,
        faults: faults.collect(),
    }
}

/// What a change did, for an answer.
pub(super) fn described(done: &Changed, dry: bool) -> types::Change {
    types::Change {
        revision: done.revision,
        config_revision: done.configuration,
        dry_run: dry,
        persisted: done.persisted,
        changes: done.changes.clone(),
        diff: done.differences.iter().map(difference).collect(),
        needs_restart: done.needs_restart.clone(),
        notices: done
            .config
            .notices
            .iter()
            .map(ToString::to_string)
            .collect(),
    }
}

pub(super) fn difference(found: &document::Difference) -> types::Difference {
    types::Difference {
        pointer: pointer_text(&found.at),
        before: found.before.clone(),
        after: found.after.clone(),
    }
}

/// The answer to a change, with the tag of what is at `place` then.
fn answer(done: &Changed, asked: &Asked, place: Option<&Place>, created: bool) -> Response {
    let status = match created && !asked.dry {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    let mut response = Answer::with_status(status, described(done, asked.dry)).into_response();
    let document = &done.config.document;
    let tag = match place {
        Some(place) => place.tag(document),
        None => Some(etag(&whole::natural(document))),
    };
    etag::tag(&mut response, tag.as_deref());
    if created && let Some(place) = place {
        etag::locate(&mut response, &place.url());
    }
    response
}
