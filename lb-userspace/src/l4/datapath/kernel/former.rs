//! A pinned set of maps of any layout, read as if it were ours.
//!
//! Beside each set its layout is pinned, as text in a map of its own. Maps that are not there hold
//! nothing, so that those that only one version has are no reason to leave all others behind.

use std::{
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::maps::{Array, IterableMap as _, MapData, MapError, MapType};
use lb_common::{
    Counters, Drops, FlowEntry, FlowKey, InstanceEntry, MAX_INSTANCES, MAX_VIPS, SLOTS, Settings,
    Table, Traffic, Vip, VipKey,
    layout::{Described, FORMER_PLACES},
    names,
};

use super::{
    layout::{LayoutError, Layouts, Plan},
    pins::MapSet,
    processors, syscall,
};
use crate::l4::{L4Error, datapath::Adopted};

/// Bytes that a description may have.
const LAYOUT_BYTES: usize = 8192;

/// Why a set of maps cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FormerError {
    /// What its values mean is another version's.
    #[error("expected maps of version {ours} of the contract, found version {found}", ours = lb_common::ABI)]
    Version {
        /// Theirs.
        found: u32,
    },
    /// A map is not there.
    #[error("expected the map {name}, found none: {why}")]
    Missing {
        /// Its name.
        name: &'static str,
        /// The system's words.
        why: String,
    },
    /// A map is described in a way that it cannot be read.
    #[error("{name}: {why}")]
    Layout {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        why: LayoutError,
    },
    /// The system refused something.
    #[error("{name} cannot be read: {why}")]
    Read {
        /// The map's name.
        name: &'static str,
        /// The system's words.
        why: io::Error,
    },
}

/// The layout of the maps in `folder`.
pub(super) fn layout_in(folder: &Path) -> Result<Layouts, FormerError> {
    let name = names::MAP_LAYOUT;
    let map = RawMap::open(&folder.join(name), name)?.ok_or_else(|| FormerError::Missing {
        name,
        why: "maps are not described".to_owned(),
    })?;
    let text = map.value(&0_u32.to_ne_bytes())?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let parsed = Layouts::parse(text.trim_end_matches('\0'));
    parsed.map_err(|why| FormerError::Layout { name, why })
}

/// Pins the description of our maps in `folder`, if there is none.
pub(super) fn describe(folder: &Path) -> Result<(), L4Error> {
    let pin = folder.join(names::MAP_LAYOUT);
    if fs::exists(&pin).unwrap_or(false) {
        return Ok(());
    }
    let mut text = [0; LAYOUT_BYTES];
    let ours = Layouts::ours().text();
    let made = || -> Result<(), MapError> {
        let room = text.get_mut(..ours.len()).ok_or(MapError::OutOfBounds {
            index: ours.len() as u32,
            max_entries: LAYOUT_BYTES as u32,
        })?;
        room.copy_from_slice(ours.as_bytes());
        let mut map = Array::<MapData, [u8; LAYOUT_BYTES]>::create(1, 0)?;
        map.set(0, text, 0)?;
        map.map()
            .pin(pin)
            .map_err(|error| MapError::PinError { name: None, error })
    };
    made().map_err(|error| L4Error::Load {
        why: format!("its maps could not be described: {}", super::chain(&error)),
    })
}

/// A map whose types only its maker knows.
#[derive(Debug)]
struct RawMap {
    name: &'static str,
    map: MapData,
    key: usize,
    /// Of one value.
    value: usize,
    /// From one processor's value to the next one's.
    stride: usize,
    /// Values of a key.
    per: usize,
}

