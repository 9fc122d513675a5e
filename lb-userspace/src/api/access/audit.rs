//! The audit log: who has changed what, or was refused.
//!
//! A line for every request that changes something, for every one that is refused for lack of rights, and
//! two for every stream of what users have sent: when it begins, and when it ends. It goes to a file of its
//! own through a bounded queue, or to the daemon's log when there is no file. What does not fit into the
//! queue, because the disk is slow, is lost and counted: whoever can be refused must not be able to fill
//! anything, or to hold anybody up. For the same reason refusals for too many requests get a line a second
//! at most, which says how many it stands for.
//!
//! No secret is in it: neither bodies, queries nor header fields are, but for what a stream of packets was
//! asked for, each word of which is one that lb knows. A path may name a session by
//! its id, which is one; it is replaced by what lb itself calls the session.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{self, SyncSender},
    },
    time::SystemTime,
};

use axum::{
    http::{StatusCode, request::Parts},
    response::Response,
};
use serde::Serialize;

use super::{Caller, Ending, Peer};
use crate::{
    affinity::SessionId,
    api::{Problem, conventions::RequestId},
    model::{AuditLogSpec, Timestamp},
    telemetry::{LineWriter, LinesError},
};

/// Lines that wait to be written, 2 MB at most.
const CAPACITY: usize = 1024;

/// What the lines of a stream say.
const STREAM: &str = "stream of packet bytes";

/// Most bytes of a path, and of what a stream was asked for.
const PATH: usize = 1024;

/// Where lines go. A clone leads to the same place.
#[derive(Clone, Debug)]
pub struct Audit {
    file: Option<SyncSender<Box<Record>>>,
    lost: Arc<AtomicU64>,
    floods: Arc<Floods>,
}

/// Refusals for too many requests.
#[derive(Debug, Default)]
struct Floods {
    /// When the last of them was written, in seconds.
    written: AtomicU64,
    /// How many were not since.
    unwritten: AtomicU64,
}

/// One request.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Record {
    timestamp: String,
    message: &'static str,
    /// Who asks, in a few words; absent when nobody knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    peer: String,
    method: String,
    path: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
    /// Of a stream: whether it `begins` or `ends`.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'static str>,
    /// What it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<String>,
    /// How many events were in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<u64>,
    status: u16,
    /// Why it was refused: the last part of the problem's type. Why a stream has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    revision_before: u64,
    revision_after: u64,
    request_id: String,
    /// Requests like it that were refused in the second of the line before and have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    others: Option<u64>,
}

impl Audit {
    /// Lines go to the daemon's log.
    #[must_use]
    pub fn to_log() -> Self {
        Self {
            file: None,
            lost: Arc::default(),
            floods: Arc::default(),
        }
    }

    /// Opens what `spec` asks for; with a file comes its writer.
    ///
    /// # Errors
    /// When the file cannot be opened or its thread not be started.
    pub fn open(spec: &AuditLogSpec) -> Result<(Self, Option<LineWriter>), LinesError> {
        let Some(path) = &spec.path else {
            return Ok((Self::to_log(), None));
        };
        let (sender, receiver) = mpsc::sync_channel(CAPACITY);
        let lost = Arc::<AtomicU64>::default();
        let target = crate::telemetry::LineTarget {
            name: "audit log",
            setting: "audit_log.path",
            path: Some(path.clone()),
        };
        #[expect(clippy::borrowed_box, reason = "what the queue holds is boxed")]
        let write = |record: &Box<Record>, lines: &mut Vec<u8>| {
            // Writing to memory cannot fail, and no field has a form that JSON lacks.
            let _ = serde_json::to_writer(&mut *lines, record);
        };
        let writer = LineWriter::start(target, receiver, Arc::clone(&lost), write)?;
        let file = Some(sender);
        let floods = Arc::default();
        Ok((Self { file, lost, floods }, Some(writer)))
    }

    /// Lines that the file has not got because it could not be written.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// The counter of these.
    pub(super) fn lost_counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lost)
    }

    pub(super) fn write(&self, mut record: Record, now: Timestamp) {
        if record.status == StatusCode::TOO_MANY_REQUESTS.as_u16() {
            let Some(others) = self.floods.next(now) else {
                return;
            };
            record.others = Some(others).filter(|others| *others > 0);
        }
        match &self.file {
            None => record.log(),
            Some(file) => {
                if file.try_send(Box::new(record)).is_err() {
                    self.lost.fetch_add(1, Relaxed);
                }
            }
        }
    }
}

impl Floods {
    /// How many more a line stands for; `None` when there is none to be now.
    fn next(&self, now: Timestamp) -> Option<u64> {
        // The first second is one, too.
        let second = now.0 / 1_000_000 + 1;
        if self.written.swap(second, Relaxed) == second {
            self.unwritten.fetch_add(1, Relaxed);
            return None;
        }
        Some(self.unwritten.swap(0, Relaxed))
    }
}

