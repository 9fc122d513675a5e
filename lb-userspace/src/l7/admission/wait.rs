//! Waiting for a place in a service whose instances are full.
//!
//! What is known of the service when somebody begins to wait may be wrong by the time that a place
//! comes free, so every look is at the snapshot of that moment: whoever waits finds new instances
//! and raised limits, and learns that the service is gone.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll};

use hyper::Request;

use super::{Place, enter_now, is_lack_of_room};
use crate::{
    balance::Choice,
    l7::{connection::Client, course::Known, headers::value, pulse::Stop},
    model::{Priority, Reason, RouteSpec, ServiceName},
    registry::Service,
    resilience::Seat,
};

/// How urgent a request is: what its field says, where the service has one for that, else what its
/// route says.
pub(in crate::l7) fn priority<B>(
    service: &Service,
    route: &RouteSpec,
    request: &Request<B>,
) -> Priority {
    let header = service.spec.queue.as_ref();
    header
        .and_then(|queue| value(request.headers(), queue.priority_header.as_deref()?))
        .and_then(|value| Priority::parse(value.as_bytes()))
        .unwrap_or(route.priority)
}

/// Waits until there is a place for a request that has found none.
///
/// # Errors
/// Why it does not wait, or not any longer.
pub(super) async fn wait(
    client: &Client,
    name: &ServiceName,
    known: &Known<'_>,
) -> Result<(Place, Option<Seat>), Reason> {
    let (worker, pulse) = (&client.worker, &client.pulse);
    let mut service = find(client, name)?;
    let spec = service.spec.queue.as_ref().ok_or(Reason::AtCapacity)?;
    let admission = Arc::clone(&service.admission);
    let mut waiter =
        admission
            .queue()
            .join(spec, known.priority, pulse.deadline(), &worker.clock)?;
    let wait = waiter.deadline() - worker.clock.now();
    let mut limit = pin!(tokio::time::sleep(wait));
    let mut may_look = waiter.is_first();
    loop {
        if may_look {
            let choice = Choice {
                key: known.key,
                worker: worker.index,
                now: worker.clock.now(),
                random: &worker.random,
                tried: &crate::balance::Tried::default(),
            };
            match enter_now(client, &service, known, &choice) {
                Err(reason) if is_lack_of_room(reason) => {}
                Err(reason) => return Err(reason),
                Ok(found) => {
                    waiter.admitted();
                    return Ok(found);
                }
            }
        }
        poll_fn(|cx| match (waiter.poll_call(cx), pulse.stop()) {
            (Poll::Ready(verdict), _) => Poll::Ready(verdict),
            (Poll::Pending, Stop::No) => {
                limit.as_mut().poll(cx).map(|()| Err(Reason::QueueTimeout))
            }
            (Poll::Pending, Stop::Ending) => Poll::Ready(Err(Reason::ShuttingDown)),
            // Its own limit of time, all of which it has waited here.
            (Poll::Pending, _) => Poll::Ready(Err(Reason::QueueTimeout)),
        })
        .await?;
        may_look = true;
        service = find(client, name)?;
    }
}

/// The service as it is now.
fn find(client: &Client, name: &ServiceName) -> Result<Arc<Service>, Reason> {
    let view = client.worker.view();
    let service = view.snapshot.service(name.as_str());
    service.cloned().ok_or(Reason::NoInstance)
}
