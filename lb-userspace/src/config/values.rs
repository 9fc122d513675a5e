//! The texts that settings are written in.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use super::forms::{Pattern, Refused};
use crate::model::{HashKey, HostPattern, IpPrefix, PathPattern, ServiceName};

/// An address that can be listened on. A port alone means every IPv4 address of the host: that is
/// what `PORT` has always meant to people, and it works where IPv6 is switched off.
pub(super) const LISTEN: Pattern<SocketAddr> = Pattern {
    expected: "an IP address and a port from 1 to 65535, or a port alone for 0.0.0.0",
    example: "0.0.0.0:8000",
    numbers: true,
    secret: false,
    parse: |text| {
        let text = text.trim();
        let port = text.strip_prefix(':').unwrap_or(text);
        let address = if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) {
            port.parse()
                .ok()
                .map(|port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        } else if let Some(port) = text.strip_prefix("localhost:") {
            port.parse()
                .ok()
                .map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        } else {
            text.parse().ok()
        };
        address
            .filter(|address| address.port() != 0)
            .ok_or_else(Refused::default)
    },
    show: ToString::to_string,
};

/// An address of the management API, or none.
pub(super) const API_LISTEN: Pattern<Option<SocketAddr>> = Pattern {
    expected: "an IP address and a port from 1 to 65535, a port alone for 127.0.0.1, or \"off\"",
    example: "127.0.0.1:7700",
    numbers: true,
    secret: false,
    parse: |text| {
        if text.trim() == "off" {
            return Ok(None);
        }
        let mut address = (LISTEN.parse)(text)?;
        // Whoever wants the API open to the network has to say so.
        if !text.contains('.') && address.ip() == Ipv4Addr::UNSPECIFIED {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        Ok(Some(address))
    },
    show: |address| address.map_or_else(|| "off".to_owned(), |address| address.to_string()),
};

/// What a bearer token may be: it travels in a header.
pub(super) const TOKEN: Pattern<String> = Pattern {
    expected: "1 to 1024 visible ASCII characters without spaces",
    example: "correct-horse-battery-staple",
    numbers: false,
    secret: true,
    parse: |text| {
        let fits = (1..=1024).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| text.to_owned()).ok_or_else(Refused::default)
    },
    show: |_| String::new(),
};

/// A path in the file system.
pub(super) const FILE: Pattern<PathBuf> = Pattern {
    expected: "an absolute path",
    example: "/etc/lb/token",
    numbers: false,
    secret: false,
    parse: absolute,
    show: |path| path.display().to_string(),
};

/// Where links and maps are pinned.
pub(super) const PIN_PATH: Pattern<PathBuf> = Pattern {
    expected: "an absolute path on a BPF file system",
    example: "/sys/fs/bpf/lb",
    ..FILE
};

fn absolute(text: &str) -> Result<PathBuf, Refused> {
    let path = PathBuf::from(text);
    if path.is_absolute() && !text.contains('\0') {
        Ok(path)
    } else {
        Err(Refused::default())
    }
}

/// A log filter.
pub(super) const LOG_LEVEL: Pattern<String> = Pattern {
    expected: "\"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\", or a filter of \
               such levels by module",
    example: "info,lb_userspace::l4=debug",
    numbers: false,
    secret: false,
    parse: |text| {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let text = text.trim();
        // To the filter's grammar a single unknown word is a module, all of which is then logged:
        // hardly what somebody wants who writes "warning".
        let lone = !text.contains(['=', ',', '[']);
        if lone && !LEVELS.contains(&text.to_ascii_lowercase().as_str()) {
            let closest = super::reader::closest(text, &LEVELS);
            return Err(Refused(
                closest.map(|name| format!("did you mean {name:?}?")),
            ));
        }
        match tracing_subscriber::EnvFilter::try_new(text) {
            Ok(_) => Ok(text.to_ascii_lowercase())
                .map(|lower| if lone { lower } else { text.to_owned() }),
            Err(error) => Err(Refused::because(error.to_string())),
        }
    },
    show: Clone::clone,
};

/// A name of a network interface: what the kernel accepts (`dev_valid_name`).
pub(super) const INTERFACE: Pattern<String> = Pattern {
    expected: "the name of a network interface, 1 to 15 characters without spaces, slashes or colons",
    example: "eth0",
    numbers: false,
    secret: false,
    parse: |text| {
        let fits = (1..=15).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_graphic() && b != b'/' && b != b':')
            && text != "."
            && text != "..";
        fits.then(|| text.to_owned()).ok_or_else(Refused::default)
    },
    show: Clone::clone,
};

/// A source address for `nat`.
pub(super) const NAT_SOURCE: Pattern<IpAddr> = Pattern {
    expected: "an IPv4 or IPv6 address of this host that the instances can reach",
    example: "10.0.0.1",
    numbers: false,
    secret: false,
    parse: |text| unicast(text).ok_or_else(Refused::default),
    show: ToString::to_string,
};

