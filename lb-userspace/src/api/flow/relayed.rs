//! The same of a relay, which sees connections and no packets.

use std::net::SocketAddr;

use lb_common::Counter;

use super::{ApiError, FlowCandidate, FlowExplanation, asked_packet, unexpected};
use crate::{
    api::{measure, state::ApiState},
    balance::Random,
    l4::{self, Probe, Relayed, TcpFlags},
    model::{Protocol, RelayRefusal, WithoutInstances, gateway_vip},
    registry::{Service, Snapshot},
};

/// What would become of the connection that `probe` begins.
pub(super) fn explanation(
    state: &ApiState,
    probe: &Probe,
    report: &l4::Report,
) -> Result<FlowExplanation, ApiError> {
    if probe.protocol == Protocol::Tcp && probe.flags != TcpFlags::SYN {
        let expected = "syn alone (VIPs are relayed, and a relay knows connections by their begin)";
        return Err(unexpected("flags", expected, &flags(probe).join(",")));
    }
    if let Some(interface) = &probe.interface {
        let expected = "none (VIPs are relayed, by sockets)";
        return Err(unexpected("interface", expected, interface));
    }
    let (snapshot, now) = (state.snapshot(), state.now());
    let is_full = report.connections.entries >= report.connections.max.into();
    let relayed = (probe.protocol == Protocol::Tcp).then(|| {
        l4::explain_relayed(
            &snapshot,
            state.registry().sessions(),
            (probe.source, probe.destination),
            is_full,
            (now, &Random::new(now.0)),
        )
    });
    let Some(relayed) = relayed.flatten() else {
        return Ok(of_host(probe, &snapshot));
    };
    let told = of_vip(probe, &relayed);
    Ok(match unheard(report, probe.destination) {
        Some(why) => unserved(told, &why),
        None => told,
    })
}

/// Why no connection gets to the relay there.
fn unheard(report: &l4::Report, at: SocketAddr) -> Option<String> {
    if let Some(why) = report.unheard.get(&at) {
        return Some(format!("lb cannot listen there: {why}"));
    }
    let is_lost = report.undelivered.contains(&at.ip());
    is_lost.then(|| format!("{} is no address of this host", at.ip()))
}

/// The same of a VIP that the relay would serve and does not.
fn unserved(told: FlowExplanation, why: &str) -> FlowExplanation {
    FlowExplanation {
        verdict: "passed".to_owned(),
        counter: Counter::PassedNotVip.label().to_owned(),
        reason: format!("Its VIP is not served: {why}."),
        instance: None,
        candidates: Vec::new(),
        ..told
    }
}

fn flags(probe: &Probe) -> Vec<String> {
    asked_packet(probe, None).flags
}

/// Nothing but the packet.
fn blank(probe: &Probe, verdict: &str, counter: &str, reason: String) -> FlowExplanation {
    FlowExplanation {
        packet: asked_packet(probe, None),
        verdict: verdict.to_owned(),
        counter: counter.to_owned(),
        reason,
        events: Vec::new(),
        vip: None,
        gateway_vip: None,
        service: None,
        forwarding: None,
        algorithm: None,
        instance: None,
        connection: None,
        slot: None,
        sent: None,
        candidates: Vec::new(),
    }
}

/// Something that no socket of the relay gets.
fn of_host(probe: &Probe, snapshot: &Snapshot) -> FlowExplanation {
    let to = probe.destination;
    let mut vips = snapshot.vips.iter();
    let found = vips.find(|vip| {
        (vip.address, vip.protocol) == (to.ip(), probe.protocol) && vip.ports.hold(to.port())
    });
    let passed = Counter::PassedNotVip.label();
    if let Some(vip) = found {
        let why = vip.relay_obstacle().unwrap_or_default();
        let told = FlowExplanation {
            vip: Some(vip.to_string()),
            service: Some(vip.service.to_string()),
            ..blank(probe, "passed", passed, String::new())
        };
        return unserved(told, why);
    }
    let gateway = gateway_vip::holder(&snapshot.gateway.vips, to);
    FlowExplanation {
        gateway_vip: gateway
            .filter(|_| probe.protocol == Protocol::Tcp)
            .map(|vip| vip.to_string()),
        ..blank(probe, "passed", passed, "It is for no VIP.".to_owned())
    }
}

fn of_vip(probe: &Probe, relayed: &Relayed) -> FlowExplanation {
    let service = &relayed.service;
    let name = |at: usize| service.members[at].instance.endpoint.name().to_owned();
    let chances = relayed.candidates.iter().enumerate();
    let likeliest = chances.max_by(|(_, a), (_, b)| a.chance.total_cmp(&b.chance));
    let likeliest = likeliest.filter(|(_, one)| one.chance > 0.0 && relayed.refused.is_none());
    let instance = likeliest.map(|(at, _)| name(at));
    let (verdict, counter, reason) = match relayed.refused {
        Some(why) => ("refused", why.label(), refused(why, service)),
        None => ("relayed", "relayed", chosen(relayed, instance.as_deref())),
    };
    FlowExplanation {
        vip: Some(relayed.vip.to_string()),
        service: Some(service.name().to_string()),
        algorithm: Some(service.spec.algorithm.to_string()),
        instance,
        candidates: candidates(relayed),
        ..blank(probe, verdict, counter, reason)
    }
}

/// Why it is refused, in a sentence.
fn refused(why: RelayRefusal, service: &Service) -> String {
    let waits = service.spec.without_instances == WithoutInstances::Drop
        && matches!(why, RelayRefusal::NoInstance | RelayRefusal::Limit);
    let about = match why {
        RelayRefusal::NoInstance => "No instance takes connections",
        RelayRefusal::Limit => {
            "Instances, or the service, have as many connections as they may have"
        }
        RelayRefusal::ConnectFailed => "No instance has accepted it",
        RelayRefusal::MaxConnections => "The relay has as many connections as it may have",
        RelayRefusal::SourceDenied => "The source ACL denies the client",
    };
    if waits {
        let most = service.spec.timeouts.connect.as_secs_f64();
        return format!("{about}; the client waits for that to change, {most} s at most.");
    }
    format!("{about}.")
}

/// Why that instance, in a sentence.
fn chosen(relayed: &Relayed, instance: Option<&str>) -> String {
    let rule = relayed.service.spec.algorithm.description();
    let open = relayed.candidates.iter();
    let open = open.filter(|one| one.exclusion.is_none()).count();
    let certain = relayed.candidates.iter().any(|one| one.chance >= 1.0);
    match instance {
        None => "No instance may have it, and one is tried all the same.".to_owned(),
        Some(instance) if relayed.pinned.is_some() => format!("Its client stays with {instance}."),
        Some(instance) if open == 1 => format!("{instance} is the only candidate."),
        Some(instance) if certain => {
            format!("It goes to {instance}, of {open} candidates: {rule}.")
        }
        Some(instance) => {
            format!("Most likely it goes to {instance}, of {open} candidates: {rule}.")
        }
    }
}

fn candidates(relayed: &Relayed) -> Vec<FlowCandidate> {
    let service = &relayed.service;
    let members = service.members.iter().zip(&relayed.candidates);
    members
        .map(|(member, candidate)| FlowCandidate {
            instance: member.instance.endpoint.name().to_owned(),
            share: measure::round(candidate.chance),
            excluded: candidate.exclusion.map(|why| why.label().to_owned()),
            effective_weight: measure::weight(member.weight),
            live: member.instance.connections.open().into(),
        })
        .collect()
}
