//! A second instance for a request whose answer takes long.
//!
//! Only requests that have no effect and no body are hedged: both instances will do the work.
//! Whichever answers first wins; the other one's connection is closed and its request is over,
//! unjudged. An answer that calls for a retry does not win while the other one may still come.
//! Requests that follow a session stay with their instance.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{
    access::Entry,
    admission::{self, Place},
    course::Course,
    exchange::Pending,
    forward::{self, Tried},
};
use crate::{
    balance::Choice,
    model::{HedgeEnd, HedgeSpec, InstanceId, MethodSet, RetryStats},
    resilience::hedge,
};

/// How the request is to be hedged, if it is.
pub(super) fn wanted<'a>(course: &Course<'a>, pending: &Pending) -> Option<&'a HedgeSpec> {
    let spec = course.service.spec.hedge.as_ref()?;
    let fits = course.is_first()
        && course.repeats()
        && course.follows_nothing()
        && pending.as_ref().is_some_and(|request| {
            let harmless = MethodSet::SAFE.contains(request.method().as_str());
            harmless && request.body().is_none()
        });
    fits.then_some(spec)
}

/// What became of a hedged try, and the other instance when it was asked and has failed, too.
pub(super) type Hedged = (Tried, Option<InstanceId>);

/// One try, joined by another one on another instance when it takes long.
pub(super) async fn attempt(
    course: &Course<'_>,
    spec: &HedgeSpec,
    place: Place,
    pending: &mut Pending,
    entry: &mut Entry,
) -> Hedged {
    let begun = Instant::now();
    let hedging = &course.service.hedging;
    let worker = course.client.worker.index;
    let avoided = place.in_flight.instance().id;
    let mut first = pin!(forward::attempt(course, place, pending));
    let second = tokio::select! {
        biased;
        tried = &mut first => {
            hedging.learn(worker, spec.after, begun.elapsed());
            return (tried, None);
        }
        second = second_place(course, spec, avoided, begun) => second,
    };
    // Longer than the delay: what the first one would have taken is not known, and need not be.
    hedging.learn(worker, spec.after, begun.elapsed());
    let Some(place) = second else {
        return (first.await, None);
    };
    let instance = Arc::clone(place.in_flight.instance());
    let mut again = course.repeat();
    let mut second = pin!(forward::attempt(course, place, &mut again));
    let (tried, won) = tokio::select! {
        biased;
        tried = &mut first => {
            if is_good(course, &tried) {
                (tried, false)
            } else {
                let other = second.await;
                if is_good(course, &other) { (other, true) } else { (tried, false) }
            }
        }
        tried = &mut second => {
            if is_good(course, &tried) {
                (tried, true)
            } else {
                (first.await, false)
            }
        }
    };
    let end = if won { HedgeEnd::Won } else { HedgeEnd::Lost };
    stats(course).hedged(end);
    if won {
        entry.asks(&instance);
    }
    let failed = !is_good(course, &tried);
    (tried, failed.then_some(instance.id))
}

/// Waits until the request may be sent to a second instance, and takes a place there; `None` when
/// that will not be.
async fn second_place(
    course: &Course<'_>,
    spec: &HedgeSpec,
    avoided: InstanceId,
    begun: Instant,
) -> Option<Place> {
    let worker = &course.client.worker;
    let Some(delay) = course.service.hedging.delay(worker.index, spec.after) else {
        return std::future::pending().await;
    };
    // A timer is of milliseconds; less is no delay at all.
    let delay = delay.max(Duration::from_millis(1));
    for (at, early) in hedge::asks(spec.after, delay) {
        sleep_until(begun + at).await;
        let now = worker.clock.now();
        let budget = &course.service.budget;
        if !budget.hedge(now, worker.index, spec.max_extra, early) {
            continue;
        }
        let mut tried = *course.tried();
        tried.insert(avoided);
        let choice = Choice {
            tried: &tried,
            ..course.choice(now)
        };
        let service = course.service;
        // Who waits for a place comes before who would have a second one.
        let place = if service.admission.queue().waiting() > 0 {
            None
        } else {
            admission::choose(course.client, service, None, &choice, None).ok()
        };
        if place.is_none() {
            stats(course).hedged(HedgeEnd::NoInstance);
        }
        return place;
    }
    stats(course).hedged(HedgeEnd::Refused);
    None
}

fn is_good(course: &Course<'_>, tried: &Tried) -> bool {
    matches!(tried, Ok(answered) if !course.is_worth_a_look(answered.answer.status()))
}

fn stats<'a>(course: &Course<'a>) -> &'a RetryStats {
    &course.service.stats.retries
}
