//! The command line's grammar. What stands here as documentation is what `--help` prints.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

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
    /// How to attach: native where the driver can, else generic
    #[arg(long, value_enum, default_value_t = DecapMode::Auto)]
    pub(super) mode: DecapMode,
}

/// How the far end of tunnels attaches.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum DecapMode {
    /// Native where the driver can, else generic
    Auto,
    /// In the driver, or not at all
    Native,
    /// In the network stack
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

/// A request or a packet to ask about.
#[derive(Args, Clone, Debug)]
pub(super) struct Explain {
    /// Of a request a path, or a URL for the sake of its host; of a packet ADDRESS:PORT that it is
    /// from
    #[arg(value_name = "URL|SOURCE")]
    pub(super) target: String,
    /// Of a packet [udp/]ADDRESS:PORT that it is for
    pub(super) destination: Option<String>,
    /// Method of a request; GET when nothing is said
    #[arg(
        short = 'X',
        long,
        value_name = "METHOD",
        conflicts_with = "destination"
    )]
    pub(super) method: Option<String>,
    /// A header field of a request, as often as needed
    #[arg(
        short = 'H',
        long = "header",
        value_name = "NAME: VALUE",
        conflicts_with = "destination"
    )]
    pub(super) headers: Vec<String>,
    /// Address of the client of a request, with a port or without; the one that asks when nothing is
    /// said
    #[arg(long, value_name = "ADDRESS", conflicts_with = "destination")]
    pub(super) client: Option<String>,
    /// TCP flags of a packet with commas between them: syn, ack, fin, rst; syn when nothing is said,
    /// which begins a connection
    #[arg(long, requires = "destination")]
    pub(super) flags: Option<String>,
    /// Interface that a packet comes in by; the first of the configuration when nothing is said
    #[arg(long, value_name = "NAME", requires = "destination")]
    pub(super) interface: Option<String>,
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

/// Which events to follow.
#[derive(Args, Clone, Debug)]
pub(super) struct Events {
    /// Only those of this service; may be repeated
    #[arg(long = "service", value_name = "SERVICE")]
    pub(super) services: Vec<String>,
    /// Only those of this type, such as health_changed; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    pub(super) types: Vec<String>,
    /// Also what has happened since the event with this number, as far as lb still knows it
    #[arg(long, value_name = "NUMBER")]
    pub(super) after: Option<u64>,
}

/// Which packets to follow.
#[derive(Args, Clone, Debug)]
#[command(after_help = FLOWS_EXAMPLES)]
pub(super) struct Flows {
    /// Only packets that are forwarded, dropped, or passed to the host; may be repeated. Forwarded and
    /// dropped ones when nothing is said
    #[arg(long = "verdict", value_name = "VERDICT")]
    pub(super) verdicts: Vec<String>,
    /// Only packets that are counted under this counter, such as no_instance; may be repeated
    #[arg(long = "reason", value_name = "COUNTER")]
    pub(super) reasons: Vec<String>,
    /// Only packets of this VIP, such as tcp/192.0.2.10:80; may be repeated
    #[arg(long = "vip", value_name = "VIP")]
    pub(super) vips: Vec<String>,
    /// Only packets of the VIPs of this service; may be repeated
    #[arg(long = "service", value_name = "SERVICE")]
    pub(super) services: Vec<String>,
    /// Only packets from this address or range
    #[arg(long, value_name = "PREFIX")]
    pub(super) source: Option<String>,
    /// Of packets that are forwarded those alone that begin a connection
    #[arg(long)]
    pub(super) new: bool,
    /// Only one in so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) sample: Option<u32>,
    /// End after so many packets
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) seconds: Option<u64>,
    /// With --json, also the first 192 bytes of each packet; needs the role operate
    #[arg(long)]
    pub(super) bytes: bool,
    /// Write a capture (pcapng) with the verdicts instead of lines, - for standard output; needs the role
    /// operate
    #[arg(long, value_name = "FILE")]
    pub(super) write: Option<PathBuf>,
}

const FLOWS_EXAMPLES: &str = "\
Examples:
  lb flows --new --service web                 who connects, and where to
  lb flows --verdict dropped                   what is dropped, and why
  lb flows --sample 1000 --json | jq .instance
  lb flows --source 198.51.100.7 --write client.pcapng
  lb flows --write - | tcpdump -nr -";

