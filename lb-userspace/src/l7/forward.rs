//! Picking an instance for a request and sending it there, and to another one when that fails.
//!
//! A request that was not acted upon, or may be acted upon twice, is sent once more to an instance
//! that it has not been sent to. Everything else is for the client to decide.

use hyper::{Request, header, header::HeaderValue};

use super::{
    access::Entry,
    body::Upload,
    connection::Client,
    exchange::{self, Failure},
    proxy::Exchanged,
    pulse::Stop,
    spare::Spare,
};
use crate::{
    balance::{Choice, Tried},
    model::{Instance, Outcome, Reason, Timestamp},
    registry::Service,
};

/// Instances that one request may be sent to: the first choice, and one more when that fails
/// before it has answered.
const TRIES: usize = 2;

/// Sends a request to an instance, and to another one when that fails in a way that allows it.
pub(super) async fn forward(
    client: &Client,
    service: &Service,
    now: Timestamp,
    key: u64,
    request: Request<Upload>,
    entry: &mut Entry,
) -> Result<Exchanged, Reason> {
    let worker = &client.worker;
    let spare = Spare::new(&request, &worker.buffers);
    let mut pending = Some(request);
    let mut tried = Tried::default();
    let mut failed = Reason::NoInstance;
    for attempt in 0..TRIES {
        let choice = Choice {
            key,
            worker: worker.index,
            now,
            random: &worker.random,
            tried: &tried,
        };
        let Some(position) = service.balancer.pick(&service.members, &choice) else {
            break;
        };
        if attempt > 0 {
            service.stats.retried();
        }
        let instance = &service.members[position].instance;
        if let Some(request) = &mut pending {
            name_host(request, instance);
        }
        entry.asks(instance);
        let mut in_flight = instance.begin(service.spec.algorithm, worker.index, &worker.clock);
        let timeouts = &service.spec.timeouts;
        match exchange::run(client, instance, timeouts, &mut pending, spare.as_ref()).await {
            Ok((answer, lease)) => {
                let failed = answer.status().is_server_error();
                in_flight.judge(if failed {
                    Outcome::Failure
                } else {
                    Outcome::Success
                });
                return Ok(Exchanged {
                    answer,
                    lease,
                    in_flight,
                });
            }
            Err(Failure { reason, blame }) => {
                if blame {
                    in_flight.judge(Outcome::Failure);
                }
                failed = reason;
                if pending.is_none() || client.pulse.stop() != Stop::No {
                    break;
                }
                tried.insert(instance.id);
            }
        }
    }
    Err(failed)
}

/// HTTP/1.0 clients may name no host; instances that speak HTTP/1.1 must be told one.
fn name_host(request: &mut Request<Upload>, instance: &Instance) {
    if !request.headers().contains_key(header::HOST)
        && let Ok(host) = HeaderValue::from_str(instance.endpoint.authority())
    {
        request.headers_mut().insert(header::HOST, host);
    }
}
