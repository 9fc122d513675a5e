//! `lb explain SOURCE DESTINATION`.

use super::{
    Context,
    args::Explain,
    client::segment,
    error::CliError,
    format::{Lean, pairs, percent, table, weight},
};
use crate::api::types::{FlowCandidate, FlowExplanation};

/// Explains what would become of a packet.
pub(super) async fn explain(
    context: &mut Context<'_>,
    asked: &Explain,
    destination: &str,
) -> Result<(), CliError> {
    let (protocol, destination) = destination.split_once('/').unwrap_or(("tcp", destination));
    let mut path = format!(
        "/explain/flow?source={}&destination={}&protocol={}",
        segment(&asked.target),
        segment(destination),
        segment(protocol)
    );
    let flags = asked.flags.iter().map(|flags| ("flags", flags));
    let interface = asked.interface.iter().map(|name| ("interface", name));
    for (name, value) in flags.chain(interface) {
        path += &format!("&{name}={}", segment(value));
    }
    let answer: FlowExplanation = context.client.get(&path).await?;
    context.show(&answer, show)
}

fn show(answer: &FlowExplanation) -> String {
    let packet = &answer.packet;
    let flags = match packet.flags.as_slice() {
        [] => String::new(),
        flags => format!(" {}", flags.join(",")),
    };
    let by = packet.interface.iter().map(|name| format!(" by {name}"));
    let by: String = by.collect();
    let mut rows = vec![(
        "Packet",
        format!(
            "{} {} → {}{flags}{by}",
            packet.protocol, packet.source, packet.destination
        ),
    )];
    rows.push((
        "Verdict",
        format!("{} ({})", answer.verdict, answer.counter),
    ));
    rows.extend(answer.vip.clone().map(|vip| ("VIP", vip)));
    let gateway = answer.gateway_vip.iter();
    rows.extend(gateway.map(|vip| ("Gateway", format!("gets it, by gateway.vips {vip}"))));
    let service = answer.service.iter().map(|service| {
        let facts = answer.algorithm.iter().chain(&answer.forwarding);
        let facts: Vec<&str> = facts.map(String::as_str).collect();
        ("Service", format!("{service} ({})", facts.join(", ")))
    });
    rows.extend(service);
    rows.extend(answer.connection.as_ref().map(|connection| {
        let idle = connection.idle_seconds;
        let idle = idle.map_or_else(String::new, |idle| format!(", idle for {idle} s"));
        let closing = if connection.closing { ", closing" } else { "" };
        let text = format!(
            "{}, {}{idle}{closing}",
            connection.state, connection.direction
        );
        ("Connection", text)
    }));
    rows.extend(answer.slot.as_ref().map(|slot| {
        let none = "none".to_owned();
        let (current, owner) = (&slot.current, &slot.owner);
        let change = if current == owner {
            String::new()
        } else {
            format!(", owned by {}", owner.as_ref().unwrap_or(&none))
        };
        let current = current.as_ref().unwrap_or(&none);
        ("Slot", format!("{} of {current}{change}", slot.number))
    }));
    rows.extend(answer.instance.clone().map(|name| ("Instance", name)));
    rows.extend(answer.sent.as_ref().map(|sent| {
        let by = sent.interface.iter().map(|name| format!(" by {name}"));
        let by: String = by.collect();
        let text = format!(
            "{} → {}, {} bytes, to {}{by}",
            sent.source, sent.destination, sent.length, sent.next_hop
        );
        ("Sent", text)
    }));
    rows.push(("Why", answer.reason.clone()));
    if !answer.events.is_empty() {
        rows.push(("Counted", answer.events.join(", ")));
    }
    let mut text = pairs(rows);
    if !answer.candidates.is_empty() {
        let columns = [
            ("INSTANCE", Lean::Left),
            ("SHARE", Lean::Right),
            ("WEIGHT", Lean::Right),
            ("LIVE", Lean::Right),
            ("EXCLUDED", Lean::Left),
        ];
        text += &format!("\n{}", table(&columns, answer.candidates.iter().map(row)));
    }
    text
}

fn row(candidate: &FlowCandidate) -> Vec<String> {
    vec![
        candidate.instance.clone(),
        percent(candidate.share),
        weight(candidate.effective_weight),
        candidate.live.to_string(),
        candidate.excluded.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}
