//! The far end's host in memory.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use lb_common::{Address, Counters, DecapCounter, DecapSettings};

use crate::decap::Host;

/// What the far end of tunnels knows of an imagined host.
#[derive(Debug, Default)]
pub struct MemoryHost(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    settings: DecapSettings,
    local: HashMap<Address, u32>,
    friends: Vec<Address>,
    counters: Counters,
}

impl MemoryHost {
    /// A host with these settings, addresses and friends.
    #[must_use]
    pub fn new(settings: DecapSettings, local: &[Address], friends: &[Address]) -> Self {
        Self(Mutex::new(State {
            settings,
            local: local.iter().map(|address| (*address, 0)).collect(),
            friends: friends.to_vec(),
            counters: Counters::default(),
        }))
    }

    /// What was counted, by [`DecapCounter`].
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.with(|state| state.counters)
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Host for MemoryHost {
    fn settings(&self) -> Option<DecapSettings> {
        Some(self.with(|state| state.settings))
    }

    fn is_local(&self, address: &Address) -> bool {
        self.with(|state| state.local.contains_key(address))
    }

    fn note_overhead(&self, address: &Address, bytes: u32) {
        self.with(|state| {
            if let Some(known) = state.local.get_mut(address) {
                *known = bytes;
            }
        });
    }

    fn overhead(&self, address: &Address) -> u32 {
        self.with(|state| state.local.get(address).copied().unwrap_or(0))
    }

    fn is_friend(&self, address: &Address) -> bool {
        self.with(|state| state.friends.contains(address))
    }

    fn count(&self, counter: DecapCounter) {
        self.with(|state| state.counters.values[counter as usize] += 1);
    }
}
