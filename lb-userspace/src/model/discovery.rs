//! Discovery: where a service's instances come from beside its configuration.

use std::{fmt, net::SocketAddr, path::Path, sync::Arc, time::Duration};

/// Where a service's instances are found, and how the answers are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoverySpec {
    /// The sources, in the order in which they are believed: of an address that two of them name,
    /// the first one says the weight.
    pub sources: Vec<SourceSpec>,
    /// Name servers to ask; those of the system when empty.
    pub servers: Vec<SocketAddr>,
    /// Addresses that count.
    pub family: Family,
    /// Weight of instances whose source says none.
    pub weight: u16,
    /// The shortest time between two looks at a source, whatever the TTL of its answer.
    pub min_interval: Duration,
    /// The longest.
    pub max_interval: Duration,
    /// How long a look may take.
    pub timeout: Duration,
    /// How long a source must say that there is no instance until that is believed; never when
    /// `None`.
    pub empty_after: Option<Duration>,
    /// How long an instance that is gone may finish what it has.
    pub drain: Duration,
}

impl DiscoverySpec {
    /// Whether anything is looked for.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        !self.sources.is_empty()
    }
}

impl Default for DiscoverySpec {
    /// No source. An empty answer is never believed: it is an accident far more often than a wish.
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            servers: Vec::new(),
            family: Family::default(),
            weight: 1,
            min_interval: Duration::from_secs(1),
            max_interval: Duration::from_secs(60),
            timeout: Duration::from_secs(5),
            empty_after: None,
            drain: Duration::from_secs(300),
        }
    }
}

/// A source of instances.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceSpec {
    /// Every address of a name, each with the same port.
    Dns {
        /// The name.
        host: Arc<str>,
        /// The port.
        port: u16,
    },
    /// The hosts of a service by RFC 2782: those of the lowest priority number, with their ports
    /// and weights.
    Srv {
        /// The name, such as `_http._tcp.example.org`.
        name: Arc<str>,
    },
    /// A file that lists instances, read again whenever it changes.
    File {
        /// Its path.
        path: Arc<Path>,
    },
}

impl SourceSpec {
    /// The name of its kind in configuration, API and metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Dns { .. } => "dns",
            Self::Srv { .. } => "srv",
            Self::File { .. } => "file",
        }
    }

    /// What is looked at, as configured.
    #[must_use]
    pub fn target(&self) -> String {
        match self {
            Self::Dns { host, port } => format!("{host}:{port}"),
            Self::Srv { name } => name.to_string(),
            Self::File { path } => path.display().to_string(),
        }
    }
}

impl fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.target())
    }
}

/// Which addresses of a name count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// All of them. A host with an address of each family is two instances.
    #[default]
    Any,
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
}

impl Family {
    /// The name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }

    /// Whether addresses of the other family are to be asked for, too.
    #[must_use]
    pub const fn has(self, ipv4: bool) -> bool {
        match self {
            Self::Any => true,
            Self::Ipv4 => ipv4,
            Self::Ipv6 => !ipv4,
        }
    }
}
