//! `lb datapath …`: the packet path, with or without a daemon that runs it.
//!
//! The program and its maps outlive the daemon, so they can be looked at and taken off when there
//! is no API to ask.

use std::io::Write;

use serde::Serialize;

use super::{
    Context,
    args::{DatapathCommand, Pins},
    error::CliError,
    format::{self, Lean, maybe, pairs, percent, table},
};
use crate::{
    api::{
        datapath::{counters, interfaces, packets},
        types::{CounterValue, Datapath, Interface, Packets, Usage},
    },
    l4::{self, L4Error},
};

/// What is pinned when no daemon runs.
#[derive(Clone, Debug, Serialize)]
struct Pinned {
    interfaces: Vec<Interface>,
    vips: usize,
    instances: usize,
    connections: Usage,
    packets: Packets,
    counters: Vec<CounterValue>,
}

/// What there is to see.
enum Seen {
    /// A daemon's report.
    Running(Box<Datapath>),
    /// What a daemon has left behind.
    Left(Pinned),
}

pub(super) async fn run(
    context: &mut Context<'_>,
    command: DatapathCommand,
) -> Result<(), CliError> {
    match command {
        DatapathCommand::Status { pins } => match look(context, &pins).await? {
            Seen::Running(datapath) => context.show(&*datapath, status),
            Seen::Left(pinned) => {
                context.say("lb is not running; the kernel goes on with what it has.")?;
                context.show(&pinned, pinned_status)
            }
        },
        DatapathCommand::Counters { all, pins } => {
            let values = match look(context, &pins).await? {
                Seen::Running(datapath) => datapath.counters,
                Seen::Left(pinned) => pinned.counters,
            };
            context.show(&values, |values| counter_table(values, all))
        }
        DatapathCommand::Detach { pins } => detach(&pins, context.out),
    }
}

/// Asks the API; where nobody answers, looks at what is pinned on this machine.
async fn look(context: &Context<'_>, pins: &Pins) -> Result<Seen, CliError> {
    match context.client.get("/datapath").await {
        Ok(datapath) => Ok(Seen::Running(datapath)),
        Err(error @ CliError::Unreachable { .. }) => pinned(pins)?.map(Seen::Left).ok_or(error),
        Err(error) => Err(error),
    }
}

/// `lb datapath detach`.
fn detach(pins: &Pins, out: &mut dyn Write) -> Result<(), CliError> {
    let attachments = l4::detach(&pins.pin_path)?;
    if attachments.is_empty() {
        writeln!(out, "nothing was attached")?;
    }
    for attachment in attachments {
        let (interface, mode) = (&attachment.interface, attachment.mode.as_str());
        writeln!(out, "taken off {interface} ({mode})")?;
    }
    Ok(())
}

/// What a relay knows of its VIPs.
fn relayed(datapath: &Datapath) -> String {
    let connections = &datapath.connections;
    let mut text = pairs([(
        "open connections",
        usage(connections.entries, connections.max),
    )]);
    let columns = [
        ("VIP", Lean::Left),
        ("SERVICE", Lean::Left),
        ("CONNECTIONS", Lean::Right),
        ("OPEN", Lean::Right),
        ("BYTES IN", Lean::Right),
        ("BYTES OUT", Lean::Right),
        ("REFUSED", Lean::Right),
    ];
    let rows = datapath.vips.iter().map(|vip| {
        vec![
            vip.vip.clone(),
            vip.service.clone(),
            vip.connections.to_string(),
            maybe(vip.live, |live| live.to_string()),
            format::bytes(vip.bytes_in),
            format::bytes(vip.bytes_out),
            vip.dropped.to_string(),
        ]
    });
    text += "\n";
    text += &table(&columns, rows);
    text
}

/// What is pinned; `None` when nothing is, or when this user may not look.
fn pinned(pins: &Pins) -> Result<Option<Pinned>, CliError> {
    let status = match l4::status(&pins.pin_path) {
        Err(error @ L4Error::Unreadable { .. }) => return Err(error.into()),
        status => status.unwrap_or_default(),
    };
    let interfaces = interfaces(&status.interfaces);
    Ok(status.maps.map(|maps| Pinned {
        interfaces,
        vips: maps.vips,
        instances: maps.instances,
        connections: Usage {
            used: maps.connections,
            max: u64::from(maps.connections_max),
        },
        packets: packets(&maps.counters),
        counters: counters(&maps.counters),
    }))
}

