//! The texts that settings are written in.

mod http;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use super::forms::{Pattern, Refused};
use crate::model::{GatewayVip, IpPrefix, Ports, ServiceName};

pub(super) use http::{
    COOKIE_KEY, COOKIE_NAME, FIELD, HASH_KEY, HOST, JWT_SECRET, PROBE_HOST, PROBE_PATH, RATE_KEY,
    ROUTE_PATH, SESSION_SOURCE, STATUS, is_token,
};

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

/// SHA-256 of a token.
pub(super) const TOKEN_SHA256: Pattern<[u8; 32]> = Pattern {
    expected: "64 hexadecimal digits: the SHA-256 of a token, as sha256sum prints it",
    example: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    numbers: false,
    secret: true,
    parse: |text| {
        let digits: Vec<u8> = text
            .trim()
            .chars()
            .filter_map(|digit| Some(digit.to_digit(16)? as u8))
            .collect();
        let mut digest = [0; 32];
        if digits.len() != 64 || text.trim().len() != 64 {
            return Err(Refused::default());
        }
        for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Ok(digest)
    },
    show: |_| String::new(),
};

/// What the holder of a token is called.
pub(super) const CALLER: Pattern<String> = Pattern {
    expected: "1 to 64 letters, digits, hyphens, dots or underscores",
    example: "grafana",
    ..ENVIRONMENT
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

/// A file of TLS.
pub(super) const PEM: Pattern<PathBuf> = Pattern {
    example: "/etc/lb/api.pem",
    ..FILE
};

/// A name in a certificate.
pub(super) const CERTIFICATE_NAME: Pattern<String> = Pattern {
    expected: "a name in a client's certificate: a common name, or a DNS name, address of mail or \
               URI of its alternative names; 1 to 255 characters",
    example: "ci.example.org",
    numbers: false,
    secret: false,
    parse: |text| {
        let fits = (1..=255).contains(&text.len()) && !text.chars().any(char::is_control);
        fits.then(|| text.to_owned()).ok_or_else(Refused::default)
    },
    show: Clone::clone,
};

/// Where the audit log goes.
pub(super) const AUDIT_LOG: Pattern<PathBuf> = Pattern {
    example: "/var/log/lb/audit.log",
    ..FILE
};

/// Where the access log goes.
pub(super) const ACCESS_LOG: Pattern<Option<PathBuf>> = Pattern {
    expected: "an absolute path, or \"stdout\"",
    example: "/var/log/lb/access.log",
    numbers: false,
    secret: false,
    parse: |text| match text {
        "stdout" | "-" => Ok(None),
        path => absolute(path).map(Some),
    },
    show: |path| {
        path.as_ref()
            .map_or_else(|| "stdout".to_owned(), |path| path.display().to_string())
    },
};

/// Where what is set at run time is kept.
pub(super) const STATE_FILE: Pattern<PathBuf> = Pattern {
    expected: "an absolute path of a file in a directory that lb can write to",
    example: "/var/lib/lb/state.json",
    ..FILE
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

/// The filter that a text means.
///
/// # Errors
/// What is expected, and what is worth knowing beyond that.
pub fn log_filter(text: &str) -> Result<String, (&'static str, Option<String>)> {
    (LOG_LEVEL.parse)(text).map_err(|Refused(note)| (LOG_LEVEL.expected, note))
}

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

/// Addresses and ports that the gateway serves without listening at them.
pub(super) const GATEWAY_VIP: Pattern<GatewayVip> = Pattern {
    expected: "an address or a range of addresses, IPv6 in brackets, and after a colon a port, the \
               first and the last of several, or any",
    example: "192.0.2.0/24:8000-8999",
    numbers: false,
    secret: false,
    parse: |text| gateway_vip(text).ok_or_else(Refused::default),
    show: ToString::to_string,
};

fn gateway_vip(text: &str) -> Option<GatewayVip> {
    let (addresses, ports) = text.rsplit_once(':')?;
    let bare = addresses
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let prefix: IpPrefix = bare.unwrap_or(addresses).parse().ok()?;
    let ports = (VIP_PORTS.parse)(ports).ok()?;
    // Without brackets the last part of an IPv6 address would look like a port.
    let is_bracketed = prefix.address().is_ipv6();
    (is_bracketed == bare.is_some() && !prefix.address().is_multicast())
        .then_some(GatewayVip { prefix, ports })
}

/// What clients of a route have connected to.
pub(super) const DESTINATION: Pattern<GatewayVip> = Pattern {
    expected: "an address or a range of addresses, IPv6 in brackets, and unless all ports are meant after \
               a colon a port, the first and the last of several, or any",
    example: "192.0.2.7:443",
    numbers: false,
    secret: false,
    parse: destination,
    show: ToString::to_string,
};

fn destination(text: &str) -> Result<GatewayVip, Refused> {
    let text = text.trim();
    let is_without_ports = text.ends_with(']') || !text.contains(':');
    let found = if is_without_ports {
        gateway_vip(&format!("{text}:any"))
    } else {
        gateway_vip(text)
    };
    let found = found.ok_or_else(Refused::default)?;
    // What would never match is hardly meant.
    let (prefix, address) = (found.prefix, found.prefix.address());
    if address.to_canonical() != address {
        return Err(Refused::because("IPv4 addresses are written as such"));
    }
    if address.is_unspecified() && prefix == IpPrefix::of(address) {
        let all = if address.is_ipv4() {
            "0.0.0.0/0"
        } else {
            "[::/0]"
        };
        return Err(Refused::because(format!("for every address: {all}")));
    }
    Ok(found)
}

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

/// The ports of a VIP.
pub(super) const VIP_PORTS: Pattern<Ports> = Pattern {
    expected: "a port from 1 to 65535, the first and the last of several as \"8000-8999\", or \"any\"",
    example: "8000-8999",
    numbers: true,
    secret: false,
    parse: |text| {
        let text = text.trim();
        let ports = if text == "any" {
            Some(Ports::Any)
        } else if let Some((first, last)) = range(text) {
            if last < first {
                return Err(Refused::because("the first is above the last"));
            }
            Some(if first == last {
                Ports::One(first)
            } else {
                Ports::Range(first, last)
            })
        } else {
            text.parse().ok().map(Ports::One)
        };
        ports
            .filter(|ports| *ports == Ports::Any || ports.ends().0 != 0)
            .ok_or_else(Refused::default)
    },
    show: ToString::to_string,
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
