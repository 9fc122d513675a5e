//! The access log: one JSON object a line for each request, with the guide's field names.
//!
//! Requests leave records in a bounded queue; a thread of its own makes text of them and writes
//! it (see [`super::lines`]). What does not fit, because the disk or whoever reads
//! the pipe is slow, is lost and counted: a log must not slow down what it tells about.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::Serialize;

use super::lines::{LineTarget, LineWriter, LinesError};
use crate::{
    l7::{AccessLog, Asked, Ending, Record},
    model::{AccessLogSpec, LogField, LogFields, ServiceName},
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
    let fields = spec.fields;
    let write = move |record: &Record, lines: &mut Vec<u8>| {
        // Writing to memory cannot fail, and no field has a form that JSON lacks.
        let _ = serde_json::to_writer(lines, &Line::of(record, fields));
    };
    let writer = LineWriter::start(target, records, lost, write)?;
    Ok(Some((log, writer)))
}

/// A line. The names and their order are those of the guide's example; what was not chosen, and
/// what a request does not have, is absent.
#[derive(Debug, Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    success: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_score: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_connections: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_success_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<SocketAddr>,
}

impl<'a> Line<'a> {
    fn of(record: &'a Record, fields: LogFields) -> Self {
        let status = record.ending.status();
        let (message, reason) = match record.ending {
            Ending::Answered(_) if record.complete => ("request completed", None),
            Ending::Answered(_) => ("answer cut off", Some("cut_off")),
            Ending::Refused(reason) => ("request answered by lb", Some(reason.label())),
            Ending::ClientGone => ("client gone before the answer", Some("client_gone")),
        };
        let instance = record.instance.as_ref();
        let score = |asked: &Asked| rounded(asked.score, 1e3);
        let rate = |asked: &Asked| rounded(asked.success_rate * 100.0, 1e2);
        let timestamp = || humantime::format_rfc3339_millis(record.ended).to_string();
        let has = |field| fields.has(field);
        Self {
            level: has(LogField::Level).then_some(if status >= 500 { "warn" } else { "info" }),
            timestamp: has(LogField::Timestamp).then(timestamp),
            message: has(LogField::Message).then_some(message),
            service: record
                .service
                .as_ref()
                .filter(|_| has(LogField::Service))
                .map(ServiceName::as_str),
            instance: instance
                .filter(|_| has(LogField::Instance))
                .map(|asked| asked.instance.endpoint.name()),
            method: has(LogField::Method).then(|| record.method.as_str()),
            path: has(LogField::Path).then_some(&record.path),
            status: has(LogField::Status).then_some(status),
            duration: has(LogField::Duration).then(|| go_duration(record.duration)),
            client_ip: has(LogField::ClientIp).then_some(record.client),
            success: has(LogField::Success).then_some(status < 500 && reason.is_none()),
            instance_score: instance.filter(|_| has(LogField::InstanceScore)).map(score),
            instance_connections: instance
                .filter(|_| has(LogField::InstanceConnections))
                .map(|asked| asked.connections),
            instance_success_rate: instance
                .filter(|_| has(LogField::InstanceSuccessRate))
                .map(rate),
            attempts: Some(record.attempts)
                .filter(|attempts| *attempts > 1 && has(LogField::Attempts)),
            trace_id: has(LogField::TraceId).then(|| record.trace.to_string()),
            reason: reason.filter(|_| has(LogField::Reason)),
            destination: record.destination.filter(|_| has(LogField::Destination)),
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
