//! `lb flows`: what becomes of packets, as it happens, as lines or as a capture.

mod sink;

use std::{
    fmt::Write as _,
    io::{self, Write},
    time::{Duration, Instant},
};

use self::sink::{Sink, Told};
use super::{Context, args::Flows, client::segment, error::CliError};

/// `lb flows`: a line an event, until there are enough or the reader has seen enough.
pub(super) async fn follow(context: &mut Context<'_>, asked: &Flows) -> Result<(), CliError> {
    let Context {
        client,
        json,
        out,
        errors,
        ..
    } = context;
    let path = format!("/api/v1/loadbalancer/flows{}", query(asked));
    let begun = Instant::now();
    let (mut kind, mut seen) = (String::new(), Seen::default());
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
        let told = Told::parse(&kind, data);
        seen.note(&told, sink.is_capture(), &mut **errors);
        sink.put(&told, data, seen.lost)
    };
    let read = client.lines(&path, each).await;
    seen.sum_up(&mut **errors);
    read?;
    let after = begun.elapsed();
    if seen.is_enough(asked, after) {
        return Ok(());
    }
    Err(CliError::Early {
        url: client.url().to_owned(),
        until: until(asked),
        after,
        why: seen.why,
    })
}

/// What has come, and what has not.
#[derive(Debug, Default)]
struct Seen {
    events: u64,
    lost: u64,
    unreadable: u64,
    /// Why lb has ended it.
    why: Option<String>,
}

impl Seen {
    /// Notes an event, and says what is missing where nothing else does.
    fn note(
        &mut self,
        told: &Result<Told, serde_json::Error>,
        is_silent: bool,
        errors: &mut dyn Write,
    ) {
        // When that cannot be said, nothing can.
        match told {
            Ok(Told::Flow(_)) => self.events += 1,
            Ok(Told::Lost(lost)) => {
                self.lost = self.lost.saturating_add(*lost);
                if is_silent {
                    drop(writeln!(errors, "lb: {lost} events are lost"));
                }
            }
            Ok(Told::Ended(why)) => self.why = Some(why.clone()),
            Ok(Told::Other) => {}
            Err(error) => {
                self.unreadable += 1;
                // Once: where there is one there are many.
                if self.unreadable == 1 {
                    drop(writeln!(errors, "lb: an event cannot be read: {error}"));
                }
            }
        }
    }

    /// Says what is missing in all.
    fn sum_up(&self, errors: &mut dyn Write) {
        let Self {
            events,
            lost,
            unreadable,
            ..
        } = self;
        if *lost > 0 {
            let text = "lb: events in all";
            drop(writeln!(
                errors,
                "{text}: {events} have come, {lost} are lost"
            ));
        }
        if *unreadable > 0 {
            drop(writeln!(
                errors,
                "lb: {unreadable} events could not be read"
            ));
        }
    }

    /// Whether it was to be over by then.
    fn is_enough(&self, asked: &Flows, after: Duration) -> bool {
        // lb has begun later, but its clock need not go like this one.
        let has_lasted = |seconds: u64| after >= Duration::from_millis(seconds.saturating_mul(999));
        asked.seconds.is_some_and(has_lasted)
            || asked.count.is_some_and(|count| self.events >= count)
    }
}

/// For how long events were to come.
fn until(asked: &Flows) -> String {
    let count = asked.count.map(|count| format!("until there are {count}"));
    let seconds = asked.seconds.map(|seconds| format!("for {seconds} s"));
    match (seconds, count) {
        (Some(seconds), Some(count)) => format!("{seconds} or {count}"),
        (seconds, count) => seconds
            .or(count)
            .unwrap_or_else(|| "for as long as it runs".to_owned()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of these events, and what has come.
    fn noted(events: &[(&str, &str)], is_silent: bool) -> (String, Seen) {
        let (mut seen, mut errors) = (Seen::default(), Vec::new());
        for (kind, data) in events {
            seen.note(&Told::parse(kind, data), is_silent, &mut errors);
        }
        seen.sum_up(&mut errors);
        (String::from_utf8(errors).unwrap(), seen)
    }

    #[test]
    fn what_is_missing_is_said() {
        let lost = [("lost", r#"{"lost":7}"#), ("lost", r#"{"lost":10}"#)];
        let sum = "lb: events in all: 0 have come, 17 are lost\n";
        let each = "lb: 7 events are lost\nlb: 10 events are lost\n";
        assert_eq!(noted(&lost, true).0, format!("{each}{sum}"));
        assert_eq!(noted(&lost, false).0, sum);
        let (errors, seen) = noted(&[("flow", "{}"), ("flow", "nonsense")], true);
        assert_eq!((seen.events, seen.unreadable), (0, 2));
        assert_eq!(errors.matches("cannot be read").count(), 1, "{errors}");
        assert!(
            errors.ends_with("lb: 2 events could not be read\n"),
            "{errors}"
        );
        let (errors, seen) = noted(
            &[("ended", r#"{"why":"lb stops"}"#), ("new kind", "1")],
            true,
        );
        assert_eq!(
            (errors.as_str(), seen.why.as_deref()),
            ("", Some("lb stops"))
        );
    }

    #[test]
    fn what_ends_before_it_was_to_is_an_error() {
        let asked = |seconds, count| Flows {
            seconds,
            count,
            ..Flows::default()
        };
        let seen = Seen {
            events: 5,
            ..Seen::default()
        };
        let enough = |seconds, count, after| {
            seen.is_enough(&asked(seconds, count), Duration::from_millis(after))
        };
        assert!(enough(Some(30), None, 30_001) && !enough(Some(30), None, 29_000));
        assert!(enough(Some(30), Some(5), 1) && !enough(Some(30), Some(6), 1));
        assert!(enough(None, Some(5), 1) && !enough(None, None, 1));
        assert_eq!(until(&asked(Some(30), None)), "for 30 s");
        assert_eq!(
            until(&asked(Some(3), Some(6))),
            "for 3 s or until there are 6"
        );
        assert_eq!(until(&asked(None, None)), "for as long as it runs");
    }
}
