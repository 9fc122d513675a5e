//! A small HTTP client for the management API: one connection a request, bounded in time and size.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    args::Connection,
    error::CliError,
    place::{Io, Place},
};
use crate::api::{Problem, types::Envelope};

/// To establish a connection: lb is on this machine or near.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// For the whole answer; a reload may have to resolve names.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Most bytes of an answer: a full lb's instances take a few megabytes.
const SIZE_LIMIT: usize = 64 << 20;

/// Speaks to one lb.
#[derive(Debug)]
pub(super) struct Client {
    place: Place,
    authorization: Option<HeaderValue>,
}

/// What came back.
struct Answer {
    status: StatusCode,
    body: Bytes,
    /// The tag of what is configured.
    tag: Option<HeaderValue>,
}

impl Client {
    /// A client of the API that `connection` leads to.
    pub(super) fn new(connection: &Connection) -> Result<Self, CliError> {
        let place = Place::parse(connection).map_err(|why| CliError::Url {
            found: connection.api.clone(),
            why,
        })?;
        let token = connection.token.clone();
        let authorization = match token.filter(|token| !token.is_empty()) {
            None => None,
            Some(token) if token.contains(char::is_whitespace) => return Err(CliError::Token),
            Some(token) => {
                let value = HeaderValue::try_from(format!("Bearer {token}"));
                let mut value = value.map_err(|_| CliError::Token)?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self {
            place,
            authorization,
        })
    }

    /// Where the API is.
    pub(super) fn url(&self) -> &str {
        &self.place.url
    }

    /// The data of `GET path` below the load balancer's prefix.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        let path = format!("/api/v1/loadbalancer{path}");
        self.data(Method::GET, &path, None).await
    }

    /// The data of `GET path`, an absolute path.
    pub(super) async fn get_at<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.data(Method::GET, path, None).await
    }

    /// The data of `POST path`, an absolute path.
    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.data(Method::POST, path, None).await
    }

    /// The data of `DELETE path` below the load balancer's prefix.
    pub(super) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        let path = format!("/api/v1/loadbalancer{path}");
        self.data(Method::DELETE, &path, None).await
    }

    /// The data of `PUT path` with a body.
    pub(super) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        let path = format!("/api/v1/loadbalancer{path}");
        self.put_at(&path, body).await
    }

    /// The data of `PUT path`, an absolute path, with a body.
    pub(super) async fn put_at<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        let body = serde_json::to_vec(body).map_err(std::io::Error::from)?;
        self.data(Method::PUT, path, Some(body)).await
    }

    /// The data of `DELETE path`, an absolute path.
    pub(super) async fn delete_at<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.data(Method::DELETE, path, None).await
    }

    /// The answer to `GET path`, an absolute path, as text.
    pub(super) async fn text(&self, path: &str) -> Result<String, CliError> {
        let answer = self.send(Method::GET, path, None, None).await?;
        if !answer.status.is_success() {
            return Err(self.refused(&answer));
        }
        String::from_utf8(answer.body.into()).map_err(|_| self.foreign("its answer is no text"))
    }

    async fn data<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<T, CliError> {
        self.read(&self.send(method, path, body, None).await?)
    }

    fn read<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T, CliError> {
        if !answer.status.is_success() {
            return Err(self.refused(answer));
        }
        let envelope: Envelope<T> = serde_json::from_slice(&answer.body)
            .map_err(|error| self.foreign(&format!("its answer does not fit ({error})")))?;
        Ok(envelope.data)
    }

    /// What a change of something that is configured answers. Where lb asks of what it is a change,
    /// of what is there now: this is the way for people, who have just looked.
    pub(super) async fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, CliError> {
        let path = format!("/api/v1/loadbalancer{path}");
        let body = body.map(serde_json::to_vec).transpose();
        let body = body.map_err(std::io::Error::from)?;
        let mut answer = self.send(method.clone(), &path, body.clone(), None).await?;
        if answer.status == StatusCode::PRECONDITION_REQUIRED {
            let of = path.split('?').next().unwrap_or(&path);
            let of = match of.split_once("/config/") {
                Some((before, _)) => format!("{before}/config"),
                None => of.to_owned(),
            };
            let tag = self.send(Method::GET, &of, None, None).await?.tag;
            answer = self.send(method, &path, body, tag).await?;
        }
        self.read(&answer)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        tag: Option<HeaderValue>,
    ) -> Result<Answer, CliError> {
        let stream = self.connect().await?;
        let exchange = self.exchange(stream, method, path, body, tag);
        match tokio::time::timeout(ANSWER_LIMIT, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(self.slow()),
        }
    }

    async fn connect(&self) -> Result<Box<dyn Io>, CliError> {
        let unreachable = |why: String| CliError::Unreachable {
            url: self.place.url.clone(),
            why,
        };
        match tokio::time::timeout(CONNECT_LIMIT, self.place.connect()).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Err(_) => Err(unreachable(format!("no answer within {CONNECT_LIMIT:?}"))),
        }
    }

    async fn exchange(
        &self,
        stream: Box<dyn Io>,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        tag: Option<HeaderValue>,
    ) -> Result<Answer, CliError> {
        let response = self.ask(stream, method, path, body, tag).await?;
        self.collect(response).await
    }

    /// Sends a request and returns the head of the answer.
    async fn ask(
        &self,
        stream: Box<dyn Io>,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        tag: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, CliError> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.odd(&error))?;
        // The connection has to be driven beside the request, which shows its failure.
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.place.prefix))
            .header(header::HOST, self.place.authority.clone())
            .header(header::CONNECTION, "close");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization.clone());
        }
        if let Some(tag) = tag {
            request = request.header(header::IF_MATCH, tag);
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        let request = request.body(body).map_err(|error| self.odd(&error))?;
        let response = sender.send_request(request).await;
        response.map_err(|error| self.odd(&error))
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Answer, CliError> {
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, SIZE_LIMIT).collect().await;
        Ok(Answer {
            tag: parts.headers.get(header::ETAG).cloned(),
            status: parts.status,
            body: body.map_err(|error| self.odd(&error))?.to_bytes(),
        })
    }

    /// Reads the answer to `GET path`, an absolute path, line by line until it ends.
    pub(super) async fn lines(
        &self,
        path: &str,
        mut each: impl FnMut(&str) -> std::io::Result<()>,
    ) -> Result<(), CliError> {
        let stream = self.connect().await?;
        let head = self.ask(stream, Method::GET, path, None, None);
        let head = tokio::time::timeout(ANSWER_LIMIT, head).await;
        let response = head.unwrap_or_else(|_| Err(self.slow()))?;
        if !response.status().is_success() {
            return Err(self.refused(&self.collect(response).await?));
        }
        let (mut body, mut rest) = (response.into_body(), Vec::new());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|error| self.odd(&error))?.into_data() else {
                continue;
            };
            rest.extend_from_slice(&data);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                each(String::from_utf8_lossy(&line[..end]).trim_end_matches('\r'))?;
            }
            if rest.len() > SIZE_LIMIT {
                return Err(self.foreign("its answer has a line without an end"));
            }
        }
        Ok(())
    }

    fn odd(&self, error: &dyn std::fmt::Display) -> CliError {
        self.foreign(&error.to_string())
    }

    fn slow(&self) -> CliError {
        CliError::Slow {
            url: self.place.url.clone(),
            limit: ANSWER_LIMIT,
        }
    }

    fn refused(&self, answer: &Answer) -> CliError {
        match serde_json::from_slice::<Problem>(&answer.body) {
            Ok(problem) => CliError::Refused {
                status: answer.status.as_u16(),
                message: problem.detail,
                faults: problem.errors,
            },
            Err(_) => self.foreign(&format!("it answers {}", answer.status)),
        }
    }

    fn foreign(&self, why: &str) -> CliError {
        CliError::Foreign {
            url: self.place.url.clone(),
            why: why.to_owned(),
        }
    }
}

