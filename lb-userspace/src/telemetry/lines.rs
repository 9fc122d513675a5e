//! Lines that a thread of its own writes, for whoever must not wait for a disk.
//!
//! Records come by a bounded queue; the thread looks into it every [`PAUSE`] instead of being woken,
//! so that leaving a record never takes a lock or a system call.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, TryRecvError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How long the thread rests when the queue is empty.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// Bytes that are written at once.
const BATCH: usize = 64 * 1024;

/// A log of lines could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LinesError {
    /// The file cannot be appended to.
    #[error("expected to append to {path} (setting {setting}), found: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What names it.
        setting: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// There is no thread to write with.
    #[error("expected a thread for the {name}, found: {source}")]
    Thread {
        /// Which log.
        name: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Where lines go.
#[derive(Clone, Debug)]
pub struct LineTarget {
    /// What the log is called.
    pub name: &'static str,
    /// The setting that names the file.
    pub setting: &'static str,
    /// The file that is appended to; standard output when `None`.
    pub path: Option<PathBuf>,
}

/// The thread that writes. It ends when it is told to, or when nobody is left to leave records.
#[derive(Debug)]
pub struct LineWriter {
    name: &'static str,
    thread: JoinHandle<()>,
    reopen: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

impl LineWriter {
    /// Opens a log and starts its thread, which makes lines of records by `write`, without their
    /// ends, and counts in `lost` what it cannot write.
    ///
    /// # Errors
    /// When the file cannot be opened or the thread not be started.
    pub fn start<R, W>(
        target: LineTarget,
        records: Receiver<R>,
        lost: Arc<AtomicU64>,
        write: W,
    ) -> Result<Self, LinesError>
    where
        R: Send + 'static,
        W: Fn(&R, &mut Vec<u8>) + Send + 'static,
    {
        let LineTarget {
            name,
            setting,
            path,
        } = target;
        let (reopen, ended) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let mut lines = Lines {
            name,
            output: Output::open(path).map_err(|(path, source)| LinesError::Open {
                path,
                setting,
                source,
            })?,
            records,
            lost,
            reopen: Arc::clone(&reopen),
            ended: Arc::clone(&ended),
            lines: Vec::with_capacity(BATCH),
            failing: false,
        };
        let thread = thread::Builder::new().name(format!("lb-{}", name.replace(' ', "-")));
        let thread = thread.spawn(move || lines.run(&write));
        let thread = thread.map_err(|source| LinesError::Thread { name, source })?;
        Ok(Self {
            name,
            thread,
            reopen,
            ended,
        })
    }

    /// Opens the file anew before the next line is written, for whoever has moved it away. Without
    /// effect on standard output.
    pub fn reopen(&self) {
        self.reopen.store(true, Relaxed);
    }

    /// Waits until all records that were left so far are written, at most for `limit`: a pipe
    /// that nobody reads must not keep the process.
    pub fn finish(self, limit: Duration) {
        self.ended.store(true, Relaxed);
        let end = Instant::now() + limit;
        while !self.thread.is_finished() {
            if Instant::now() >= end {
                let log = self.name;
                tracing::warn!(log, "the last lines of a log could not be written");
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[derive(Debug)]
enum Output {
    Stdout,
    File { path: PathBuf, file: File },
}

impl Output {
    fn open(path: Option<PathBuf>) -> Result<Self, (PathBuf, io::Error)> {
        match path {
            None => Ok(Self::Stdout),
            Some(path) => match append(&path) {
                Ok(file) => Ok(Self::File { path, file }),
                Err(error) => Err((path, error)),
            },
        }
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(lines)?;
                stdout.flush()
            }
            Self::File { file, .. } => file.write_all(lines),
        }
    }

    /// Opens the file anew; the old one stays in use when that fails.
    fn reopen(&mut self, log: &str) {
        if let Self::File { path, file } = self {
            match append(path) {
                Ok(new) => *file = new,
                Err(error) => {
                    let path = path.display();
                    tracing::error!(log, %path, %error, "a log cannot be opened anew");
                }
            }
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

#[derive(Debug)]
struct Lines<R> {
    name: &'static str,
    output: Output,
    records: Receiver<R>,
    lost: Arc<AtomicU64>,
    reopen: Arc<AtomicBool>,
    /// Nothing more will come.
    ended: Arc<AtomicBool>,
    lines: Vec<u8>,
    /// The last write has failed, which was said.
    failing: bool,
}

impl<R> Lines<R> {
    fn run(&mut self, write: &impl Fn(&R, &mut Vec<u8>)) {
        loop {
            if self.reopen.swap(false, Relaxed) {
                self.output.reopen(self.name);
            }
            // Asked before the queue is: what was left until then is in it.
            let ended = self.ended.load(Relaxed);
            let (count, state) = self.gather(write);
            self.write(count);
            match state {
                Some(TryRecvError::Empty) if ended => return,
                Some(TryRecvError::Disconnected) => return,
                Some(TryRecvError::Empty) => thread::sleep(PAUSE),
                None => {}
            }
        }
    }

    /// Makes lines of what the queue holds, a batch at most; how many, and why there are not more.
    fn gather(&mut self, write: &impl Fn(&R, &mut Vec<u8>)) -> (u64, Option<TryRecvError>) {
        self.lines.clear();
        let mut count = 0;
        while self.lines.len() < BATCH {
            match self.records.try_recv() {
                Ok(record) => {
                    count += 1;
                    write(&record, &mut self.lines);
                    self.lines.push(b'\n');
                }
                Err(state) => return (count, Some(state)),
            }
        }
        (count, None)
    }

    fn write(&mut self, count: u64) {
        if count == 0 {
            return;
        }
        match self.output.write(&self.lines) {
            Ok(()) => self.failing = false,
            Err(error) => {
                self.lost.fetch_add(count, Relaxed);
                // A full disk is said once, not for every batch.
                if !std::mem::replace(&mut self.failing, true) {
                    let log = self.name;
                    tracing::error!(log, %error, "a log cannot be written; lines are lost to it");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn line(record: &u32, lines: &mut Vec<u8>) {
        lines.extend(record.to_string().bytes());
    }

    fn lines(path: &Path, records: Receiver<u32>) -> Lines<u32> {
        Lines {
            name: "test log",
            output: Output::open(Some(path.to_owned())).unwrap(),
            records,
            lost: Arc::default(),
            reopen: Arc::default(),
            ended: Arc::default(),
            lines: Vec::new(),
            failing: false,
        }
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let (sender, records) = mpsc::sync_channel(3);
        for number in 0..3 {
            sender.send(number).unwrap();
        }
        drop(sender);
        let mut lines = lines(Path::new("/dev/full"), records);
        lines.run(&line);
        assert_eq!(lines.lost.load(Relaxed), 3);
    }

    #[test]
    fn a_moved_file_is_opened_anew_when_told() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
        let (sender, records) = mpsc::sync_channel(1);
        let mut lines = lines(&path, records);
        let write = |lines: &mut Lines<u32>, number| {
            sender.send(number).unwrap();
            let (count, _) = lines.gather(&line);
            lines.write(count);
        };
        write(&mut lines, 1);
        std::fs::rename(&path, &moved).unwrap();
        write(&mut lines, 2);
        lines.output.reopen("test log");
        write(&mut lines, 3);
        let text = |path| std::fs::read_to_string(path).unwrap();
        assert_eq!(
            (text(&moved).as_str(), text(&path).as_str()),
            ("1\n2\n", "3\n")
        );
    }
}
