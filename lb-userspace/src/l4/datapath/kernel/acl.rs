//! The maps of the source ACL. Not pinned: they are one program's alone, and filled before it gets
//! packets.

use std::{io, os::fd::AsFd as _};

use aya::{
    Ebpf,
    maps::{
        Array, IterableMap as _, MapData, MapError,
        lpm_trie::{Key, LpmTrie},
    },
};
use lb_common::{ACL_ON, Acl, MAX_PREFIXES, PrefixKey, names};

use super::{
    maps::{shape, take_own},
    on_demand::OnDemand,
    syscall,
};
use crate::l4::L4Error;

/// Rules that one system call writes.
const BATCH: usize = 4096;

/// The trie of the rules, and what is known of all of them together.
pub(super) struct AclMaps {
    prefixes: LpmTrie<MapData, [u32; 4], u32>,
    whole: OnDemand<Array<MapData, Acl>>,
}

impl std::fmt::Debug for AclMaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AclMaps").finish_non_exhaustive()
    }
}

impl AclMaps {
    /// Takes the maps out of a loaded program.
    pub(super) fn take(program: &mut Ebpf) -> Result<Self, L4Error> {
        let trie = shape::<PrefixKey, u32>(MAX_PREFIXES);
        Ok(Self {
            prefixes: take_own(program, names::MAP_PREFIXES, trie)?,
            whole: OnDemand::take(program, names::MAP_ACL)?,
        })
    }

    /// Inserts or replaces rules.
    pub(super) fn put(&mut self, rules: &[(PrefixKey, u32)]) -> io::Result<()> {
        let map = self.prefixes.map().fd().as_fd();
        for rules in rules.chunks(BATCH) {
            let (keys, values): (Vec<_>, Vec<_>) = rules
                .iter()
                .map(|(key, rule)| (trie_key(key), *rule))
                .unzip();
            syscall::update_batch(map, &keys, &values)?;
        }
        Ok(())
    }

    /// Removes a rule.
    pub(super) fn remove(&mut self, key: &PrefixKey) -> Result<(), MapError> {
        self.prefixes.remove(&trie_key(key))
    }

    /// Writes what is known of all rules together. Where there are none and never were, there is nothing to
    /// write.
    pub(super) fn put_whole(&mut self, acl: &Acl) -> Result<(), MapError> {
        if acl.flags & ACL_ON == 0 && self.whole.get().is_none() {
            return Ok(());
        }
        self.whole.need(|| Array::create(1, 0))?.set(0, acl, 0)
    }
}

const fn trie_key(key: &PrefixKey) -> Key<[u32; 4]> {
    Key::new(key.length, key.address)
}
