//! `lb events`: what happens, as it happens.

use std::fmt::Write as _;

use super::{Context, args::Events, client::segment, error::CliError};
use crate::api::types::{Event, Lost};

/// `lb events`: a line an event, until lb ends or the reader has seen enough.
pub(super) async fn follow(context: &mut Context<'_>, asked: &Events) -> Result<(), CliError> {
    let Context {
        client, json, out, ..
    } = context;
    let mut kind = String::new();
    let path = format!("/api/v1/loadbalancer/events{}", query(asked));
    let each = |line: &str| {
        if let Some(name) = line.strip_prefix("event: ") {
            name.clone_into(&mut kind);
        }
        let Some(data) = line.strip_prefix("data: ") else {
            return Ok(());
        };
        if *json {
            writeln!(out, "{data}")?;
        } else if let Some(text) = text(&kind, data) {
            writeln!(out, "{text}")?;
        }
        // Whoever reads from a pipe wants each event when it happens.
        out.flush()
    };
    client.lines(&path, each).await?;
    Err(CliError::Ended {
        url: client.url().to_owned(),
    })
}

fn query(asked: &Events) -> String {
    let mut query = String::new();
    let services = asked.services.iter().map(|service| ("service", service));
    let types = asked.types.iter().map(|kind| ("type", kind));
    for (name, value) in services.chain(types) {
        let _ = write!(query, "&{name}={}", segment(value));
    }
    if let Some(after) = asked.after {
        let _ = write!(query, "&after={after}");
    }
    query.replacen('&', "?", 1)
}

/// An event for people; `None` when it is none.
fn text(kind: &str, data: &str) -> Option<String> {
    if kind == "lost" {
        let lost: Lost = serde_json::from_str(data).ok()?;
        return Some(match lost.lost {
            Some(lost) => format!("… {lost} events are lost"),
            None => "… events are lost: lb was restarted".to_owned(),
        });
    }
    let event: Event = serde_json::from_str(data).ok()?;
    let (at, kind, message) = (event.timestamp, event.kind, event.message);
    Some(format!("{at}  {kind:<22}  {message}"))
}
