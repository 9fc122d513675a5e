//! What can go wrong for a client, and what to do about it.

use std::{io, path::PathBuf, time::Duration};

use super::{FAILED, USAGE};
use crate::{api::Fault, l4::L4Error, runtime::LoadError};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The daemon did not start.
    #[error("{0:#}")]
    Daemon(anyhow::Error),
    /// `--api` makes no sense.
    #[error(
        "expected --api to be a URL such as http://127.0.0.1:7700, or unix:/run/lb/api.sock, found {found:?}: {why}"
    )]
    Url {
        /// What was given.
        found: String,
        /// What is wrong with it.
        why: String,
    },
    /// The token cannot be sent.
    #[error("expected a token of printable characters without spaces (--token or LB_API_TOKEN)")]
    Token,
    /// Nobody answers.
    #[error(
        "cannot reach lb at {url}: {why}\n  Is it running there? \"lb run\" starts it; --api or \
         LB_API says where it is."
    )]
    Unreachable {
        /// Where.
        url: String,
        /// What happened.
        why: String,
    },
    /// The answer takes too long.
    #[error("expected an answer from lb at {url} within {limit:?}, waited in vain")]
    Slow {
        /// Where.
        url: String,
        /// The limit.
        limit: Duration,
    },
    /// A stream of events is over.
    #[error("expected events from lb at {url} for as long as it runs, found that it has ended")]
    Ended {
        /// Where.
        url: String,
    },
    /// A stream is over before it was to be.
    #[error(
        "expected events from lb at {url} {until}, found that they have ended after {:.1} s{}",
        after.as_secs_f64(),
        because(why.as_deref())
    )]
    Early {
        /// Where.
        url: String,
        /// How long they were to come.
        until: String,
        /// How long they came.
        after: Duration,
        /// lb's words.
        why: Option<String>,
    },
    /// What answers does not speak as lb does.
    #[error(
        "expected the management API of lb at {url}, found something else: {why}\n  --api or \
         LB_API says where lb is."
    )]
    Foreign {
        /// Where.
        url: String,
        /// What was odd.
        why: String,
    },
    /// lb refused.
    #[error("{message}{}{}", list(message, faults), hint(*status))]
    Refused {
        /// HTTP status.
        status: u16,
        /// lb's words.
        message: String,
        /// Each thing that is wrong, where there are several.
        faults: Vec<Fault>,
    },
    /// A drain is not over in time.
    #[error(
        "expected {instance} to be drained within {limit}, found {left} left\n  It stays draining; \
         \"lb instances disable\" cuts off what is left."
    )]
    NotDrained {
        /// The instance.
        instance: String,
        /// The limit.
        limit: humantime::Duration,
        /// What is left.
        left: String,
    },
    /// A setting on the command line makes no sense.
    #[error("expected {expected}, found {found:?}")]
    Setting {
        /// What was expected.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// A file cannot be read.
    #[error("expected {} to be a configuration in TOML or JSON: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The configuration has faults, or what was set at run time cannot be read.
    #[error(transparent)]
    Configuration(#[from] LoadError),
    /// The packet path cannot be taken off.
    #[error(transparent)]
    Datapath(#[from] L4Error),
    /// The result cannot be written.
    #[error("cannot write the result: {0}")]
    Output(#[from] io::Error),
    /// The system gives no event loop.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    /// Rights that are not needed cannot be given up.
    #[error("expected to give up capabilities that are not needed, found: {0}")]
    Rights(io::Error),
}

impl CliError {
    /// The exit code that goes with the error.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Url { .. } | Self::Token | Self::Setting { .. } => USAGE,
            _ => FAILED,
        }
    }
}

/// The faults, a line each, but for one that the message has told already.
fn list(message: &str, faults: &[Fault]) -> String {
    let told = |fault: &&Fault| message.contains(&fault.expected) && faults.len() == 1;
    let faults = faults.iter().filter(|fault| !told(fault));
    faults.map(|fault| format!("\n  {fault}")).collect()
}

fn because(why: Option<&str>) -> String {
    why.map(|why| format!(": {why}")).unwrap_or_default()
}

const fn hint(status: u16) -> &'static str {
    match status {
        401 => "\n  --token or LB_API_TOKEN gives the token.",
        403 => "\n  Is --token (LB_API_TOKEN) one of this lb with the role for that?",
        507 => "\n  Make room on the disk of the state file (state.file), and do it again.",
        _ => "",
    }
}
