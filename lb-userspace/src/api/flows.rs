//! `/flows`: what becomes of packets, as it happens, as server-sent events.
//!
//! A stream follows the packet path ([`crate::l4::Followed`]). It is bounded there: by the number of
//! those who follow, by the events that wait for each, and by what the program records in a second.
//! Whoever gets less than there was is told how much is missing. Whoever takes nothing at all for a
//! while has to make room for others.
//!
//! Addresses and ports are what every load balancer's log has; the bytes of packets are what people
//! send. So the former are for whoever may look, the latter for whoever may operate: the audit log has
//! who has seen them, and a stream ends when whoever has asked for it may no more.

mod document;
mod stream;

use std::time::Duration;

use axum::{extract::State, response::Response};
use lb_common::{Counter, CounterKind};

use super::{
    access::Standing,
    document::{Conflict, Unavailable, tag},
    error::ApiError,
    events,
    query::{Parameters, unexpected},
    state::ApiState,
    types::FlowEvent,
};
use crate::{
    l4::{Filter, L4Error},
    model::{IpPrefix, Role},
    registry::Snapshot,
};

/// The most seconds that a stream can be told to take: a day.
const MOST_SECONDS: u64 = 86_400;

/// What a stream was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    filter: Filter,
    bytes: bool,
    count: Option<u64>,
    time: Option<Duration>,
}

/// What becomes of packets, as it happens
///
/// Server-sent events of the packet path in the kernel: each has a number as `id`, `flow` as `event`
/// and a `FlowEvent` as `data`. What the program or a slow reader has lost is told by `event: lost`.
/// Packets are recorded only while somebody follows, eight at most. The stream ends with the daemon,
/// or as `count` or `seconds` say, and before that for a reader that takes nothing for half a minute, or
/// that may no longer see it: `event: ended` with an `Ended` as `data` says why. `bytes` needs the role
/// `operate`, and is written to the audit log.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/flows",
    tag = tag::PACKET_PATH,
    operation_id = "followFlows",
    params(
        ("verdict" = Option<Vec<String>>, Query, description = "Only packets that are `forwarded` \
            (answers of lb's own among them), `dropped`, or `passed` to the host; may be repeated. \
            Forwarded and dropped ones when nothing is said", example = json!(["dropped"])),
        ("reason" = Option<Vec<String>>, Query, description = "Only packets that are counted under \
            this counter, such as `no_instance`; may be repeated", example = json!(["no_instance"])),
        ("vip" = Option<Vec<String>>, Query, description = "Only packets of this VIP; may be \
            repeated"),
        ("service" = Option<Vec<String>>, Query, description = "Only packets of the VIPs of this \
            service; may be repeated", example = json!(["main-backend"])),
        ("source" = Option<String>, Query, description = "Only packets from this address or range",
            example = "198.51.100.0/24"),
        ("new" = Option<bool>, Query, description = "Of packets that are forwarded those alone that \
            begin a connection"),
        ("sample" = Option<u32>, Query, description = "One in so many of all these packets; 1 when \
            nothing is said"),
        ("bytes" = Option<bool>, Query, description = "Also the first 192 bytes of each packet"),
        ("count" = Option<u64>, Query, description = "End after so many events", example = 1),
        ("seconds" = Option<u64>, Query, description = "End after so many seconds, a day at most",
            example = 1),
    ),
    responses(
        (status = OK, body = FlowEvent, content_type = "text/event-stream", description = "Events"),
        Conflict,
        Unavailable
    )
)]
pub(super) async fn flows(
    State(state): State<ApiState>,
    mut standing: Standing,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let asked = asked(parameters, &state.snapshot())?;
    standing.needs(if asked.bytes {
        Role::Operate
    } else {
        Role::Read
    })?;
    if state.stopping() {
        return Err(ApiError::Stopping);
    }
    let followed = state.packet_path().follow(asked.filter.clone()).await;
    let followed = followed.map_err(|error| match error {
        L4Error::Followers { most } => ApiError::TooManyStreams { most },
        other => ApiError::Conflict(other.to_string()),
    })?;
    Ok(events::respond(stream::start(
        &state, standing, followed, &asked,
    )))
}

fn asked(mut parameters: Parameters, snapshot: &Snapshot) -> Result<Asked, ApiError> {
    let counters = counters(&parameters.all("verdict"), &parameters.all("reason"))?;
    let vips = each(parameters.all("vip"), "vip", "a VIP", || {
        snapshot.vips.iter().map(ToString::to_string).collect()
    })?;
    let services = each(parameters.all("service"), "service", "a service", || {
        let names = snapshot.services.iter();
        names.map(|service| service.name().to_string()).collect()
    })?;
    let source = parameters.one("source")?;
    let source = source.map(|text| {
        let parsed = text.parse::<IpPrefix>();
        parsed.map_err(|_| {
            let expected = "an address or a range such as 10.0.0.0/8 or fd00::/8";
            unexpected("source", expected, &text)
        })
    });
    let new = flag(&mut parameters, "new")?;
    let sample = number(&mut parameters, "sample", u64::from(u32::MAX))?;
    let bytes = flag(&mut parameters, "bytes")?;
    let count = number(&mut parameters, "count", u64::MAX)?;
    let seconds = number(&mut parameters, "seconds", MOST_SECONDS)?;
    parameters
        .end("verdict, reason, vip, service, source, new, sample, bytes, count and seconds")?;
    Ok(Asked {
        filter: Filter {
            counters,
            vips,
            services,
            source: source.transpose()?,
            sample: sample.map_or(1, |sample| u32::try_from(sample).unwrap_or(u32::MAX)),
            new,
        },
        bytes,
        count,
        time: seconds.map(Duration::from_secs),
    })
}

