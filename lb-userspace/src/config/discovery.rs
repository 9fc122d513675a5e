//! Where a service's instances are found: `discovery` of a service, and of `[defaults]` for how
//! answers are taken.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use super::{
    forms::{Choice, Number, Pattern, Period, Refused},
    origin::Sourced,
    reader::Section,
    timeouts::OrOff,
    values::FILE,
};
use crate::model::{DiscoverySpec, Family, SourceSpec};

const INTERVAL: Period = Period {
    min: Duration::from_millis(100),
    max: Duration::from_secs(24 * 3600),
    example: "10s",
};

const TIMEOUT: Period = Period {
    min: Duration::from_millis(100),
    max: Duration::from_secs(60),
    example: "2s",
};

const EMPTY: OrOff<Period> = OrOff(Period {
    min: Duration::from_secs(1),
    max: Duration::from_secs(24 * 3600),
    example: "5m",
});

const DRAIN: Period = Period {
    min: Duration::from_millis(1),
    max: Duration::from_secs(24 * 3600),
    example: "1m",
};

const WEIGHT: Number<u16> = Number {
    min: 1,
    max: u16::MAX,
    example: 10,
};

const FAMILY: Choice<Family> = Choice {
    choices: &[Family::Any, Family::Ipv4, Family::Ipv6],
    name: Family::as_str,
};

/// The port of name servers.
const DNS_PORT: u16 = 53;

/// A name with a port.
const DNS: Pattern<(Arc<str>, u16)> = Pattern {
    expected: "a host name to look up and a port: HOST:PORT",
    example: "web.internal:8080",
    numbers: false,
    secret: false,
    parse: |text| {
        let text = text.trim().trim_end_matches('/');
        let text = text.strip_prefix("http://").unwrap_or(text);
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| Refused::because("the port is missing"))?;
        let port = port.parse().ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| Refused::because("the port must be from 1 to 65535"))?;
        let address = host.trim_start_matches('[').trim_end_matches(']');
        if address.parse::<IpAddr>().is_ok() {
            return Err(Refused::because(
                "an address needs no look-up: it goes into instances",
            ));
        }
        is_name(host)
            .then(|| (host.into(), port))
            .ok_or_else(Refused::default)
    },
    show: |(host, port)| format!("{host}:{port}"),
};

/// The name of SRV records.
const SRV: Pattern<Arc<str>> = Pattern {
    expected: "the name of SRV records",
    example: "_http._tcp.web.internal",
    numbers: false,
    secret: false,
    parse: |text| {
        let text = text.trim();
        is_name(text)
            .then(|| text.into())
            .ok_or_else(Refused::default)
    },
    show: ToString::to_string,
};

/// A name server.
const SERVER: Pattern<SocketAddr> = Pattern {
    expected: "the address of a name server, with a port when it is not 53",
    example: "10.0.0.53",
    numbers: false,
    secret: false,
    parse: |text| {
        let text = text.trim();
        let alone = text.parse().map(|ip: IpAddr| SocketAddr::new(ip, DNS_PORT));
        alone
            .or_else(|_| text.parse())
            .ok()
            .filter(|address| address.port() != 0 && !address.ip().is_unspecified())
            .ok_or_else(Refused::default)
    },
    show: |address| match address.port() {
        DNS_PORT => address.ip().to_string(),
        _ => address.to_string(),
    },
};

/// Whether `text` can be asked a name server for (RFC 1035, with the underscores of RFC 2782).
fn is_name(text: &str) -> bool {
    let bare = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    (1..=253).contains(&bare.len()) && bare.split('.').all(label)
}

/// How answers are taken, each setting with its source.
#[derive(Clone, Debug)]
pub(super) struct DiscoverySettings {
    sources: Vec<SourceSpec>,
    servers: Vec<SocketAddr>,
    family: Sourced<Family>,
    weight: Sourced<u16>,
    min_interval: Sourced<Duration>,
    max_interval: Sourced<Duration>,
    timeout: Sourced<Duration>,
    empty_after: Sourced<Option<Duration>>,
    drain: Sourced<Duration>,
}

