//! A small HTTP client for systems beside lb: connections are kept, everything is bounded.
//!
//! The peer is not trusted to be well. Connecting has a limit, the exchange as a whole has one, an
//! answer's head is bounded by a buffer and its body by a number of bytes. When an exchange is given
//! up its connection is closed, so that nothing of it goes on behind anybody's back.

use std::{
    io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{self, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};

use crate::model::HttpUrl;

/// What lb calls itself.
const AGENT: &str = concat!("lb/", env!("CARGO_PKG_VERSION"));

/// Largest head of an answer, in bytes.
const MOST_HEAD: usize = 64 * 1024;

/// Most bytes of an answer's body that are read.
const MOST_BODY: usize = 256 * 1024;

/// Most connections that are kept.
const MOST_KEPT: usize = 8;

/// The longest that connecting may take, whatever the whole may.
const CONNECT: Duration = Duration::from_secs(5);

/// Why an exchange came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    /// No connection.
    #[error("expected a connection to {to}, found: {source}")]
    Connect {
        /// Host and port.
        to: String,
        /// What the system said.
        source: io::Error,
    },
    /// No connection in time.
    #[error("expected a connection to {to} within {limit:?}, found none")]
    ConnectLate {
        /// Host and port.
        to: String,
        /// The limit.
        limit: Duration,
    },
    /// No answer in time.
    #[error("expected a whole answer within {limit:?}, found none")]
    Late {
        /// The limit.
        limit: Duration,
    },
    /// The connection ended, or what came on it is not HTTP.
    #[error("expected an HTTP answer, found: {0}")]
    Broken(#[from] hyper::Error),
    /// The request cannot be made.
    #[error("expected a path that can be sent, found: {0}")]
    Request(#[from] hyper::http::Error),
    /// The answer's body is too long.
    #[error("expected an answer of at most {MOST_BODY} bytes, found a longer one")]
    TooLong,
    /// Another status.
    #[error("expected {expected}, found status {found}")]
    Status {
        /// What would have done.
        expected: &'static str,
        /// What it was.
        found: u16,
    },
    /// The answer does not say what it should.
    #[error("expected {expected}, found {found}")]
    Content {
        /// What it should say.
        expected: &'static str,
        /// What it says.
        found: String,
    },
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Seconds of `Retry-After`, where it has some.
    pub(super) retry_after: Option<Duration>,
    /// The body; `None` when it is too long to be read.
    pub(super) body: Option<Bytes>,
}

/// A client of one system.
#[derive(Debug)]
pub(super) struct Client {
    url: HttpUrl,
    authority: String,
    limit: Duration,
    kept: Mutex<Vec<Connection>>,
}

/// A connection and what drives it.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Client {
    /// A client of the system at `url`; an exchange may take as long as `limit`.
    pub(super) fn new(url: &HttpUrl, limit: Duration) -> Self {
        Self {
            url: url.clone(),
            authority: url.authority(),
            limit,
            kept: Mutex::default(),
        }
    }

    /// `GET path`.
    pub(super) async fn get(&self, path: &str) -> Result<Answer, HttpError> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    /// `POST` of JSON to `path`.
    pub(super) async fn post(&self, path: &str, json: Bytes) -> Result<Answer, HttpError> {
        self.send(Method::POST, path, json).await
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, HttpError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url.prefix))
            .header(header::HOST, &self.authority)
            .header(header::USER_AGENT, AGENT)
            .header(header::ACCEPT, "application/json");
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body))?;
        match timeout(self.limit, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(HttpError::Late { limit: self.limit }),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, HttpError> {
        // A kept connection may have been closed a moment ago. What is sent here may be sent twice,
        // so that is nobody's concern.
        while let Some(mut connection) = self.take() {
            if connection.sender.ready().await.is_err() {
                continue;
            }
            if let Ok(response) = connection.sender.send_request(request.clone()).await {
                return self.read(connection, response).await;
            }
        }
        let mut connection = self.connect().await?;
        let response = connection.sender.send_request(request).await?;
        self.read(connection, response).await
    }

    fn take(&self) -> Option<Connection> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.pop()
    }

    async fn connect(&self) -> Result<Connection, HttpError> {
        let to = || format!("{}:{}", self.url.host, self.url.port);
        let connecting = TcpStream::connect((self.url.host.as_str(), self.url.port));
        let stream = match timeout(CONNECT, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(source)) => return Err(HttpError::Connect { to: to(), source }),
            Err(_) => {
                let limit = CONNECT;
                return Err(HttpError::ConnectLate { to: to(), limit });
            }
        };
        // Without it, requests are a little slower.
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MOST_HEAD)
            .handshake(TokioIo::new(stream))
            .await?;
        let driver = tokio::spawn(async move {
            // Whoever waits for an answer is told.
            let _ = connection.await;
        });
        Ok(Connection { sender, driver })
    }

    /// Reads an answer to its end; the connection is kept when there is nothing left on it.
    async fn read(
        &self,
        connection: Connection,
        response: Response<Incoming>,
    ) -> Result<Answer, HttpError> {
        let (head, mut body) = response.into_parts();
        let mut bytes = Vec::new();
        let mut whole = true;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            if bytes.len() + data.len() > MOST_BODY {
                whole = false;
                break;
            }
            bytes.extend_from_slice(&data);
        }
        if whole {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < MOST_KEPT {
                kept.push(connection);
            }
        }
        Ok(Answer {
            status: head.status,
            retry_after: head.headers.get(header::RETRY_AFTER).and_then(seconds),
            body: whole.then(|| bytes.into()),
        })
    }
}

fn seconds(value: &HeaderValue) -> Option<Duration> {
    let seconds = value.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
