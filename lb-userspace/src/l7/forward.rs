//! Sending a request to an instance, and to another one when that fails.
//!
//! The loop is: pick, try, and after a failure ask [`Course`] whether and where there is another
//! try. Nearly every request leaves it after one turn, so everything that belongs to a second one
//! is in a box of its own and costs the first one nothing.

use std::sync::Arc;

use hyper::{Request, Response, body::Incoming, header, header::HeaderValue};

use super::{
    access::Entry,
    admission::Place,
    breaker,
    connection::Client,
    course::{Course, Known},
    exchange::{self, Pending},
    hedge, load_report,
    pool::Lease,
    proxy::Exchanged,
    trace::TryEnd,
    upload::Upload,
};
use crate::{
    model::{InFlight, Instance, Outcome, Reason},
    registry::Service,
    resilience::Verdict,
};

/// Sends a request to an instance, and to others when that fails in a way that allows it.
pub(super) async fn forward(
    client: &Client,
    service: &Service,
    known: Known<'_>,
    mut request: Request<Upload>,
    entry: &mut Entry,
) -> Result<Exchanged, Reason> {
    let mut course = Course::new(client, service, known, entry.traced(), &mut request);
    let mut pending = Some(request);
    let mut place = course.enter().await?;
    loop {
        entry.asks(place.in_flight.instance());
        client.pulse.tries(place.in_flight.began());
        let tried = match hedge::wanted(&course, &pending) {
            None => attempt(&course, place, &mut pending).await,
            Some(spec) => {
                let hedged = hedge::attempt(&course, spec, place, &mut pending, entry);
                let (tried, other) = Box::pin(hedged).await;
                course.freed();
                if let Some(other) = other {
                    course.has_tried(other);
                }
                tried
            }
        };
        let again = match tried {
            Ok(answered) if !course.is_worth_a_look(answered.answer.status()) => {
                return Ok(course.ends(answered));
            }
            Ok(answered) => {
                let again = course.after_answer(answered, &mut pending);
                match Box::pin(again).await? {
                    Ok(next) => next,
                    Err(exchanged) => return Ok(*exchanged),
                }
            }
            Err((failure, instance)) => {
                Box::pin(course.after_failure(&instance, failure, &mut pending)).await?
            }
        };
        place = course.enter_at(again)?;
    }
}

/// An answer, the connection that it came on, and the place at its instance.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) answer: Response<Incoming>,
    pub(super) lease: Lease,
    pub(super) in_flight: InFlight,
}

/// What became of a try.
pub(super) type Tried = Result<Answered, (exchange::Failure, Arc<Instance>)>;

/// One try on one instance.
pub(super) async fn attempt(course: &Course<'_>, place: Place, pending: &mut Pending) -> Tried {
    let Place {
        mut in_flight,
        probe,
        way,
        most_connections,
    } = place;
    let (worker, service) = (&course.client.worker, course.service);
    let instance = in_flight.instance();
    if let Some(request) = pending {
        name_host(request, instance);
    }
    let traced = course.traced.as_ref();
    let trying = traced.map(|traced| traced.tries(pending.as_mut(), instance));
    match exchange::run(course, instance, (way, &most_connections), pending).await {
        Ok((mut answer, lease)) => {
            if let Some(trying) = trying {
                trying.ends(TryEnd::Answered(answer.status().as_u16()));
            }
            if let Some(spec) = &service.spec.load_reports {
                load_report::take(spec, instance, answer.headers_mut(), &worker.clock);
            }
            let failed = answer.status().is_server_error();
            in_flight.judge(if failed {
                Outcome::Failure
            } else {
                Outcome::Success
            });
            let verdict = breaker::verdict(answer.status());
            breaker::settle(worker, service, &in_flight, probe, verdict);
            Ok(Answered {
                answer,
                lease,
                in_flight,
            })
        }
        Err(failure) => {
            if let Some(trying) = trying {
                trying.ends(TryEnd::Failed(failure.reason));
            }
            if let Some(outcome) = failure.outcome() {
                in_flight.judge(outcome);
                breaker::settle(worker, service, &in_flight, probe, Verdict::Failure);
            }
            Err((failure, Arc::clone(in_flight.instance())))
        }
    }
}

/// HTTP/1.0 clients may name no host; instances that speak HTTP/1.1 must be told one.
fn name_host(request: &mut Request<Upload>, instance: &Instance) {
    if !request.headers().contains_key(header::HOST)
        && let Ok(host) = HeaderValue::from_str(instance.endpoint.authority())
    {
        request.headers_mut().insert(header::HOST, host);
    }
}
