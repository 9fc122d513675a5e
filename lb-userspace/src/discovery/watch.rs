//! Noticing that a file is another one.
//!
//! The file is looked at five times a second, by its name: so a file that is replaced by renaming,
//! a link anywhere on the way that points elsewhere (as Kubernetes swaps a ConfigMap), and a network
//! file system, which tells nobody, are all the same. That costs one system call a look; what
//! inotify would save is not worth what it misses.
//!
//! A change counts when nothing has moved for [`STILL`] looks in a row, so that a file that is being
//! written is not read halfway.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, sync::Arc, time::Duration};

/// Looks that must find the same.
const STILL: u32 = 3;

/// Watches one file.
#[derive(Debug)]
pub(crate) struct FileWatch {
    path: Arc<Path>,
    settle: Settle,
}

impl FileWatch {
    /// From one look to the next.
    pub(crate) const PERIOD: Duration = Duration::from_millis(200);

    /// Watches `path`; it counts as changed until it is marked.
    pub(crate) fn new(path: impl Into<Arc<Path>>) -> Self {
        Self {
            path: path.into(),
            settle: Settle::default(),
        }
    }

    /// Watches `path`; only what happens from here on is a change. Blocks on the file system.
    pub(crate) fn marked(path: impl Into<Arc<Path>>) -> Self {
        let path = path.into();
        Self {
            settle: Settle {
                seen: Stamp::of(&path),
                moving: None,
            },
            path,
        }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Notes the file as it is: only what happens from here on is a change.
    pub(crate) async fn mark(&mut self) {
        self.settle = Settle {
            seen: self.stamp().await,
            moving: None,
        };
    }

    /// Takes a look, to be taken every [`FileWatch::PERIOD`]; whether the file has changed since it
    /// was marked, and has come to rest.
    pub(crate) async fn look(&mut self) -> bool {
        let stamp = self.stamp().await;
        self.settle.look(stamp)
    }

    /// Returns when the file has changed since it was marked, and has come to rest. May be dropped
    /// and called again.
    pub(crate) async fn changed(&mut self) {
        loop {
            tokio::time::sleep(Self::PERIOD).await;
            if self.look().await {
                return;
            }
        }
    }

    async fn stamp(&self) -> Stamp {
        let path = Arc::clone(&self.path);
        // A network file system may take its time.
        let stamp = tokio::task::spawn_blocking(move || Stamp::of(&path)).await;
        stamp.unwrap_or_default()
    }
}

/// What tells one state of a file from another; the default stands for no file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Self {
        let Ok(file) = fs::metadata(path) else {
            return Self::default();
        };
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

/// Tells a change that is over from one that goes on.
#[derive(Debug, Default)]
struct Settle {
    /// As it was marked.
    seen: Stamp,
    /// What it is now, and how many looks in a row have found that.
    moving: Option<(Stamp, u32)>,
}

impl Settle {
    /// Takes a look; whether the file has become another one.
    fn look(&mut self, stamp: Stamp) -> bool {
        let times = match self.moving {
            _ if stamp == self.seen => {
                self.moving = None;
                return false;
            }
            Some((last, times)) if last == stamp => times + 1,
            _ => 1,
        };
        self.moving = Some((stamp, times));
        if times < STILL {
            return false;
        }
        self.seen = stamp;
        self.moving = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::fs::symlink};

    use super::*;

    fn stamp(size: u64) -> Stamp {
        Stamp {
            size,
            ..Stamp::default()
        }
    }

    #[test]
    fn what_still_moves_is_no_change() {
        let mut settle = Settle {
            seen: stamp(1),
            moving: None,
        };
        let mut look = |size| settle.look(stamp(size));
        // It grows, rests, and that once.
        assert_eq!(
            [1, 2, 3, 4, 4, 4, 4].map(&mut look),
            [false, false, false, false, false, true, false]
        );
        // Back to what it was before it came to rest.
        assert_eq!(
            [5, 5, 4, 5, 5, 5].map(&mut look),
            [false, false, false, false, false, true]
        );
    }

    #[test]
    fn every_way_to_replace_a_file_shows() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| {
            let mut file = fs::File::create(path(name)).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        let watched = path("data/file");
        let mut last = Stamp::of(&watched);
        assert_eq!(last, Stamp::default());
        let mut differs = |what: &str| {
            let now = Stamp::of(&watched);
            assert_ne!(last, now, "{what}");
            last = now;
        };
        fs::create_dir(path("one")).unwrap();
        fs::create_dir(path("two")).unwrap();
        write("one/file", "a");
        write("two/file", "b");
        symlink(path("one"), path("data")).unwrap();
        differs("it appears");
        write("one/file", "ab");
        differs("written in place");
        write("one/new", "ab");
        fs::rename(path("one/new"), path("one/file")).unwrap();
        differs("renamed over");
        symlink(path("two"), path("data2")).unwrap();
        fs::rename(path("data2"), path("data")).unwrap();
        differs("a link on the way points elsewhere");
        fs::remove_file(path("two/file")).unwrap();
        differs("it is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_told_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut watch = FileWatch::new(file.path());
        watch.changed().await;
        let limit = Duration::from_secs(5);
        let nothing = tokio::time::timeout(limit, watch.changed()).await;
        assert!(nothing.is_err());
        file.as_file().write_all_at_start(b"x");
        watch.changed().await;
        file.as_file().write_all_at_start(b"xy");
        watch.mark().await;
        let nothing = tokio::time::timeout(limit, watch.changed()).await;
        assert!(nothing.is_err());
    }

    trait WriteAtStart {
        fn write_all_at_start(&self, bytes: &[u8]);
    }

    impl WriteAtStart for fs::File {
        fn write_all_at_start(&self, bytes: &[u8]) {
            use std::os::unix::fs::FileExt as _;
            self.write_all_at(bytes, 0).unwrap();
        }
    }
}
