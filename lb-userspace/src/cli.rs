//! The command line: `lb run` is the daemon, everything else is a client of the REST API.
//!
//! The client knows the API's documents ([`crate::api::types`]) and nothing else of the daemon, so
//! whatever it shows, `curl` shows too. Results go to a writer, which is standard output in
//! [`main`] and a buffer in tests; errors go to standard error and say what to do next.
//!
//! Exit codes: [`OK`] 0, [`FAILED`] 1 when lb refused or could not be reached, [`USAGE`] 2 when the
//! command line itself makes no sense.

mod acl;
mod admin;
mod algorithms;
mod args;
mod breakers;
mod change;
mod client;
mod config;
mod datapath;
mod decap;
mod discovery;
mod error;
mod events;
mod explain;
mod flow;
mod flows;
mod format;
mod instances;
mod integrations;
mod limits;
mod local;
mod log;
mod pcapng;
mod performance;
mod place;
mod recovery;
mod routes;
mod services;
mod sessions;
mod status;
mod tls;
mod vips;
mod watch;

use std::{
    ffi::OsString,
    io::{self, IsTerminal as _, Write},
    process::ExitCode,
};

use clap::Parser as _;

use crate::config::Overrides;
pub use args::Cli;
use args::{Command, Question};
use client::Client;
pub use error::CliError;

/// Done.
pub const OK: u8 = 0;
/// lb refused, failed, or could not be reached.
pub const FAILED: u8 = 1;
/// The command line makes no sense.
pub const USAGE: u8 = 2;

/// What the subcommands work with.
struct Context<'a> {
    client: Client,
    json: bool,
    /// Whether somebody looks at `out`.
    terminal: bool,
    out: &'a mut (dyn Write + Send),
    /// For what is no result.
    errors: &'a mut dyn Write,
}

impl Context<'_> {
    /// Shows a document: as it came with `--json`, else by `text`.
    fn show<T: serde::Serialize>(
        &mut self,
        data: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), CliError> {
        if self.json {
            let json = serde_json::to_string_pretty(data).map_err(io::Error::from)?;
            writeln!(self.out, "{json}")?;
        } else {
            let text = text(data);
            writeln!(self.out, "{}", text.trim_end())?;
        }
        Ok(())
    }

    /// Writes a line about what happened, which `--json` has no use for.
    fn say(&mut self, text: &str) -> Result<(), CliError> {
        if !self.json {
            writeln!(self.out, "{text}")?;
        }
        Ok(())
    }
}

/// Runs the daemon until it is told to stop. The command line does not know the daemon: whoever
/// builds the program brings both together.
pub type Run = fn(Overrides) -> anyhow::Result<()>;

/// The `lb` program: reads the process's arguments, does what they say, reports on the standard
/// streams.
#[must_use]
pub fn main(daemon: Run) -> ExitCode {
    let args = std::env::args_os();
    let terminal = io::stdout().is_terminal();
    let code = answer(args, daemon, terminal, &mut io::stdout(), &mut io::stderr());
    ExitCode::from(code)
}

/// Does what `args` (the program's name first) say and returns the exit code.
pub fn run(
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    daemon: Run,
    out: &mut (dyn Write + Send),
    errors: &mut dyn Write,
) -> u8 {
    answer(args, daemon, false, out, errors)
}

fn answer(
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    daemon: Run,
    terminal: bool,
    out: &mut (dyn Write + Send),
    errors: &mut dyn Write,
) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return misused(&error, out, errors),
    };
    match dispatch(cli, daemon, terminal, out, errors) {
        Ok(()) => OK,
        // Whoever reads has seen enough: `lb instances list | head -1`.
        Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => OK,
        Err(error) => {
            // Nothing is left to do when even that cannot be said.
            drop(writeln!(errors, "lb: {error}"));
            error.exit_code()
        }
    }
}

/// Help and version are answers, anything else is a mistake in the command line.
fn misused(error: &clap::Error, out: &mut (dyn Write + Send), errors: &mut dyn Write) -> u8 {
    let text = error.render();
    if error.use_stderr() {
        drop(write!(errors, "{text}"));
        USAGE
    } else {
        drop(write!(out, "{text}"));
        OK
    }
}

fn dispatch(
    cli: Cli,
    daemon: Run,
    terminal: bool,
    out: &mut (dyn Write + Send),
    errors: &mut dyn Write,
) -> Result<(), CliError> {
    let Cli {
        connection,
        command,
    } = cli;
    let command = match command {
        Command::Run(overrides) => return daemon(overrides).map_err(CliError::Daemon),
        Command::Check {
            overrides,
            effective,
        } => return local::check(overrides, effective, out),
        Command::Completions { shell } => return local::completions(shell, out),
        Command::Decap(asked) => return decap::run(&asked, connection.json, out),
        Command::Ask(command) => command,
    };
    let context = Context {
        client: Client::new(&connection)?,
        json: connection.json,
        terminal,
        out,
        errors,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    runtime.block_on(ask(context, command))
}

/// The commands that are a client of the API.
async fn ask(mut context: Context<'_>, command: Question) -> Result<(), CliError> {
    match command {
        Question::Status => status::status(&mut context).await,
        Question::Stats { service, again } => match again.watch {
            Some(every) => watch::watch(&mut context, service.as_deref(), *every, again).await,
            None => status::stats(&mut context, service.as_deref()).await,
        },
        Question::Performance { service, window } => {
            performance::performance(&mut context, service.as_deref(), window).await
        }
        Question::Explain(asked) => match &asked.destination {
            Some(destination) => flow::explain(&mut context, &asked, destination).await,
            None => explain::explain(&mut context, &asked).await,
        },
        Question::Events(asked) => events::follow(&mut context, &asked).await,
        Question::Flows(asked) => flows::follow(&mut context, &asked).await,
        Question::Services { command } => services::run(&mut context, command).await,
        Question::Routes { command } => routes::run(&mut context, command).await,
        Question::Vips { command } => vips::run(&mut context, command).await,
        Question::Limits => limits::limits(&mut context).await,
        Question::Discovery { command } => discovery::run(&mut context, command).await,
        Question::Acl { command } => acl::run(&mut context, command).await,
        Question::Integrations => integrations::integrations(&mut context).await,
        Question::Instances { command } => instances::run(&mut context, command).await,
        Question::Breakers { command } => breakers::run(&mut context, command).await,
        Question::Recovery { command } => recovery::run(&mut context, command).await,
        Question::Sessions { command } => sessions::run(&mut context, command).await,
        Question::Algorithm { command } => algorithms::run(&mut context, command).await,
        Question::Datapath { command } => datapath::run(&mut context, command).await,
        Question::Config { command } => config::run(&mut context, command).await,
        Question::Log { command } => log::run(&mut context, command).await,
        Question::Reset => admin::reset(&mut context).await,
        Question::Debug => admin::debug(&mut context).await,
        Question::Reload => admin::reload(&mut context).await,
        Question::Metrics => admin::metrics(&mut context).await,
    }
}

#[cfg(test)]
mod tests;
