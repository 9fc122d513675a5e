//! The command line's grammar. What stands here as documentation is what `--help` prints.

mod configuration;
mod instances;
mod watching;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(super) use self::{
    configuration::{
        AclCommand, ConfigCommand, RoutesCommand, ServicesCommand, Trial, VipsCommand,
    },
    instances::{
        AlgorithmCommand, BreakerTarget, BreakersCommand, DiscoveryCommand, InstancesCommand,
        RecoveryCommand, SessionsCommand, Target,
    },
    watching::{Events, Explain, Flows},
};
use crate::config::Overrides;

/// A load balancer with one control plane and two data planes: XDP in the kernel for TCP and UDP,
/// an HTTP proxy in user space.
#[derive(Clone, Debug, Parser)]
#[command(name = "lb", version, arg_required_else_help = true, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    pub(super) connection: Connection,
    #[command(subcommand)]
    pub(super) command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  lb check --config /etc/lb/lb.toml
  lb status
  lb instances list main-backend
  lb instances drain main-backend http://localhost:8081 --wait
  lb algorithm set main-backend least_response_time

Exit codes: 0 done, 1 refused or failed, 2 wrong usage.";

/// How to reach a running lb.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Reaching lb")]
pub(super) struct Connection {
    /// Where the management API of the running lb is: a URL, or unix: and the path of a socket
    #[arg(
        long,
        global = true,
        env = "LB_API",
        value_name = "URL",
        default_value = "http://127.0.0.1:7700"
    )]
    pub(super) api: String,
    /// Bearer token, needed when lb runs on another machine
    #[arg(
        long,
        global = true,
        env = "LB_API_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    pub(super) token: Option<String>,
    /// Certificates in PEM of the authorities that vouch for lb, with an https URL; those of this
    /// machine when nothing is said
    #[arg(long, global = true, env = "LB_API_CA", value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// Certificate in PEM to show, with an https URL
    #[arg(
        long,
        global = true,
        env = "LB_API_CERT",
        value_name = "FILE",
        requires = "key"
    )]
    pub(super) cert: Option<PathBuf>,
    /// Private key in PEM of the certificate
    #[arg(
        long,
        global = true,
        env = "LB_API_KEY",
        value_name = "FILE",
        requires = "cert"
    )]
    pub(super) key: Option<PathBuf>,
    /// Print the API's data as JSON instead of a table
    #[arg(long, global = true)]
    pub(super) json: bool,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Command {
    /// Run the daemon until SIGTERM; SIGHUP reloads the configuration
    Run(Overrides),
    /// Check the configuration and report every fault
    Check {
        /// Print every setting in force and where it comes from
        #[arg(long)]
        effective: bool,
        #[command(flatten)]
        overrides: Overrides,
    },
    /// Print a script that completes lb's command line in a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// On an instance: unpack what lb sends in ipip and gue, until SIGTERM
    ///
    /// Runs in the foreground and needs neither a configuration nor a running lb. The instance
    /// holds the VIP on an interface of its own, such as lo, and answers clients itself. SIGUSR1
    /// prints figures, as does the end.
    Decap(Decap),
    #[command(flatten)]
    Ask(Question),
}

/// What the far end of tunnels needs to know.
#[derive(Args, Clone, Debug)]
pub(super) struct Decap {
    /// The interface that tunnels come in by
    #[arg(long, value_name = "NAME")]
    pub(super) interface: String,
    /// Addresses that tunnels may come from: those that lb sends from
    #[arg(
        long,
        value_name = "ADDRESS",
        value_delimiter = ',',
        required_unless_present = "from_anywhere"
    )]
    pub(super) from: Vec<IpAddr>,
    /// Unpack tunnels from anywhere; for networks in which nobody else can send to this host
    #[arg(long, conflicts_with = "from")]
    pub(super) from_anywhere: bool,
    /// UDP port that gue comes in by
    #[arg(long, value_name = "PORT", default_value_t = 6080, value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) gue_port: u16,
    /// Lower the MSS in answers, so that what clients send fits the way from lb, tunnel included;
    /// the largest packet that this way takes, in bytes
    #[arg(
        long,
        value_name = "MTU",
        num_args = 0..=1,
        default_missing_value = "1500",
        value_parser = clap::value_parser!(u16).range(576..)
    )]
    pub(super) clamp_mss: Option<u16>,
    /// How to attach: native where the driver can, else in traffic control, else generic
    #[arg(long, value_enum, default_value_t = DecapMode::Auto)]
    pub(super) mode: DecapMode,
}

/// How the far end of tunnels attaches.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum DecapMode {
    /// Native where the driver can, else in traffic control, else generic
    Auto,
    /// XDP in the driver, or not at all
    Native,
    /// In traffic control
    Tc,
    /// XDP in the network stack
    Generic,
}