/// What packets of these verdicts, and of these reasons, are counted under.
fn counters(verdicts: &[String], reasons: &[String]) -> Result<Vec<Counter>, ApiError> {
    const KINDS: [(&str, CounterKind); 3] = [
        ("forwarded", CounterKind::Forwarded),
        ("dropped", CounterKind::Dropped),
        ("passed", CounterKind::Passed),
    ];
    let mut kinds = Vec::new();
    for verdict in verdicts {
        let found = KINDS.iter().find(|(name, _)| name == verdict);
        let (_, kind) =
            found.ok_or_else(|| unexpected("verdict", "forwarded, dropped or passed", verdict))?;
        kinds.push(*kind);
    }
    let all = || {
        KINDS
            .iter()
            .flat_map(|(_, kind)| Filter::counters_of(*kind))
    };
    if reasons.is_empty() {
        if kinds.is_empty() {
            kinds = vec![CounterKind::Forwarded, CounterKind::Dropped];
        }
        return Ok(all().filter(|c| kinds.contains(&c.kind())).collect());
    }
    let mut counters = Vec::new();
    for reason in reasons {
        let found = all().find(|counter| counter.label() == reason);
        let counter = found.ok_or_else(|| {
            let labels: Vec<&str> = all().map(Counter::label).collect();
            unexpected("reason", &format!("one of {}", labels.join(", ")), reason)
        })?;
        counters.push(counter);
    }
    // Both together are what fits both.
    counters.retain(|counter| kinds.is_empty() || kinds.contains(&counter.kind()));
    if counters.is_empty() {
        let expected = "a reason of the verdict that is asked for";
        return Err(unexpected("reason", expected, &reasons.join(", ")));
    }
    Ok(counters)
}

/// Names, each of which must be known.
fn each(
    names: Vec<String>,
    parameter: &str,
    what: &str,
    known: impl Fn() -> Vec<String>,
) -> Result<Vec<String>, ApiError> {
    for name in &names {
        let known = known();
        if !known.contains(name) {
            let expected = match known.as_slice() {
                [] => format!("{what}, of which there are none"),
                some => format!("{what}, one of {}", some.join(", ")),
            };
            return Err(unexpected(parameter, &expected, name));
        }
    }
    Ok(names)
}

fn flag(parameters: &mut Parameters, name: &str) -> Result<bool, ApiError> {
    match parameters.one(name)?.as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(unexpected(name, "true or false", other)),
    }
}

fn number(parameters: &mut Parameters, name: &str, most: u64) -> Result<Option<u64>, ApiError> {
    let Some(text) = parameters.one(name)? else {
        return Ok(None);
    };
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    let number = number.filter(|number| (1..=most).contains(number));
    match number {
        Some(number) => Ok(Some(number)),
        None => {
            let expected = format!("a whole number from 1 to {most}");
            Err(unexpected(name, &expected, &text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(verdicts: &[&str], reasons: &[&str]) -> Result<Vec<Counter>, ApiError> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let (verdicts, reasons): (Vec<String>, Vec<String>) = (owned(verdicts), owned(reasons));
        counters(&verdicts, &reasons)
    }

    #[test]
    fn verdicts_and_reasons_name_counters() {
        let all = of(&[], &[]).unwrap();
        assert!(all.contains(&Counter::Redirected) && all.contains(&Counter::DropTtl));
        assert!(!all.contains(&Counter::PassedNotVip) && !all.contains(&Counter::Received));
        let dropped = of(&["dropped"], &[]).unwrap();
        assert!(dropped.iter().all(|c| c.kind() == CounterKind::Dropped));
        assert_eq!(of(&[], &["not_vip"]).unwrap(), [Counter::PassedNotVip]);
        let both = of(&["dropped"], &["not_vip", "ttl_expired"]).unwrap();
        assert_eq!(both, [Counter::DropTtl]);
        assert!(of(&["dropped"], &["not_vip"]).is_err());
        for (verdicts, reasons) in [(["drop"], ["ttl_expired"]), (["passed"], ["routes"])] {
            assert!(of(&verdicts, &reasons).is_err());
        }
        let refused = of(&[], &["connections_opened"]).map_err(|error| error.to_string());
        assert!(refused.unwrap_err().contains("no_instance"));
    }
}
