//! Where a peer that lb itself asks listens: an `http` URL, taken apart.

use std::fmt;

/// An `http` URL without query: the base that paths are appended to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpUrl {
    /// Name or address of the host, without brackets.
    pub host: String,
    /// Port; 80 where the URL names none.
    pub port: u16,
    /// What stands before every path, without a slash at its end: mostly nothing.
    pub prefix: String,
}

impl HttpUrl {
    /// Takes `text` apart.
    ///
    /// # Errors
    /// What is wrong with it, in a few words.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let rest = match text.trim().split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
                return Err("only http is spoken to it");
            }
            _ => return Err("it must begin with http://"),
        };
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err("it must hold no password");
        }
        if path.contains(['?', '#']) {
            return Err("nothing may follow the path");
        }
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the path has characters that must be percent-encoded");
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6.split_once(']').ok_or("the bracket is not closed")?;
                if host.parse::<std::net::Ipv6Addr>().is_err() {
                    return Err("there is no IPv6 address in the brackets");
                }
                (
                    host,
                    port.strip_prefix(':')
                        .or(Some(port).filter(|p| p.is_empty())),
                )
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, Some("")),
            },
        };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        if host.is_empty() || !host.bytes().all(fits) {
            return Err("the host is no host");
        }
        let port = match port.ok_or("what follows the bracket is no port")? {
            "" => 80,
            port => match port.parse() {
                Ok(port @ 1..) => port,
                _ => return Err("the port is no number from 1 to 65535"),
            },
        };
        Ok(Self {
            host: host.to_owned(),
            port,
            prefix: path.trim_end_matches('/').to_owned(),
        })
    }

    /// Host and port as they stand in a `Host` field.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = &self.host;
        let host = match host.contains(':') {
            true => format!("[{host}]"),
            false => host.clone(),
        };
        match self.port {
            80 => host,
            port => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (text, host, port, prefix, shown) in [
            (
                "http://localhost:8080",
                "localhost",
                8080,
                "",
                "http://localhost:8080",
            ),
            (
                "http://localhost:8080/",
                "localhost",
                8080,
                "",
                "http://localhost:8080",
            ),
            ("HTTP://a", "a", 80, "", "http://a"),
            ("http://a:80/b/c/", "a", 80, "/b/c", "http://a/b/c"),
            ("http://[::1]:7", "::1", 7, "", "http://[::1]:7"),
            (
                "http://[fd00::1]/x",
                "fd00::1",
                80,
                "/x",
                "http://[fd00::1]/x",
            ),
        ] {
            let url = HttpUrl::parse(text).unwrap();
            assert_eq!((&*url.host, url.port, &*url.prefix), (host, port, prefix));
            assert_eq!(url.to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_url_of_ours_is_refused() {
        for text in [
            "",
            "a:80",
            "https://a",
            "ftp://a",
            "http://",
            "http://:80",
            "http://a:0",
            "http://a:x",
            "http://a:70000",
            "http://u:p@a",
            "http://a/?q",
            "http://a?q",
            "http://a/#f",
            "http://a b",
            "http://a/b c",
            "http://[::1",
            "http://[::1]x",
            "http://[x]",
            "http://a\r\nb",
        ] {
            assert!(HttpUrl::parse(text).is_err(), "{text:?}");
        }
    }
}
