//! `lb flows`: what becomes of packets, as it happens, as lines or as a capture.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Write},
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    Context,
    args::Flows,
    client::segment,
    error::CliError,
    pcapng::{Capture, Direction, Packet},
};
use crate::api::types::{FlowEvent, Lost};

/// `lb flows`: a line an event, until there are enough or the reader has seen enough.
pub(super) async fn follow(context: &mut Context<'_>, asked: &Flows) -> Result<(), CliError> {
    let Context {
        client, json, out, ..
    } = context;
    let path = format!("/api/v1/loadbalancer/flows{}", query(asked));
    let ends = asked.count.is_some() || asked.seconds.is_some();
    let (mut kind, mut seen) = (String::new(), 0_u64);
    let mut sink: Option<Sink<'_>> = None;
    let mut out = Some(&mut **out);
    let each = |line: &str| {
        // Not before lb has agreed: a file that was there before must not be gone for a request that
        // was refused.
        if sink.is_none() {
            let out = out.take().ok_or_else(|| io::Error::other("no output"))?;
            sink = Some(Sink::open(out, asked.write.as_deref(), *json)?);
        }
        let Some(sink) = sink.as_mut() else {
            return Ok(());
        };
        if let Some(name) = line.strip_prefix("event: ") {
            name.clone_into(&mut kind);
        }
        let Some(data) = line.strip_prefix("data: ") else {
            return Ok(());
        };
        if kind == "flow" {
            seen += 1;
        }
        sink.put(&kind, data)
    };
    client.lines(&path, each).await?;
    let has_enough = asked.seconds.is_some() || asked.count.is_some_and(|count| seen >= count);
    if ends && has_enough {
        return Ok(());
    }
    Err(CliError::Ended {
        url: client.url().to_owned(),
    })
}

fn query(asked: &Flows) -> String {
    let mut query = String::new();
    let lists = [
        ("verdict", &asked.verdicts),
        ("reason", &asked.reasons),
        ("vip", &asked.vips),
        ("service", &asked.services),
    ];
    for (name, values) in lists {
        for value in values {
            let _ = write!(query, "&{name}={}", segment(value));
        }
    }
    if let Some(source) = &asked.source {
        let _ = write!(query, "&source={}", segment(source));
    }
    if asked.new {
        query.push_str("&new=true");
    }
    if asked.write.is_some() || asked.bytes {
        query.push_str("&bytes=true");
    }
    let numbers = [
        ("sample", asked.sample.map(u64::from)),
        ("count", asked.count),
        ("seconds", asked.seconds),
    ];
    for (name, value) in numbers {
        if let Some(value) = value {
            let _ = write!(query, "&{name}={value}");
        }
    }
    query.replacen('&', "?", 1)
}

