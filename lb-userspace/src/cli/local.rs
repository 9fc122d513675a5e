//! The commands that work without a running lb.

use std::io::Write;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{args::Cli, error::CliError};
use crate::{
    config::{self, Overrides, Sources},
    runtime,
};

/// `lb check`: the summary of a good configuration, or every fault of a bad one.
pub(super) fn check(
    overrides: Overrides,
    effective: bool,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let config = runtime::load(&Sources::of_process(overrides))?.config;
    if effective {
        write!(out, "{}", config.effective())?;
    } else {
        writeln!(out, "The configuration is good: {}", config.summary())?;
    }
    Ok(())
}

/// `lb config schema`: what a configuration file may say, for editors.
pub(super) fn schema(out: &mut dyn Write) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(&config::schema()).map_err(std::io::Error::from)?;
    writeln!(out, "{text}")?;
    Ok(())
}

/// `lb completions`: a script for `shell`, from the same grammar as `--help`.
pub(super) fn completions(shell: Shell, out: &mut dyn Write) -> Result<(), CliError> {
    // Written to memory first: clap_complete panics when it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "lb", &mut script);
    out.write_all(&script)?;
    Ok(())
}
