//! Texts of HTTP: hosts, paths, statuses, names of fields.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use super::range;
use crate::{
    affinity::KEY_BYTES,
    config::forms::{Pattern, Refused},
    model::{HashKey, HostPattern, PathPattern, RateKey, Secret, SessionSource},
};

/// A range of HTTP statuses.
pub(in crate::config) const STATUS: Pattern<(u16, u16)> = Pattern {
    expected: "a status from 100 to 599, or the first and the last of a range",
    example: "200-399",
    numbers: true,
    secret: false,
    parse: |text| {
        let (first, last) = match text.trim().parse::<u16>() {
            Ok(status) => (status, status),
            Err(_) => range(text).ok_or_else(Refused::default)?,
        };
        if last < first {
            return Err(Refused::because("the first is above the last"));
        }
        let fits = first >= 100 && last <= 599;
        fits.then_some((first, last)).ok_or_else(Refused::default)
    },
    show: |(first, last)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    },
};

/// What consistent hashing hashes.
pub(in crate::config) const HASH_KEY: Pattern<HashKey> = Pattern {
    expected: "\"source\", \"flow\", \"session\", \"path\", \"header:NAME\", \"cookie:NAME\" or \"query:NAME\"",
    example: "header:x-user",
    numbers: false,
    secret: false,
    parse: |text| match text.split_once(':') {
        None if text == "source" => Ok(HashKey::Source),
        None if text == "flow" => Ok(HashKey::Flow),
        None if text == "session" => Ok(HashKey::Session),
        None if text == "path" => Ok(HashKey::Path),
        Some(("header", name)) if is_token(name) => Ok(HashKey::Header(name.to_ascii_lowercase())),
        Some(("cookie", name)) if is_token(name) => Ok(HashKey::Cookie(name.to_owned())),
        Some(("query", name)) if is_visible(name, "&=#") => Ok(HashKey::Query(name.to_owned())),
        _ => Err(Refused::default()),
    },
    show: |key| match key {
        HashKey::Source => "source".to_owned(),
        HashKey::Flow => "flow".to_owned(),
        HashKey::Session => "session".to_owned(),
        HashKey::Path => "path".to_owned(),
        HashKey::Header(name) => format!("header:{name}"),
        HashKey::Cookie(name) => format!("cookie:{name}"),
        HashKey::Query(name) => format!("query:{name}"),
    },
};

/// The name of a field.
pub(in crate::config) const FIELD: Pattern<String> = Pattern {
    expected: "the name of a header field",
    example: "x-priority",
    numbers: false,
    secret: false,
    parse: |text| {
        let name = text.to_ascii_lowercase();
        is_token(text).then_some(name).ok_or_else(Refused::default)
    },
    show: Clone::clone,
};

/// Which requests share a budget.
pub(in crate::config) const RATE_KEY: Pattern<RateKey> = Pattern {
    expected: "\"all\", \"client\" or \"header:NAME\"",
    example: "client",
    numbers: false,
    secret: false,
    parse: |text| match text.split_once(':') {
        None if text == "all" => Ok(RateKey::All),
        None if text == "client" => Ok(RateKey::Client),
        Some(("header", name)) if is_token(name) => Ok(RateKey::Header(name.to_ascii_lowercase())),
        _ => Err(Refused::default()),
    },
    show: ToString::to_string,
};

/// Where a session's id stands.
pub(in crate::config) const SESSION_SOURCE: Pattern<SessionSource> = Pattern {
    expected: "\"header:NAME\", \"jwt\", \"cookie:NAME\", \"address\" or \"own\"",
    example: "header:X-Session-ID",
    numbers: false,
    secret: false,
    parse: |text| match text.split_once(':') {
        None if text == "jwt" => Ok(SessionSource::Jwt),
        None if text == "address" => Ok(SessionSource::Address),
        None if text == "own" => Ok(SessionSource::Own),
        Some(("header", name)) if is_token(name) => {
            Ok(SessionSource::Header(name.to_ascii_lowercase()))
        }
        Some(("cookie", name)) if is_token(name) => Ok(SessionSource::Cookie(name.to_owned())),
        _ => Err(Refused::default()),
    },
    show: |source| match source {
        SessionSource::Jwt => "jwt".to_owned(),
        SessionSource::Address => "address".to_owned(),
        SessionSource::Own => "own".to_owned(),
        SessionSource::Header(name) => format!("header:{name}"),
        SessionSource::Cookie(name) => format!("cookie:{name}"),
    },
};

