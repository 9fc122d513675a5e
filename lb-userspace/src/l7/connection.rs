//! A client's connection: one task, from accept to close.
//!
//! hyper parses and frames; this task drives it, watches its limits through the [`Pulse`] and
//! ends it when lb shuts down: at once between two requests, after the answer otherwise.

use std::{
    future::Future as _,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::{
    rt::{Read, ReadBufCursor, Write},
    server::conn::http1,
    service::service_fn,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};

use super::{
    answer,
    headers::Peer,
    proxy,
    pulse::{Closed, Look, Pulse},
    socket::Socket,
    worker::Worker,
};
use crate::model::{GatewaySpec, Reason, Timestamp};

/// Smallest buffer that hyper accepts, in bytes.
const SMALLEST_BUFFER: usize = 8192;

/// hyper's own limit of header fields, for which it needs no allocation.
const USUAL_HEADERS: usize = 100;

/// How long, and how many bytes, lb goes on reading what it will not use after an answer that ends
/// the connection: closing with unread bytes makes the kernel send a reset, which may overtake the
/// answer (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// What the requests of a connection have in common.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) worker: Rc<Worker>,
    pub(super) pulse: Arc<Pulse>,
    pub(super) address: SocketAddr,
    /// Where the connection has arrived: a listener's address, or one of many that connections are handed
    /// over for. Asked for in any case, because a reload may bring routes that it matters to.
    pub(super) destination: Option<SocketAddr>,
    pub(super) peer: Peer,
}

/// How hyper is to treat client connections under `gateway`.
pub(super) fn protocol(gateway: &GatewaySpec) -> http1::Builder {
    let mut protocol = http1::Builder::new();
    protocol
        // The pulse watches the head, too.
        .header_read_timeout(None)
        .max_header_size(gateway.max_head_bytes)
        // The buffer bounds what is read ahead of a slow instance and what is held for a slow
        // client. `pipeline_flush` would lift that bound, so it stays off.
        .max_buf_size(gateway.max_head_bytes.max(SMALLEST_BUFFER));
    if gateway.max_headers != USUAL_HEADERS {
        protocol.max_headers(gateway.max_headers);
    }
    protocol
}

/// Serves a connection to its end.
pub(super) async fn serve(worker: Rc<Worker>, stream: TcpStream, address: SocketAddr) {
    let view = worker.view();
    let gateway = &view.snapshot.gateway;
    let pulse = Arc::new(Pulse::new(worker.clock.now(), gateway));
    let destination = stream.local_addr().ok();
    let io = Watched {
        io: Socket::new(stream),
        pulse: Arc::clone(&pulse),
    };
    let client = Rc::new(Client {
        peer: Peer::new(address.ip(), &gateway.trusted_proxies),
        worker: Rc::clone(&worker),
        pulse: Arc::clone(&pulse),
        address,
        destination,
    });
    let service = service_fn(move |request| proxy::serve(Rc::clone(&client), request));
    let mut connection = view.protocol.serve_connection(io, service).with_upgrades();
    drop(view);

    let place = worker.enter(&pulse);
    let mut timer = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
    let mut armed = Timestamp(u64::MAX);
    let mut told = false;
    let mut cut = None;
    let result = std::future::poll_fn(|cx| {
        place.note(cx);
        if worker.connections.are_draining() && !told {
            told = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        if armed != Timestamp(u64::MAX) && timer.is_elapsed() {
            let now = worker.clock.now();
            match pulse.look(now) {
                Look::Again(at) => {
                    armed = at;
                    timer.as_mut().reset(Instant::now() + (at - now));
                    let _ = timer.as_mut().poll(cx);
                }
                Look::Close(why) => {
                    cut = Some(why);
                    return Poll::Ready(Ok(()));
                }
            }
        }
        let polled = Pin::new(&mut connection).poll(cx);
        if pulse.has_begun() {
            pulse.begins(worker.clock.now());
        }
        let due = pulse.due();
        if polled.is_pending() && due < armed {
            armed = due;
            let wait = due - worker.clock.now();
            timer.as_mut().reset(Instant::now() + wait);
            let _ = timer.as_mut().poll(cx);
        }
        polled
    })
    .await;
    drop(place);
    if let Err(error) = &result {
        worker.stats.refused(error);
    }
    let within_head = pulse.is_within_head();
    if let Some(why) = cut {
        worker.stats.closed(why);
    }
    // There are no parts when the connection has become a tunnel.
    let Some(parts) = connection.into_parts() else {
        return;
    };
    let (stream, _) = parts.io.io.into_parts();
    match cut {
        // In a box, or every connection would carry the buffer for its whole life.
        None => Box::pin(linger(stream)).await,
        Some(Closed::Head) if within_head => {
            worker.stats.answers.answered(Reason::HeaderTimeout);
            // As much as the socket takes at once: nobody waits for who does not read either.
            let _ = stream.try_write(answer::header_timeout().as_bytes());
            Box::pin(linger(stream)).await;
        }
        Some(_) => {}
    }
}

/// Reads and forgets for a while, so that the client gets to read the answer.
async fn linger(mut stream: TcpStream) {
    let forget = async {
        let _ = stream.shutdown().await;
        let mut buffer = [0; 4096];
        let mut left = LINGER_BYTES;
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            left = left.saturating_sub(read);
            if left == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, forget).await;
}

/// A client's socket that notes whether the client takes what it is sent.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) io: Socket,
    pulse: Arc<Pulse>,
}

impl Watched {
    fn note(&self, written: &Poll<io::Result<usize>>) {
        if written.is_pending() {
            self.pulse.set_blocked(true);
        } else {
            self.pulse.set_blocked(false);
            self.pulse.progressed();
        }
    }
}

impl Read for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        if read.is_ready() {
            self.pulse.read();
        }
        read
    }
}

impl Write for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.note(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
