//! `/config/revisions`: what was in force before, how it differs, and the way back.

use axum::{extract::State, response::Response};

use super::{Asked, Sent, answer, difference, refused};
use crate::{
    api::{
        answer::Answer,
        body::Nothing,
        document::{Unchanged, tag},
        error::ApiError,
        path::OfRevision,
        query::{Parameters, unexpected},
        state::ApiState,
        types::{self, Change, Envelope, RevisionDiff, RevisionSummary, Revisions},
    },
    config::{Pointer, document},
    runtime,
};

/// The revisions of the configuration
///
/// The last 50: when, who, how, what.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/config/revisions",
    tag = tag::CONFIGURATION,
    operation_id = "listRevisions",
    responses((status = OK, body = Envelope<Revisions>, description = "From the newest to the oldest"))
)]
pub(in crate::api) async fn all(State(state): State<ApiState>) -> Answer<Revisions> {
    let history = &state.keeper().view().history;
    Answer::ok(Revisions {
        config_revision: history.number(),
        revisions: history.revisions().map(summary).collect(),
    })
}

/// A revision of the configuration
///
/// With its document, and how it differs from the one before.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/config/revisions/{revision}",
    tag = tag::CONFIGURATION,
    operation_id = "getRevision",
    params(OfRevision),
    responses((status = OK, body = Envelope<types::Revision>, description = "The revision"))
)]
pub(in crate::api) async fn one(
    State(state): State<ApiState>,
    OfRevision { revision }: OfRevision,
) -> Result<Answer<types::Revision>, ApiError> {
    show(&state, revision).map(Answer::ok)
}

/// How a revision differs from another one
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/config/revisions/{revision}/diff",
    tag = tag::CONFIGURATION,
    operation_id = "compareRevisions",
    params(
        OfRevision,
        ("to" = Option<u64>, Query, description = "The other one; the one in force when nothing is said")
    ),
    responses((status = OK, body = Envelope<RevisionDiff>, description = "Where they differ"))
)]
pub(in crate::api) async fn diff(
    State(state): State<ApiState>,
    OfRevision { revision }: OfRevision,
    parameters: Parameters,
) -> Result<Answer<RevisionDiff>, ApiError> {
    compare(&state, revision, parameters).map(Answer::ok)
}

/// Make the configuration what it was in a revision
///
/// Whatever file, environment and flags say by now.
#[utoipa::path(
    post,
    path = "/api/v1/loadbalancer/config/revisions/{revision}/rollback",
    tag = tag::CONFIGURATION,
    operation_id = "rollBack",
    params(
        OfRevision,
        ("dry_run" = Option<bool>, Query, description = "Only say what would change")
    ),
    responses(
        (status = OK, body = Envelope<Change>, description = "What that changed"),
        Unchanged
    )
)]
pub(in crate::api) async fn roll_back(
    State(state): State<ApiState>,
    OfRevision { revision }: OfRevision,
    mut asked: Asked,
    _: Nothing,
) -> Result<Response, ApiError> {
    asked.end()?;
    let (who, dry) = (asked.who.clone(), asked.dry);
    let condition = asked.condition.clone();
    let done = state.changing(dry, move |keeper| {
        let now = keeper.view();
        condition.check(Some(&super::etag(&super::whole::natural(
            &now.config.document,
        ))))?;
        let done = keeper.roll_back(&who, revision, dry);
        done.map_err(|error| refused(error, &Sent::default()))
    });
    let done = done.await?;
    Ok(answer(&done, &asked, None, false))
}

fn summary(revision: &runtime::Revision) -> RevisionSummary {
    RevisionSummary {
        config_revision: revision.stamp.revision,
        timestamp: revision.stamp.time.clone(),
        who: revision.stamp.who.clone(),
        cause: revision.cause.clone(),
        summary: revision.summary(),
    }
}

fn show(state: &ApiState, number: u64) -> Result<types::Revision, ApiError> {
    let revision = state.keeper().revision(number)?;
    let history = &state.keeper().view().history;
    let whole = history.document(number).unwrap_or_default();
    let diff = history.changed(number).unwrap_or_default();
    Ok(types::Revision {
        summary: summary(&revision),
        changes: revision.changes,
        diff: diff.iter().map(difference).collect(),
        document: document::natural(&history.hide(&whole), &mut Pointer::new()),
    })
}

fn compare(
    state: &ApiState,
    from: u64,
    mut parameters: Parameters,
) -> Result<RevisionDiff, ApiError> {
    let to = match parameters.one("to")? {
        None => state.keeper().view().history.number(),
        Some(text) => text
            .parse()
            .map_err(|_| unexpected("to", "the number of a revision", &text))?,
    };
    parameters.end("to")?;
    let diff = state.keeper().differences(from, to)?;
    Ok(RevisionDiff {
        from,
        to,
        diff: diff.iter().map(difference).collect(),
    })
}
