//! Getting tools from the network, with a limit on how long that may take.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{step, system, workspace};

/// How long pip may take: on a slow network, not forever on a dead one.
const PIP_LIMIT: Duration = Duration::from_secs(300);

/// Builds a tool from the registry into the target folder.
pub(crate) fn cargo_install(name: &str, version: &str) -> Result<()> {
    let mut command = workspace::cargo();
    command
        .args([
            "install",
            "--quiet",
            "--locked",
            "--version",
            version,
            "--root",
        ])
        .arg(workspace::tools())
        .arg(name)
        // Cargo builds in a temporary folder of its own unless it is told where.
        .env_remove("CARGO_TARGET_DIR");
    step::quiet(&format!("building {name} {version}"), &mut command).with_context(|| {
        format!(
            "could not build {name}; with a network, run\n    {}",
            step::shown(&command)
        )
    })
}

/// Installs a program of Python's package index into an environment of its own below the target
/// folder: `tools/NAME/bin/NAME`. Nothing happens when that version is there.
pub(crate) fn pip_install(name: &str, version: &str) -> Result<()> {
    let folder = workspace::tools().join(name);
    let stamp = folder.join("version");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == version) {
        return Ok(());
    }
    if system::find("python3").is_none() {
        system::install(&["python3-venv"])?;
    }
    step::step(&format!("installing {name} {version}"), || {
        let mut environment = Command::new("python3");
        environment.args(["-m", "venv", "--clear"]).arg(&folder);
        if step::output(&mut environment).is_err() {
            // Debian's Python comes without the means to make one.
            system::install(&["python3-venv"])?;
            step::output(&mut environment)?;
        }
        let mut pip = Command::new(folder.join("bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check"])
            .arg(format!("{name}=={version}"));
        bounded(&mut pip, PIP_LIMIT)?;
        Ok(fs::write(&stamp, version)?)
    })
}

/// Runs a command that might hang on a network that swallows packets.
pub(crate) fn bounded(command: &mut Command, limit: Duration) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {}", step::shown(command)))?;
    if !wait(&mut child, limit)? {
        child.kill()?;
        child.wait()?;
        bail!(
            "{} took longer than {} s",
            step::shown(command),
            limit.as_secs()
        );
    }
    let status = child.wait()?;
    if !status.success() {
        bail!(
            "expected {} to succeed, found {status}",
            step::shown(command)
        );
    }
    Ok(())
}

/// Waits for the end of a child; whether it came within the limit.
fn wait(child: &mut Child, limit: Duration) -> Result<bool> {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        if child.try_wait()?.is_some() {
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_hangs_is_ended() {
        let mut sleep = Command::new("sleep");
        sleep.arg("30");
        let start = Instant::now();
        assert!(bounded(&mut sleep, Duration::from_millis(200)).is_err());
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn the_status_of_a_command_is_told() {
        let limit = Duration::from_secs(10);
        assert!(bounded(&mut Command::new("true"), limit).is_ok());
        assert!(bounded(&mut Command::new("false"), limit).is_err());
    }
}
