//! Instances behind tunnels, and what the program has learned of the paths to them. Not pinned: it is one program's
//! alone.

use std::{io, os::fd::AsFd as _};

use aya::{
    Ebpf,
    maps::{HashMap, IterableMap as _, MapData, MapError},
};
use lb_common::{Address, MAX_INSTANCES, PathMtu, names};

use super::{maps::NO_PREALLOC, on_demand::OnDemand, syscall};
use crate::l4::L4Error;

/// See the module.
pub(super) struct PathMtuMap(OnDemand<HashMap<MapData, Address, PathMtu>>);

impl std::fmt::Debug for PathMtuMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PathMtuMap").finish_non_exhaustive()
    }
}

impl PathMtuMap {
    /// Takes the map out of a loaded program.
    pub(super) fn take(program: &mut Ebpf) -> Result<Self, L4Error> {
        OnDemand::take(program, names::MAP_PATH_MTUS).map(Self)
    }

    /// All of them.
    pub(super) fn all(&self) -> io::Result<Vec<(Address, PathMtu)>> {
        match self.0.get() {
            None => Ok(Vec::new()),
            Some(map) => syscall::lookup_all(map.map().fd().as_fd()),
        }
    }

    /// Adds an instance of which nothing is known.
    pub(super) fn add(&mut self, instance: &Address) -> Result<(), MapError> {
        let map = self
            .0
            .need(|| HashMap::create(MAX_INSTANCES, NO_PREALLOC))?;
        map.insert(instance, PathMtu::default(), 0)
    }

    /// Removes one.
    pub(super) fn remove(&mut self, instance: &Address) -> Result<(), MapError> {
        let map = self.0.get_mut();
        map.map_or(Ok(()), |map| map.remove(instance))
    }
}
