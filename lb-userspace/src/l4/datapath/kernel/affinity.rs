//! The maps of clients that stay with their instance.
//!
//! Who stays where is pinned beside the maps that make a set, so that a restart forgets nobody. A set
//! without it is as good; where its size has changed it is made anew, and what was in the old one is
//! copied.

use std::{io, os::fd::AsFd as _, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, IterableMap as _, MapData, MapError, MapInfo},
};
use lb_common::{Affinity, ClientKey, ClientPin, MAX_INSTANCES, MAX_VIPS, names};

use super::{
    former::{Foreign, Former},
    layout::Layouts,
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
pub(super) type Clients = Foreign<ClientKey, ClientPin>;

/// Tells a program that is to be loaded where its clients are, and returns those of `former` or of a
/// size that does not fit, which are to be copied.
pub(super) fn prepare(
    loader: &mut EbpfLoader<'_>,
    spec: &DatapathSpec,
    ours: &MapSet,
    former: Option<&Former>,
) -> Result<Option<Clients>, L4Error> {
    let pin = ours.path.join(names::MAP_CLIENTS);
    let mut clients = former.and_then(|former| open(&former.path, &former.layouts));
    if let Ok(info) = MapInfo::from_pin(&pin)
        && info.max_entries() != spec.max_affinity_clients
    {
        clients = open(&ours.path, &Layouts::ours());
        ours.remove_pin(names::MAP_CLIENTS)?;
    }
    loader.map_pin_path(names::MAP_CLIENTS, pin);
    loader.map_max_entries(names::MAP_CLIENTS, spec.max_affinity_clients);
    Ok(clients)
}

/// The clients that are pinned in `folder`, if they are such as this daemon reads.
fn open(folder: &Path, layouts: &Layouts) -> Option<Clients> {
    let clients = Clients::open(folder, names::MAP_CLIENTS, layouts);
    let clients = clients
        .inspect_err(|error| tracing::warn!(%error, "clients will be given other instances"));
    clients.ok()
}

impl AffinityMaps {
    /// Takes the maps out of a loaded program, and copies what `former` has.
    pub(super) fn take(
        program: &mut Ebpf,
        spec: &DatapathSpec,
        former: Option<Clients>,
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
        let mut lost = 0;
        let copied = former.map_or(Ok(0), |former| {
            former.each(|key, pin| {
                lost += u64::from(maps.clients.insert(key, pin, 0).is_err());
            })
        });
        match copied {
            Ok(unread) => lost += unread,
            Err(error) => tracing::warn!(%error, "clients will be given other instances"),
        }
        if lost > 0 {
            tracing::warn!(
                lost,
                "clients will be given other instances: there is no room"
            );
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