/// What to ask a running lb, or to tell it.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Question {
    /// How lb and its services are
    Status,
    /// Requests, latencies, answers and shares
    Stats {
        /// Only this service, in detail
        service: Option<String>,
        #[command(flatten)]
        again: Again,
    },
    /// Rates, errors and latencies of the last minute, or of another window
    Performance {
        /// Only this service, with its instances
        service: Option<String>,
        /// From 1s to 1h
        #[arg(long, value_name = "DURATION", default_value = "1m")]
        window: humantime::Duration,
    },
    /// What would become of a request or a packet, and why: route, candidates, exclusions, choice
    Explain(Explain),
    /// What happens, as it happens: a line an event, until Ctrl-C
    Events(Events),
    /// What becomes of packets in the kernel, as it happens: a line a packet, or a capture for Wireshark
    Flows(Flows),
    /// The services and what leads to them; make, change and remove them
    #[command(visible_alias = "service")]
    Services {
        #[command(subcommand)]
        command: Option<ServicesCommand>,
    },
    /// The routes: which requests go to which service; make, change and remove them
    #[command(visible_alias = "route")]
    Routes {
        #[command(subcommand)]
        command: Option<RoutesCommand>,
    },
    /// The VIPs: which connections the kernel balances over which service; make, change and remove
    /// them
    #[command(visible_alias = "vip")]
    Vips {
        #[command(subcommand)]
        command: Option<VipsCommand>,
    },
    /// What may enter and what waits: limits of requests in flight and of rates
    Limits,
    /// Where instances are found beside the configuration, and how each source does
    Discovery {
        #[command(subcommand)]
        command: Option<DiscoveryCommand>,
    },
    /// Who may send to VIPs: the source ACL, what it drops, and its rules
    Acl {
        #[command(subcommand)]
        command: Option<AclCommand>,
    },
    /// Systems beside lb: whether they answer, what waits for them, what was lost
    Integrations,
    /// Look at instances, take them out of service and back
    #[command(visible_alias = "instance")]
    Instances {
        #[command(subcommand)]
        command: InstancesCommand,
    },
    /// Circuit breakers: which are open, and holding them open or closed
    #[command(visible_alias = "breaker")]
    Breakers {
        #[command(subcommand)]
        command: BreakersCommand,
    },
    /// Instances that come back step by step after they were down
    Recovery {
        #[command(subcommand)]
        command: RecoveryCommand,
    },
    /// Which instance each session goes to, and how well affinity does
    #[command(visible_alias = "session")]
    Sessions {
        #[command(subcommand)]
        command: SessionsCommand,
    },
    /// How services choose their instances
    #[command(visible_alias = "algorithms")]
    Algorithm {
        #[command(subcommand)]
        command: AlgorithmCommand,
    },
    /// The packet path: look at it, or take it off
    Datapath {
        #[command(subcommand)]
        command: DatapathCommand,
    },
    /// The configuration: look at it, change it, take changes back
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// What lb logs
    Log {
        #[command(subcommand)]
        command: LogCommand,
    },
    /// Undo what operators have ordered, and forget what was measured and learned
    Reset,
    /// What lb decides by, as JSON
    Debug,
    /// Read the configuration again; a faulty one changes nothing
    Reload,
    /// The metrics, in the Prometheus text format
    Metrics,
}

/// Whether to look once or again and again.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Again {
    /// Look again and again, with rates between the readings, until Ctrl-C: every 2s, or as often
    /// as given. A table on a terminal, else a line a service
    #[arg(
        long,
        value_name = "DURATION",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2s",
        value_parser = pause
    )]
    pub(super) watch: Option<humantime::Duration>,
    /// With --watch: end after so many readings
    #[arg(long, value_name = "NUMBER", requires = "watch", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) count: Option<u64>,
}

/// A time between two readings that neither floods lb nor lasts forever.
fn pause(text: &str) -> Result<humantime::Duration, String> {
    let pause = text.parse::<humantime::Duration>().ok();
    let fits = |pause: &humantime::Duration| {
        (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&**pause)
    };
    let pause = pause.filter(fits);
    pause.ok_or_else(|| format!("expected a duration from 100ms to 1h, such as 5s, found {text:?}"))
}

/// What to do about the log.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Show what is logged, or log by another level until lb restarts
    Level {
        /// off, error, warn, info, debug, trace, or a filter by module
        level: Option<String>,
    },
    /// Log as it is configured again
    Reset,
}

/// What to do about the packet path.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum DatapathCommand {
    /// Mode, interfaces, VIPs and the connection table
    Status {
        #[command(flatten)]
        pins: Pins,
    },
    /// What became of the packets, reason by reason
    Counters {
        /// Also those that are zero
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        pins: Pins,
    },
    /// Take the packet path off all interfaces and forget its connections; works without a
    /// running lb, and VIPs are not served until lb starts again
    Detach {
        #[command(flatten)]
        pins: Pins,
    },
}

/// Where a packet path outlives its daemon.
#[derive(Args, Clone, Debug)]
pub(super) struct Pins {
    /// Where links and maps are pinned (datapath.pin_path of the configuration)
    #[arg(long, value_name = "PATH", default_value = "/sys/fs/bpf/lb")]
    pub(super) pin_path: PathBuf,
}
