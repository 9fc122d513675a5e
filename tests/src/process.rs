//! Processes that a run starts, with their log, ended by their id.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::cleanup::{self, Folder};
use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Lets this process and those that it starts have as many open files as the system allows. Tests that
/// hold thousands of connections need that.
///
/// # Errors
/// When the system says no.
pub fn allow_many_files() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

/// A running process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    _folder: Folder,
}

impl Process {
    /// Starts a command. All that it writes goes to its log.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        let folder = Folder::temporary("lb-test-")?;
        let log = folder.path().join("log");
        let file = File::create(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // Ctrl-C is for the run; it ends its processes in the right order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}: {command:?}"))?;
        cleanup::add_process(pid_of(&child));
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
            _folder: folder,
        })
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        pid_of(&self.child)
    }

    /// All that the process has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Writes a line into the log, between those of the process.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn mark(&self, line: &str) -> Result<()> {
        let mut log = fs::OpenOptions::new().append(true).open(&self.log)?;
        log.seek(SeekFrom::End(0))?;
        writeln!(log, "--- {line}")?;
        Ok(())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid()), signal)
            .with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// How the process has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten();
        if status.is_some() {
            cleanup::forget_process(self.pid());
        }
        status
    }

    /// Waits for the end; nothing when it does not come in time.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let mut status = None;
        cleanup::within(limit, || {
            status = self.ended();
            status.is_some()
        });
        status
    }

    /// Ends the process without letting it say good-bye.
    ///
    /// # Errors
    /// When it cannot be reaped.
    pub fn kill(&mut self) -> Result<()> {
        if self.ended().is_none() {
            self.child.kill()?;
            self.child.wait()?;
            cleanup::forget_process(self.pid());
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.kill());
    }
}

fn pid_of(child: &Child) -> i32 {
    // Process ids are below 2^22.
    i32::try_from(child.id()).unwrap_or(i32::MAX)
}
