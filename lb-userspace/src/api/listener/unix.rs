//! A unix socket in the file system: made so that it is never open to more than it should be, and
//! removed by whoever made it.
//!
//! The socket is made in a folder that nobody else may enter, gets its mode and owner there, and is
//! moved to its path then, in the place of one that a dead daemon has left behind. Another daemon
//! that listens at the path is found by connecting to it. A lock of the folder of the path lets one
//! daemon at a time do this.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, ErrorKind},
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use crate::model::SocketSpec;

/// A socket's file, removed when this is dropped, unless it is another's by then.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

/// Listens at `path`.
pub(super) fn bind(path: &Path, spec: &SocketSpec) -> io::Result<(UnixListener, SocketFile)> {
    let lock = lock_folder(path)?;
    refuse_used(path)?;
    let workshop = workshop(path);
    let fresh = workshop.join("s");
    clear(&workshop, &fresh)?;
    DirBuilder::new().mode(0o700).create(&workshop)?;
    let made = make(&fresh, path, spec);
    // A socket that could not be moved is of no use to anybody.
    let cleared = clear(&workshop, &fresh);
    // What was made takes the lock itself when it is dropped.
    drop(lock);
    cleared?;
    made
}

fn make(fresh: &Path, path: &Path, spec: &SocketSpec) -> io::Result<(UnixListener, SocketFile)> {
    let listener = UnixListener::bind(fresh)?;
    if let Some(owner) = &spec.owner {
        chown(fresh, owner.user, owner.group)?;
    }
    fs::set_permissions(fresh, Permissions::from_mode(spec.mode))?;
    let identity = identity(fresh)?;
    fs::rename(fresh, path)?;
    let path = path.to_owned();
    Ok((listener, SocketFile { path, identity }))
}

/// Where sockets for `path` are made; on the same file system, so that they can be moved.
fn workshop(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Removes what a daemon that died in between has left.
fn clear(workshop: &Path, fresh: &Path) -> io::Result<()> {
    for removed in [fs::remove_file(fresh), fs::remove_dir(workshop)] {
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn lock_folder(path: &Path) -> io::Result<File> {
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    let folder = File::open(folder)?;
    flock(&folder, FlockOperation::LockExclusive)?;
    Ok(folder)
}

/// Only a socket that nobody listens at may be replaced.
fn refuse_used(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.is_socket() {
        let text = "expected nothing there or a socket that nobody uses, found something else";
        return Err(io::Error::new(ErrorKind::AlreadyExists, text));
    }
    match UnixStream::connect(path) {
        Ok(_) => {
            let text = "expected a socket that nobody uses, found one that somebody listens at";
            Err(io::Error::new(ErrorKind::AddrInUse, text))
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let Ok(_lock) = lock_folder(&self.path) else {
            return;
        };
        if identity(&self.path).is_ok_and(|found| found == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            let path = self.path.display();
            tracing::warn!(%path, %error, "the API's socket cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(mode: u32) -> SocketSpec {
        SocketSpec { mode, owner: None }
    }

    #[test]
    fn a_socket_has_its_mode_and_goes_with_its_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let (listener, file) = bind(&path, &spec(0o660)).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        UnixStream::connect(&path).unwrap();
        // Nothing else is left beside it.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        drop((listener, file));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_in_use_or_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let (listener, file) = bind(&path, &spec(0o600)).unwrap();
        let error = bind(&path, &spec(0o600)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        UnixStream::connect(&path).unwrap();
        drop((listener, file));
        fs::write(&path, "letters").unwrap();
        let error = bind(&path, &spec(0o600)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "letters");
    }

    #[test]
    fn what_a_dead_daemon_has_left_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let (listener, file) = bind(&path, &spec(0o600)).unwrap();
        // Killed: the listener is gone, its file is not; and it died again half way.
        drop(listener);
        DirBuilder::new().create(workshop(&path)).unwrap();
        drop(UnixListener::bind(workshop(&path).join("s")).unwrap());
        let (_listener, new) = bind(&path, &spec(0o600)).unwrap();
        UnixStream::connect(&path).unwrap();
        // The old one's file is not there any more, so there is nothing of its own to remove.
        drop(file);
        UnixStream::connect(&path).unwrap();
        drop(new);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
