//! The far end of tunnels, on an instance: what `lb decap` runs.
//!
//! It needs no daemon, no configuration and no pins: two programs on one interface, which come off
//! with the process. What they must be told beside their settings is which addresses the host has,
//! and since those come and go, they are looked at again and again.

use std::{collections::BTreeSet, net::IpAddr};

use lb_common::{CounterKind, Counters, DecapCounter, DecapSettings};

use super::{
    AttachMode, L4Error, addresses,
    datapath::kernel::decap::{Programs, Wanted},
};
use crate::model::DatapathMode;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct DecapSpec {
    /// The interface that tunnels come in by.
    pub interface: String,
    /// How to attach.
    pub mode: DatapathMode,
    /// Where tunnels may come from; `None`: from anywhere.
    pub from: Option<Vec<IpAddr>>,
    /// UDP port that `gue` comes in by.
    pub gue_port: u16,
    /// Largest packet that the way from lb takes, in bytes, when the MSS of answers is to leave room
    /// for the tunnel.
    pub clamp: Option<u16>,
}

/// The far end at work; it ends when dropped.
#[derive(Debug)]
pub struct Decap {
    programs: Programs,
    known: BTreeSet<IpAddr>,
}

impl Decap {
    /// Loads and attaches the programs.
    ///
    /// # Errors
    /// When something that they need is missing.
    pub fn open(spec: &DecapSpec) -> Result<Self, L4Error> {
        let settings = DecapSettings {
            gue_port: spec.gue_port.to_be_bytes(),
            mtu: spec.clamp.unwrap_or(0),
            from_anywhere: u8::from(spec.from.is_none()),
            pad: [0; 3],
        };
        let known: BTreeSet<IpAddr> = addresses::all().into_iter().collect();
        let programs = Programs::open(&Wanted {
            interface: &spec.interface,
            mode: spec.mode,
            settings,
            local: &known,
            friends: spec.from.as_deref().unwrap_or_default(),
        })?;
        Ok(Self { programs, known })
    }

    /// How the program that unpacks is attached.
    #[must_use]
    pub const fn mode(&self) -> AttachMode {
        self.programs.mode()
    }

    /// Looks for addresses that have come or gone; returns how many.
    ///
    /// # Errors
    /// When the programs cannot be told.
    pub fn follow_addresses(&mut self) -> Result<usize, L4Error> {
        let now: BTreeSet<IpAddr> = addresses::all().into_iter().collect();
        if now.is_empty() {
            // The system has failed to answer: a host always has a loopback.
            return Ok(0);
        }
        let mut changes = 0;
        for gone in self.known.clone().difference(&now) {
            self.programs.forget(*gone)?;
            self.known.remove(gone);
            changes += 1;
        }
        for new in now.difference(&self.known.clone()) {
            self.programs.learn(*new)?;
            self.known.insert(*new);
            changes += 1;
        }
        Ok(changes)
    }

    /// What was counted: label, what became of the packets, how many.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn figures(&self) -> Result<Vec<(&'static str, &'static str, u64)>, L4Error> {
        let counters = self.programs.counters()?;
        Ok(figures(&counters))
    }
}

fn figures(counters: &Counters) -> Vec<(&'static str, &'static str, u64)> {
    let kind = |counter: DecapCounter| match counter.kind() {
        CounterKind::Received => "received",
        CounterKind::Forwarded => "unpacked",
        CounterKind::Passed => "passed",
        CounterKind::Dropped => "dropped",
        CounterKind::Event => "event",
    };
    DecapCounter::ALL
        .iter()
        .map(|counter| {
            (
                counter.label(),
                kind(*counter),
                counters.get_decap(*counter),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_has_a_line_of_its_own() {
        let mut counters = Counters::default();
        counters.values[DecapCounter::UnpackedGue as usize] = 7;
        let found = figures(&counters);
        assert_eq!(found.len(), DecapCounter::ALL.len());
        assert!(found.contains(&("unpacked_gue", "unpacked", 7)));
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let spec = DecapSpec {
            interface: "nothing0".to_owned(),
            mode: DatapathMode::Auto,
            from: None,
            gue_port: 6080,
            clamp: None,
        };
        let error = Decap::open(&spec).unwrap_err().to_string();
        assert!(
            error.contains("nothing0") || error.contains("without its programs"),
            "{error}"
        );
    }
}
