//! The API's own listeners.
//!
//! It serves a handful of clients, so it is plain: HTTP/1.1, one task a connection, and bounds on
//! what a connection may cost. A slow or silent client holds one of [`MOST_CONNECTIONS`] places
//! for [`HEAD_TIMEOUT`] at most before a request, and [`super::body`] bounds the request.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Semaphore, watch},
};
use tower::ServiceExt as _;

use super::{
    ApiState,
    access::{CertificateNames, Peer},
    listener::{Connection, Listener, tls},
};

/// Connections at one time; more wait to be accepted.
const MOST_CONNECTIONS: usize = 256;

/// To send the head of a request, also the longest idle time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a shutdown waits for answers under way.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Why the API is no longer served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener is broken.
    #[error("expected to accept connections on the API's listener: {0}")]
    Accept(#[from] std::io::Error),
}

/// Serves the API on `listener` until `stop` says true (or its sender is gone), then finishes the
/// answers under way.
///
/// # Errors
/// When the listener itself fails. Failures of one connection end that connection.
pub async fn serve(
    listener: impl Into<Listener>,
    state: ApiState,
    stop: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let listener = listener.into();
    let router = super::router(state.clone());
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut stopping = std::pin::pin!(stopped(stop.clone()));
    loop {
        let place = tokio::select! {
            () = &mut stopping => break,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let accepted = tokio::select! {
            () = &mut stopping => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => {
                // A reload may have brought another certificate, or TLS itself.
                let tls = state.access().tls();
                let answers = Answers {
                    router: router.clone(),
                    stop: stop.clone(),
                };
                tokio::spawn(async move {
                    answers.serve(accepted, tls).await;
                    drop(place);
                });
            }
            Err(error) if passes(&error) => {
                // Out of descriptors, most likely: trying again at once would only burn a core.
                tracing::warn!(%error, "cannot accept a connection to the API");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    drop(listener);
    let all = u32::try_from(MOST_CONNECTIONS).unwrap_or(u32::MAX);
    if tokio::time::timeout(LAST_ANSWERS, places.acquire_many(all))
        .await
        .is_err()
    {
        tracing::warn!("answers of the API were cut off by the shutdown");
    }
    Ok(())
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error says that nobody is left to say it.
    drop(stop.wait_for(|stop| *stop).await);
}

/// Whether a failed accept says nothing about the next one.
fn passes(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, OutOfMemory};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted | OutOfMemory
    ) || matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS)
    )
}

/// What a connection is served with.
struct Answers {
    router: Router,
    stop: watch::Receiver<bool>,
}

impl Answers {
    async fn serve(self, accepted: Connection, tls: Option<Arc<ServerConfig>>) {
        let none = CertificateNames::default();
        match (accepted, tls) {
            (Connection::Unix(stream, peer), _) => self.connection(stream, peer, none).await,
            (Connection::Tcp(stream, peer), None) => {
                self.connection(stream, Peer::Address(peer), none).await;
            }
            (Connection::Tcp(stream, peer), Some(config)) => {
                let handshake = tls::accept(stream, config);
                let accepted = tokio::select! {
                    accepted = handshake => accepted,
                    () = stopped(self.stop.clone()) => return,
                };
                match accepted {
                    Ok((stream, names)) => {
                        self.connection(stream, Peer::Address(peer), names).await;
                    }
                    Err(error) => tracing::debug!(%peer, %error, "no TLS with a client of the API"),
                }
            }
        }
    }

    async fn connection(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        peer: Peer,
        names: CertificateNames,
    ) {
        let Self { router, stop } = self;
        let from = peer.clone();
        let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(from.clone());
            request.extensions_mut().insert(names.clone());
            router.clone().oneshot(request)
        });
        let mut connection = std::pin::pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_headers(100)
                .serve_connection(TokioIo::new(stream), service)
        );
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stopped(stop) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "connection to the API ended early");
        }
    }
}
