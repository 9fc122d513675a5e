//! What the program has learned of the paths to instances.

use std::{io, os::fd::AsFd as _};

use aya::{
    Ebpf,
    maps::{HashMap, IterableMap as _, MapData, MapError},
};
use lb_common::{Address, MAX_PATH_MTUS, PathMtu, names};

use super::{
    maps::{shape, take_own},
    syscall,
};
use crate::l4::L4Error;

/// See the module. Not pinned: it is one program's alone.
pub(super) struct PathMtuMap(HashMap<MapData, Address, PathMtu>);

impl std::fmt::Debug for PathMtuMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PathMtuMap").finish_non_exhaustive()
    }
}

impl PathMtuMap {
    /// Takes the map out of a loaded program.
    pub(super) fn take(program: &mut Ebpf) -> Result<Self, L4Error> {
        let shape = shape::<Address, PathMtu>(MAX_PATH_MTUS);
        take_own(program, names::MAP_PATH_MTUS, shape).map(Self)
    }

    /// All of them.
    pub(super) fn all(&self) -> io::Result<Vec<(Address, PathMtu)>> {
        let map = self.0.map().fd().as_fd();
        let (mut all, mut from) = (Vec::new(), None);
        loop {
            from = syscall::lookup_batch(map, from, &mut all)?;
            if from.is_none() {
                return Ok(all);
            }
        }
    }

    /// Removes one.
    pub(super) fn remove(&mut self, instance: &Address) -> Result<(), MapError> {
        self.0.remove(instance)
    }
}
