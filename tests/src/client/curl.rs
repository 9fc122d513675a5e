//! curl, as a client that nobody here has written.

use anyhow::{Context, Result};

use crate::command;
use crate::netns::Namespace;

/// What curl has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Body, or what `--include` and other arguments have made of it.
    pub body: String,
}

/// Runs curl in a namespace with these arguments, for ten seconds at most.
///
/// # Errors
/// When there is no complete answer, whatever its status.
pub fn curl(namespace: &Namespace, arguments: &[&str]) -> Result<Answer> {
    let mut curl = namespace.command("curl");
    curl.args(["--silent", "--show-error", "--max-time", "10"])
        .args(["--write-out", "\n%{http_code}"])
        .args(arguments);
    let output = command::output(&mut curl)?;
    let (body, status) = output
        .rsplit_once('\n')
        .with_context(|| format!("expected a status from curl, found {output:?}"))?;
    Ok(Answer {
        status: status.parse()?,
        body: body.to_owned(),
    })
}
