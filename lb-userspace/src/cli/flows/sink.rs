//! Where the events of packets go: to people, to programs, into a capture.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Write},
    path::Path,
    time::SystemTime,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    api::types::{Ended, FlowEvent, Lost},
    cli::pcapng::{Capture, Direction, Packet},
};

/// What an event of the stream says.
#[derive(Debug)]
pub(super) enum Told {
    /// What became of a packet.
    Flow(Box<FlowEvent>),
    /// That so many events are missing here.
    Lost(u64),
    /// Why there are no more.
    Ended(String),
    /// Something that this program does not know.
    Other,
}

impl Told {
    /// Reads an event.
    pub(super) fn parse(kind: &str, data: &str) -> Result<Self, serde_json::Error> {
        match kind {
            "flow" => serde_json::from_str(data).map(Self::Flow),
            "lost" => {
                let lost: Lost = serde_json::from_str(data)?;
                Ok(Self::Lost(lost.lost.unwrap_or_default()))
            }
            "ended" => {
                let ended: Ended = serde_json::from_str(data)?;
                Ok(Self::Ended(ended.why))
            }
            _ => Ok(Self::Other),
        }
    }
}

/// Where events go.
pub(super) enum Sink<'a> {
    Lines(&'a mut (dyn Write + Send)),
    Documents(&'a mut (dyn Write + Send)),
    Capture(Capture<Box<dyn Write + Send + 'a>>),
}

impl<'a> Sink<'a> {
    pub(super) fn open(
        out: &'a mut (dyn Write + Send),
        file: Option<&Path>,
        json: bool,
    ) -> io::Result<Self> {
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

    /// Whether whoever looks at it is not told what is lost.
    pub(super) const fn is_capture(&self) -> bool {
        matches!(self, Self::Capture(_))
    }

    /// Writes an event; `lost` are missing so far.
    pub(super) fn put(
        &mut self,
        told: &Result<Told, serde_json::Error>,
        data: &str,
        lost: u64,
    ) -> io::Result<()> {
        match self {
            Self::Documents(out) => {
                writeln!(out, "{data}")?;
                out.flush()
            }
            Self::Lines(out) => {
                let Some(line) = told.as_ref().ok().and_then(line) else {
                    return Ok(());
                };
                writeln!(out, "{line}")?;
                // Whoever reads from a pipe wants each event when it happens.
                out.flush()
            }
            Self::Capture(capture) => match told {
                Ok(Told::Flow(event)) => record(capture, event),
                Ok(Told::Lost(_)) => capture.lost(SystemTime::now(), lost),
                Ok(Told::Ended(_) | Told::Other) | Err(_) => Ok(()),
            },
        }
    }
}

/// An event for people; `None` when it is none.
fn line(told: &Told) -> Option<String> {
    match told {
        Told::Flow(event) => Some(text(event)),
        Told::Lost(lost) => Some(format!("… {lost} events are lost")),
        Told::Ended(_) | Told::Other => None,
    }
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
        let lost = Told::parse("lost", r#"{"lost":7}"#).unwrap();
        assert_eq!(line(&lost).unwrap(), "… 7 events are lost");
        assert!(Told::parse("flow", "nonsense").is_err());
        let verdicts = [verdict(&event()), verdict(&dropped)];
        assert_eq!(verdicts, [4, 1]);
    }
}
