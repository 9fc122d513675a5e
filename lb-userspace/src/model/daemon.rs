//! Settings of the process itself. They are read once at start; a reload that changes one of them
//! says that it takes a restart.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{AccessSpec, ApiAddress, LogFields, SocketSpec, TlsSpec};

/// Everything that holds for the life of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonSpec {
    /// Threads that serve HTTP, each with its own listeners and connections to instances.
    pub workers: usize,
    /// The management API.
    pub api: ApiSpec,
    /// The log.
    pub log: LogSpec,
    /// The access log.
    pub access_log: AccessLogSpec,
    /// The exposition of metrics.
    pub metrics: MetricsSpec,
    /// The log of changes.
    pub audit_log: AuditLogSpec,
    /// The packet path.
    pub datapath: DatapathSpec,
    /// Whether a change of the configuration file is a reload.
    pub watch: bool,
    /// Where what is set at run time is kept; nowhere when `None`.
    pub state_file: Option<PathBuf>,
}

/// The exposition of metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsSpec {
    /// Most series that a scrape gets.
    pub max_series: usize,
}

impl Default for MetricsSpec {
    fn default() -> Self {
        Self { max_series: 50_000 }
    }
}

/// Where the management API is served, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiSpec {
    /// Where it has listeners of its own.
    pub listen: Vec<ApiAddress>,
    /// Who may connect to those of them that are unix sockets.
    pub socket: SocketSpec,
    /// Whether the API's paths are also served on every listener of the gateway.
    pub on_gateway: bool,
    /// To whom.
    pub access: AccessSpec,
    /// TLS there, where there is.
    pub tls: Option<TlsSpec>,
    /// Whether a change of the configuration has to say by `If-Match` what it is a change of.
    pub require_if_match: bool,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSpec {
    /// A filter in the syntax of `tracing-subscriber`, such as `info` or `info,lb_userspace::l4=debug`.
    pub filter: String,
    /// Form of a line.
    pub format: LogFormat,
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The log of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLogSpec {
    /// Whether there is one.
    pub enabled: bool,
    /// The file that is appended to; standard output when `None`.
    pub path: Option<PathBuf>,
    /// Of a million requests, how many are logged; those that went wrong are in any case.
    pub sample: u32,
    /// What a line has.
    pub fields: LogFields,
}

impl Default for AccessLogSpec {
    fn default() -> Self {
        Self {
            enabled: false,
            path: None,
            sample: 1_000_000,
            fields: LogFields::USUAL,
        }
    }
}

/// The log of who has changed what by the management API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditLogSpec {
    /// The file that is appended to; the daemon's log when `None`.
    pub path: Option<PathBuf>,
}

/// How the program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DatapathMode {
    /// Native where a driver can. Where none can, traffic control; where that cannot be had, and beside interfaces
    /// whose drivers can, generic with a warning. Where nothing of it can be had, TCP VIPs are relayed, and lb says
    /// what is missing.
    #[default]
    Auto,
    /// Native, or the start fails.
    Native,
    /// Traffic control, which takes Linux 6.6.
    Tc,
    /// Generic.
    Generic,
    /// Not in the kernel: TCP VIPs are relayed by the daemon itself, without any rights.
    Relay,
    /// Not at all; a configuration with VIPs is refused.
    Off,
}

/// The packet path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatapathSpec {
    /// How to attach.
    pub mode: DatapathMode,
    /// Interfaces to attach to.
    pub interfaces: Vec<String>,
    /// Source addresses for `nat` and tunnels, at most one of each family; where one is missing the
    /// first address of the first interface that is no VIP is taken.
    pub nat_sources: Vec<IpAddr>,
    /// First and last source port for `nat`. Outside of the host's ephemeral ports, so that no
    /// connection of the host itself can meet one of a client.
    pub nat_ports: (u16, u16),
    /// UDP port that `gue` sends to.
    pub gue_port: u16,
    /// ICMP messages of lb's own that each processor may send in a second.
    pub icmp_rate: u32,
    /// Echo requests for VIPs that each processor answers in a second; 0: they are the host's.
    pub echo_rate: u16,
    /// Entries of the connection table; a `nat` connection takes two.
    pub max_connections: u32,
    /// Tables in the kernel at most, 262 KB each while it is there; every VIP's service needs one, and a
    /// change a spare one.
    pub max_tables: u32,
    /// Whether the memory of all connections that there may be is taken at start.
    pub preallocate: bool,
    /// Whether what routers say of tunnels' packets is believed.
    pub path_mtu_discovery: bool,
    /// Clients whose instance is remembered at most, of all services with affinity by address.
    pub max_affinity_clients: u32,
    /// Idle time after which a TCP connection is forgotten.
    pub tcp_idle_timeout: Duration,
    /// Idle time after which a UDP flow, or a TCP connection whose end was seen, is forgotten.
    pub udp_idle_timeout: Duration,
    /// How long a looked-up next hop is used before it is looked up again.
    pub next_hop_ttl: Duration,
    /// Where links and maps are pinned; must be on a BPF file system.
    pub pin_path: PathBuf,
    /// Whether the program logs rare events.
    pub log: bool,
}

impl Default for DatapathSpec {
    fn default() -> Self {
        Self {
            mode: DatapathMode::Auto,
            interfaces: Vec::new(),
            nat_sources: Vec::new(),
            nat_ports: (10_240, 32_767),
            gue_port: 6080,
            icmp_rate: 100,
            echo_rate: 1000,
            max_connections: 262_144,
            max_tables: 1024,
            preallocate: false,
            path_mtu_discovery: true,
            max_affinity_clients: 65_536,
            tcp_idle_timeout: Duration::from_secs(3600),
            udp_idle_timeout: Duration::from_secs(60),
            next_hop_ttl: Duration::from_secs(1),
            pin_path: PathBuf::from("/sys/fs/bpf/lb"),
            log: false,
        }
    }
}

impl Default for DaemonSpec {
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            api: ApiSpec {
                listen: vec![ApiAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 7700)))],
                socket: SocketSpec::default(),
                on_gateway: true,
                access: AccessSpec::default(),
                tls: None,
                require_if_match: false,
            },
            log: LogSpec {
                filter: "info".to_owned(),
                format: LogFormat::default(),
            },
            access_log: AccessLogSpec::default(),
            audit_log: AuditLogSpec::default(),
            metrics: MetricsSpec::default(),
            datapath: DatapathSpec::default(),
            watch: false,
            state_file: None,
        }
    }
}
