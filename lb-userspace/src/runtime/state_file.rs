//! The file in which what was set at run time outlives the process.
//!
//! It is replaced whole: written beside, brought to the disk, renamed, and the rename brought to
//! the disk. Whatever happens in between, one of both is there.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::{history::History, orders::Orders};
use crate::config::Layer;

/// What the content is like. Another number is another lb's.
const FORMAT: u32 = 1;

/// Everything that was set at run time, and how it came about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    format: u32,
    /// What of the configuration was set.
    pub(super) layer: Layer,
    /// What operators have ordered.
    pub(super) orders: Orders,
    /// The revisions of the configuration.
    pub(super) history: History,
}

impl Default for State {
    fn default() -> Self {
        Self {
            format: FORMAT,
            layer: Layer::default(),
            orders: Orders::default(),
            history: History::default(),
        }
    }
}

/// What is wrong with the state file.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another daemon keeps it.
    #[error(
        "expected the state file {} for this daemon alone, found another one that keeps it (it has \
         locked {}): stop it, or give each a state.file of its own",
        path.display(),
        lock.display()
    )]
    Taken {
        /// The file.
        path: PathBuf,
        /// What is locked.
        lock: PathBuf,
    },
    /// It is there, but cannot be read.
    #[error("expected to read the state file {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It holds something else than lb writes.
    #[error(
        "expected a state file of lb, found {}: {found}\n  It holds what was set at run time. \
         Restore it from a backup, or move it away to start with file, environment and flags alone.",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// It cannot be written.
    #[error("expected to write the state file {}: {error} (setting state.file)", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
        /// Whether the new content may be in its place all the same.
        replaced: bool,
    },
}

/// A state file.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    /// Locked for as long as it is open. Not the file itself, which each change replaces.
    lock: Option<File>,
}

impl StateFile {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path, lock: None }
    }

    /// Takes the file for one daemon, for as long as this value lives: two that wrote it would undo
    /// each other's work.
    pub(super) fn take(&mut self) -> Result<(), StateError> {
        let path = self.named(".lock");
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path);
        let locked = opened.and_then(|file| {
            flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            Ok(file)
        });
        match locked {
            Ok(file) => self.lock = Some(file),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(StateError::Taken {
                    path: self.path.clone(),
                    lock: path,
                });
            }
            Err(error) => {
                return Err(StateError::Unwritable {
                    path,
                    error,
                    replaced: false,
                });
            }
        }
        Ok(())
    }

    /// What the file holds; `None` when there is none.
    pub(super) fn read(&self) -> Result<Option<State>, StateError> {
        let path = || self.path.clone();
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let path = path();
                return Err(StateError::Unreadable { path, error });
            }
        };
        let damaged = |found: String| StateError::Damaged {
            path: path(),
            found,
        };
        let wrong = |error: serde_json::Error| damaged(error.to_string());
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_slice(&text).map_err(wrong)?;
        if format != FORMAT {
            let found = format!("the format {format}, where this lb knows {FORMAT}");
            return Err(damaged(found));
        }
        let state: State = serde_json::from_slice(&text).map_err(wrong)?;
        if !state.layer.is_sound() || !state.history.is_sound() {
            let found = "revisions that do not fit together".to_owned();
            return Err(damaged(found));
        }
        Ok(Some(state))
    }

    /// Replaces what the file holds. When this returns, it is on the disk.
    pub(super) fn write(&self, state: &State) -> Result<(), StateError> {
        let error = |replaced: bool| {
            move |error: io::Error| StateError::Unwritable {
                path: self.path.clone(),
                error,
                replaced,
            }
        };
        let text = serde_json::to_vec(state).map_err(io::Error::from);
        let text = text.map_err(error(false))?;
        let beside = self.named(".new");
        write_whole(&beside, &text).map_err(error(false))?;
        fs::rename(&beside, &self.path).map_err(error(false))?;
        let folder = self.path.parent().unwrap_or_else(|| Path::new("/"));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(error(true))
    }

    /// A file beside this one.
    fn named(&self, end: &str) -> PathBuf {
        let mut name: OsString = self.path.clone().into();
        name.push(end);
        name.into()
    }
}

/// Writes a file that holds secrets, to the disk.
fn write_whole(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    file.write_all(text)?;
    file.sync_all()
}
