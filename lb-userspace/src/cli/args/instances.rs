//! What is asked and ordered of instances, and of what happens to them.

use clap::{Args, Subcommand};

use super::Trial;

/// What to do with instances.
#[derive(Clone, Debug, Subcommand)]
pub(in crate::cli) enum InstancesCommand {
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
pub(in crate::cli) enum BreakersCommand {
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
pub(in crate::cli) struct BreakerTarget {
    /// The service
    pub(in crate::cli) service: String,
    /// The instance: its URL as configured, or host:port; the service as a whole when left out
    pub(in crate::cli) instance: Option<String>,
}

/// What to do about recoveries.
#[derive(Clone, Debug, Subcommand)]
pub(in crate::cli) enum RecoveryCommand {
    /// The instances that do not have their whole weight yet
    List,
    /// Give an instance its whole weight at once
    Force(Target),
}

/// What to do about sessions.
#[derive(Clone, Debug, Subcommand)]
pub(in crate::cli) enum SessionsCommand {
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
pub(in crate::cli) struct Target {
    /// The service
    pub(in crate::cli) service: String,
    /// The instance: its URL as configured, or host:port
    pub(in crate::cli) instance: String,
}

/// What to do about algorithms.
#[derive(Clone, Debug, Subcommand)]
pub(in crate::cli) enum AlgorithmCommand {
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
pub(in crate::cli) enum DiscoveryCommand {
    /// Every source: its state, what it has found, and what is wrong
    List,
    /// Ask all sources now
    Refresh,
}
