//! `/explain/flow`: what would become of a packet, and why.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::Ordering,
};

use axum::extract::State;
use lb_common::{
    Counter, CounterKind, FLOW_REPLY, SLOTS, STATE_CLOSED, STATE_FIN_CLIENT, STATE_FIN_INSTANCE,
    STATE_REMOVED,
};

use super::{
    answer::Answer,
    document::{Conflict, tag},
    error::ApiError,
    measure,
    query::{Parameters, unexpected},
    state::ApiState,
    types::{
        AskedPacket, Envelope, FlowCandidate, FlowConnection, FlowExplanation, FlowSlot, SentPacket,
    },
};
use crate::{
    l4::{self, L4Error, PathMode, Probe, Rehearsed, TcpFlags},
    model::{Protocol, Timestamp, gateway_vip},
    registry::{Service, Snapshot},
};

mod relayed;

/// What would become of a packet, and why
///
/// The program of the packet path is run on a made-up packet, over the tables that serve, in a copy
/// that sends, remembers and counts nothing. That takes a processor for some tenths of a second. Where VIPs
/// are relayed, the connection that the packet begins is what is told of.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/explain/flow",
    tag = tag::PACKET_PATH,
    operation_id = "explainFlow",
    params(
        ("source" = String, Query, description = "Address and port that the packet is from",
            example = "198.51.100.7:40000"),
        ("destination" = String, Query, description = "Address and port that it is for",
            example = "192.0.2.10:80"),
        ("protocol" = Option<String>, Query, description = "`tcp` or `udp`; `tcp` when nothing is \
            said"),
        ("flags" = Option<String>, Query, description = "Flags of TCP, with commas: `syn`, `ack`, \
            `fin`, `rst`; `syn` when nothing is said, which begins a connection"),
        ("interface" = Option<String>, Query, description = "The interface that it comes in by; the \
            first one of the configuration when nothing is said; a relay has none"),
    ),
    responses(
        (status = OK, body = Envelope<FlowExplanation>, description = "What would become of it"),
        Conflict,
    )
)]
pub(super) async fn flow(
    State(state): State<ApiState>,
    parameters: Parameters,
) -> Result<Answer<FlowExplanation>, ApiError> {
    let probe = asked(parameters)?;
    let report = state.fresh_report().await;
    if report.mode == Some(PathMode::Relay) {
        let told = move || relayed::explanation(&state, &probe, &report);
        let told = tokio::task::spawn_blocking(told).await;
        let told = told.map_err(|stopped| ApiError::Conflict(stopped.to_string()))?;
        return told.map(Answer::ok);
    }
    let (path, question) = (state.packet_path().clone(), probe.clone());
    let told = tokio::task::spawn_blocking(move || path.rehearse(&question)).await;
    let told = told.map_err(|stopped| ApiError::Conflict(stopped.to_string()))?;
    let told = told.map_err(|error| match error {
        L4Error::Probe { expected, found } => {
            let parameter = if probe.interface.is_some() {
                "interface"
            } else {
                "destination"
            };
            unexpected(parameter, &expected, &found)
        }
        other => ApiError::Conflict(other.to_string()),
    })?;
    Ok(Answer::ok(explanation(
        &probe,
        &told,
        &report,
        &state.snapshot(),
        state.now(),
    )))
}

/// The packet that the query describes.
fn asked(mut parameters: Parameters) -> Result<Probe, ApiError> {
    let mut end = |name: &'static str| {
        let expected = "an address and a port such as 192.0.2.10:80 or [2001:db8::1]:80";
        let text = parameters.one(name)?;
        let text = text.ok_or_else(|| unexpected(name, expected, "none"))?;
        let parsed = text.parse::<SocketAddr>();
        parsed.map_err(|_| unexpected(name, expected, &text))
    };
    let (source, destination) = (end("source")?, end("destination")?);
    let protocol = parameters.one("protocol")?;
    let flags = parameters.one("flags")?;
    let interface = parameters.one("interface")?;
    parameters.end("source, destination, protocol, flags and interface")?;
    if source.is_ipv4() != destination.is_ipv4() {
        let expected = "an address of the same family as that of source";
        return Err(unexpected(
            "destination",
            expected,
            &destination.to_string(),
        ));
    }
    let protocol = match protocol.as_deref() {
        None | Some("tcp") => Protocol::Tcp,
        Some("udp") => Protocol::Udp,
        Some(other) => return Err(unexpected("protocol", "tcp or udp", other)),
    };
    let flags = match (flags, protocol) {
        (None, Protocol::Tcp) => TcpFlags::SYN,
        (None, Protocol::Udp) => TcpFlags::default(),
        (Some(text), Protocol::Tcp) => read_flags(&text)?,
        (Some(text), Protocol::Udp) => {
            return Err(unexpected("flags", "none, since UDP has no flags", &text));
        }
    };
    Ok(Probe {
        source,
        destination,
        protocol,
        flags,
        interface,
    })
}