/// `text` as one segment of a path: everything but the unreserved characters of RFC 3986 becomes
/// `%XX`.
pub(super) fn segment(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::place::At;

    fn connect(url: &str, token: Option<&str>) -> Result<Client, CliError> {
        // Any certificates do: nobody is connected to.
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        let signed = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        std::fs::write(&ca, signed.cert.pem()).unwrap();
        Client::new(&Connection {
            api: url.to_owned(),
            token: token.map(str::to_owned),
            ca: Some(ca),
            cert: None,
            key: None,
            json: false,
        })
    }

    #[test]
    fn urls_are_taken_or_explained() {
        for (url, host, port, prefix) in [
            ("http://127.0.0.1:7700", "127.0.0.1", 7700, ""),
            ("http://127.0.0.1:7700/", "127.0.0.1", 7700, ""),
            ("localhost:7700", "localhost", 7700, ""),
            ("http://lb.example.org", "lb.example.org", 80, ""),
            ("http://[::1]:7700", "::1", 7700, ""),
            ("https://lb.example.org", "lb.example.org", 443, ""),
            ("http://proxy:80/lb/", "proxy", 80, "/lb"),
        ] {
            let client = connect(url, None).unwrap();
            let Place {
                at, prefix: found, ..
            } = client.place;
            let expected = At::Tcp {
                host: host.to_owned(),
                port,
            };
            assert_eq!((at, found.as_str()), (expected, prefix), "{url}");
        }
        for url in [
            "",
            "ftp://a",
            "http://",
            "http://u:p@a",
            "http://a/?x",
            "a b",
            "unix:",
            "unix:api.sock",
        ] {
            assert!(
                matches!(connect(url, None), Err(CliError::Url { .. })),
                "{url:?}"
            );
        }
        for token in ["a b", "a\n", "ü\u{7f}"] {
            let client = connect("http://a", Some(token));
            assert!(matches!(client, Err(CliError::Token)), "{token:?}");
        }
        let client = connect("http://a", Some("s3cret")).unwrap();
        assert!(!format!("{client:?}").contains("s3cret"));
    }

    #[test]
    fn segments_hold_any_name() {
        assert_eq!(segment("http://h:1/ü"), "http%3A%2F%2Fh%3A1%2F%C3%BC");
        assert_eq!(segment("main-backend_1.~"), "main-backend_1.~");
    }
}
