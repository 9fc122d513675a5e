//! Commands that must succeed.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a command to its end and gives what it wrote to standard output.
///
/// # Errors
/// When it cannot be started or does not succeed; the message has all that it wrote.
pub fn output(command: &mut Command) -> Result<String> {
    with_input(command.stdin(Stdio::null()), "")
}

/// The same, with text for its standard input.
///
/// # Errors
/// As [`output`].
pub fn with_input(command: &mut Command, input: &str) -> Result<String> {
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!(
            "expected {command:?} to succeed, found {}: {input}{text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(text)
}
