//! What a request's head must look like before lb acts on it, and what was seen in it.
//!
//! hyper has already refused what cannot be parsed: bad field names and values, white space before
//! a colon, folded lines, lengths that are no numbers or contradict each other, a transfer coding
//! that does not end in `chunked` or stands in HTTP/1.0. With both a length and a transfer coding
//! it drops the length and closes the connection after the answer (RFC 9112, 6.3). The rest of the
//! framing and addressing rules is here, because an instance that reads a request differently from
//! lb is how one client's request becomes part of another's.

use hyper::{
    HeaderMap, Method, Request, Uri, Version,
    header::{self, HeaderValue},
};

use crate::model::Reason;

/// A set of things seen among the fields of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen(u32);

impl Seen {
    /// `Connection`.
    pub(super) const CONNECTION: Self = Self(1);
    /// `Connection` names fields other than those below.
    pub(super) const NAMES_FIELDS: Self = Self(1 << 1);
    /// `Connection: upgrade`.
    pub(super) const WANTS_UPGRADE: Self = Self(1 << 2);
    /// `Upgrade`.
    pub(super) const UPGRADE: Self = Self(1 << 3);
    /// `TE`.
    pub(super) const TE: Self = Self(1 << 4);
    /// `Transfer-Encoding`.
    pub(super) const CODING: Self = Self(1 << 5);
    /// `Expect: 100-continue`.
    pub(super) const EXPECTS: Self = Self(1 << 6);
    /// `Keep-Alive`, `Proxy-Connection` or another field that ends at the next hop.
    pub(super) const HOP: Self = Self(1 << 7);
    /// A field that says for whom a proxy speaks: `Forwarded`, `X-Forwarded-…`, `X-Real-IP`.
    pub(super) const FORWARDED: Self = Self(1 << 8);
    /// `Max-Forwards`.
    pub(super) const MAX_FORWARDS: Self = Self(1 << 9);
    /// `Content-Length`.
    pub(super) const LENGTH: Self = Self(1 << 10);

    /// Whether all of `other` was seen.
    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Adds `other`.
    pub(super) const fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// A request's head that passed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Examined<'a> {
    /// The host that the request is for, without port; empty when HTTP/1.0 names none.
    pub(super) host: &'a str,
    /// What is in its fields.
    pub(super) seen: Seen,
}

/// Turns the absolute form of a target into the form that instances get: the path in the request
/// line and the authority in `Host`, whatever `Host` said (RFC 9112, 3.2.2).
pub(super) fn to_origin_form<B>(request: &mut Request<B>) -> Result<(), Reason> {
    let Some(authority) = request.uri().authority() else {
        return Ok(());
    };
    if *request.method() == Method::CONNECT {
        return Err(Reason::Unsupported);
    }
    let scheme = request.uri().scheme_str();
    let hosts = request.headers().get_all(header::HOST).iter().count();
    let host_is_right = hosts == 1 || (hosts == 0 && request.version() < Version::HTTP_11);
    if !matches!(scheme, Some("http" | "https")) || !host_is_right {
        return Err(Reason::BadRequest);
    }
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Reason::BadRequest)?;
    let path = request.uri().path_and_query().cloned();
    let path = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    request.headers_mut().insert(header::HOST, host);
    *request.uri_mut() = path;
    Ok(())
}

/// Checks a head whose target is in origin or asterisk form.
pub(super) fn examine<B>(request: &Request<B>) -> Result<Examined<'_>, Reason> {
    let path = request.uri().path();
    let method = request.method();
    if *method == Method::CONNECT || *method == Method::TRACE {
        return Err(Reason::Unsupported);
    }
    let path_is_right = if path == "*" {
        *method == Method::OPTIONS
    } else {
        path.starts_with('/') && !climbs(path)
    };
    if !path_is_right {
        return Err(Reason::BadRequest);
    }
    let fields = scan(request.headers())?;
    let host = match fields.hosts {
        0 if request.version() < Version::HTTP_11 => "",
        1 => fields
            .host
            .and_then(|host| without_port(host.as_bytes()))
            .ok_or(Reason::BadRequest)?,
        _ => return Err(Reason::BadRequest),
    };
    Ok(Examined {
        host,
        seen: fields.seen,
    })
}

