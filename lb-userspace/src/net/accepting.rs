//! A worker's part of a socket that listens.
//!
//! The kernel shares connections out among the sockets of a group as they come, so a worker that stops
//! accepting has some that are its own already: their clients are connected, and would see a reset when
//! the socket is closed. So stopping is two steps, and the second one is a last look.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::sleep,
};

use super::is_of_the_peer;

/// How long to wait before accepting again when the system has no file or memory to spare.
const BREATH: Duration = Duration::from_millis(50);

/// The task that accepts, and the socket itself for the last look.
#[derive(Debug)]
pub(crate) struct Accepting {
    task: JoinHandle<()>,
    socket: StdListener,
}

impl Accepting {
    /// Accepts on a socket, which does not block, and gives every connection to `serve`, on the local
    /// tasks of the current thread.
    ///
    /// # Errors
    /// When the socket cannot be made this runtime's.
    pub(crate) fn start(
        socket: StdListener,
        serve: impl Fn(TcpStream, SocketAddr) + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::from_std(socket.try_clone()?)?;
        let task = tokio::task::spawn_local(accept(listener, serve));
        Ok(Self { task, socket })
    }

    /// Stops, and gives `serve` what the kernel has accepted already.
    pub(crate) async fn stop(self, serve: impl Fn(TcpStream, SocketAddr)) {
        self.task.abort();
        let _ = self.task.await;
        while let Ok((stream, address)) = self.socket.accept() {
            let stream = stream
                .set_nonblocking(true)
                .and_then(|()| TcpStream::from_std(stream));
            if let Ok(stream) = stream {
                serve(stream, address);
            }
        }
    }

    /// Stops; who was not served so far sees a reset.
    pub(crate) fn abort(self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, serve: impl Fn(TcpStream, SocketAddr)) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => serve(stream, address),
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                // The connection stays in the queue until there is room again. Each worker says so at
                // most 20 times a second.
                tracing::warn!(%error, "cannot accept connections");
                sleep(BREATH).await;
            }
        }
    }
}