impl RawMap {
    /// Opens a pinned map; `None` when there is none.
    fn open(pin: &Path, name: &'static str) -> Result<Option<Self>, FormerError> {
        if !fs::exists(pin).unwrap_or(false) {
            return Ok(None);
        }
        let refused = |error: MapError| FormerError::Read {
            name,
            why: io::Error::other(super::chain(&error)),
        };
        let map = MapData::from_pin(pin).map_err(refused)?;
        let info = map.info().map_err(refused)?;
        let value = info.value_size() as usize;
        let (stride, per) = match info.map_type().map_err(refused)? {
            MapType::PerCpuArray | MapType::PerCpuHash => {
                let per = processors::possible();
                let per = per.map_err(|why| FormerError::Read { name, why })?;
                (value.next_multiple_of(8), per)
            }
            MapType::Array | MapType::Hash | MapType::LruHash => (value, 1),
            other => {
                let map_type = other as u32;
                return Err(refused(MapError::InvalidMapType { map_type }));
            }
        };
        Ok(Some(Self {
            name,
            map,
            key: info.key_size() as usize,
            value,
            stride,
            per,
        }))
    }

    fn failed(&self, why: io::Error) -> FormerError {
        FormerError::Read {
            name: self.name,
            why,
        }
    }

    /// Whether a key has the size that the map wants.
    fn check(&self, key: &[u8]) -> Result<(), FormerError> {
        if key.len() == self.key {
            return Ok(());
        }
        Err(self.failed(io::Error::other(format!(
            "expected keys of {} bytes, found {}",
            key.len(),
            self.key
        ))))
    }

