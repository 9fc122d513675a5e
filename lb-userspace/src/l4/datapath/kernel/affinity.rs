//! The maps of clients that stay with their instance.
//!
//! Who stays where is pinned beside the maps that make a set, so that a restart forgets nobody. A set
//! without it is as good; where its size has changed it is made anew, and what was in the old one is
//! copied.

use std::{io, os::fd::AsFd as _};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, IterableMap as _, Map, MapData, MapError, MapInfo},
};
use lb_common::{Affinity, ClientKey, ClientPin, MAX_INSTANCES, MAX_VIPS, names};

use super::{
    maps::{shape, take_own},
    pins::MapSet,
    syscall,
};
use crate::{
    l4::{L4Error, datapath::Cursor},
    model::DatapathSpec,
};

/// See the module.
pub(super) struct AffinityMaps {
    vips: Array<MapData, Affinity>,
    services: Array<MapData, u64>,
    clients: HashMap<MapData, ClientKey, ClientPin>,
    most: u32,
}

impl std::fmt::Debug for AffinityMaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AffinityMaps").finish_non_exhaustive()
    }
}

/// Clients of maps that a program before this one has, or had, and that are not its own.
pub(super) type Former = Option<HashMap<MapData, ClientKey, ClientPin>>;

/// Tells a program that is to be loaded where its clients are, and returns those of `former` or of a
/// size that does not fit, which are to be copied.
pub(super) fn prepare(
    loader: &mut EbpfLoader<'_>,
    spec: &DatapathSpec,
    ours: &MapSet,
    former: Option<&MapSet>,
) -> Result<Former, L4Error> {
    let pin = ours.path.join(names::MAP_CLIENTS);
    let mut old = former.map(|former| former.path.join(names::MAP_CLIENTS));
    let mut clients = None;
    if let Ok(info) = MapInfo::from_pin(&pin)
        && info.max_entries() != spec.max_affinity_clients
    {
        clients = open(&pin);
        ours.remove_pin(names::MAP_CLIENTS)?;
        old = None;
    }
    loader.map_pin_path(names::MAP_CLIENTS, pin);
    loader.map_max_entries(names::MAP_CLIENTS, spec.max_affinity_clients);
    Ok(clients.or_else(|| open(&old?)))
}

/// The clients that are pinned there, if they are such as this daemon reads.
fn open(pin: &std::path::Path) -> Former {
    let map = MapData::from_pin(pin).and_then(Map::from_map_data).ok()?;
    HashMap::try_from(map).ok()
}

impl AffinityMaps {
    /// Takes the maps out of a loaded program, and copies what `former` has.
    pub(super) fn take(
        program: &mut Ebpf,
        spec: &DatapathSpec,
        former: Former,
    ) -> Result<Self, L4Error> {
        let most = spec.max_affinity_clients;
        let clients = shape::<ClientKey, ClientPin>(most);
        let mut maps = Self {
            vips: take_own(
                program,
                names::MAP_AFFINITIES,
                shape::<u32, Affinity>(MAX_VIPS),
            )?,
            services: take_own(
                program,
                names::MAP_SERVICES,
                shape::<u32, u64>(MAX_INSTANCES),
            )?,
            clients: take_own(program, names::MAP_CLIENTS, clients)?,
            most,
        };
        if let Some(former) = former {
            let copied = former.iter().filter_map(Result::ok);
            let lost = copied.filter(|(key, pin)| maps.clients.insert(key, pin, 0).is_err());
            let lost = lost.count();
            if lost > 0 {
                tracing::warn!(
                    lost,
                    "clients will be given other instances: there is no room"
                );
            }
        }
        Ok(maps)
    }

    /// Clients that fit.
    pub(super) const fn most(&self) -> u32 {
        self.most
    }

    /// Sets an element.
    pub(super) fn set(&mut self, vip: u32, affinity: &Affinity) -> Result<(), MapError> {
        self.vips.set(vip, affinity, 0)
    }

    /// Sets the service of an instance.
    pub(super) fn set_service_of(&mut self, index: u16, service: u64) -> Result<(), MapError> {
        self.services.set(index.into(), service, 0)
    }

    /// Appends the next clients.
    pub(super) fn walk(
        &self,
        from: Option<Cursor>,
        into: &mut Vec<(ClientKey, ClientPin)>,
    ) -> io::Result<Option<Cursor>> {
        let map = self.clients.map().fd().as_fd();
        let next = syscall::lookup_batch(map, from.map(|cursor| cursor.0 as u32), into)?;
        Ok(next.map(|bucket| Cursor(bucket.into())))
    }

    /// Removes a client.
    pub(super) fn forget(&mut self, key: &ClientKey) -> Result<(), MapError> {
        self.clients.remove(key)
    }
}
