//! Where an instance listens, and how people name it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    sync::Arc,
};

/// An endpoint: the name that was configured and the address that it stands for.
///
/// The name is what operators see and type: `http://localhost:8081` or `10.0.0.2:53`. It is kept
/// as written, less a trailing slash, because it is also the instance's name in URLs and labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    name: Arc<str>,
    authority: Arc<str>,
    address: SocketAddr,
}

/// Why a text is no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The form is wrong.
    #[error(
        "expected an endpoint such as http://10.0.0.2:8080 or 10.0.0.2:8080, found {found:?}: {why}"
    )]
    Form {
        /// What was given.
        found: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The host has no address.
    #[error("expected a host name that resolves, found {host:?}: {why}")]
    Resolve {
        /// The host.
        host: String,
        /// What the resolver said.
        why: String,
    },
}

impl Endpoint {
    /// Parses `http://host[:port][/]` or `host:port`, and resolves the host.
    ///
    /// A host name resolves once, here, to its first IPv4 address, else its first IPv6 address.
    ///
    /// # Errors
    /// When the form is wrong or the host does not resolve.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        let form = |why| EndpointError::Form {
            found: text.to_owned(),
            why,
        };
        let name = text.trim_end_matches('/');
        let (authority, default_port) = match name.split_once("://") {
            Some(("http", rest)) => (rest, Some(80)),
            Some(("https", _)) => return Err(form("only http is spoken to instances")),
            Some(_) => return Err(form("the scheme must be http")),
            None => (name, None),
        };
        if authority.contains(['/', '?', '#', '@']) || authority.contains(char::is_whitespace) {
            return Err(form("only a host and a port may follow the scheme"));
        }
        let (host, port) = split_port(authority).map_err(form)?;
        let port = port
            .or(default_port)
            .ok_or_else(|| form("the port is missing"))?;
        if port == 0 {
            return Err(form("the port must be from 1 to 65535"));
        }
        Ok(Self {
            name: name.into(),
            authority: authority.into(),
            address: resolve(host, port)?,
        })
    }

    /// An endpoint for an address, named `ip:port`.
    #[must_use]
    pub fn from_address(address: SocketAddr) -> Self {
        let name: Arc<str> = address.to_string().into();
        Self {
            authority: name.clone(),
            name,
            address,
        }
    }

    /// The name as configured.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Host and port as configured: the `Host` of a health check.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The address.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether `text` names this endpoint: as configured, with or without scheme or trailing
    /// slash, or by address. A proxy may have folded `//` into `/` on the way; that matches too.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let text = text.trim_end_matches('/');
        let bare = text
            .strip_prefix("http://")
            .or_else(|| text.strip_prefix("http:/"))
            .unwrap_or(text);
        *text == *self.name || *bare == *self.authority || bare.parse() == Ok(self.address)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Splits `host:port`, `[v6]:port`, `host` or `[v6]`.
fn split_port(authority: &str) -> Result<(&str, Option<u16>), &'static str> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest
            .split_once(']')
            .ok_or("the bracket of the IPv6 address is open")?;
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err("only a port may follow the bracket"),
        }
    } else {
        match authority.split_once(':') {
            Some((_, rest)) if rest.contains(':') => {
                return Err("an IPv6 address needs brackets");
            }
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    if host.is_empty() {
        return Err("the host is missing");
    }
    match port {
        None => Ok((host, None)),
        Some(port) => match port.parse() {
            Ok(number) if port.bytes().all(|b| b.is_ascii_digit()) => Ok((host, Some(number))),
            _ => Err("the port must be from 1 to 65535"),
        },
    }
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr, EndpointError> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    let error = |why: String| EndpointError::Resolve {
        host: host.to_owned(),
        why,
    };
    let found: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|e| error(e.to_string()))?
        .collect();
    found
        .iter()
        .find(|address| address.is_ipv4())
        .or(found.first())
        .copied()
        .ok_or_else(|| error("no address".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_documented_forms() {
        for (text, name, address) in [
            (
                "http://127.0.0.1:8081",
                "http://127.0.0.1:8081",
                "127.0.0.1:8081",
            ),
            (
                "http://127.0.0.1:8081/",
                "http://127.0.0.1:8081",
                "127.0.0.1:8081",
            ),
            ("http://127.0.0.1", "http://127.0.0.1", "127.0.0.1:80"),
            ("10.0.0.2:53", "10.0.0.2:53", "10.0.0.2:53"),
            ("[fd00::2]:53", "[fd00::2]:53", "[fd00::2]:53"),
            ("http://[fd00::2]", "http://[fd00::2]", "[fd00::2]:80"),
        ] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!(endpoint.name(), name);
            assert_eq!(endpoint.address(), address.parse().unwrap());
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "",
            "http://",
            "http://:80",
            "10.0.0.2",
            "10.0.0.2:0",
            "10.0.0.2:65536",
            "10.0.0.2:+1",
            "https://a:1",
            "ftp://a:1",
            "http://a:1/path",
            "http://u@a:1",
            "fd00::2:53",
            "[fd00::2",
            "[fd00::2]x:1",
            "http://a b:1",
        ] {
            assert!(
                matches!(Endpoint::parse(text), Err(EndpointError::Form { .. })),
                "{text:?} was accepted"
            );
        }
    }

    #[test]
    fn is_found_by_each_of_its_names() {
        let endpoint = Endpoint::parse("http://localhost:8081").unwrap();
        for name in [
            "http://localhost:8081",
            "http://localhost:8081/",
            "http:/localhost:8081",
            "localhost:8081",
            "127.0.0.1:8081",
        ] {
            assert!(endpoint.matches(name), "{name}");
        }
        assert!(!endpoint.matches("http://localhost:808"));
        assert!(!endpoint.matches(""));
    }
}
