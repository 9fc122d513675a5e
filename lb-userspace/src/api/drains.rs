//! Drains: how long they may take, how far they are, and what comes after.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use tokio::sync::watch;

use super::{
    answer::Answer,
    body::Nothing,
    configuration::{self, Asked, Edit, Place},
    document::{Unchanged, tag},
    error::{ApiError, Fault},
    instances,
    measure::round,
    path::OfInstance,
    query::unexpected,
    state::ApiState,
    types::{self, Envelope},
};
use crate::{
    model::{AdminState, Member},
    registry::InstanceStatus,
    runtime::{Deadline, Drain, Then},
};

/// The longest that a drain may take: what is to take longer needs no deadline.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// How often drains are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// How long to wait after an end that failed.
const AGAIN: Duration = Duration::from_secs(5);

/// How long after a look at the kernel's figures those are believed to be the last ones.
const SETTLED: Duration = Duration::from_secs(2);

/// The deadline that the body of a `POST …/drain` names.
pub(super) fn deadline(start: types::StartDrain) -> Result<Option<Deadline>, ApiError> {
    let Some(text) = start.deadline else {
        return Ok(None);
    };
    let expected = "a duration from 1ms to 7days, such as \"30s\"";
    match time(&text) {
        Some(time) => Ok(Some(in_time(time, Then::Disable))),
        None => Err(ApiError::Body {
            expected: format!("{expected} as the deadline, found {text:?}"),
            faults: vec![Fault {
                origin: None,
                pointer: "/deadline".to_owned(),
                expected: expected.to_owned(),
                found: text,
            }],
        }),
    }
}

fn time(text: &str) -> Option<Duration> {
    let time = humantime::parse_duration(text).ok()?;
    (Duration::from_millis(1)..=LONGEST)
        .contains(&time)
        .then_some(time)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let ms = since.unwrap_or_default().as_millis();
    u64::try_from(ms).unwrap_or(u64::MAX)
}

fn in_time(time: Duration, then: Then) -> Deadline {
    let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Deadline {
        at_ms: now_ms().saturating_add(time),
        then,
    }
}

/// Remove an instance
///
/// At once, and its requests in flight finish. With `drain` it is drained first, and removed when
/// nothing is left or the time is over.
#[utoipa::path(
    delete,
    path = "/api/v1/loadbalancer/instances/{service}/{instance}",
    tag = tag::CONFIGURATION,
    operation_id = "deleteInstance",
    params(
        OfInstance,
        ("dry_run" = Option<bool>, Query, description = "Only say what would change"),
        ("drain" = Option<String>, Query, description = "How long a drain may take, such as 30s")
    ),
    responses(
        (status = OK, body = Envelope<types::Change>, description = "What that changed"),
        (status = ACCEPTED, body = Envelope<types::Instance>, description = "The instance, which is draining"),
        Unchanged
    )
)]
pub(super) async fn delete_instance(
    State(state): State<ApiState>,
    of: OfInstance,
    mut asked: Asked,
    _: Nothing,
) -> Result<Response, ApiError> {
    let place = Place::instance(&state.snapshot(), &of.service, &of.instance);
    let Some(text) = asked.parameters.one("drain")? else {
        return configuration::edit(&state, asked, place, Edit::Delete).await;
    };
    let Some(time) = time(&text) else {
        return Err(unexpected("drain", "a duration from 1ms to 7days", &text));
    };
    if asked.dry {
        // What the end of the drain would change.
        return configuration::edit(&state, asked, place, Edit::Delete).await;
    }
    asked.end()?;
    let view = state.keeper().view();
    let document = &view.config.document;
    let tag = place.tag(document);
    if tag.is_none() {
        return Err(place.missing(document));
    }
    asked.condition.check(tag.as_deref())?;
    let end = in_time(time, Then::Remove);
    let draining = instances::order(&state, &of, AdminState::Draining, Some(end)).await?;
    Ok(Answer::with_status(StatusCode::ACCEPTED, draining).into_response())
}