impl Record {
    /// A request as it comes in.
    pub(super) fn new(request: &Parts, revision: u64) -> Self {
        let uri = &request.uri;
        Self {
            timestamp: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            message: "management request",
            caller: None,
            role: None,
            peer: Peer::of(request).to_string(),
            method: request.method.to_string(),
            path: shown(uri.path()),
            dry_run: uri.query().is_some_and(is_dry),
            stream: None,
            filter: None,
            events: None,
            status: 0,
            reason: None,
            revision_before: revision,
            revision_after: revision,
            request_id: request
                .extensions
                .get::<RequestId>()
                .map(|id| id.as_str().to_owned())
                .unwrap_or_default(),
            others: None,
        }
    }

    pub(super) fn known(&mut self, caller: &Caller) {
        self.caller = Some(caller.to_string());
        self.role = Some(caller.role.as_str());
    }

    /// Notes what became of it.
    pub(super) fn answered(&mut self, response: &Response, revision: u64) {
        self.status = response.status().as_u16();
        self.revision_after = revision;
        let problem = response.extensions().get::<Problem>();
        let kind = problem.and_then(|problem| problem.kind.rsplit(':').next());
        self.reason = kind.map(str::to_owned);
    }

    /// Makes it a line of a stream, which begins or has ended. Its query was understood.
    pub(super) fn streamed(&mut self, request: &Parts, ending: Option<Ending>) {
        self.message = STREAM;
        self.status = StatusCode::OK.as_u16();
        self.stream = Some(if ending.is_some() { "ends" } else { "begins" });
        let mut filter = request.uri.query().unwrap_or_default().to_owned();
        filter.truncate(filter.floor_char_boundary(PATH));
        self.filter = Some(filter);
        self.events = ending.map(|ending| ending.events);
        self.reason = ending.map(|ending| ending.reason.to_owned());
    }

    fn log(&self) {
        let caller = self.caller.as_deref().unwrap_or("nobody known");
        let role = self.role.unwrap_or("none");
        let reason = self.reason.as_deref().unwrap_or_default();
        let others = self.others.unwrap_or_default();
        let Self {
            peer,
            method,
            path,
            status,
            dry_run,
            revision_before,
            revision_after,
            request_id,
            ..
        } = self;
        if let Some(stream) = self.stream {
            let filter = self.filter.as_deref().unwrap_or_default();
            let events = self.events.unwrap_or_default();
            tracing::info!(
                caller, role, peer, path, stream, filter, events, reason, request_id, "{STREAM}"
            );
            return;
        }
        tracing::info!(
            caller,
            role,
            peer,
            method,
            path,
            status,
            dry_run,
            reason,
            revision_before,
            revision_after,
            request_id,
            others,
            "management request"
        );
    }
}

/// Whether an answer tells somebody that he may not do that.
pub(super) const fn refuses(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
    )
}

fn is_dry(query: &str) -> bool {
    query
        .split('&')
        .any(|parameter| parameter == "dry_run=true")
}

/// A path that may be shown.
fn shown(path: &str) -> String {
    const SESSIONS: &str = "/api/v1/loadbalancer/sessions/";
    let mut shown = match path.strip_prefix(SESSIONS) {
        Some(id) if !id.is_empty() => {
            let id = decoded(id.trim_end_matches('/'));
            format!("{SESSIONS}{}", SessionId::named(&id))
        }
        _ => path.to_owned(),
    };
    shown.truncate(shown.floor_char_boundary(PATH));
    shown
}

/// A segment without its percent-encoding, as the router reads it.
fn decoded(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [first, tail @ ..] = rest {
        let pair = tail
            .get(..2)
            .and_then(|pair| std::str::from_utf8(pair).ok());
        let byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match (first, byte) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_session_id_is_shown() {
        let base = "/api/v1/loadbalancer";
        let hash = "ba7816bf8f01cfea414140de5dae2223"; // of "abc"
        for (path, expected) in [
            ("/sessions/abc", format!("{base}/sessions/{hash}")),
            ("/sessions/abc/", format!("{base}/sessions/{hash}")),
            ("/sessions/%61bc", format!("{base}/sessions/{hash}")),
            (
                "/sessions/ba7816bf8f01cfea414140de5dae2223",
                format!("{base}/sessions/{hash}"),
            ),
            ("/sessions", format!("{base}/sessions")),
            (
                "/instances/a/http://b:1/drain",
                format!("{base}/instances/a/http://b:1/drain"),
            ),
        ] {
            assert_eq!(shown(&format!("{base}{path}")), expected);
        }
        assert_eq!(shown(&"ü".repeat(2000)).len(), PATH);
        assert_eq!(decoded("%zz%4"), "%zz%4");
    }

    #[test]
    fn floods_get_a_line_a_second() {
        let floods = Floods::default();
        let at = |ms: u64| floods.next(Timestamp(ms * 1000));
        assert_eq!(at(0), Some(0));
        assert_eq!((at(1), at(999)), (None, None));
        assert_eq!(at(1000), Some(2));
        assert_eq!(at(1001), None);
        assert_eq!(at(9000), Some(1));
    }

    #[test]
    fn dry_runs_are_told_apart() {
        assert!(is_dry("dry_run=true") && is_dry("a=b&dry_run=true"));
        assert!(!is_dry("dry_run=false") && !is_dry("x=dry_run=true&y") && !is_dry(""));
    }
}