/// Where events go.
enum Sink<'a> {
    Lines(&'a mut (dyn Write + Send)),
    Documents(&'a mut (dyn Write + Send)),
    Capture(Capture<Box<dyn Write + Send + 'a>>),
}

impl<'a> Sink<'a> {
    fn open(out: &'a mut (dyn Write + Send), file: Option<&Path>, json: bool) -> io::Result<Self> {
        let Some(path) = file else {
            return Ok(if json {
                Self::Documents(out)
            } else {
                Self::Lines(out)
            });
        };
        let out: Box<dyn Write + Send + 'a> = if path == Path::new("-") {
            Box::new(out)
        } else {
            let file = File::create(path).map_err(|error| {
                let text = format!("cannot write {}: {error}", path.display());
                io::Error::new(error.kind(), text)
            })?;
            Box::new(file)
        };
        Capture::new(out).map(Self::Capture)
    }

    fn put(&mut self, kind: &str, data: &str) -> io::Result<()> {
        match self {
            Self::Documents(out) => {
                writeln!(out, "{data}")?;
                out.flush()
            }
            Self::Lines(out) => {
                let Some(line) = line(kind, data) else {
                    return Ok(());
                };
                writeln!(out, "{line}")?;
                // Whoever reads from a pipe wants each event when it happens.
                out.flush()
            }
            Self::Capture(capture) => match (kind, serde_json::from_str(data)) {
                ("flow", Ok(event)) => record(capture, &event),
                _ => Ok(()),
            },
        }
    }
}

/// An event for people; `None` when it is none.
fn line(kind: &str, data: &str) -> Option<String> {
    if kind == "lost" {
        let lost: Lost = serde_json::from_str(data).ok()?;
        let lost = lost.lost.unwrap_or_default();
        return Some(format!("… {lost} events are lost"));
    }
    let event: FlowEvent = serde_json::from_str(data).ok()?;
    Some(text(&event))
}

fn text(event: &FlowEvent) -> String {
    // To the microsecond, as people compare it with other traces.
    let time = event.timestamp.get(11..26).unwrap_or(&event.timestamp);
    let end = |end: &Option<String>| end.as_deref().unwrap_or("?").to_owned();
    let protocol = event.protocol.as_deref().unwrap_or("-");
    let mut text = format!(
        "{time} {protocol:<4} {} → {}  {}",
        end(&event.source),
        end(&event.destination),
        told(event)
    );
    if !event.flags.is_empty() {
        let _ = write!(text, "  [{}]", event.flags.join(","));
    }
    let _ = write!(text, "  {} bytes", event.length);
    text
}

/// What became of a packet, in a few words.
fn told(event: &FlowEvent) -> String {
    let mut text = format!("{}: {}", event.verdict, event.reason);
    if event.new {
        text.push_str(", new");
    }
    if let Some(service) = &event.service {
        let _ = write!(text, "  {service}");
    }
    if let Some(instance) = &event.instance {
        let _ = write!(text, " ({instance})");
    }
    text
}

fn record<W: Write>(capture: &mut Capture<W>, event: &FlowEvent) -> io::Result<()> {
    let bytes = event.bytes.as_deref().unwrap_or_default();
    let bytes = STANDARD.decode(bytes).map_err(io::Error::other)?;
    let at = humantime::parse_rfc3339(&event.timestamp).map_err(io::Error::other)?;
    let (interface, direction) = match &event.out {
        Some(out) => (out, Direction::Out),
        None => (event.interface.as_ref().unwrap_or(&UNKNOWN), Direction::In),
    };
    let comment = format!(
        "{}; came as {} → {}",
        told(event),
        event.source.as_deref().unwrap_or("?"),
        event.destination.as_deref().unwrap_or("?")
    );
    capture.write(&Packet {
        interface,
        direction,
        at,
        bytes: &bytes,
        length: event.length,
        verdict: verdict(event),
        comment: &comment,
    })
}

/// The name of an interface that is gone.
static UNKNOWN: String = String::new();

/// The program's return value.
fn verdict(event: &FlowEvent) -> u64 {
    const DROP: u64 = 1;
    const PASS: u64 = 2;
    const TX: u64 = 3;
    const REDIRECT: u64 = 4;
    match (event.verdict.as_str(), event.reason.as_str()) {
        ("passed", _) => PASS,
        ("forwarded", "redirected") => REDIRECT,
        ("forwarded", _) => TX,
        _ => DROP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> FlowEvent {
        FlowEvent {
            timestamp: "2026-01-15T10:30:00.123456789Z".to_owned(),
            verdict: "forwarded".to_owned(),
            reason: "redirected".to_owned(),
            protocol: Some("tcp".to_owned()),
            source: Some("198.51.100.7:40000".to_owned()),
            destination: Some("192.0.2.10:80".to_owned()),
            flags: vec!["syn".to_owned()],
            new: true,
            vip: Some("tcp/192.0.2.10:80".to_owned()),
            service: Some("web".to_owned()),
            instance: Some("http://10.0.0.2:80".to_owned()),
            interface: Some("eth0".to_owned()),
            out: Some("eth1".to_owned()),
            length: 74,
            bytes: None,
        }
    }

    #[test]
    fn a_line_says_who_where_and_why() {
        assert_eq!(
            text(&event()),
            "10:30:00.123456 tcp  198.51.100.7:40000 → 192.0.2.10:80  forwarded: redirected, new  \
             web (http://10.0.0.2:80)  [syn]  74 bytes"
        );
        let dropped = FlowEvent {
            verdict: "dropped".to_owned(),
            reason: "no_instance".to_owned(),
            instance: None,
            out: None,
            flags: Vec::new(),
            new: false,
            ..event()
        };
        assert_eq!(
            text(&dropped),
            "10:30:00.123456 tcp  198.51.100.7:40000 → 192.0.2.10:80  dropped: no_instance  web  \
             74 bytes"
        );
        assert_eq!(
            line("lost", r#"{"lost":7}"#).unwrap(),
            "… 7 events are lost"
        );
        assert_eq!(line("flow", "nonsense"), None);
        let verdicts = [verdict(&event()), verdict(&dropped)];
        assert_eq!(verdicts, [4, 1]);
    }
}
