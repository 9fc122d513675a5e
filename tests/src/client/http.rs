//! One HTTP/1.1 client connection, opened anew when it has ended.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HOST;
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::instance::NAME_HEADER;
use crate::netns::Namespace;

/// After which a request counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Header fields.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The instance that has answered; nothing when the balancer itself has.
    #[must_use]
    pub fn instance(&self) -> Option<&str> {
        self.headers.get(NAME_HEADER)?.to_str().ok()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A client that keeps its connection.
#[derive(Debug)]
pub struct Client {
    target: SocketAddr,
    host: String,
    connection: Option<SendRequest<Full<Bytes>>>,
    opened: u64,
}

impl Client {
    /// A client of this address, which calls it `host`.
    #[must_use]
    pub fn new(target: SocketAddr, host: &str) -> Self {
        Self {
            target,
            host: host.to_owned(),
            connection: None,
            opened: 0,
        }
    }

    /// How many connections were needed so far.
    #[must_use]
    pub const fn opened(&self) -> u64 {
        self.opened
    }

    /// `GET path`.
    ///
    /// # Errors
    /// When there is no complete answer within ten seconds.
    pub async fn get(&mut self, path: &str) -> Result<Answer> {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    /// Sends a request.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body))?;
        timeout(PATIENCE, self.exchange(request))
            .await
            .with_context(|| format!("no answer from {} in {PATIENCE:?}", self.target))?
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let mut connection = self.connect().await?;
        let response = connection.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        // Kept only after a complete answer; hyper says when the peer has closed it since.
        self.connection = Some(connection);
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    async fn connect(&mut self) -> Result<SendRequest<Full<Bytes>>> {
        if let Some(mut connection) = self.connection.take()
            && connection.ready().await.is_ok()
        {
            return Ok(connection);
        }
        let stream = TcpStream::connect(self.target)
            .await
            .with_context(|| format!("cannot connect to {}", self.target))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        self.opened += 1;
        Ok(sender)
    }
}

/// One request from a namespace.
///
/// # Errors
/// As [`Client::send`].
pub fn request(
    namespace: &Namespace,
    target: SocketAddr,
    method: Method,
    path: &str,
    body: &str,
) -> Result<Answer> {
    namespace.enter(|| {
        runtime()?.block_on(async {
            let json: &[_] = if body.is_empty() {
                &[]
            } else {
                &[("content-type", "application/json")]
            };
            let body = Bytes::copy_from_slice(body.as_bytes());
            Client::new(target, &target.to_string())
                .send(method, path, json, body)
                .await
        })
    })?
}

/// A runtime on the calling thread alone, so that its sockets are in that thread's namespace.
///
/// # Errors
/// When the system has none to give.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}
