//! The commands that work without a running lb.

use std::io::Write;

use super::error::CliError;
use crate::config::{self, Overrides, Sources};

/// `lb check`: the summary of a good configuration, or every fault of a bad one.
pub(super) fn check(
    overrides: Overrides,
    effective: bool,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let config = config::load(&Sources::of_process(overrides))?;
    if effective {
        write!(out, "{}", config.effective())?;
    } else {
        writeln!(out, "The configuration is good: {}", config.summary())?;
    }
    Ok(())
}
