//! Takes down what a run has made, however the run ends.
//!
//! Handles clean up when they are dropped. Ctrl-C drops nothing, so everything is also listed here
//! and the signal's handler works through the list. What a killed run leaves behind is found by the
//! next one, because the names of namespaces carry the process id of their maker.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Exit status of a shell command that SIGINT has ended.
const INTERRUPTED: i32 = 130;

/// Where iproute2 keeps the names of namespaces.
const NAMESPACES: &str = "/run/netns";

#[derive(Default)]
struct Made {
    namespaces: BTreeSet<String>,
    processes: BTreeSet<i32>,
    folders: BTreeSet<PathBuf>,
}

static MADE: Mutex<Made> = Mutex::new(Made {
    namespaces: BTreeSet::new(),
    processes: BTreeSet::new(),
    folders: BTreeSet::new(),
});

fn made() -> MutexGuard<'static, Made> {
    MADE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes everything down and ends the process when it is interrupted or told to terminate.
///
/// # Errors
/// When a handler is installed already.
pub fn on_signal() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| {
        take_down();
        #[expect(clippy::exit, reason = "the threads of the run are still busy with it")]
        std::process::exit(INTERRUPTED);
    })
}

fn take_down() {
    let mut made = made();
    for process in std::mem::take(&mut made.processes) {
        end(process);
    }
    for namespace in std::mem::take(&mut made.namespaces) {
        delete_namespace(&namespace);
    }
    for folder in std::mem::take(&mut made.folders) {
        drop(fs::remove_dir_all(folder));
    }
}

/// Kills a process by its id; whoever has started it reaps it.
fn end(process: i32) {
    // It may have ended by itself.
    let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
}

fn delete_namespace(name: &str) {
    drop(Command::new("ip").args(["netns", "delete", name]).output());
}

/// Lists a namespace for removal.
pub(crate) fn add_namespace(name: &str) {
    made().namespaces.insert(name.to_owned());
}

/// Removes a namespace.
pub(crate) fn remove_namespace(name: &str) {
    if made().namespaces.remove(name) {
        delete_namespace(name);
    }
}

/// Lists a process to be killed.
pub(crate) fn add_process(process: i32) {
    made().processes.insert(process);
}

/// The process has ended and was reaped: its id may soon be another's.
pub(crate) fn forget_process(process: i32) {
    made().processes.remove(&process);
}

/// A folder, removed with what is in it when dropped.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// A new folder for temporary files.
    pub(crate) fn temporary(prefix: &str) -> std::io::Result<Self> {
        Ok(Self::at(
            tempfile::Builder::new().prefix(prefix).tempdir()?.keep(),
        ))
    }

    /// A folder that somebody else will make.
    pub(crate) fn at(path: PathBuf) -> Self {
        made().folders.insert(path.clone());
        Self(path)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if made().folders.remove(&self.0) {
            drop(fs::remove_dir_all(&self.0));
        }
    }
}

/// Removes what runs left behind that were killed outright: processes, namespaces, pins.
pub(crate) fn reap_stale(prefix: &str) {
    for name in names_in(Path::new(NAMESPACES)).filter(|name| is_stale(name, prefix)) {
        for process in processes_in(&name) {
            end(process);
        }
        delete_namespace(&name);
    }
    let pins = Path::new(crate::daemon::BPF);
    let prefix = format!("{}{prefix}", crate::daemon::PINS);
    for name in names_in(pins).filter(|name| is_stale(name, &prefix)) {
        drop(fs::remove_dir_all(pins.join(name)));
    }
}

fn names_in(folder: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// Whether a name is the prefix, the id of a process that has ended, and more.
fn is_stale(name: &str, prefix: &str) -> bool {
    let maker = name
        .strip_prefix(prefix)
        .and_then(|rest| rest.split('-').next());
    maker
        .and_then(|id| id.parse::<u32>().ok())
        .is_some_and(|id| !Path::new("/proc").join(id.to_string()).exists())
}

fn processes_in(namespace: &str) -> Vec<i32> {
    let output = Command::new("ip")
        .args(["netns", "pids", namespace])
        .output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect()
}

/// Polls until `done` or until the time is over; whether it was done.
pub fn within(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_ended_process_has_made_is_stale() {
        let own = std::process::id();
        assert!(!is_stale(&format!("lb{own}-0-client"), "lb"));
        // Above the largest process id that Linux gives.
        assert!(is_stale("lb4194305-0-client", "lb"));
        assert!(!is_stale("lb-of-somebody-else", "lb"));
        assert!(!is_stale("other4194305-0-client", "lb"));
    }
}
