//! `lb decap`: the far end of tunnels, in the foreground.

use std::{io::Write, time::Duration};

use rustix::thread::CapabilitySet;
use serde_json::{Map, Value};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    args::{Decap as Asked, DecapMode},
    error::CliError,
};
use crate::{
    app::rights,
    l4::{AttachMode, Decap, DecapSpec},
    model::DatapathMode,
};

/// How often the host's addresses are looked at.
const ADDRESSES: Duration = Duration::from_secs(1);

/// Unpacks tunnels until SIGTERM or SIGINT.
pub(super) fn run(asked: &Asked, json: bool, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
    let mut decap = Decap::open(&spec(asked))?;
    rights::keep(kept(asked, decap.mode())).map_err(|error| CliError::Rights(error.into()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    if !json {
        let (interface, mode) = (&asked.interface, decap.mode());
        writeln!(out, "unpacking ipip and gue on {interface} ({mode})")?;
        out.flush()?;
    }
    runtime.block_on(serve(&mut decap, json, out))?;
    report(&decap, json, out)
}

fn spec(asked: &Asked) -> DecapSpec {
    DecapSpec {
        interface: asked.interface.clone(),
        mode: match asked.mode {
            DecapMode::Auto => DatapathMode::Auto,
            DecapMode::Native => DatapathMode::Native,
            DecapMode::Tc => DatapathMode::Tc,
            DecapMode::Generic => DatapathMode::Generic,
        },
        from: (!asked.from_anywhere).then(|| asked.from.clone()),
        gue_port: asked.gue_port,
        clamp: asked.clamp_mss,
    }
}

/// What is needed once the programs are attached: next to nothing, for maps are written and links taken
/// off by descriptors that are open. Before Linux 6.6 what is in traffic control hangs on no link, and taking
/// it off is a change of the interface.
const fn kept(asked: &Asked, mode: AttachMode) -> CapabilitySet {
    if asked.clamp_mss.is_some() || matches!(mode, AttachMode::Tc) {
        CapabilitySet::NET_ADMIN
    } else {
        CapabilitySet::empty()
    }
}

async fn serve(
    decap: &mut Decap,
    json: bool,
    out: &mut (dyn Write + Send),
) -> Result<(), CliError> {
    let take = |kind| signal(kind).map_err(CliError::Runtime);
    let mut terminate = take(SignalKind::terminate())?;
    let mut interrupt = take(SignalKind::interrupt())?;
    let mut user = take(SignalKind::user_defined1())?;
    let mut addresses = tokio::time::interval(ADDRESSES);
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = user.recv() => report(decap, json, out)?,
            _ = addresses.tick() => {
                decap.follow_addresses()?;
            }
        }
    }
}

/// What was counted, without what never happened.
fn report(decap: &Decap, json: bool, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
    let figures = decap.figures()?;
    if json {
        let all: Map<String, Value> = figures
            .into_iter()
            .map(|(label, _, count)| (label.to_owned(), count.into()))
            .collect();
        writeln!(out, "{}", Value::Object(all))?;
    } else {
        for (label, kind, count) in figures.into_iter().filter(|(_, _, count)| *count > 0) {
            writeln!(out, "{kind:<9} {label:<24} {count:>12}")?;
        }
    }
    out.flush()?;
    Ok(())
}
