//! One check of one instance.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{
    HeaderMap, Request, Response,
    body::Incoming,
    client::conn::http1,
    header::{ACCEPT, CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::model::{Endpoint, HealthCheckSpec, Probe};

/// What lb calls itself in its checks, so that instances can leave them out of their logs.
const AGENT: &str = concat!("lb-health-check/", env!("CARGO_PKG_VERSION"));

/// Why a check failed, in words for the operator.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No connection.
    #[error("{}", describe(.0))]
    Connect(io::Error),
    /// Too late.
    #[error("expected {expected} within {limit:?}, found none")]
    Late {
        expected: &'static str,
        limit: Duration,
    },
    /// The connection ended before the answer.
    #[error("expected an HTTP answer, found the connection closed")]
    Closed,
    /// Not HTTP.
    #[error("expected an HTTP answer, found something else: {0}")]
    NotHttp(hyper::Error),
    /// Another status.
    #[error("expected status {}-{}, found {found}", .expected.0, .expected.1)]
    Status { expected: (u16, u16), found: u16 },
    /// The check itself cannot be sent.
    #[error("expected a path and a host that can be sent, found: {0}")]
    Request(hyper::http::Error),
}

/// The field of an answer by which an instance says what percent of its weight it wants to have.
const WEIGHT: &str = "x-lb-weight";

/// Checks the instance at `endpoint` as `spec` says. What it wants to weigh, in percent, if it has
/// said so.
pub(super) async fn probe(
    endpoint: &Endpoint,
    spec: &HealthCheckSpec,
) -> Result<Option<u8>, Failure> {
    let address = endpoint.address();
    let address = SocketAddr::new(address.ip(), spec.port.unwrap_or(address.port()));
    let late = |expected| Failure::Late {
        expected,
        limit: spec.timeout,
    };
    // One limit for all of it, and a word of how far it came.
    let mut stream = None;
    let check = async {
        let connected = TcpStream::connect(address)
            .await
            .map_err(Failure::Connect)?;
        match &spec.probe {
            Probe::Tcp => Ok(None),
            Probe::Http { path, status, host } => {
                stream = Some(());
                let host = host.as_deref().unwrap_or(endpoint.authority());
                let answer = get(connected, path, host).await?;
                let found = answer.status().as_u16();
                let expected = *status;
                if (expected.0..=expected.1).contains(&found) {
                    Ok(weight(answer.headers()))
                } else {
                    Err(Failure::Status { expected, found })
                }
            }
        }
    };
    match timeout(spec.timeout, check).await {
        Ok(result) => result,
        Err(_) if stream.is_none() => Err(late("a connection")),
        Err(_) => Err(late("an HTTP answer")),
    }
}

/// The head of the answer to `GET path`. The body, whatever its length, is not waited for.
async fn get(stream: TcpStream, path: &str, host: &str) -> Result<Response<Incoming>, Failure> {
    let request = Request::get(path)
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(Failure::Request)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(classify)?;
    let answer = sender.send_request(request);
    tokio::pin!(connection, answer);
    // The connection does the work; it may end before the answer has been picked up.
    let ended = tokio::select! {
        biased;
        answer = &mut answer => return answer.map_err(classify),
        ended = &mut connection => ended,
    };
    match (answer.await, ended) {
        (Ok(answer), _) => Ok(answer),
        (Err(_), Err(error)) | (Err(error), Ok(())) => Err(classify(error)),
    }
}

/// 1 to 100, with or without a percent sign; anything else is nothing said.
fn weight(fields: &HeaderMap) -> Option<u8> {
    let text = fields.get(WEIGHT)?.to_str().ok()?.trim();
    let digits = text.strip_suffix('%').unwrap_or(text).trim_end();
    digits
        .parse()
        .ok()
        .filter(|percent| (1..=100).contains(percent))
}

fn classify(error: hyper::Error) -> Failure {
    if error.is_parse() {
        Failure::NotHttp(error)
    } else {
        Failure::Closed
    }
}

/// What the operating system said, without its numbers where the case is common.
fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::HostUnreachable => "host unreachable".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
        io::ErrorKind::TimedOut => "connection timed out".to_owned(),
        _ => format!("cannot connect: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_a_percentage_or_nothing() {
        for (text, wanted) in [
            ("50%", Some(50)),
            (" 100 % ", Some(100)),
            ("1", Some(1)),
            ("0%", None),
            ("101%", None),
            ("-5", None),
            ("half", None),
            ("", None),
        ] {
            let fields = HeaderMap::from_iter([(
                hyper::header::HeaderName::from_static(WEIGHT),
                text.parse().unwrap(),
            )]);
            assert_eq!(weight(&fields), wanted, "{text:?}");
        }
        assert_eq!(weight(&HeaderMap::new()), None);
    }
}
