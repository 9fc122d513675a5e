//! Maps that are there as soon as somebody needs them.
//!
//! Some take much memory, and most configurations have no use for them. The program finds each through an
//! array of one map, which is empty until then. Putting a map into it takes milliseconds, once: the kernel
//! waits until no program runs that may have seen the array empty. What is there stays until the next
//! start, which begins without those that are not pinned.

use aya::{
    Ebpf,
    maps::{ArrayOfMaps, InnerMap, MapData, MapError},
};

use super::maps::{shape, take_own};
use crate::l4::L4Error;

/// See the module.
pub(super) struct OnDemand<M> {
    array: ArrayOfMaps<MapData, M>,
    map: Option<M>,
}

impl<M: InnerMap> OnDemand<M> {
    /// Takes the array of this name out of a loaded program.
    pub(super) fn take(program: &mut Ebpf, name: &'static str) -> Result<Self, L4Error> {
        Ok(Self {
            array: take_own(program, name, shape::<u32, u32>(1))?,
            map: None,
        })
    }

    /// The map, if it is there.
    pub(super) const fn get(&self) -> Option<&M> {
        self.map.as_ref()
    }

    /// The same, to be changed.
    pub(super) const fn get_mut(&mut self) -> Option<&mut M> {
        self.map.as_mut()
    }

    /// The map, made if it is not there.
    pub(super) fn need(
        &mut self,
        make: impl FnOnce() -> Result<M, MapError>,
    ) -> Result<&mut M, MapError> {
        let map = match self.map.take() {
            Some(map) => map,
            None => {
                let map = make()?;
                self.array.set(0, &map, 0)?;
                map
            }
        };
        Ok(self.map.insert(map))
    }
}
