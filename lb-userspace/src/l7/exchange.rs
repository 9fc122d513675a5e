//! One request on one instance: a connection, the request, the head of the answer.
//!
//! A connection from the pool may have been closed by the instance a moment ago. When nothing of
//! the request was sent, hyper gives it back and it goes to a fresh connection, whatever its
//! method. When it was sent and the connection ended before a byte of an answer, it may have been
//! acted upon, so only a request that may be repeated is sent again ([`Spare`]).

use std::{io, sync::Arc, task::Poll};

use hyper::{HeaderMap, Method, Request, Response, Uri, body::Incoming, client::conn::http1};
use tokio::net::TcpStream;

use super::{
    body::Upload,
    connection::Client,
    pool::Lease,
    pulse::{Pulse, Stop, Upload as Uploaded},
    socket::Socket,
};
use crate::model::{Instance, Reason, TimeoutSpec};

/// Largest buffer for what an instance sends, in bytes: also the largest head of an answer.
const BUFFER: usize = 128 * 1024;

/// What is needed to send a request once more.
#[derive(Debug)]
pub(super) struct Spare {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Spare {
    /// A copy of `request` when it may be repeated: it is idempotent (RFC 9110, 9.2.2) and has no
    /// body, which would be gone by then.
    pub(super) fn new(request: &Request<Upload>) -> Option<Self> {
        let repeatable = request.method().is_idempotent() && request.body().is_none();
        repeatable.then(|| Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
        })
    }

    fn request(&self) -> Request<Upload> {
        let mut request = Request::new(Upload::NONE);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// An exchange that came to nothing.
#[derive(Debug)]
pub(super) struct Failure {
    /// Why.
    pub(super) reason: Reason,
    /// Whether it speaks against the instance.
    pub(super) blame: bool,
    /// The request, when it may be sent to another instance.
    pub(super) request: Option<Request<Upload>>,
}

impl Failure {
    fn stopped(pulse: &Pulse) -> Self {
        let (reason, blame) = pulse.stopped();
        Self {
            reason,
            blame,
            request: None,
        }
    }
}

/// Sends `request` to `instance` and waits for the head of the answer.
pub(super) async fn run(
    client: &Client,
    instance: &Arc<Instance>,
    timeouts: &TimeoutSpec,
    request: Request<Upload>,
    spare: Option<&Spare>,
) -> Result<(Response<Incoming>, Lease), Failure> {
    let mut request = request;
    if let Some(lease) = client.worker.pool.take(instance.id) {
        match send(client, lease, request, spare).await {
            // The connection was dead, not the instance: that is to be seen on a fresh one.
            Err(Failure {
                reason: Reason::ConnectionLost,
                request: Some(again),
                ..
            }) => request = again,
            other => return other,
        }
    }
    // Rare beside requests on connections that exist, so it does not count against the size of
    // every request's future.
    match Box::pin(connect(client, instance, timeouts)).await {
        Ok(lease) => send(client, lease, request, spare).await,
        Err(failure) => {
            let goes_on = client.pulse.stop() == Stop::No;
            Err(Failure {
                request: goes_on.then_some(request),
                ..failure
            })
        }
    }
}

async fn send(
    client: &Client,
    mut lease: Lease,
    request: Request<Upload>,
    spare: Option<&Spare>,
) -> Result<(Response<Incoming>, Lease), Failure> {
    let answer = lease.sender.try_send_request(request);
    let mut error = match unless_stopped(&client.pulse, answer).await {
        Some(Ok(answer)) => return Ok((answer, lease)),
        Some(Err(error)) => error,
        None => return Err(Failure::stopped(&client.pulse)),
    };
    let unsent = error.take_message();
    let error = error.into_error();
    if client.pulse.upload() == Uploaded::Broken {
        return Err(Failure {
            reason: Reason::BadRequest,
            blame: false,
            request: None,
        });
    }
    let lost = unsent.is_some() || !error.is_parse();
    let again = || spare.filter(|_| lost).map(Spare::request);
    Err(Failure {
        reason: if lost {
            Reason::ConnectionLost
        } else {
            Reason::BadAnswer
        },
        blame: true,
        request: unsent.or_else(again),
    })
}

async fn connect(
    client: &Client,
    instance: &Instance,
    timeouts: &TimeoutSpec,
) -> Result<Lease, Failure> {
    let connecting = TcpStream::connect(instance.endpoint.address());
    let limited = tokio::time::timeout(timeouts.connect, connecting);
    let failure = |reason| Failure {
        reason,
        blame: true,
        request: None,
    };
    let Some(connected) = unless_stopped(&client.pulse, limited).await else {
        return Err(Failure::stopped(&client.pulse));
    };
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
            return Err(failure(Reason::ConnectTimeout));
        }
        Ok(Err(_)) => return Err(failure(Reason::ConnectFailed)),
        Err(_) => return Err(failure(Reason::ConnectTimeout)),
    };
    // Requests are written whole; waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    let handshake = http1::Builder::new()
        .max_buf_size(BUFFER)
        .handshake(Socket::new(stream))
        .await;
    let Ok((sender, connection)) = handshake else {
        return Err(failure(Reason::ConnectionLost));
    };
    tokio::task::spawn_local(async move {
        // Whoever waits for an answer is told; an idle connection's end concerns nobody.
        let _ = connection.with_upgrades().await;
    });
    Ok(Lease {
        sender,
        id: instance.id,
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
