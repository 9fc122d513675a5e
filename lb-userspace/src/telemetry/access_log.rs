//! The access log: one JSON object a line for each request, with the guide's field names.
//!
//! Requests leave records in a bounded queue; a thread of its own makes text of them and writes
//! it. The thread looks into the queue every [`PAUSE`] instead of being woken, so that leaving a
//! record never takes a lock or a system call. What does not fit, because the disk or whoever reads
//! the pipe is slow, is lost and counted: a log must not slow down what it tells about.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, TryRecvError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    l7::{AccessLog, Ending, Record},
    model::{AccessLogSpec, ServiceName},
};

/// Records that the queue holds: with [`PAUSE`] enough for 400,000 requests a second, at most
/// 10 MB when all of their paths are as long as paths get.
const CAPACITY: usize = 8192;

/// How long the thread rests when the queue is empty.
const PAUSE: Duration = Duration::from_millis(20);

/// Bytes that are written at once.
const BATCH: usize = 64 * 1024;

/// The access log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum AccessLogError {
    /// The file cannot be appended to.
    #[error("expected to append to {path} (setting access_log.path), found: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no thread to write with.
    #[error("expected a thread for the access log, found: {0}")]
    Thread(io::Error),
}

/// The thread that writes. It ends when the proxy has.
#[derive(Debug)]
pub struct AccessLogWriter {
    thread: JoinHandle<()>,
    reopen: Arc<AtomicBool>,
}

/// Opens the log and starts its thread; `None` when it is off.
///
/// # Errors
/// When the file cannot be opened or the thread not be started.
pub fn open(spec: &AccessLogSpec) -> Result<Option<(AccessLog, AccessLogWriter)>, AccessLogError> {
    if !spec.enabled {
        return Ok(None);
    }
    let output = match &spec.path {
        None => Output::Stdout,
        Some(path) => Output::File {
            file: append(path).map_err(|source| AccessLogError::Open {
                path: path.clone(),
                source,
            })?,
            path: path.clone(),
        },
    };
    let (log, records, lost) = AccessLog::new(CAPACITY, spec.sample);
    let reopen = Arc::new(AtomicBool::new(false));
    let mut writer = Writer {
        output,
        records,
        lost,
        reopen: Arc::clone(&reopen),
        lines: Vec::with_capacity(BATCH),
        failing: false,
    };
    let thread = thread::Builder::new().name("lb-access-log".to_owned());
    let thread = thread
        .spawn(move || writer.run())
        .map_err(AccessLogError::Thread)?;
    Ok(Some((log, AccessLogWriter { thread, reopen })))
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

impl AccessLogWriter {
    /// Opens the file anew before the next line is written, for whoever has moved it away. Without
    /// effect on standard output.
    pub fn reopen(&self) {
        self.reopen.store(true, Relaxed);
    }

    /// Waits until all records of a proxy that has ended are written, at most for `limit`: a pipe
    /// that nobody reads must not keep the process.
    pub fn finish(self, limit: Duration) {
        let end = Instant::now() + limit;
        while !self.thread.is_finished() {
            if Instant::now() >= end {
                tracing::warn!("the last lines of the access log could not be written");
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
    fn reopen(&mut self) {
        if let Self::File { path, file } = self {
            match append(path) {
                Ok(new) => *file = new,
                Err(error) => {
                    let path = path.display();
                    tracing::error!(%path, %error, "the access log cannot be opened anew");
                }
            }
        }
    }
}

#[derive(Debug)]
struct Writer {
    output: Output,
    records: Receiver<Record>,
    lost: Arc<AtomicU64>,
    reopen: Arc<AtomicBool>,
    lines: Vec<u8>,
    /// The last write has failed, which was said.
    failing: bool,
}

impl Writer {
    fn run(&mut self) {
        loop {
            if self.reopen.swap(false, Relaxed) {
                self.output.reopen();
            }
            let (count, state) = self.gather();
            self.write(count);
            match state {
                Some(TryRecvError::Disconnected) => return,
                Some(TryRecvError::Empty) => thread::sleep(PAUSE),
                None => {}
            }
        }
    }

    /// Makes lines of what the queue holds, a batch at most; how many, and why there are not more.
    fn gather(&mut self) -> (u64, Option<TryRecvError>) {
        self.lines.clear();
        let mut count = 0;
        while self.lines.len() < BATCH {
            match self.records.try_recv() {
                Ok(record) => {
                    count += 1;
                    // Writing to memory cannot fail, and no field has a form that JSON lacks.
                    let _ = serde_json::to_writer(&mut self.lines, &Line::of(&record));
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
                    tracing::error!(%error, "the access log cannot be written; requests are lost to it");
                }
            }
        }
    }
}

/// A line. The names and their order are those of the guide's example.
#[derive(Debug, Serialize)]
struct Line<'a> {
    level: &'static str,
    timestamp: String,
    message: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a str>,
    method: &'a str,
    path: &'a str,
    status: u16,
    duration: String,
    client_ip: IpAddr,
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_score: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_connections: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_success_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u8>,
    trace_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl<'a> Line<'a> {
    fn of(record: &'a Record) -> Self {
        let status = record.ending.status();
        let (message, reason) = match record.ending {
            Ending::Answered(_) if record.complete => ("request completed", None),
            Ending::Answered(_) => ("answer cut off", Some("cut_off")),
            Ending::Refused(reason) => ("request answered by lb", Some(reason.label())),
            Ending::ClientGone => ("client gone before the answer", Some("client_gone")),
        };
        let instance = record.instance.as_ref();
        Self {
            level: if status >= 500 { "warn" } else { "info" },
            timestamp: humantime::format_rfc3339_millis(record.ended).to_string(),
            message,
            service: record.service.as_ref().map(ServiceName::as_str),
            instance: instance.map(|asked| asked.instance.endpoint.name()),
            method: record.method.as_str(),
            path: &record.path,
            status,
            duration: go_duration(record.duration),
            client_ip: record.client,
            success: status < 500 && reason.is_none(),
            instance_score: instance.map(|asked| rounded(asked.score, 1e3)),
            instance_connections: instance.map(|asked| asked.connections),
            instance_success_rate: instance.map(|asked| rounded(asked.success_rate * 100.0, 1e2)),
            attempts: Some(record.attempts).filter(|attempts| *attempts > 1),
            trace_id: record.trace.to_string(),
            reason,
        }
    }
}

fn rounded(value: f32, unit: f64) -> f64 {
    (f64::from(value) * unit).round() / unit
}

/// A duration as the guide's Go programs write it: the largest unit that keeps a whole part, as
/// in `350µs`, `120ms`, `1.5s`, `2m3s`, `1h0m0s`.
fn go_duration(duration: Duration) -> String {
    let us = duration.as_micros();
    if us == 0 {
        return "0s".to_owned();
    }
    if us < 1000 {
        return format!("{us}µs");
    }
    if us < 1_000_000 {
        return format!("{}ms", us as f64 / 1e3);
    }
    let (minutes, seconds) = (us / 60_000_000, (us % 60_000_000) as f64 / 1e6);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests;