fn read_flags(text: &str) -> Result<TcpFlags, ApiError> {
    let mut flags = TcpFlags::default();
    for word in text.split(',').filter(|word| !word.is_empty()) {
        let known = TcpFlags::ALL.iter().find(|(name, _)| *name == word);
        let (_, flag) = known.ok_or_else(|| {
            let expected = "flags of TCP with commas between them: syn, ack, fin, rst";
            unexpected("flags", expected, text)
        })?;
        flags.0 |= flag.0;
    }
    Ok(flags)
}

fn explanation(
    probe: &Probe,
    told: &Rehearsed,
    report: &l4::Report,
    snapshot: &Snapshot,
    now: Timestamp,
) -> FlowExplanation {
    let vip = told
        .vip
        .and_then(|id| report.vips.iter().find(|vip| vip.id == id));
    let service = vip.and_then(|vip| snapshot.service(vip.vip.service.as_str()));
    let name = |index: u16| {
        let members = service
            .into_iter()
            .flat_map(|service| service.members.iter());
        let mut instances = members.map(|member| &member.instance);
        let found = instances.find(|instance| instance.id.index == index)?;
        Some(found.endpoint.name().to_owned())
    };
    FlowExplanation {
        packet: asked_packet(probe, Some(told.interface.clone())),
        verdict: verdict(told.fate).to_owned(),
        counter: told.fate.label().to_owned(),
        reason: reason(told),
        events: told
            .events
            .iter()
            .map(|event| event.label().to_owned())
            .collect(),
        vip: vip.map(|vip| vip.vip.to_string()),
        gateway_vip: is_hosts(probe, told)
            .then(|| gateway_vip::holder(&snapshot.gateway.vips, probe.destination))
            .flatten()
            .map(|vip| vip.to_string()),
        service: service.map(|service| service.name().to_string()),
        forwarding: told
            .forwarding
            .map(|forwarding| forwarding.as_str().to_owned()),
        algorithm: service.map(|service| service.spec.algorithm.to_string()),
        instance: told.instance.and_then(name),
        connection: connection(told),
        slot: told.slot.map(|slot| FlowSlot {
            number: slot.number,
            current: name(slot.current),
            owner: name(slot.owner),
        }),
        sent: told.sent.as_ref().map(sent),
        candidates: service.map_or_else(Vec::new, |service| {
            candidates(service, told, probe.destination.is_ipv4(), now)
        }),
    }
}

fn asked_packet(probe: &Probe, interface: Option<String>) -> AskedPacket {
    let flags = TcpFlags::ALL.iter();
    let flags = flags.filter(|(_, flag)| probe.flags.0 & flag.0 != 0);
    AskedPacket {
        source: probe.source.to_string(),
        destination: probe.destination.to_string(),
        protocol: probe.protocol.as_str().to_owned(),
        flags: flags.map(|(name, _)| (*name).to_owned()).collect(),
        interface,
    }
}

/// Whether the host gets it, which looks for a socket then.
fn is_hosts(probe: &Probe, told: &Rehearsed) -> bool {
    let is_passed = matches!(
        told.fate,
        Counter::PassedNotVip | Counter::PassedNoConnection
    );
    is_passed && probe.protocol == Protocol::Tcp
}

const fn verdict(fate: Counter) -> &'static str {
    match fate.kind() {
        CounterKind::Forwarded => "forwarded",
        CounterKind::Passed => "passed",
        CounterKind::Dropped | CounterKind::Received | CounterKind::Event => "dropped",
    }
}