/// Whether a change is made or only tried.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Trial {
    /// Only say what would change
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// What to do with the configuration.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Every setting in force
    Show {
        /// Also where each value comes from
        #[arg(long)]
        origin: bool,
    },
    /// Print a JSON Schema of the configuration file, for editors; works without a running lb
    Schema,
    /// What somebody has set, as JSON: all of it, or what stands at a key
    Get {
        /// Such as services.web.timeouts, or services.web.instances."http://10.0.0.2:8080"
        key: Option<String>,
    },
    /// Make the configuration what a file says, and nothing else
    Apply {
        /// TOML, or JSON when its name ends in .json
        file: PathBuf,
        #[command(flatten)]
        trial: Trial,
    },
    /// Set something at run time
    Set {
        /// Such as services.web.timeouts.connect
        key: String,
        /// As in the file: 5, true, "30s", ["a", "b"]; anything else is text
        #[arg(allow_hyphen_values = true)]
        value: String,
        #[command(flatten)]
        trial: Trial,
    },
    /// Give something that was set at run time back to file, environment and flags
    Unset {
        /// The key, and everything below; all of it when left out
        key: Option<String>,
        #[command(flatten)]
        trial: Trial,
    },
    /// What is set at run time, by whom, and since when
    Runtime,
    /// Who has changed what
    Revisions,
    /// How a revision differs from another one, or from the one in force
    Diff {
        /// From this revision
        from: u64,
        /// To this one
        to: Option<u64>,
    },
    /// Make the configuration what it was in a revision, whatever the file says now
    Rollback {
        /// The revision; see "lb config revisions"
        revision: u64,
        #[command(flatten)]
        trial: Trial,
    },
}

/// What to do with services.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum ServicesCommand {
    /// All services
    List,
    /// What is configured of a service, as JSON
    Show {
        /// The service
        service: String,
    },
    /// Make a service
    Create {
        /// Its name
        service: String,
        /// An instance, such as http://10.0.0.2:8080; may be repeated
        #[arg(long = "instance", value_name = "ENDPOINT")]
        instances: Vec<String>,
        /// How it chooses; see "lb algorithm list"
        #[arg(long, value_name = "NAME")]
        algorithm: Option<String>,
        /// Other settings, such as health_check.path=/health
        #[arg(value_name = "KEY=VALUE")]
        settings: Vec<String>,
        #[command(flatten)]
        trial: Trial,
    },
    /// Change settings of a service
    Set {
        /// The service
        service: String,
        /// Such as timeouts.connect=1s; KEY= gives it back to what the defaults say
        #[arg(value_name = "KEY=VALUE", required = true)]
        settings: Vec<String>,
        #[command(flatten)]
        trial: Trial,
    },
    /// Remove a service that nothing leads to
    Remove {
        /// The service
        service: String,
        #[command(flatten)]
        trial: Trial,
    },
}

/// What to do with routes.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum RoutesCommand {
    /// All routes
    List,
    /// What is configured of a route, as JSON
    Show {
        /// Host and path, such as */shop/* or example.org/
        route: String,
    },
    /// Send the requests of a host and path to a service
    Add {
        /// The path, with /* at its end for everything below
        path: String,
        /// The service
        #[arg(long, value_name = "NAME")]
        service: String,
        /// The host; any when left out
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
        /// Other settings, such as priority=1
        #[arg(value_name = "KEY=VALUE")]
        settings: Vec<String>,
        #[command(flatten)]
        trial: Trial,
    },
    /// Change settings of a route
    Set {
        /// Host and path, such as */shop/* or example.org/
        route: String,
        /// Such as service=web
        #[arg(value_name = "KEY=VALUE", required = true)]
        settings: Vec<String>,
        #[command(flatten)]
        trial: Trial,
    },
    /// Remove a route
    Remove {
        /// Host and path, such as */shop/* or example.org/
        route: String,
        #[command(flatten)]
        trial: Trial,
    },
}

/// What to do with VIPs.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum VipsCommand {
    /// All VIPs
    List,
    /// What is configured of a VIP, as JSON
    Show {
        /// Such as tcp/10.0.0.100:443
        vip: String,
    },
    /// Balance connections to an address over a service
    Add {
        /// Such as tcp/10.0.0.100:443, tcp/10.0.0.100:8000-8999 or udp/10.0.0.100:any
        vip: String,
        /// The service
        #[arg(long, value_name = "NAME")]
        service: String,
        #[command(flatten)]
        trial: Trial,
    },
    /// Change settings of a VIP
    Set {
        /// Such as tcp/10.0.0.100:443
        vip: String,
        /// Such as service=web
        #[arg(value_name = "KEY=VALUE", required = true)]
        settings: Vec<String>,
        #[command(flatten)]
        trial: Trial,
    },
    /// Remove a VIP
    Remove {
        /// Such as tcp/10.0.0.100:443
        vip: String,
        #[command(flatten)]
        trial: Trial,
    },
}

