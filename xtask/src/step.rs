//! Steps: one line each, with the time they took.
//!
//! A quiet step keeps its command's output and shows it only when the command fails; a loud one
//! lets it through, because the output is what the user came for (test results, a report).

use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Does `work`, and says what it was, how it ended and how long it took, on one line.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    print!("  {what} … ");
    let _ = io::stdout().flush();
    let start = Instant::now();
    let result = work();
    let verdict = if result.is_ok() { "done" } else { "FAILED" };
    println!("{verdict} ({})", seconds(start.elapsed()));
    result
}

/// A step that is one command whose output matters only when it fails.
pub(crate) fn quiet(what: &str, command: &mut Command) -> Result<()> {
    step(what, || output(command).map(drop))
}

/// A step that is one command whose output the user wants to see.
pub(crate) fn loud(what: &str, command: &mut Command) -> Result<()> {
    println!("  {what}: {}", shown(command));
    let start = Instant::now();
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!(
            "{what} failed with {status} after {}",
            seconds(start.elapsed())
        );
    }
    println!("  {what} … done ({})", seconds(start.elapsed()));
    Ok(())
}

/// Says something that takes no time.
pub(crate) fn note(what: &str) {
    println!("  {what}");
}

/// Runs a command to its end and gives its standard output; an error carries all that it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!(
            "expected {} to succeed, found {}\n{text}{}",
            shown(command),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(text)
}

/// A command as one would type it, without the environment.
pub(crate) fn shown(command: &Command) -> String {
    let program = command.get_program();
    let name = std::path::Path::new(program).file_name().unwrap_or(program);
    let mut text = name.to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