    /// The values of a key, one after the other; `None` when there are none.
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, FormerError> {
        self.check(key)?;
        let mut value = vec![0; self.stride * self.per];
        // SAFETY: the sizes are those that the kernel says.
        match unsafe { syscall::lookup(self.map.fd().as_fd(), key, &mut value) } {
            Ok(()) => Ok(Some(value)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn remove(&self, key: &[u8]) -> Result<(), FormerError> {
        self.check(key)?;
        // SAFETY: the size is the one that the kernel says.
        match unsafe { syscall::delete(self.map.fd().as_fd(), key) } {
            Err(error) if !is_absent(&error) => Err(self.failed(error)),
            _ => Ok(()),
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
}

/// A map of another layout, read as if it were one of `K` and `V`; one that is not there is empty.
#[derive(Debug)]
pub(super) struct Foreign<K, V> {
    opened: Option<(RawMap, Plan<K>, Plan<V>)>,
}

impl<K: Described + aya::Pod + Default, V: Described + aya::Pod> Foreign<K, V> {
    /// Opens the map of this name in `folder`.
    pub(super) fn open(
        folder: &Path,
        name: &'static str,
        layouts: &Layouts,
    ) -> Result<Self, FormerError> {
        Self::pinned(&folder.join(name), name, layouts)
    }

    fn pinned(pin: &Path, name: &'static str, layouts: &Layouts) -> Result<Self, FormerError> {
        let Some(map) = RawMap::open(pin, name)? else {
            return Ok(Self { opened: None });
        };
        let refused = |why| FormerError::Layout { name, why };
        let keys = layouts.keys(map.key).map_err(refused)?;
        let values = layouts.values(map.value).map_err(refused)?;
        Ok(Self {
            opened: Some((map, keys, values)),
        })
    }

    /// The same for a map that others can do without: one that cannot be read is as one that is not there.
    pub(super) fn open_if_legible(folder: &Path, name: &'static str, layouts: &Layouts) -> Self {
        Self::open(folder, name, layouts).unwrap_or_else(|error| {
            tracing::warn!(%error, "left behind");
            Self { opened: None }
        })
    }

    /// The same for a map without which all others are of no use.
    fn expect(folder: &Path, name: &'static str, layouts: &Layouts) -> Result<Self, FormerError> {
        let map = Self::open(folder, name, layouts)?;
        if map.opened.is_none() {
            let why = format!("nothing is pinned at {}", folder.join(name).display());
            return Err(FormerError::Missing { name, why });
        }
        Ok(map)
    }

    /// Entries that fit.
    pub(super) fn most(&self) -> u32 {
        let opened = self.opened.as_ref();
        let info = opened.and_then(|(map, ..)| map.map.info().ok());
        info.map_or(0, |info| info.max_entries())
    }

    /// The values of `key` as they are there.
    fn bytes(&self, key: K) -> Result<Option<Vec<u8>>, FormerError> {
        let Some((map, keys, _)) = &self.opened else {
            return Ok(None);
        };
        keys.write(key).map_or(Ok(None), |key| map.value(&key))
    }

    /// The values of `key`, one for each processor where the map has so many; none when it has no such key,
    /// or one of them cannot be read.
    pub(super) fn all(&self, key: K) -> Result<Vec<V>, FormerError>
    where
        V: Default,
    {
        let Some((map, _, values)) = &self.opened else {
            return Ok(Vec::new());
        };
        let bytes = self.bytes(key)?.unwrap_or_default();
        let each = bytes.chunks_exact(map.stride.max(1));
        let each = each.map(|bytes| values.read(&bytes[..values.size()]));
        Ok(each.collect::<Option<_>>().unwrap_or_default())
    }

    /// The value of `key`.
    pub(super) fn get(&self, key: K) -> Result<Option<V>, FormerError>
    where
        V: Default,
    {
        Ok(self.all(key)?.first().copied())
    }

    /// Reads the value of `key` into one that is there; whether there was one.
    fn get_into(&self, key: K, value: &mut V) -> Result<bool, FormerError> {
        let Some((.., values)) = &self.opened else {
            return Ok(false);
        };
        let bytes = self.bytes(key)?;
        Ok(bytes.is_some_and(|bytes| values.read_into(&bytes, value)))
    }

    pub(super) fn remove(&self, key: K) -> Result<(), FormerError> {
        let Some((map, keys, _)) = &self.opened else {
            return Ok(());
        };
        keys.write(key).map_or(Ok(()), |key| map.remove(&key))
    }

    /// Does something with each entry of a hash map; says how many could not be read.
    pub(super) fn each(&self, mut work: impl FnMut(&K, &V)) -> Result<u64, FormerError>
    where
        V: Default,
    {
        let Some((map, key_plan, value_plan)) = &self.opened else {
            return Ok(0);
        };
        let (mut from, mut unread) = (None, 0);
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        loop {
            let sizes = (map.key, map.stride * map.per);
            // SAFETY: the sizes are those that the kernel says.
            let read = unsafe {
                let descriptor = map.map.fd().as_fd();
                syscall::lookup_bytes(descriptor, from, sizes, &mut keys, &mut values)
            };
            let (count, next) = read.map_err(|error| map.failed(error))?;
            let pairs = keys.chunks_exact(sizes.0).zip(values.chunks_exact(sizes.1));
            for (key, value) in pairs.take(count) {
                match (key_plan.read(key), value_plan.read(value)) {
                    (Some(key), Some(value)) => work(&key, &value),
                    _ => unread += 1,
                }
            }
            match next {
                Some(next) => from = Some(next),
                None => return Ok(unread),
            }
        }
    }
}

/// A set of maps that another program works on, or has worked on.
#[derive(Debug)]
pub(super) struct Former {
    pub(super) path: PathBuf,
    number: u32,
    pub(super) layouts: Layouts,
    /// What tells a program where the fields of [`Self::connections`] are.
    pub(super) places: [u8; 2 * FORMER_PLACES],
    pub(super) connections: Foreign<FlowKey, FlowEntry>,
    pub(super) counters: Foreign<u32, Counters>,
    pub(super) vip_traffic: Foreign<u32, Traffic>,
    pub(super) vip_drops: Foreign<u32, Drops>,
    pub(super) instance_traffic: Foreign<u32, Traffic>,
    pub(super) live: Foreign<u32, u64>,
    pub(super) expired: Foreign<u32, u64>,
    /// What is known of instances and VIPs.
    pub(super) adopted: Adopted,
}

impl Former {
    /// Opens a pinned set.
    pub(super) fn open(set: &MapSet) -> Result<Self, FormerError> {
        if set.abi != lb_common::ABI {
            return Err(FormerError::Version { found: set.abi });
        }
        let folder = &set.path;
        let layouts = layout_in(folder)?;
        let places = layouts.places().map_err(|why| FormerError::Layout {
            name: names::MAP_CONNECTIONS,
            why,
        })?;
        Ok(Self {
            adopted: adopted(folder, &layouts)?,
            connections: Foreign::expect(folder, names::MAP_CONNECTIONS, &layouts)?,
            counters: Foreign::open_if_legible(folder, names::MAP_COUNTERS, &layouts),
            vip_traffic: Foreign::open_if_legible(folder, names::MAP_VIP_TRAFFIC, &layouts),
            vip_drops: Foreign::open_if_legible(folder, names::MAP_VIP_DROPS, &layouts),
            instance_traffic: Foreign::open_if_legible(
                folder,
                names::MAP_INSTANCE_TRAFFIC,
                &layouts,
            ),
            live: Foreign::open_if_legible(folder, names::MAP_LIVE, &layouts),
            expired: Foreign::open_if_legible(folder, names::MAP_EXPIRED, &layouts),
            path: folder.clone(),
            number: set.number,
            places,
            layouts,
        })
    }

    /// Notes in the set that follows this one that it does, so that who comes after a daemon that has died on the
    /// way knows where there is something left.
    pub(super) fn pin_beside(&self, ours: &MapSet) -> Result<(), L4Error> {
        let map = MapData::from_pin(self.path.join(names::MAP_CONNECTIONS));
        let refused = |error: &dyn std::error::Error| L4Error::Load {
            why: super::chain(error),
        };
        let pin = ours.path.join(MapSet::former_pin(self.number));
        let map = map.map_err(|error| refused(&error))?;
        map.pin(pin).map_err(|error| refused(&error))
    }

    /// The table at `index`, if there is one of as many slots as ours have.
    pub(super) fn table(&self, index: u32) -> Result<Option<Box<Table>>, FormerError> {
        let pin = self.path.join(MapSet::table_pin(index));
        let map = match Foreign::<u32, Table>::pinned(&pin, names::MAP_TABLES, &self.layouts) {
            Err(FormerError::Layout { .. }) => return Ok(None),
            map => map?,
        };
        let mut table = Box::new(Table::settled([0; SLOTS]));
        Ok(map.get_into(0, &mut table)?.then_some(table))
    }
}

/// What is known of instances and VIPs. All of it or nothing: connections name them, so who reads one half
/// would give the names of the other half to somebody else.
pub(super) fn adopted(folder: &Path, layouts: &Layouts) -> Result<Adopted, FormerError> {
    let settings = Foreign::<u32, Settings>::expect(folder, names::MAP_SETTINGS, layouts)?;
    let settings = settings.get(0)?;
    let entries = Foreign::<u32, InstanceEntry>::expect(folder, names::MAP_INSTANCES, layouts)?;
    let mut instances = Vec::new();
    // Index 0 is none, and an entry of zeros was never used.
    for index in 1..entries.most() {
        let entry = entries.get(index)?;
        let entry = entry.ok_or_else(|| unreadable(names::MAP_INSTANCES, index.into()))?;
        if entry != InstanceEntry::default() {
            let place = u16::try_from(index).ok();
            let place = place.filter(|index| u32::from(*index) < MAX_INSTANCES);
            let place = place.ok_or_else(|| unreadable(names::MAP_INSTANCES, index.into()))?;
            instances.push((place, entry));
        }
    }
    let entries = Foreign::<VipKey, Vip>::expect(folder, names::MAP_VIPS, layouts)?;
    let mut vips = Vec::new();
    let unread = entries.each(|key, vip| vips.push((*key, *vip)))?;
    // Figures are found by it.
    let is_strange = |(_, vip): &(VipKey, Vip)| vip.id >= MAX_VIPS;
    if unread > 0 || vips.iter().any(is_strange) {
        return Err(unreadable(names::MAP_VIPS, unread));
    }
    Ok(Adopted {
        settings: settings.filter(|settings| *settings != Settings::default()),
        instances,
        vips,
    })
}

fn unreadable(name: &'static str, which: u64) -> FormerError {
    let why = format!("a value that this lb has no room for: {which}");
    FormerError::Read {
        name,
        why: io::Error::other(why),
    }
}