/// Counts `Max-Forwards` of an `OPTIONS` down; whether lb is the one that is to answer
/// (RFC 9110, 7.6.2). Other methods have no business with that field.
pub(super) fn ends_here<B>(request: &mut Request<B>) -> bool {
    if *request.method() != Method::OPTIONS {
        return false;
    }
    let hops = request.headers().get(header::MAX_FORWARDS);
    let hops = hops.and_then(|hops| hops.to_str().ok()?.parse::<u32>().ok());
    match hops.map(|hops| hops.checked_sub(1)) {
        Some(Some(left)) => {
            request
                .headers_mut()
                .insert(header::MAX_FORWARDS, left.into());
            false
        }
        Some(None) => true,
        None => false,
    }
}

#[derive(Default)]
struct Fields<'a> {
    seen: Seen,
    hosts: usize,
    host: Option<&'a HeaderValue>,
}

/// One pass over the fields, so that what is rare costs nothing when it is not there.
fn scan(headers: &HeaderMap) -> Result<Fields<'_>, Reason> {
    let mut fields = Fields::default();
    let seen = &mut fields.seen;
    for (name, value) in headers {
        match *name {
            header::HOST => {
                fields.hosts += 1;
                fields.host = Some(value);
            }
            header::CONNECTION => connection(value, seen),
            header::TRANSFER_ENCODING => {
                // A second coding would be decoded by nobody that lb knows of, and a list that
                // two parsers split differently is a classic of request smuggling.
                if seen.has(Seen::CODING) {
                    return Err(Reason::BadRequest);
                }
                if !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                    return Err(Reason::Unsupported);
                }
                seen.add(Seen::CODING);
            }
            header::CONTENT_LENGTH => seen.add(Seen::LENGTH),
            header::UPGRADE => seen.add(Seen::UPGRADE),
            header::TE => seen.add(Seen::TE),
            header::EXPECT => {
                if value.as_bytes().eq_ignore_ascii_case(b"100-continue") {
                    seen.add(Seen::EXPECTS);
                }
            }
            header::MAX_FORWARDS => seen.add(Seen::MAX_FORWARDS),
            header::FORWARDED => seen.add(Seen::FORWARDED),
            header::PROXY_AUTHORIZATION => seen.add(Seen::HOP),
            _ => seen.add(uncommon(name.as_str().as_bytes())),
        }
    }
    Ok(fields)
}

/// What a field name without a constant of its own stands for.
fn uncommon(name: &[u8]) -> Seen {
    match name {
        b"keep-alive" | b"proxy-connection" | b"proxy" | b"http2-settings" => Seen::HOP,
        b"x-real-ip" => Seen::FORWARDED,
        // Some frameworks read `X_Forwarded_For` as `X-Forwarded-For`.
        [b'x', b'-' | b'_', rest @ ..] if rest.starts_with(b"forwarded") => Seen::FORWARDED,
        _ => Seen::default(),
    }
}

/// What a value of `Connection` asks for.
pub(super) fn connection(value: &HeaderValue, seen: &mut Seen) {
    seen.add(Seen::CONNECTION);
    for option in options(value) {
        if option.eq_ignore_ascii_case(b"upgrade") {
            seen.add(Seen::WANTS_UPGRADE);
        } else if !option.eq_ignore_ascii_case(b"keep-alive")
            && !option.eq_ignore_ascii_case(b"close")
        {
            seen.add(Seen::NAMES_FIELDS);
        }
    }
}

/// The elements of a comma-separated list, trimmed, empty ones left out.
pub(super) fn options(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let parts = value.as_bytes().split(|byte| *byte == b',');
    parts
        .map(<[u8]>::trim_ascii)
        .filter(|part| !part.is_empty())
}

