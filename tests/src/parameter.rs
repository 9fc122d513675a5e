//! Numbers out of the environment, for long runs by hand.

use std::env;

use anyhow::{Context, Result};

/// The number that the variable `name` holds.
///
/// # Errors
/// When it holds something else.
pub fn parameter(name: &str, otherwise: u32) -> Result<u32> {
    match env::var(name) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("expected a number in {name}, found {text:?}")),
        Err(_) => Ok(otherwise),
    }
}