/// Why, in a sentence.
fn reason(told: &Rehearsed) -> String {
    let has = |event| told.events.contains(&event);
    if !matches!(told.fate, Counter::Transmitted | Counter::Redirected) {
        return told.fate.about().trim().to_owned();
    }
    let is_reply = told
        .known
        .as_ref()
        .is_some_and(|(entry, _)| entry.direction == FLOW_REPLY);
    let why = match &told.known {
        Some(_) if is_reply => "It is a reply of a connection that the connection table has",
        Some(_) if has(Counter::ConnectionsMoved) => {
            "Its connection moves, because its instance is down"
        }
        Some(_) => "It is of a connection that the connection table has",
        None if has(Counter::ConnectionsUnremembered) => {
            "It goes by the table without being remembered, because the connection table is full"
        }
        None if has(Counter::ConnectionsFound) => {
            "It belongs to the owner of its slot, and is remembered from now on, because the slot \
             changes hands"
        }
        None if has(Counter::PacketsSettled) => {
            "Its slot says where it goes, and it needs no entry"
        }
        None => "It begins a connection, which gets an entry",
    };
    format!("{why}.")
}

fn connection(told: &Rehearsed) -> Option<FlowConnection> {
    const ENDED: u32 = STATE_CLOSED | STATE_FIN_CLIENT | STATE_FIN_INSTANCE | STATE_REMOVED;
    let of = |state: &str, entry: Option<&lb_common::FlowEntry>, idle| FlowConnection {
        state: state.to_owned(),
        direction: match entry.is_some_and(|entry| entry.direction == FLOW_REPLY) {
            true => "reply".to_owned(),
            false => "request".to_owned(),
        },
        idle_seconds: idle,
        closing: entry.is_some_and(|entry| entry.state & ENDED != 0),
    };
    match (&told.known, &told.made) {
        (Some((entry, idle)), _) => {
            let idle = std::time::Duration::from_nanos(*idle).as_secs_f64();
            Some(of("remembered", Some(entry), Some(measure::round(idle))))
        }
        (None, Some(entry)) => Some(of("new", Some(entry), None)),
        (None, None) if told.events.contains(&Counter::PacketsSettled) => {
            Some(of("settled", None, None))
        }
        (None, None) => None,
    }
}

fn sent(sent: &l4::Sent) -> SentPacket {
    let end = |address: Option<IpAddr>, port: Option<u16>| match (address, port) {
        (Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
        (Some(address), None) => address.to_string(),
        (None, _) => String::new(),
    };
    let bytes = sent.next_hop.map(|byte| format!("{byte:02x}"));
    SentPacket {
        interface: sent.interface.and_then(l4::interface_name),
        next_hop: bytes.join(":"),
        source: end(sent.addresses.map(|a| a.0), sent.ports.map(|p| p.0)),
        destination: end(sent.addresses.map(|a| a.1), sent.ports.map(|p| p.1)),
        length: sent.length,
    }
}

/// The instances of a service, as candidates for packets of a VIP of this family.
fn candidates(service: &Service, told: &Rehearsed, v4: bool, now: Timestamp) -> Vec<FlowCandidate> {
    let share = |index: u16| {
        let mut shares = told.shares.iter();
        let found = shares.find(|(at, _)| *at == index);
        found.map_or(0.0, |(_, slots)| f64::from(*slots) / SLOTS as f64)
    };
    let members = service.members.iter().enumerate();
    members
        .map(|(position, member)| {
            let instance = &member.instance;
            let share = share(instance.id.index);
            FlowCandidate {
                instance: instance.endpoint.name().to_owned(),
                share: measure::round(share),
                excluded: (share == 0.0).then(|| {
                    let is_other = instance.endpoint.address().is_ipv4() != v4;
                    if is_other && service.spec.forwarding.translates() {
                        return "other_family".to_owned();
                    }
                    let why = service.exclusion(position, now);
                    let why = why.unwrap_or_else(|| service.statuses[position].exclusion());
                    why.label().to_owned()
                }),
                effective_weight: measure::weight(member.weight),
                live: instance.kernel.live.load(Ordering::Relaxed),
            }
        })
        .collect()
}
