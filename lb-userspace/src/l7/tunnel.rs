//! Connections that have become something else than HTTP: WebSockets, mostly.
//!
//! Bytes pass only after the instance has answered 101. Until then the client's connection is an
//! HTTP connection like any other, and what it sends is held back; a proxy that opens the tunnel
//! when it is asked for lets a client send requests that nobody examines (CVE-2026-2833 was that).

use std::{cell::Cell, io, rc::Rc};

use bytes::Bytes;
use hyper::{
    Request,
    body::{Body, Incoming},
    header,
    upgrade::{OnUpgrade, Upgraded},
};
use tokio::{
    io::{AsyncWriteExt as _, copy_bidirectional},
    net::TcpStream,
};

use super::{
    admission::Stay,
    connection::{Client, Watched},
    head::{self, Seen},
    socket::Socket,
};

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

/// Joins the client's connection and the instance's as soon as both are free. The request stays in
/// flight until one of them closes.
pub(super) fn open(client: &Client, to_client: OnUpgrade, to_instance: OnUpgrade, busy: Stay) {
    let worker = Rc::clone(&client.worker);
    tokio::task::spawn_local(async move {
        let _busy = busy;
        let _open = Open::new(&worker.tunnels);
        let (Ok(left), Ok(right)) = tokio::join!(to_client, to_instance) else {
            return;
        };
        // Either side may end a tunnel in any way that it likes; nothing is wrong then.
        let _ = join(left, right).await;
    });
}

async fn join(left: Upgraded, right: Upgraded) -> io::Result<()> {
    let (Ok(left), Ok(right)) = (left.downcast::<Watched>(), right.downcast::<Socket>()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let (mut client, early) = (left.io.io.into_inner(), left.read_buf);
    let (mut instance, first) = (right.io.into_inner(), right.read_buf);
    pass(&mut instance, &early).await?;
    pass(&mut client, &first).await?;
    copy_bidirectional(&mut client, &mut instance).await?;
    Ok(())
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