/// What the names of lb's own cookies begin with.
pub(in crate::config) const COOKIE_NAME: Pattern<String> = Pattern {
    expected: "1 to 64 letters, digits, hyphens, dots or underscores",
    example: "lb_session",
    numbers: false,
    secret: false,
    parse: |text| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let fits = (1..=64).contains(&text.len()) && text.bytes().all(fits);
        fits.then(|| text.to_owned()).ok_or_else(Refused::default)
    },
    show: Clone::clone,
};

/// A key that seals cookies.
pub(in crate::config) const COOKIE_KEY: Pattern<Secret> = Pattern {
    expected: "32 bytes in base64, as `openssl rand -base64 32` makes them",
    example: "qVd1y0vWc1Tn0pJ4x7Zk2mR8sB5eH3uG6aL9fQwXyZ0=",
    numbers: false,
    secret: true,
    parse: |text| {
        let bytes = BASE64.decode(text.trim()).unwrap_or_default();
        let fits = bytes.len() == KEY_BYTES;
        fits.then_some(Secret(bytes)).ok_or_else(Refused::default)
    },
    show: |_| String::new(),
};

/// A secret that tokens are signed with; RFC 7518, section 3.2 asks for no less than 256 bits.
pub(in crate::config) const JWT_SECRET: Pattern<Secret> = Pattern {
    expected: "32 to 1024 visible ASCII characters without spaces",
    example: "a-secret-of-at-least-32-characters",
    numbers: false,
    secret: true,
    parse: |text| {
        let fits = (32..=1024).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        let secret = || Secret(text.as_bytes().to_vec());
        fits.then(secret).ok_or_else(Refused::default)
    },
    show: |_| String::new(),
};

/// A `token` of RFC 9110, section 5.6.2, of at most 256 characters.
pub(in crate::config) fn is_token(name: &str) -> bool {
    (1..=256).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Whether `text` has 1 to 2048 visible ASCII characters, none of them in `not`.
fn is_visible(text: &str, not: &str) -> bool {
    (1..=2048).contains(&text.len())
        && text
            .chars()
            .all(|c| c.is_ascii_graphic() && !not.contains(c))
}

/// The hosts of a route. Upper case is folded, because hosts know no case (RFC 9110, 4.2.3).
pub(in crate::config) const HOST: Pattern<HostPattern> = Pattern {
    expected: "a host name without port, or *. and a domain, or * for any",
    example: "api.example.org",
    numbers: false,
    secret: false,
    parse: |text| {
        if text == "*" {
            return Ok(HostPattern::Any);
        }
        let host = text.to_ascii_lowercase();
        match host.strip_prefix("*.") {
            Some(domain) if is_host(domain) => Ok(HostPattern::Suffix(domain.to_owned())),
            None if is_host(&host) => Ok(HostPattern::Exact(host)),
            _ => Err(Refused::default()),
        }
    },
    show: ToString::to_string,
};

/// Names as in RFC 1123, and with underscores, which container networks like.
fn is_host(host: &str) -> bool {
    host.len() <= 253
        && host.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// The paths of a route.
pub(in crate::config) const ROUTE_PATH: Pattern<PathPattern> = Pattern {
    expected: "a path that begins with a slash, without query or spaces, and with /* at its end \
               for everything below it",
    example: "/api/v1/auth/*",
    numbers: false,
    secret: false,
    parse: |text| {
        let (path, below) = match text.strip_suffix("/*") {
            Some(path) => (path, true),
            None => (text, false),
        };
        if below && path.is_empty() {
            return Ok(PathPattern::Prefix("/".to_owned()));
        }
        let fits = path.starts_with('/') && is_visible(path, "?#*");
        match below {
            true if fits && !path.ends_with('/') => Ok(PathPattern::Prefix(path.to_owned())),
            false if fits => Ok(PathPattern::Exact(path.to_owned())),
            _ => Err(Refused::default()),
        }
    },
    show: ToString::to_string,
};

/// What a health check asks for.
pub(in crate::config) const PROBE_PATH: Pattern<String> = Pattern {
    expected: "a path that begins with a slash, without spaces",
    example: "/health",
    numbers: false,
    secret: false,
    parse: |text| {
        let fits = text.starts_with('/') && is_visible(text, "#");
        fits.then(|| text.to_owned()).ok_or_else(Refused::default)
    },
    show: Clone::clone,
};

/// The `Host` of a health check.
pub(in crate::config) const PROBE_HOST: Pattern<String> = Pattern {
    expected: "a host, with a port if need be",
    example: "health.example.org",
    numbers: false,
    secret: false,
    parse: |text| {
        let fits = is_visible(text, "/?#@");
        fits.then(|| text.to_owned()).ok_or_else(Refused::default)
    },
    show: Clone::clone,
};
