//! Where the management API is, and how it is reached.

use std::{fmt, io, path::PathBuf, sync::Arc};

use hyper::{Uri, header::HeaderValue};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;

use super::{args::Connection, tls};

/// A place where lb listens.
pub(super) struct Place {
    /// As it is named in messages.
    pub(super) url: String,
    pub(super) at: At,
    /// With an https URL.
    tls: Option<Arc<ClientConfig>>,
    /// For the header `Host`.
    pub(super) authority: HeaderValue,
    /// What stands before the API's own paths.
    pub(super) prefix: String,
}

/// What is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum At {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// A connection, whatever it is made of.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Place").field(&self.url).finish()
    }
}

impl Place {
    /// The place that `--api` names; what is wrong with the text, when it names none.
    pub(super) fn parse(connection: &Connection) -> Result<Self, String> {
        let text = connection.api.as_str();
        let parsed = match text.strip_prefix("unix:") {
            Some(path) => Self::socket(text, PathBuf::from(path)),
            None => Self::address(text),
        };
        let mut place = parsed?;
        if place.url.starts_with("https://") {
            place.tls = Some(tls::client(connection)?);
        }
        Ok(place)
    }

    fn socket(url: &str, path: PathBuf) -> Result<Self, &'static str> {
        if !path.is_absolute() {
            return Err("an absolute path has to follow unix:");
        }
        Ok(Self {
            url: url.to_owned(),
            at: At::Unix(path),
            tls: None,
            authority: HeaderValue::from_static("localhost"),
            prefix: String::new(),
        })
    }

    fn address(url: &str) -> Result<Self, &'static str> {
        let full = if url.contains("://") {
            url.to_owned()
        } else {
            format!("http://{url}")
        };
        let uri: Uri = full.parse().map_err(|_| "it does not parse")?;
        let port = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return Err("the scheme must be http or https"),
        };
        let authority = uri.authority().ok_or("the host is missing")?;
        if authority.as_str().contains('@') {
            return Err("a token goes to --token, not into the URL");
        }
        if uri.query().is_some() {
            return Err("nothing may follow the path");
        }
        Ok(Self {
            url: full.trim_end_matches('/').to_owned(),
            at: At::Tcp {
                host: authority.host().trim_matches(['[', ']']).to_owned(),
                port: authority.port_u16().unwrap_or(port),
            },
            tls: None,
            authority: HeaderValue::try_from(authority.as_str())
                .map_err(|_| "the host is no host")?,
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// Connects to it.
    pub(super) async fn connect(&self) -> io::Result<Box<dyn Io>> {
        match &self.at {
            At::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                let Some(config) = &self.tls else {
                    return Ok(Box::new(stream));
                };
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                let connector = TlsConnector::from(Arc::clone(config));
                Ok(Box::new(connector.connect(name, stream).await?))
            }
            At::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        }
    }
}
