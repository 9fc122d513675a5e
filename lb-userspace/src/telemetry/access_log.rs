//! The access log: one JSON object a line for each request, with the guide's field names.
//!
//! Requests leave records in a bounded queue; a thread of its own makes text of them and writes
//! it (see [`super::lines`]). What does not fit, because the disk or whoever reads
//! the pipe is slow, is lost and counted: a log must not slow down what it tells about.

use std::{net::IpAddr, time::Duration};

use serde::Serialize;

use super::lines::{LineTarget, LineWriter, LinesError};
use crate::{
    l7::{AccessLog, Ending, Record},
    model::{AccessLogSpec, ServiceName},
};

/// Records that the queue holds: with [`super::lines::PAUSE`] enough for 400,000 requests a second, at most
/// 10 MB when all of their paths are as long as paths get.
const CAPACITY: usize = 8192;

/// Opens the log and starts its thread; `None` when it is off.
///
/// # Errors
/// When the file cannot be opened or the thread not be started.
pub fn open(spec: &AccessLogSpec) -> Result<Option<(AccessLog, LineWriter)>, LinesError> {
    if !spec.enabled {
        return Ok(None);
    }
    let (log, records, lost) = AccessLog::new(CAPACITY, spec.sample);
    let target = LineTarget {
        name: "access log",
        setting: "access_log.path",
        path: spec.path.clone(),
    };
    let write = |record: &Record, lines: &mut Vec<u8>| {
        // Writing to memory cannot fail, and no field has a form that JSON lacks.
        let _ = serde_json::to_writer(lines, &Line::of(record));
    };
    let writer = LineWriter::start(target, records, lost, write)?;
    Ok(Some((log, writer)))
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