/// What to do with instances.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum InstancesCommand {
    /// All instances, or those of a service
    List {
        /// Only this service
        service: Option<String>,
    },
    /// Everything that lb knows about an instance
    Show(Target),
    /// Add an instance to a service
    Add {
        #[command(flatten)]
        target: Target,
        /// Its share of the traffic relative to the others
        #[arg(long)]
        weight: Option<u16>,
        /// Most requests in flight
        #[arg(long, value_name = "COUNT")]
        max_requests: Option<u32>,
        #[command(flatten)]
        trial: Trial,
    },
    /// Change what is configured of an instance
    #[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
    Set {
        #[command(flatten)]
        target: Target,
        /// Its share of the traffic relative to the others
        #[arg(long, group = "what")]
        weight: Option<u16>,
        /// Most requests in flight
        #[arg(long, value_name = "COUNT", group = "what")]
        max_requests: Option<u32>,
        #[command(flatten)]
        trial: Trial,
    },
    /// Remove an instance from a service; its requests in flight finish
    Remove {
        #[command(flatten)]
        target: Target,
        /// Drain it first, and remove it when nothing is left or this time is over
        #[arg(long, value_name = "DURATION")]
        drain: Option<humantime::Duration>,
        #[command(flatten)]
        trial: Trial,
    },
    /// Let an instance finish what it has and give it nothing new
    Drain {
        #[command(flatten)]
        target: Target,
        /// Disable it when this time is over, whatever is left
        #[arg(long, value_name = "DURATION")]
        deadline: Option<humantime::Duration>,
        /// Wait until no request and no connection is left, 5 minutes at most or as long as given
        #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "5m")]
        wait: Option<humantime::Duration>,
    },
    /// Give an instance traffic again
    Enable(Target),
    /// Take an instance out at once; its connections in the kernel go to others
    Disable(Target),
    /// End an instance's ejection before its time; it comes back through its recovery
    Uneject(Target),
}

/// What to do about circuit breakers.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum BreakersCommand {
    /// All breakers, or those of a service
    List {
        /// Only this service
        service: Option<String>,
    },
    /// Hold a breaker open: no request gets through until it is reset
    Open(BreakerTarget),
    /// Hold a breaker closed, whatever fails, until it is reset
    Close(BreakerTarget),
    /// Close a breaker and let it go by its rules again
    Reset(BreakerTarget),
}

/// A breaker.
#[derive(Args, Clone, Debug)]
pub(super) struct BreakerTarget {
    /// The service
    pub(super) service: String,
    /// The instance: its URL as configured, or host:port; the service as a whole when left out
    pub(super) instance: Option<String>,
}

/// What to do about recoveries.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum RecoveryCommand {
    /// The instances that do not have their whole weight yet
    List,
    /// Give an instance its whole weight at once
    Force(Target),
}

/// What to do about sessions.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum SessionsCommand {
    /// Sessions that are remembered, and figures of services with affinity
    List {
        /// Only sessions of this service
        #[arg(long)]
        service: Option<String>,
        /// Only sessions at this instance of the service
        #[arg(long, requires = "service")]
        instance: Option<String>,
        /// Only what follows after this session
        #[arg(long, value_name = "SESSION")]
        after: Option<String>,
        /// Most sessions, 1 to 10000
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Where a session goes
    Show {
        /// Its id as clients send it, or its 32 digits in the list
        session: String,
    },
    /// Forget a session in all services
    Delete {
        /// Its id as clients send it, or its 32 digits in the list
        session: String,
    },
    /// Forget all sessions, lb's own cookies included
    Clear,
}

/// An instance.
#[derive(Args, Clone, Debug)]
pub(super) struct Target {
    /// The service
    pub(super) service: String,
    /// The instance: its URL as configured, or host:port
    pub(super) instance: String,
}

/// What to do about algorithms.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum AlgorithmCommand {
    /// What there is, and what each service uses
    List,
    /// What a service uses
    Get {
        /// The service
        service: String,
    },
    /// What taking instances out would do to the keys of consistent hashing
    Keys {
        /// The service
        service: String,
        /// An instance to be taken out; may be repeated
        #[arg(long, required = true)]
        without: Vec<String>,
    },
    /// Forget what was learned of a service's weights
    Reset {
        /// The service
        service: String,
    },
    /// Order what a service uses, until another one is configured
    Set {
        /// The service
        service: String,
        /// Name of an algorithm; see "lb algorithm list"
        algorithm: String,
    },
}

/// What to do about the sources of instances.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum DiscoveryCommand {
    /// Every source: its state, what it has found, and what is wrong
    List,
    /// Ask all sources now
    Refresh,
}

/// What to do about the source ACL.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum AclCommand {
    /// The rules by prefix, and where they are from
    List {
        /// So many, 10000 at most
        #[arg(long, value_name = "NUMBER", default_value_t = 100)]
        limit: u32,
        /// Those that follow this prefix
        #[arg(long, value_name = "PREFIX")]
        after: Option<String>,
    },
    /// Whether an address may send, and the rule that decides
    Match {
        /// An IPv4 or IPv6 address
        address: String,
    },
    /// Let sources send, whatever shorter prefixes and files say
    Allow {
        /// An address or a range, such as 192.0.2.0/24
        prefix: String,
        #[command(flatten)]
        trial: Trial,
    },
    /// Drop all packets of sources to VIPs, also of connections that exist
    Deny {
        /// An address or a range, such as 192.0.2.0/24
        prefix: String,
        #[command(flatten)]
        trial: Trial,
    },
    /// Remove a rule from the configuration
    Remove {
        /// Its prefix
        prefix: String,
        #[command(flatten)]
        trial: Trial,
    },
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
    /// Take the XDP program off all interfaces and forget its connections; works without a
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
