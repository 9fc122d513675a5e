//! Command line flags, laid over everything else.

use std::path::PathBuf;

use super::{
    Origin,
    tree::{Node, Table, Value, set},
};

/// Flags that override settings. Their values are checked together with all others, so that one
/// run reports every fault; clap only takes them in.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Configuration")]
pub struct Overrides {
    /// Configuration file (TOML); LB_CONFIG when not given
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Reload whenever the configuration file changes
    #[arg(long)]
    pub watch: bool,
    /// Listen here for HTTP, as ADDRESS:PORT or PORT; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Vec<String>,
    /// Listen here for the management API, or "off"
    #[arg(long, value_name = "ADDRESS")]
    pub api_listen: Option<String>,
    /// Threads that serve HTTP
    #[arg(long, value_name = "COUNT")]
    pub workers: Option<String>,
    /// off, error, warn, info, debug, trace, or a filter by module
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// text or json
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Keep what is set at run time in this file
    #[arg(long, value_name = "FILE")]
    pub state_file: Option<String>,
    /// Attach the packet path to this interface; may be repeated
    #[arg(long, value_name = "NAME")]
    pub interface: Vec<String>,
    /// auto, native, tc, generic, relay or off
    #[arg(long, value_name = "MODE")]
    pub datapath_mode: Option<String>,
    /// Algorithm of services that name none
    #[arg(long, value_name = "NAME")]
    pub default_algorithm: Option<String>,
}

/// Lays the flags over `root`.
pub(super) fn overlay(root: &mut Table, flags: &Overrides) {
    let Overrides {
        config: _,
        watch,
        listen,
        api_listen,
        workers,
        log_level,
        log_format,
        state_file,
        interface,
        datapath_mode,
        default_algorithm,
    } = flags;
    if *watch {
        set(
            root,
            &["reload", "watch"],
            Node::new(Value::Boolean(true), Origin::Flag("--watch")),
        );
    }
    let lists: [(&'static str, &[&str], &[String]); 2] = [
        ("--listen", &["gateway", "listen"], listen),
        ("--interface", &["datapath", "interfaces"], interface),
    ];
    for (flag, path, values) in lists {
        if !values.is_empty() {
            let origin = Origin::Flag(flag);
            let items = values.iter().map(|value| Node::text(value, origin.clone()));
            set(root, path, Node::new(Value::List(items.collect()), origin));
        }
    }
    let single: [(&'static str, &[&str], &Option<String>); 7] = [
        ("--api-listen", &["api", "listen"], api_listen),
        ("--workers", &["gateway", "workers"], workers),
        ("--log-level", &["log", "level"], log_level),
        ("--log-format", &["log", "format"], log_format),
        ("--state-file", &["state", "file"], state_file),
        ("--datapath-mode", &["datapath", "mode"], datapath_mode),
        (
            "--default-algorithm",
            &["defaults", "algorithm"],
            default_algorithm,
        ),
    ];
    for (flag, path, value) in single {
        if let Some(value) = value {
            set(root, path, Node::text(value, Origin::Flag(flag)));
        }
    }
}
