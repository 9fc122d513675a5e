//! What changes the configuration.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Whether a change is made or only tried.
#[derive(Args, Clone, Copy, Debug)]
pub(in crate::cli) struct Trial {
    /// Only say what would change
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
}

/// What to do with the configuration.
#[derive(Clone, Debug, Subcommand)]
pub(in crate::cli) enum ConfigCommand {
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
pub(in crate::cli) enum ServicesCommand {
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
pub(in crate::cli) enum RoutesCommand {
    /// All routes
    List,
    /// What is configured of a route, as JSON
    Show {
        /// Host and path, such as */shop/* or example.org/, behind the destination where it has one, as
        /// "10.0.0.7:443 */shop/*"
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
        /// What clients connect to, such as 10.0.0.7:443 or 10.0.0.0/24:any; anything when left out
        #[arg(long, value_name = "ADDRESSES:PORTS")]
        destination: Option<String>,
        /// Other settings, such as priority=1
        #[arg(value_name = "KEY=VALUE")]
        settings: Vec<String>,
        #[command(flatten)]
        trial: Trial,
    },
    /// Change settings of a route
    Set {
        /// Host and path, such as */shop/* or example.org/, behind the destination where it has one, as
        /// "10.0.0.7:443 */shop/*"
        route: String,
        /// Such as service=web
        #[arg(value_name = "KEY=VALUE", required = true)]
        settings: Vec<String>,
        #[command(flatten)]
        trial: Trial,
    },
    /// Remove a route
    Remove {
        /// Host and path, such as */shop/* or example.org/, behind the destination where it has one, as
        /// "10.0.0.7:443 */shop/*"
        route: String,
        #[command(flatten)]
        trial: Trial,
    },
}

/// What to do with VIPs.
#[derive(Clone, Debug, Subcommand)]
pub(in crate::cli) enum VipsCommand {
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

/// What to do about the source ACL.
#[derive(Clone, Debug, Subcommand)]
pub(in crate::cli) enum AclCommand {
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
