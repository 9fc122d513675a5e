//! HTTP of an instance.
//!
//! Every path answers 200 with the instance's name. The query asks for more: `size=` bytes instead
//! of the name, `status=`, `delay=` milliseconds. `/_set/delay/50` and `/_set/status/503` change what
//! all later answers are, as trouble on an instance would; `/_set/failing/30` makes 30 of 100 a 500,
//! evenly spread; `/_set/load/90` makes them say that the instance is used to 90 %, at a hundred requests
//! a second. `Upgrade` gives a tunnel that echoes.
//! `/_count` says how many requests there were.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use super::NAME_HEADER;

/// The largest body that is made, in bytes.
const MOST: usize = 256 << 20;

struct State {
    name: Arc<str>,
    status: AtomicU64,
    delay: AtomicU64,
    /// Requests so far.
    count: AtomicU64,
    /// In percent; 0 is not said.
    load: AtomicU64,
    /// Answers of 100 that fail, and answers so far.
    failing: AtomicU64,
    answers: AtomicU64,
}

impl State {
    /// The status of the next answer.
    fn status(&self) -> u64 {
        let failing = self.failing.load(Ordering::Relaxed);
        let number = self.answers.fetch_add(1, Ordering::Relaxed);
        if number * failing % 100 < failing {
            500
        } else {
            self.status.load(Ordering::Relaxed)
        }
    }
}

/// Accepts until the process is ended.
pub(super) async fn serve(listener: TcpListener, name: Arc<str>) -> Result<()> {
    let state = Arc::new(State {
        name,
        status: AtomicU64::new(200),
        delay: AtomicU64::new(0),
        count: AtomicU64::new(0),
        load: AtomicU64::new(0),
        failing: AtomicU64::new(0),
        answers: AtomicU64::new(0),
    });
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection(stream, Arc::clone(&state)));
        }
    }
}

async fn connection(stream: TcpStream, state: Arc<State>) -> Result<()> {
    stream.set_nodelay(true)?;
    let service = service_fn(move |request| answer(request, Arc::clone(&state)));
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await?;
    Ok(())
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<State>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = match request.headers().get(UPGRADE).cloned() {
        Some(protocol) => {
            tokio::spawn(echo(request));
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(UPGRADE, protocol);
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("upgrade"));
            response
        }
        None => plain(request, &state).await,
    };
    let load = state.load.load(Ordering::Relaxed);
    let report = format!(
        "TEXT cpu_utilization={}, rps_fractional=100",
        load as f64 / 100.0
    );
    if let Some(report) = (load > 0).then(|| report.parse().ok()).flatten() {
        response
            .headers_mut()
            .insert("endpoint-load-metrics", report);
    }
    if let Ok(name) = state.name.parse() {
        response.headers_mut().insert(NAME_HEADER, name);
    }
    Ok(response)
}

async fn plain(request: Request<Incoming>, state: &State) -> Response<Full<Bytes>> {
    if request.uri().path() == "/_count" {
        let count = state.count.load(Ordering::Relaxed).to_string();
        return Response::new(Full::new(Bytes::from(count)));
    }
    let asked = Asked::read(&request, state);
    // The whole request is taken in, as a program that uses it would.
    let received = request
        .into_body()
        .collect()
        .await
        .map(|body| body.to_bytes().len());
    tokio::time::sleep(asked.delay).await;
    let body = match asked.size {
        Some(size) => vec![b'x'; size.min(MOST)],
        None => format!("{}\n", state.name).into_bytes(),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = asked.status;
    if let Ok(received) = received {
        response.headers_mut().insert("x-received", received.into());
    }
    response
}

/// What a request asks the answer to be.
struct Asked {
    status: StatusCode,
    delay: Duration,
    size: Option<usize>,
}

impl Asked {
    fn read(request: &Request<Incoming>, state: &State) -> Self {
        let mut parts = request.uri().path().split('/').skip(1);
        if parts.next() == Some("_set") {
            let (name, value) = (parts.next(), parts.next());
            match (name, value) {
                (Some("status"), Some(value)) => set(&state.status, value),
                (Some("delay"), Some(value)) => set(&state.delay, value),
                (Some("load"), Some(value)) => set(&state.load, value),
                (Some("failing"), Some(value)) => set(&state.failing, value),
                _ => {}
            }
            return Self {
                status: StatusCode::OK,
                delay: Duration::ZERO,
                size: None,
            };
        }
        state.count.fetch_add(1, Ordering::Relaxed);
        let status = parameter(request, "status").unwrap_or_else(|| state.status());
        let delay =
            parameter(request, "delay").unwrap_or_else(|| state.delay.load(Ordering::Relaxed));
        Self {
            status: u16::try_from(status)
                .ok()
                .and_then(|status| StatusCode::from_u16(status).ok())
                .unwrap_or(StatusCode::BAD_REQUEST),
            delay: Duration::from_millis(delay),
            size: parameter(request, "size").and_then(|size| usize::try_from(size).ok()),
        }
    }
}

fn set(cell: &AtomicU64, value: &str) {
    if let Ok(value) = value.parse() {
        cell.store(value, Ordering::Relaxed);
    }
}

fn parameter(request: &Request<Incoming>, name: &str) -> Option<u64> {
    let query = request.uri().query()?;
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

async fn echo(request: Request<Incoming>) -> Result<()> {
    let tunnel = TokioIo::new(hyper::upgrade::on(request).await?);
    let (mut read, mut write) = tokio::io::split(tunnel);
    tokio::io::copy(&mut read, &mut write).await?;
    Ok(())
}