fn status(datapath: &Datapath) -> String {
    let mode = match (&datapath.mode, datapath.reason.as_str()) {
        (Some(mode), "") => mode.clone(),
        (Some(mode), reason) => format!("{mode}: {reason}"),
        (None, reason) => format!("not attached: {reason}"),
    };
    let mut text = pairs([("mode", mode)]);
    for warning in &datapath.warnings {
        text += &format!("! {warning}\n");
    }
    if let Some(error) = &datapath.reconcile.error {
        text += &format!("! the kernel does not hold the current state: {error}\n");
    }
    if datapath.mode.as_deref() == Some("relay") {
        return text + &relayed(datapath);
    }
    if !datapath.attached {
        return text;
    }
    let (connections, reconcile) = (&datapath.connections, &datapath.reconcile);
    text += &pairs([
        ("interfaces", interface_list(&datapath.interfaces)),
        ("packets", packet_line(&datapath.packets)),
        (
            "connection table",
            usage(connections.entries, connections.max),
        ),
        (
            "clients",
            usage(datapath.clients.used, datapath.clients.max),
        ),
        ("tables", usage(datapath.tables.used, datapath.tables.max)),
        (
            "in the kernel",
            format!(
                "revision {}, last pass {}, {} writes, {} failures",
                reconcile.revision,
                format::ms(reconcile.took_ms),
                reconcile.writes,
                reconcile.failures
            ),
        ),
    ]);
    for path in &datapath.path_mtus {
        let left = path.expires_in_seconds;
        text += &format!(
            "! the path to {} takes {} bytes, as a router has said; forgotten in {left:.0} s\n",
            path.address, path.mtu
        );
    }
    let columns = [
        ("VIP", Lean::Left),
        ("SERVICE", Lean::Left),
        ("CONNECTIONS", Lean::Right),
        ("OPEN", Lean::Right),
        ("PACKETS IN", Lean::Right),
        ("BYTES IN", Lean::Right),
        ("PACKETS OUT", Lean::Right),
        ("BYTES OUT", Lean::Right),
        ("DROPPED", Lean::Right),
        ("GENERATION", Lean::Right),
    ];
    let rows = datapath.vips.iter().map(|vip| {
        vec![
            vip.vip.clone(),
            vip.service.clone(),
            vip.connections.to_string(),
            maybe(vip.live, |live| live.to_string()),
            vip.packets_in.to_string(),
            format::bytes(vip.bytes_in),
            vip.packets_out.to_string(),
            format::bytes(vip.bytes_out),
            vip.dropped.to_string(),
            vip.generation.to_string(),
        ]
    });
    text += "\n";
    text += &table(&columns, rows);
    for vip in datapath.vips.iter().filter(|vip| !vip.drops.is_empty()) {
        let reasons = vip.drops.iter();
        let reasons = reasons.map(|drop| format!("{} {}", drop.reason, drop.count));
        let reasons: Vec<_> = reasons.collect();
        text += &format!("\n{} refused: {}", vip.vip, reasons.join(", "));
    }
    text
}

fn pinned_status(pinned: &Pinned) -> String {
    pairs([
        ("interfaces", interface_list(&pinned.interfaces)),
        ("packets", packet_line(&pinned.packets)),
        (
            "connection table",
            usage(pinned.connections.used, pinned.connections.max),
        ),
        ("VIPs", pinned.vips.to_string()),
        ("instances", pinned.instances.to_string()),
    ])
}

fn interface_list(interfaces: &[Interface]) -> String {
    if interfaces.is_empty() {
        return "none".to_owned();
    }
    let each = interfaces
        .iter()
        .map(|i| format!("{} ({})", i.interface, i.mode));
    each.collect::<Vec<_>>().join(", ")
}

fn packet_line(packets: &Packets) -> String {
    format!(
        "{} received = {} forwarded + {} passed + {} dropped",
        packets.received, packets.forwarded, packets.passed, packets.dropped
    )
}

fn usage(used: u64, max: u64) -> String {
    if max == 0 {
        return used.to_string();
    }
    format!("{used} of {max} ({})", percent(used as f64 / max as f64))
}

fn counter_table(values: &[CounterValue], all: bool) -> String {
    let columns = [
        ("NUMBER", Lean::Right),
        ("COUNTER", Lean::Left),
        ("KIND", Lean::Left),
        ("COUNT", Lean::Right),
    ];
    let rows = values
        .iter()
        .filter(|value| all || value.count > 0)
        .map(|value| {
            vec![
                value.number.to_string(),
                value.counter.clone(),
                value.kind.clone(),
                value.count.to_string(),
            ]
        });
    table(&columns, rows)
}
