//! Tables of slots in the kernel, each a map of its own.
//!
//! The program finds them in an array of maps, so memory follows how many tables there are, not how
//! many there may be. When a map is put into that array, or taken out, the kernel waits until no
//! program runs that may have seen what was there before, which takes milliseconds; writing into a map
//! that is there does not. So maps are made ahead of need, and many at a time.
//!
//! Which maps are in the array the kernel tells to `CAP_SYS_ADMIN` alone, which the daemon has given up.
//! So each is pinned under its index: after it was put in, and until before it is taken out. A pin
//! therefore says that the program finds the map, also where a daemon was killed in between; a map
//! without a pin is replaced by the next one of its index.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
};

use aya::maps::{Array, IterableMap as _, Map, MapData, MapError};
use lb_common::{SLOTS, Table, names};

use super::{pins::MapSet, syscall};
use crate::l4::L4Error;

/// A map that holds one table.
type Element = Array<MapData, Table>;

/// The tables that the program finds.
pub(super) struct TableMaps {
    array: MapData,
    /// How many there may be.
    len: u32,
    elements: BTreeMap<u32, Element>,
    /// Where the elements are pinned.
    folder: PathBuf,
}

impl std::fmt::Debug for TableMaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableMaps")
            .field("indices", &self.elements.keys())
            .finish_non_exhaustive()
    }
}

impl TableMaps {
    /// The tables of an array whose elements are pinned in `folder`.
    ///
    /// # Errors
    /// When the folder cannot be read, or holds something else under their names.
    pub(super) fn open(array: Map, folder: &Path) -> Result<Self, L4Error> {
        let refused = |error: MapError| L4Error::Load {
            why: super::chain(&error),
        };
        let Map::ArrayOfMaps(array) = array else {
            return Err(L4Error::Mismatch {
                map: names::MAP_TABLES,
                expected: "an array of maps".to_owned(),
                found: "a map of another type".to_owned(),
            });
        };
        let len = array.info().map_err(refused)?.max_entries();
        let element = |index| {
            let data = MapData::from_pin(folder.join(MapSet::table_pin(index)));
            // Its owner may just have given it back.
            if data.as_ref().is_err_and(super::is_absent) {
                return None;
            }
            let element = data.and_then(Map::from_map_data);
            let element = element.and_then(Element::try_from);
            Some(element.map(|element| (index, element)))
        };
        let elements = MapSet::tables_in(folder)?.into_iter().filter_map(element);
        let elements = elements.collect::<Result<_, MapError>>();
        Ok(Self {
            array,
            len,
            elements: elements.map_err(refused)?,
            folder: folder.to_owned(),
        })
    }

    /// How many there may be.
    pub(super) const fn len(&self) -> u32 {
        self.len
    }

    /// The table at `index`; one without instances where there is none.
    pub(super) fn get(&self, index: u32) -> Result<Box<Table>, MapError> {
        self.elements.get(&index).map_or_else(
            || Ok(Box::new(Table::settled([0; SLOTS]))),
            |element| element.get(&0, 0).map(Box::new),
        )
    }

    /// Writes the table at `index`.
    pub(super) fn set(&mut self, index: u32, table: &Table) -> Result<(), MapError> {
        self.make(&BTreeSet::from([index]))?;
        self.elements
            .get_mut(&index)
            .map_or(Ok(()), |element| element.set(0, table, 0))
    }

    /// Sees to it that there are maps for tables at all `indices`.
    pub(super) fn make(&mut self, indices: &BTreeSet<u32>) -> Result<(), MapError> {
        let missing = indices.iter().filter(|at| !self.elements.contains_key(at));
        let new = missing.map(|index| Ok((*index, Element::create(1, 0)?)));
        let new = new.collect::<Result<Vec<(u32, Element)>, MapError>>()?;
        if new.is_empty() {
            return Ok(());
        }
        let keys: Vec<u32> = new.iter().map(|(index, _)| *index).collect();
        let descriptor = |(_, element): &(u32, Element)| element.map().fd().as_fd().as_raw_fd();
        let values: Vec<i32> = new.iter().map(descriptor).collect();
        let array = self.array.fd().as_fd();
        syscall::update_batch(array, &keys, &values).map_err(failed("BPF_MAP_UPDATE_BATCH"))?;
        for (index, element) in new {
            let pinned = element
                .map()
                .pin(self.folder.join(MapSet::table_pin(index)));
            pinned.map_err(|error| MapError::PinError { name: None, error })?;
            self.elements.insert(index, element);
        }
        Ok(())
    }

    /// Gives the memory of a table back that is at none of `indices`; whether there may be another one.
    pub(super) fn release_one(&mut self, indices: &BTreeSet<u32>) -> Result<bool, MapError> {
        let mut unused = self.elements.keys().filter(|at| !indices.contains(at));
        let Some(index) = unused.next_back().copied() else {
            return Ok(false);
        };
        let pin = self.folder.join(MapSet::table_pin(index));
        std::fs::remove_file(pin).map_err(failed("unlink"))?;
        self.elements.remove(&index);
        let array = self.array.fd().as_fd();
        // SAFETY: the keys of an array have four bytes.
        let deleted = unsafe { syscall::delete(array, &index.to_ne_bytes()) };
        deleted.map_err(failed("BPF_MAP_DELETE_ELEM"))?;
        Ok(true)
    }
}

fn failed(call: &'static str) -> impl Fn(std::io::Error) -> MapError {
    move |io_error| MapError::SyscallError(aya::sys::SyscallError { call, io_error })
}
