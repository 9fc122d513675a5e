//! Sending a request to an instance, and to another one when that fails.
//!
//! The loop is: pick, try, and after a failure ask [`Course`] whether and where there is another
//! try. Nearly every request leaves it after one turn, so everything that belongs to a second one
//! is in a box of its own and costs the first one nothing.

use std::sync::Arc;

use hyper::{Request, header, header::HeaderValue};

use super::{
    access::Entry,
    body::Upload,
    breaker,
    connection::Client,
    course::Course,
    exchange::{self, Pending},
    proxy::Exchanged,
};
use crate::{
    model::{Instance, Outcome, Reason, Timestamp},
    registry::Service,
    resilience::{Permit, Verdict},
};

/// Sends a request to an instance, and to others when that fails in a way that allows it.
pub(super) async fn forward(
    client: &Client,
    service: &Service,
    now: Timestamp,
    key: u64,
    request: Request<Upload>,
    entry: &mut Entry,
) -> Result<Exchanged, Reason> {
    let mut course = Course::new(client, service, now, key, &request);
    let mut pending = Some(request);
    let mut next = course.pick(now);
    loop {
        let (position, permit) = breaker::enter(&course, next, now)?;
        let instance = &service.members[position].instance;
        let tried = attempt(&course, instance, permit, &mut pending, entry).await;
        let again = match tried {
            Ok(exchanged) if !course.is_worth_a_look(exchanged.answer.status()) => {
                return Ok(exchanged);
            }
            Ok(exchanged) => {
                let again = course.after_answer(instance, exchanged, &mut pending);
                match Box::pin(again).await? {
                    Ok(next) => next,
                    Err(exchanged) => return Ok(*exchanged),
                }
            }
            Err(failure) => Box::pin(course.after_failure(instance, failure, &mut pending)).await?,
        };
        next = Some(again);
    }
}

/// One try on one instance.
async fn attempt(
    course: &Course<'_>,
    instance: &Arc<Instance>,
    permit: Option<Permit<Instance>>,
    pending: &mut Pending,
    entry: &mut Entry,
) -> Result<Exchanged, exchange::Failure> {
    let Course {
        client, service, ..
    } = course;
    if let Some(request) = pending {
        name_host(request, instance);
    }
    entry.asks(instance);
    let worker = &client.worker;
    let mut in_flight = instance.begin(service.spec.algorithm, worker.index, &worker.clock);
    match exchange::run(course, instance, pending).await {
        Ok((answer, lease)) => {
            let failed = answer.status().is_server_error();
            in_flight.judge(if failed {
                Outcome::Failure
            } else {
                Outcome::Success
            });
            let verdict = breaker::verdict(answer.status());
            breaker::settle(worker, service, &in_flight, permit, verdict);
            Ok(Exchanged {
                answer,
                lease,
                in_flight,
            })
        }
        Err(failure) => {
            if failure.blame {
                in_flight.judge(Outcome::Failure);
                breaker::settle(worker, service, &in_flight, permit, Verdict::Failure);
            }
            Err(failure)
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
