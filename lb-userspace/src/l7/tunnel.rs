//! Connections that have become something else than HTTP: WebSockets, mostly.
//!
//! Bytes pass only after the instance has answered 101. Until then the client's connection is an
//! HTTP connection like any other, and what it sends is held back; a proxy that opens the tunnel
//! when it is asked for lets a client send requests that nobody examines (CVE-2026-2833 was that).

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    Request,
    body::{Body, Incoming},
    header,
    upgrade::{OnUpgrade, Upgraded},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, copy_bidirectional},
    net::TcpStream,
};

use super::{
    admission::Stay,
    connection::{Client, Watched},
    head::{self, Seen},
    pulse::Closed,
    socket::Socket,
};
use crate::model::InUse;

/// Whether a request asks for a tunnel that lb opens. HTTP/2 in clear text is a protocol of its
/// own rules that lb does not enforce, so that is not asked for on the client's behalf.
pub(super) fn is_wanted(request: &Request<Incoming>, seen: Seen) -> bool {
    let mut asked = Seen::UPGRADE;
    asked.add(Seen::WANTS_UPGRADE);
    if !seen.has(asked) || !request.body().is_end_stream() {
        return false;
    }
    let protocols = request.headers().get_all(header::UPGRADE).iter();
    let mut protocols = protocols.flat_map(head::options);
    request.version() == hyper::Version::HTTP_11
        && !protocols.any(|protocol| protocol.to_ascii_lowercase().starts_with(b"h2c"))
}

/// How often a tunnel is looked at within its limit of silence, which is thus noticed after 1 to
/// 1.25 times the limit.
const LOOKS: u32 = 4;

/// Joins the client's connection and the instance's as soon as both are free. The request stays in
/// flight, and the instance's connection in use, until one of them closes, nothing has passed for as
/// long as `idle`, or the instance is severed.
pub(super) fn open(
    client: &Client,
    to_client: OnUpgrade,
    to_instance: OnUpgrade,
    busy: (InUse, Stay),
    idle: Duration,
) {
    let worker = Rc::clone(&client.worker);
    let instance = Arc::clone(busy.0.connection().instance());
    let task = tokio::task::spawn_local(async move {
        let _busy = busy;
        let _open = Open::new(&worker.tunnels);
        let (Ok(left), Ok(right)) = tokio::join!(to_client, to_instance) else {
            return;
        };
        let moved = Cell::new(0);
        tokio::select! {
            // Either side may end a tunnel in any way that it likes; nothing is wrong then.
            _ = join(left, right, &moved) => {}
            () = silence(&moved, idle) => worker.stats.closed(Closed::Tunnel),
        }
    });
    let worker = &client.worker;
    let (now, task) = (worker.clock.now(), task.abort_handle());
    worker.lines.note(&instance, now, task);
}

/// Waits until nothing has moved for as long as `idle`.
async fn silence(moved: &Cell<u32>, idle: Duration) {
    let (mut seen, mut quiet) = (moved.get(), 0);
    while quiet < LOOKS {
        tokio::time::sleep(idle / LOOKS).await;
        quiet = if moved.get() == seen { quiet + 1 } else { 0 };
        seen = moved.get();
    }
}

async fn join(left: Upgraded, right: Upgraded, moved: &Cell<u32>) -> io::Result<()> {
    let (Ok(left), Ok(right)) = (left.downcast::<Watched>(), right.downcast::<Socket>()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let ((mut client, _), early) = (left.io.io.into_parts(), left.read_buf);
    // Held until the streams, which are dropped before it, are closed.
    let ((mut instance, _held), first) = (right.io.into_parts(), right.read_buf);
    pass(&mut instance, &early).await?;
    pass(&mut client, &first).await?;
    let mut client = Noted {
        stream: client,
        moved,
    };
    let mut instance = Noted {
        stream: instance,
        moved,
    };
    copy_bidirectional(&mut client, &mut instance).await?;
    Ok(())
}

/// A connection that notes when something comes from it.
struct Noted<'a> {
    stream: TcpStream,
    moved: &'a Cell<u32>,
}

impl Noted<'_> {
    fn stream(self: Pin<&mut Self>) -> Pin<&mut TcpStream> {
        Pin::new(&mut self.get_mut().stream)
    }
}

impl AsyncRead for Noted<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let moved = self.moved;
        let read = self.stream().poll_read(cx, buffer);
        if read.is_ready() {
            moved.set(moved.get().wrapping_add(1));
        }
        read
    }
}

impl AsyncWrite for Noted<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}

async fn pass(to: &mut TcpStream, bytes: &Bytes) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    to.write_all(bytes).await
}

/// Counts a tunnel while it is open.
struct Open(Rc<Cell<usize>>);

impl Open {
    fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