/// The host of a `Host` value, without its port; `None` when the value is not valid. Narrower than
/// RFC 3986 in that sub-delimiters are refused: no host name has them, and a comma there means
/// that somebody has joined two fields.
fn without_port(value: &[u8]) -> Option<&str> {
    let (host, rest) = match value.iter().position(|byte| *byte == b']') {
        Some(end) if value[0] == b'[' => value.split_at(end + 1),
        _ => {
            let end = value.iter().position(|byte| *byte == b':');
            value.split_at(end.unwrap_or(value.len()))
        }
    };
    let host_is_right = match host {
        [] => false,
        [b'[', inner @ .., b']'] => inner
            .iter()
            .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')),
        name => name.iter().all(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%')
        }),
    };
    let port_is_right = match rest {
        [] => true,
        [b':', port @ ..] => port.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !host_is_right || !port_is_right {
        return None;
    }
    std::str::from_utf8(host).ok()
}

/// Whether a path has a segment that leads upwards, in any spelling that some instance may decode:
/// `..`, `%2e.`, with `\`, `%2f` or `%5c` as separators, with `;` parameters. lb routes on the path
/// as sent and forwards it untouched; an instance that resolves `/public/../admin` would serve what
/// another route was to decide on. Clients resolve such segments themselves before they send.
fn climbs(path: &str) -> bool {
    let path = path.as_bytes();
    if !path.iter().any(|byte| matches!(byte, b'.' | b'%')) {
        return false;
    }
    // Length of the segment so far while it has nothing but dots.
    let mut dots = Some(0);
    let mut at = 0;
    while at < path.len() {
        let (byte, width) = match &path[at..] {
            [b'%', b'2', b'e' | b'E', ..] => (b'.', 3),
            [b'%', b'2', b'f' | b'F', ..] | [b'%', b'5', b'c' | b'C', ..] => (b'/', 3),
            [b'\\', ..] => (b'/', 1),
            rest => (rest[0], 1),
        };
        at += width;
        dots = match (byte, dots) {
            (b'/' | b';', Some(2)) => return true,
            (b'/', _) => Some(0),
            (b'.', Some(count)) => Some(count + 1),
            _ => None,
        };
    }
    dots == Some(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, fields: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn verdict(target: &str, fields: &[(&str, &str)]) -> Result<String, Reason> {
        let mut request = request(target, fields);
        to_origin_form(&mut request)?;
        examine(&request).map(|head| head.host.to_owned())
    }

    #[test]
    fn hosts() {
        for (value, host) in [
            ("example.org", "example.org"),
            ("example.org:8080", "example.org"),
            ("example.org:", "example.org"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[2001:db8::1]:8080", "[2001:db8::1]"),
            ("a_b", "a_b"),
        ] {
            assert_eq!(verdict("/", &[("host", value)]), Ok(host.to_owned()));
        }
        for bad in [
            "", ":80", "a b", "a,b", "a@b", "a/b", "a:b", "a:1:2", "[::1", "::1", "[::1]x", "[g]",
        ] {
            let refused = Err(Reason::BadRequest);
            assert_eq!(verdict("/", &[("host", bad)]), refused, "{bad}");
        }
        let twice = [("host", "a"), ("host", "a")];
        assert_eq!(verdict("/", &twice), Err(Reason::BadRequest));
        assert_eq!(verdict("/", &[]), Err(Reason::BadRequest));
        let mut old = request("/", &[]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(examine(&old).unwrap().host, "");
    }

    #[test]
    fn the_absolute_form_decides_about_the_host() {
        let mut sent = request("http://real.example:81/p?q", &[("host", "other")]);
        to_origin_form(&mut sent).unwrap();
        assert_eq!(examine(&sent).unwrap().host, "real.example");
        assert_eq!(sent.uri(), "/p?q");
        assert_eq!(sent.headers()[header::HOST], "real.example:81");
        for (target, fields) in [
            ("http://user@a/", &[("host", "a")][..]),
            ("ftp://a/", &[("host", "a")]),
            ("http://a/", &[]),
            ("http://a/", &[("host", "a"), ("host", "b")]),
            ("a:80", &[("host", "a")]),
        ] {
            assert_eq!(verdict(target, fields), Err(Reason::BadRequest), "{target}");
        }
    }

    #[test]
    fn codings() {
        let host = ("host", "a");
        for (codings, expected) in [
            (&["chunked"][..], Ok("a".to_owned())),
            (&["Chunked"], Ok("a".to_owned())),
            (&["gzip, chunked"], Err(Reason::Unsupported)),
            (&["chunked", "chunked"], Err(Reason::BadRequest)),
            (&["chunked, chunked"], Err(Reason::Unsupported)),
        ] {
            let mut fields = vec![host];
            fields.extend(codings.iter().map(|coding| ("transfer-encoding", *coding)));
            assert_eq!(verdict("/", &fields), expected, "{codings:?}");
        }
    }

    #[test]
    fn methods_and_asterisks() {
        let mut sent = request("*", &[("host", "a")]);
        assert_eq!(examine(&sent).unwrap_err(), Reason::BadRequest);
        *sent.method_mut() = Method::OPTIONS;
        assert!(examine(&sent).is_ok());
        let mut sent = request("/", &[("host", "a")]);
        *sent.method_mut() = Method::TRACE;
        assert_eq!(examine(&sent).unwrap_err(), Reason::Unsupported);
        let mut sent = request("a:80", &[("host", "a")]);
        *sent.method_mut() = Method::CONNECT;
        assert_eq!(to_origin_form(&mut sent).unwrap_err(), Reason::Unsupported);
    }

    #[test]
    fn max_forwards_counts_for_options_only() {
        let mut sent = request("*", &[("host", "a"), ("max-forwards", "1")]);
        assert!(!ends_here(&mut sent));
        *sent.method_mut() = Method::OPTIONS;
        assert!(!ends_here(&mut sent));
        assert_eq!(sent.headers()[header::MAX_FORWARDS], "0");
        assert!(ends_here(&mut sent));
    }

    #[test]
    fn paths_that_climb_are_refused_in_every_spelling() {
        for bad in [
            "/..",
            "/../a",
            "/a/../b",
            "/a/..",
            "/a/%2e%2E/b",
            "/a/.%2e/b",
            "/a/..%2fb",
            "/a%2f..%2fb",
            "/a/..%5cb",
            "/a\\..\\b",
            "/a/..;x=1/b",
        ] {
            assert!(climbs(bad), "{bad}");
        }
        for good in [
            "/",
            "/a.b",
            "/a..b",
            "/...",
            "/a/.../b",
            "/.",
            "/a/./b",
            "/..a",
            "/%2e",
            "/a%2fb",
            "/;..",
            "/x..",
            "/.well-known/x",
            "/a%2",
            "/%",
        ] {
            assert!(!climbs(good), "{good}");
        }
    }

    #[test]
    fn what_is_seen() {
        let sent = request(
            "/",
            &[
                ("host", "a"),
                ("connection", "keep-alive, Upgrade, x-secret"),
                ("upgrade", "websocket"),
                ("expect", "100-Continue"),
                ("x_forwarded_for", "1.1.1.1"),
                ("keep-alive", "5"),
            ],
        );
        let seen = examine(&sent).unwrap().seen;
        for flag in [
            Seen::CONNECTION,
            Seen::NAMES_FIELDS,
            Seen::WANTS_UPGRADE,
            Seen::UPGRADE,
            Seen::EXPECTS,
            Seen::FORWARDED,
            Seen::HOP,
        ] {
            assert!(seen.has(flag), "{flag:?}");
        }
        for flag in [Seen::TE, Seen::CODING, Seen::LENGTH, Seen::MAX_FORWARDS] {
            assert!(!seen.has(flag), "{flag:?}");
        }
    }
}