/// How far the drain of an instance is; `None` while it is not draining.
pub(super) fn progress(
    state: &ApiState,
    member: &Member,
    status: &InstanceStatus,
) -> Option<types::Drain> {
    if status.admin != AdminState::Draining {
        return None;
    }
    let instance = &member.instance;
    let drains = &state.keeper().view().drains;
    let ends = drains.iter().find(|drain| {
        drain.service == instance.service.as_str() && drain.instance == instance.endpoint.name()
    });
    let ends = ends.map(|drain| drain.deadline);
    let sessions = state.registry().sessions();
    Some(types::Drain {
        requests: instance.in_flight().into(),
        connections: instance.kernel.live.load(Relaxed),
        sessions: sessions.count(instance.identity, state.now()) as u64,
        silence_seconds: (instance.kernel.owns.load(Relaxed))
            .then(|| round(state.report().silence.as_secs_f64())),
        deadline: ends.map(|end| {
            let at = UNIX_EPOCH + Duration::from_millis(end.at_ms);
            humantime::format_rfc3339_millis(at).to_string()
        }),
        seconds_left: ends.map(|end| {
            let left = Duration::from_millis(end.at_ms.saturating_sub(now_ms()));
            round(left.as_secs_f64())
        }),
        then: ends.map(|end| {
            let then = match end.then {
                Then::Disable => "disable",
                Then::Remove => "remove",
            };
            then.to_owned()
        }),
    })
}

/// Ends drains whose time is over, for as long as the daemon runs.
pub async fn run(state: ApiState, mut stopped: watch::Receiver<bool>) {
    let ends = async {
        // Since when nothing is left of a drain.
        let mut empty: Vec<(Drain, tokio::time::Instant)> = Vec::new();
        loop {
            tokio::time::sleep(LOOK).await;
            let drains = state.keeper().view().drains.clone();
            empty.retain(|(drain, _)| drains.contains(drain));
            for drain in drains.iter() {
                let over = now_ms() >= drain.deadline.at_ms;
                let early =
                    drain.deadline.then == Then::Remove && nothing_left(&state, drain).await;
                let since = empty.iter().find(|(seen, _)| seen == drain);
                let settled = since.is_some_and(|(_, since)| since.elapsed() >= SETTLED);
                match (over || (early && settled), early, since.is_some()) {
                    (true, ..) => end(&state, drain).await,
                    (_, true, false) => empty.push((drain.clone(), tokio::time::Instant::now())),
                    (_, false, true) => empty.retain(|(seen, _)| seen != drain),
                    _ => {}
                }
            }
        }
    };
    tokio::select! {
        () = ends => {}
        _ = stopped.wait_for(|stop| *stop) => {}
    }
}

/// Whether a drain has nothing left to wait for; an instance that is gone has not.
async fn nothing_left(state: &ApiState, drain: &Drain) -> bool {
    state.fresh_report().await;
    let shown = instances::show(state, &drain.service, &drain.instance);
    shown.map_or(true, |instance| instance.drained == Some(true))
}

async fn end(state: &ApiState, drain: &Drain) {
    let (service, name) = (&drain.service, &drain.instance);
    let snapshot = state.snapshot();
    let found = snapshot.service(service);
    let left = found.and_then(|service| {
        let position = service.find(name)?;
        Some(Arc::clone(&service.members[position].instance))
    });
    let ended = match drain.deadline.then {
        Then::Disable => {
            let of = OfInstance {
                service: service.clone(),
                instance: name.clone(),
            };
            let disabled = instances::order(state, &of, AdminState::Disabled, None).await;
            disabled.map(drop)
        }
        Then::Remove => configuration::removed_later(state, service.clone(), name.clone()).await,
    };
    match ended {
        Ok(()) => {
            // Nothing new comes by now: what is there is what was waited for in vain.
            if let Some(instance) = left {
                instance.sever(state.now());
            }
            tracing::info!(%service, instance = %name, "the drain is over");
        }
        // The next look tries again.
        Err(error) => {
            tracing::warn!(%service, instance = %name, %error, "a drain cannot be ended");
            tokio::time::sleep(AGAIN).await;
        }
    }
}
