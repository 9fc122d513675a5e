//! One request on one instance: a connection, the request, the head of the answer.
//!
//! A connection from the pool may have been closed by the instance a moment ago. When nothing of
//! the request was sent, hyper gives it back and it goes to a fresh connection, whatever its
//! method. When it was sent and the connection ended before a byte of an answer, it may have been
//! acted upon, so only a request that may be repeated is sent again ([`super::spare`]), and the retry budget
//! pays for it.

use std::{io, sync::Arc, task::Poll};

use hyper::{Request, Response, body::Incoming, client::conn::http1};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::{
    connection::Client,
    course::Course,
    pool::{self, Lease},
    pulse::{Pulse, Stop, Upload as Uploaded},
    room::{self, Held, Way},
    socket::Socket,
    upload::Upload,
};
use crate::{
    model::{Instance, MostConnections, Opened, Outcome, Reason, RetryCause},
    net,
};

/// Largest buffer for what an instance sends, in bytes: also the largest head of an answer.
const BUFFER: usize = 128 * 1024;

/// An exchange that came to nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    /// Why.
    pub(super) reason: Reason,
    /// Whether it speaks against the instance.
    pub(super) blame: bool,
}

impl Failure {
    /// One that speaks against the instance.
    const fn of_instance(reason: Reason) -> Self {
        let blame = true;
        Self { reason, blame }
    }

    /// What it means for the instance, if it speaks against it.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.blame.then_some(match self.reason {
            Reason::ConnectFailed => Outcome::Refused,
            _ => Outcome::Failure,
        })
    }

    /// One of a request that is over.
    pub(super) fn stopped(pulse: &Pulse) -> Self {
        let (reason, blame) = pulse.stopped();
        Self { reason, blame }
    }

    /// The cause of a retry, if there is to be one.
    pub(super) const fn cause(&self) -> Option<RetryCause> {
        match self.reason {
            Reason::ConnectFailed => Some(RetryCause::ConnectFailed),
            Reason::ConnectTimeout => Some(RetryCause::ConnectTimeout),
            Reason::ConnectionLost => Some(RetryCause::ConnectionLost),
            Reason::ConnectionLimit => Some(RetryCause::ConnectionLimit),
            Reason::TryTimeout => Some(RetryCause::TryTimeout),
            Reason::ResponseTimeout => Some(RetryCause::ResponseTimeout),
            _ => None,
        }
    }
}

/// A request on its way: there until it is sent, and there again when it may be sent once more.
pub(super) type Pending = Option<Request<Upload>>;

/// Sends `pending` to `instance` on a connection that it comes by on its `way`, and waits for the head
/// of the answer. After a failure the request is there again if it may be sent to another instance.
pub(super) async fn run(
    course: &Course<'_>,
    instance: &Arc<Instance>,
    (way, most): (Way, &MostConnections),
    pending: &mut Pending,
) -> Result<(Response<Incoming>, Lease), Failure> {
    let (client, pool) = (course.client, &course.client.worker.pool);
    let (kept, opened) = match way {
        Way::Any if course.repeats() => (pool.take(instance.id), None),
        Way::Any => (pool.take_fresh(instance.id).await, None),
        Way::Kept(lease) if course.repeats() => (Some(lease), None),
        Way::Kept(lease) => (pool::if_fresh(lease).await, None),
        Way::New(opened) => (None, Some(opened)),
        Way::Soon => (None, None),
    };
    if let Some(mut lease) = kept {
        match send(client, &mut lease, pending).await {
            Ok(answer) => return Ok((answer, lease)),
            // The connection was dead, not the instance: that is to be seen on a new one.
            Err(_) if pending.is_some() => {}
            Err(failure) if failure.reason != Reason::ConnectionLost => return Err(failure),
            Err(failure) => {
                *pending = course.repeat();
                if pending.is_none() || !course.replaces_kept_connection() {
                    return Err(failure);
                }
            }
        }
    }
    // Rare beside requests on connections that exist, so it does not count against the size of
    // every request's future.
    let mut lease = Box::pin(connect(course, instance, (opened, most))).await?;
    let answer = send(client, &mut lease, pending).await?;
    Ok((answer, lease))
}

/// Sends `pending` on a connection; it is there again when nothing of it was sent.
async fn send(
    client: &Client,
    lease: &mut Lease,
    pending: &mut Pending,
) -> Result<Response<Incoming>, Failure> {
    let Some(request) = pending.take() else {
        return Err(Failure::of_instance(Reason::ConnectionLost));
    };
    let answer = lease.sender.try_send_request(request);
    let mut error = match unless_stopped(&client.pulse, answer).await {
        Some(Ok(answer)) => return Ok(answer),
        Some(Err(error)) => error,
        None => return Err(Failure::stopped(&client.pulse)),
    };
    *pending = error.take_message();
    if client.pulse.upload() == Uploaded::Broken {
        *pending = None;
        return Err(Failure {
            reason: Reason::BadRequest,
            blame: false,
        });
    }
    if pending.is_none() && error.error().is_parse() {
        return Err(Failure::of_instance(Reason::BadAnswer));
    }
    Err(Failure::of_instance(Reason::ConnectionLost))
}

/// Opens a connection: `opened`, if there is room for it already.
async fn connect(
    course: &Course<'_>,
    instance: &Arc<Instance>,
    (opened, most): (Option<Opened>, &MostConnections),
) -> Result<Lease, Failure> {
    let (client, service) = (course.client, course.service);
    let limit = service.spec.timeouts.connect;
    // Counted before it is opened, and until it is closed: what is declared later is dropped before.
    let opened = match opened {
        Some(opened) => opened,
        None => room::wait(client, instance, most, limit).await?,
    };
    let connecting = TcpStream::connect(instance.endpoint.address());
    let limited = tokio::time::timeout(limit, connecting);
    let failure = Failure::of_instance;
    let Some(connected) = unless_stopped(&client.pulse, limited).await else {
        return Err(Failure::stopped(&client.pulse));
    };
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
            return Err(failure(Reason::ConnectTimeout));
        }
        Ok(Err(error)) => {
            return Err(Failure {
                reason: Reason::ConnectFailed,
                blame: !net::is_own(&error),
            });
        }
        Err(_) => return Err(failure(Reason::ConnectTimeout)),
    };
    // Requests are written whole; waiting for more to send would only delay them. The kernel asks
    // after silent peers, or a tunnel to one that has vanished would stay open for ever. Without
    // either the connection still works.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_keepalive(&net::KEEPALIVE);
    let in_use = opened.connection().take();
    let held = Held::new(&client.worker, service, opened);
    let handshake = http1::Builder::new()
        .max_buf_size(BUFFER)
        .handshake(Socket::held(stream, held))
        .await;
    let Ok((sender, connection)) = handshake else {
        return Err(failure(Reason::ConnectionLost));
    };
    let task = tokio::task::spawn_local(async move {
        // Whoever waits for an answer is told; an idle connection's end concerns nobody.
        let _ = connection.with_upgrades().await;
    });
    let worker = &client.worker;
    let (now, task) = (worker.clock.now(), task.abort_handle());
    worker.lines.note(instance, now, task);
    Ok(Lease {
        sender,
        in_use,
        admission: Arc::clone(&service.admission),
    })
}

/// Waits for `future`, unless the pulse says to stop: then `None`.
pub(super) async fn unless_stopped<F: Future>(pulse: &Pulse, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if pulse.stop() == Stop::No => Poll::Pending,
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