impl DiscoverySettings {
    /// What holds when nobody says anything.
    pub(super) fn unset() -> Self {
        let model = DiscoverySpec::default();
        Self {
            sources: model.sources,
            servers: model.servers,
            family: Sourced::unset(model.family),
            weight: Sourced::unset(model.weight),
            min_interval: Sourced::unset(model.min_interval),
            max_interval: Sourced::unset(model.max_interval),
            timeout: Sourced::unset(model.timeout),
            empty_after: Sourced::unset(model.empty_after),
            drain: Sourced::unset(model.drain),
        }
    }

    /// Reads a table; `self` holds for what it does not say. Only a service has sources.
    pub(super) fn read(&self, t: &mut Section<'_, '_>, of_service: bool) -> Self {
        let sources = if of_service {
            read_sources(t)
        } else {
            Vec::new()
        };
        let servers = t.list("servers", &SERVER, &self.servers);
        Self {
            sources,
            servers: servers.into_iter().map(|server| server.value).collect(),
            family: t.value("family", &FAMILY, &self.family),
            weight: t.value("weight", &WEIGHT, &self.weight),
            min_interval: t.value("min_interval", &INTERVAL, &self.min_interval),
            max_interval: t.value("max_interval", &INTERVAL, &self.max_interval),
            timeout: t.value("timeout", &TIMEOUT, &self.timeout),
            empty_after: t.value("empty_after", &EMPTY, &self.empty_after),
            drain: t.value("drain", &DRAIN, &self.drain),
        }
    }

    /// Whether instances may be found elsewhere.
    pub(super) const fn has_sources(&self) -> bool {
        !self.sources.is_empty()
    }

    /// The discovery.
    pub(super) fn build(&self) -> DiscoverySpec {
        DiscoverySpec {
            sources: self.sources.clone(),
            servers: self.servers.clone(),
            family: self.family.value,
            weight: self.weight.value,
            min_interval: self.min_interval.value,
            // Who makes the shortest longer than the default limit wants that time.
            max_interval: self.max_interval.value.max(self.min_interval.value),
            timeout: self.timeout.value,
            empty_after: self.empty_after.value,
            drain: self.drain.value,
        }
    }
}

fn read_sources(t: &mut Section<'_, '_>) -> Vec<SourceSpec> {
    let mut sources: Vec<SourceSpec> = Vec::new();
    let mut found: Vec<Sourced<SourceSpec>> = Vec::new();
    for item in t.list("dns", &DNS, &[]) {
        let (host, port) = item.value.clone();
        found.push(item.with(SourceSpec::Dns { host, port }));
    }
    for item in t.list("srv", &SRV, &[]) {
        let name = Arc::clone(&item.value);
        found.push(item.with(SourceSpec::Srv { name }));
    }
    for item in t.list("file", &FILE, &[]) {
        let path = item.value.clone().into();
        found.push(item.with(SourceSpec::File { path }));
    }
    for source in found {
        if sources.contains(&source.value) {
            let found = source.value.target();
            t.reader()
                .contradiction(&source, format!("{found:?} twice"), "every source once");
        } else {
            sources.push(source.value);
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_a_name_server_can_be_asked_for() {
        for name in ["web", "_http._tcp.example.org", "a-b.c_d.", "1.example"] {
            assert!(is_name(name), "{name}");
        }
        let long = "a".repeat(64);
        for name in ["", ".", "a..b", "a b", "ä.org", "a/b", &long] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn servers_may_go_without_their_port() {
        for (text, expected) in [
            ("10.0.0.53", Some("10.0.0.53:53")),
            ("10.0.0.53:5353", Some("10.0.0.53:5353")),
            ("fd00::53", Some("[fd00::53]:53")),
            ("[fd00::53]:5353", Some("[fd00::53]:5353")),
            ("dns.example.org", None),
            ("10.0.0.53:0", None),
            ("0.0.0.0", None),
        ] {
            let parsed = (SERVER.parse)(text).ok();
            assert_eq!(parsed, expected.map(|e| e.parse().unwrap()), "{text}");
        }
    }
}