/// Addresses of proxies before lb.
pub(super) const TRUSTED_PROXY: Pattern<IpPrefix> = Pattern {
    expected: "an address or a range of addresses without bits beyond its length",
    example: "10.0.0.0/8",
    numbers: false,
    secret: false,
    parse: |text| text.parse().map_err(|_| Refused::default()),
    show: ToString::to_string,
};

/// The address of a VIP.
pub(super) const VIP_ADDRESS: Pattern<IpAddr> = Pattern {
    expected: "an IPv4 or IPv6 unicast address",
    example: "10.0.0.100",
    numbers: false,
    secret: false,
    parse: |text| unicast(text).ok_or_else(Refused::default),
    show: ToString::to_string,
};

/// An address that packets on a wire can have as source or destination of one host.
fn unicast(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.trim().parse().ok()?;
    let refused = match address {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some(),
    };
    let refused =
        refused || address.is_unspecified() || address.is_multicast() || address.is_loopback();
    (!refused).then_some(address)
}

/// A range of ports.
pub(super) const PORTS: Pattern<(u16, u16)> = Pattern {
    expected: "the first and the last of at least 1024 ports from 1024 to 65535",
    example: "10240-32767",
    numbers: false,
    secret: false,
    parse: |text| {
        let (first, last) = range(text).ok_or_else(Refused::default)?;
        if last < first {
            return Err(Refused::because("the first is above the last"));
        }
        let fits = first >= 1024 && last - first >= 1023;
        fits.then_some((first, last)).ok_or_else(Refused::default)
    },
    show: |(first, last)| format!("{first}-{last}"),
};

/// A range of HTTP statuses.
pub(super) const STATUS: Pattern<(u16, u16)> = Pattern {
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

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-')?;
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
}

/// The name of a service.
pub(super) const SERVICE: Pattern<ServiceName> = Pattern {
    expected: "the name of a service: 1 to 63 lower-case letters, digits or hyphens, without a \
               hyphen at either end",
    example: "main-backend",
    numbers: false,
    secret: false,
    parse: |text| ServiceName::new(text).map_err(|_| Refused::default()),
    show: ToString::to_string,
};

/// What consistent hashing hashes.
pub(super) const HASH_KEY: Pattern<HashKey> = Pattern {
    expected: "\"source\", \"path\", \"header:NAME\", \"cookie:NAME\" or \"query:NAME\"",
    example: "header:x-user",
    numbers: false,
    secret: false,
    parse: |text| match text.split_once(':') {
        None if text == "source" => Ok(HashKey::Source),
        None if text == "path" => Ok(HashKey::Path),
        Some(("header", name)) if is_token(name) => Ok(HashKey::Header(name.to_ascii_lowercase())),
        Some(("cookie", name)) if is_token(name) => Ok(HashKey::Cookie(name.to_owned())),
        Some(("query", name)) if is_visible(name, "&=#") => Ok(HashKey::Query(name.to_owned())),
        _ => Err(Refused::default()),
    },
    show: |key| match key {
        HashKey::Source => "source".to_owned(),
        HashKey::Path => "path".to_owned(),
        HashKey::Header(name) => format!("header:{name}"),
        HashKey::Cookie(name) => format!("cookie:{name}"),
        HashKey::Query(name) => format!("query:{name}"),
    },
};

/// A `token` of RFC 9110, section 5.6.2, of at most 256 characters.
fn is_token(name: &str) -> bool {
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
pub(super) const HOST: Pattern<HostPattern> = Pattern {
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
    show: |host| match host {
        HostPattern::Any => "*".to_owned(),
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Suffix(domain) => format!("*.{domain}"),
    },
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
pub(super) const ROUTE_PATH: Pattern<PathPattern> = Pattern {
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
    show: |path| match path {
        PathPattern::Exact(path) => path.clone(),
        PathPattern::Prefix(path) => format!("{}/*", path.trim_end_matches('/')),
    },
};

/// What a health check asks for.
pub(super) const PROBE_PATH: Pattern<String> = Pattern {
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
pub(super) const PROBE_HOST: Pattern<String> = Pattern {
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

/// A label of the surroundings.
pub(super) const ENVIRONMENT: Pattern<String> = Pattern {
    expected: "1 to 64 letters, digits, hyphens, dots or underscores",
    example: "production",
    numbers: false,
    secret: false,
    parse: |text| {
        let fits = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        fits.then(|| text.to_owned()).ok_or_else(Refused::default)
    },
    show: Clone::clone,
};

/// Where an instance listens, as text: what it stands for is found out by the resolver.
pub(super) const ENDPOINT: Pattern<String> = Pattern {
    expected: "an endpoint: http://HOST, http://HOST:PORT or HOST:PORT",
    example: "http://10.0.0.2:8080",
    numbers: false,
    secret: false,
    parse: |text| Ok(text.trim().to_owned()),
    show: Clone::clone,
};
