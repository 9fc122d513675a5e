//! `lb stats --watch`: figures between two readings, again and again.
//!
//! On a terminal the table stands still and its figures change; everywhere else each reading is
//! appended, a line a service, for whoever reads it later. Rates are those between two readings, by
//! the clock of this program, so they are what has happened since the reader last looked. A counter
//! that is less than before began anew, because lb was restarted or reset.
//!
//! An lb that cannot be asked for a moment is waited for on a terminal, where somebody watches it
//! restart; for a script that is a failure.

use std::time::{Duration, Instant, SystemTime};

use super::{
    Context,
    args::Again,
    client::segment,
    error::CliError,
    format::{self, Lean, maybe, ms, percent, rate, table},
    status::of,
};
use crate::api::types::{Instance, Instances, Kernel, Requests, Stats};

/// What a line is about: a service, an instance, or all.
struct Row {
    name: String,
    /// Available of all instances, or the state of one.
    state: String,
    requests: Requests,
    kernel: Kernel,
}

/// What was read at one moment, and when.
struct Reading {
    at: Instant,
    rows: Vec<Row>,
    /// As it came, for `--json`.
    document: String,
}

/// `lb stats [SERVICE] --watch`.
pub(super) async fn watch(
    context: &mut Context<'_>,
    service: Option<&str>,
    every: Duration,
    again: Again,
) -> Result<(), CliError> {
    let screen = context.terminal && !context.json;
    if screen {
        // Without the cursor, which would jump about.
        write!(context.out, "\x1b[?25l\x1b[H\x1b[2J")?;
    }
    let watched = tokio::select! {
        watched = readings(context, service, every, again.count, screen) => watched,
        // Whoever has seen enough has not failed.
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    if screen {
        writeln!(context.out, "\x1b[?25h")?;
    }
    watched
}

async fn readings(
    context: &mut Context<'_>,
    service: Option<&str>,
    every: Duration,
    mut left: Option<u64>,
    screen: bool,
) -> Result<(), CliError> {
    let mut before: Option<Reading> = None;
    let mut turns = tokio::time::interval(every);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while left != Some(0) {
        turns.tick().await;
        left = left.map(|left| left - 1);
        match read(context, service).await {
            Ok(now) => {
                let shown = shown(context, before.as_ref(), &now, every, screen);
                write!(context.out, "{shown}")?;
                before = Some(now);
            }
            Err(error) if screen && before.is_some() => {
                let text = error.to_string();
                write!(context.out, "\x1b[H{}", cleared(&text))?;
            }
            Err(error) => return Err(error),
        }
        context.out.flush()?;
    }
    Ok(())
}

/// Asks once. Services have their figures together, a single one those of its instances.
async fn read(context: &Context<'_>, service: Option<&str>) -> Result<Reading, CliError> {
    let client = &context.client;
    let (rows, document) = match service {
        None => {
            let stats: Stats = client.get("/stats").await?;
            (services(&stats), serde_json::to_string(&stats))
        }
        Some(service) => {
            let path = format!("/instances/{}", segment(service));
            let instances: Instances = client.get(&path).await?;
            let rows = instances.instances.iter().map(instance).collect();
            (rows, serde_json::to_string(&instances))
        }
    };
    Ok(Reading {
        at: Instant::now(),
        rows,
        document: document.map_err(std::io::Error::from)?,
    })
}

fn services(stats: &Stats) -> Vec<Row> {
    let each = stats.services.iter().map(|service| Row {
        name: service.service.clone(),
        state: of(&service.instances),
        requests: service.requests.clone(),
        kernel: service.kernel,
    });
    let all = Row {
        name: "all".to_owned(),
        state: of(&stats.instances),
        requests: stats.requests.clone(),
        kernel: stats.kernel,
    };
    each.chain([all]).collect()
}

fn instance(instance: &Instance) -> Row {
    let state = match (instance.available, instance.admin.as_str()) {
        (true, _) => "available",
        (false, "enabled") => instance.health.as_str(),
        (false, admin) => admin,
    };
    Row {
        name: instance.instance.clone(),
        state: state.to_owned(),
        requests: instance.requests.clone(),
        kernel: instance.kernel,
    }
}

fn shown(
    context: &Context<'_>,
    before: Option<&Reading>,
    now: &Reading,
    every: Duration,
    screen: bool,
) -> String {
    if context.json {
        return format!("{}\n", now.document);
    }
    let clock = humantime::format_rfc3339_seconds(SystemTime::now());
    let figures: Vec<(&Row, Rates)> = now
        .rows
        .iter()
        .map(|row| (row, Rates::between(before, now, row)))
        .collect();
    if screen {
        let url = context.client.url();
        let every = humantime::format_duration(every);
        let head = format!("{url}, every {every}, {clock}; Ctrl-C ends\n\n");
        return format!("\x1b[H{}", cleared(&(head + &sheet(&figures))));
    }
    figures
        .iter()
        .map(|(row, rates)| line(&clock.to_string(), row, rates))
        .collect()
}

/// Text over what stood there before.
fn cleared(text: &str) -> String {
    let lines: String = text
        .lines()
        .map(|line| format!("{line}\x1b[K\r\n"))
        .collect();
    lines + "\x1b[J"
}

fn sheet(figures: &[(&Row, Rates)]) -> String {
    let columns = [
        ("NAME", Lean::Left),
        ("STATE", Lean::Left),
        ("REQ/S", Lean::Right),
        ("FAIL/S", Lean::Right),
        ("SUCCESS 10S", Lean::Right),
        ("LATENCY 10S", Lean::Right),
        ("IN FLIGHT", Lean::Right),
        ("CONN/S", Lean::Right),
        ("OPEN", Lean::Right),
        ("IN/S", Lean::Right),
        ("OUT/S", Lean::Right),
    ];
    let rows = figures.iter().map(|(row, rates)| {
        let window = &row.requests.last_10s;
        vec![
            row.name.clone(),
            row.state.clone(),
            maybe(rates.requests, rate),
            maybe(rates.failures, rate),
            maybe(window.success_rate, percent),
            maybe(window.mean_latency_ms, ms),
            row.requests.in_flight.to_string(),
            maybe(rates.connections, rate),
            row.kernel.live_connections.to_string(),
            maybe(rates.bytes_in, bytes),
            maybe(rates.bytes_out, bytes),
        ]
    });
    table(&columns, rows)
}

/// A line for a file: what it is about, then names and values.
fn line(clock: &str, row: &Row, rates: &Rates) -> String {
    let window = &row.requests.last_10s;
    let figure = |value: Option<f64>| maybe(value, |value| format!("{value:.3}"));
    let mut line = format!("{clock} {} state={}", row.name, row.state);
    for (name, value) in [
        ("requests_per_second", figure(rates.requests)),
        ("failures_per_second", figure(rates.failures)),
        ("success_rate", figure(window.success_rate)),
        ("latency_ms", figure(window.mean_latency_ms)),
        ("in_flight", row.requests.in_flight.to_string()),
        ("connections_per_second", figure(rates.connections)),
        ("open_connections", row.kernel.live_connections.to_string()),
        ("bytes_in_per_second", figure(rates.bytes_in)),
        ("bytes_out_per_second", figure(rates.bytes_out)),
    ] {
        line += &format!(" {name}={value}");
    }
    line + "\n"
}

fn bytes(per_second: f64) -> String {
    // A rate of bytes is far below 2^53, and never negative.
    format::bytes(per_second.round() as u64)
}

/// What has happened a second since the reading before; nothing at the first.
#[derive(Debug, Default, PartialEq)]
struct Rates {
    requests: Option<f64>,
    failures: Option<f64>,
    connections: Option<f64>,
    bytes_in: Option<f64>,
    bytes_out: Option<f64>,
}

impl Rates {
    fn between(before: Option<&Reading>, now: &Reading, row: &Row) -> Self {
        let Some(before) = before else {
            return Self::default();
        };
        let Some(old) = before.rows.iter().find(|old| old.name == row.name) else {
            return Self::default();
        };
        let seconds = (now.at - before.at).as_secs_f64().max(1e-3);
        let per_second = |old: u64, new: u64| {
            // Less than before: the counter began anew.
            let more = new.checked_sub(old).unwrap_or(new);
            Some(more as f64 / seconds)
        };
        Self {
            requests: per_second(old.requests.total, row.requests.total),
            failures: per_second(old.requests.failures, row.requests.failures),
            connections: per_second(old.kernel.connections, row.kernel.connections),
            bytes_in: per_second(old.kernel.bytes_in, row.kernel.bytes_in),
            bytes_out: per_second(old.kernel.bytes_out, row.kernel.bytes_out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(at: Instant, total: u64, failures: u64) -> Reading {
        let row = Row {
            name: "web".to_owned(),
            state: "1/1".to_owned(),
            requests: Requests {
                total,
                failures,
                ..Requests::default()
            },
            kernel: Kernel::default(),
        };
        Reading {
            at,
            rows: vec![row],
            document: String::new(),
        }
    }

    #[test]
    fn rates_are_those_between_readings() {
        let start = Instant::now();
        let (old, new) = (
            reading(start, 100, 10),
            reading(start + Duration::from_secs(2), 150, 11),
        );
        let rates = Rates::between(Some(&old), &new, &new.rows[0]);
        assert_eq!((rates.requests, rates.failures), (Some(25.0), Some(0.5)));
        assert_eq!(Rates::between(None, &new, &new.rows[0]), Rates::default());
        // After a restart, what was counted since.
        let again = reading(start + Duration::from_secs(4), 30, 0);
        let rates = Rates::between(Some(&new), &again, &again.rows[0]);
        assert_eq!((rates.requests, rates.failures), (Some(15.0), Some(0.0)));
        // An instance that was not there has no rate yet.
        let mut other = reading(start + Duration::from_secs(4), 30, 0);
        other.rows[0].name = "new".to_owned();
        let rates = Rates::between(Some(&new), &other, &other.rows[0]);
        assert_eq!(rates, Rates::default());
    }
}
