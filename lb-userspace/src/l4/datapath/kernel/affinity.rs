//! The maps of clients that stay with their instance.
//!
//! Who stays where is pinned beside the maps that make a set, so that a restart forgets nobody, once there
//! is a service whose clients stay. A set without it is as good. Where its size has changed it is made
//! anew, and what was in the old one is copied; twice, because until all links run this program the one before
//! it goes on giving clients their instance there. Where there is no memory for another size the old one
//! goes on.

use std::{
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, IterableMap as _, Map, MapData, MapError},
};
use lb_common::{Affinity, ClientKey, ClientPin, MAX_INSTANCES, MAX_VIPS, names};

use super::{
    former::{Foreign, Former},
    layout::Layouts,
    maps::{NO_PREALLOC, shape, take_own},
    on_demand::OnDemand,
    pins::MapSet,
    syscall,
};
use crate::{
    l4::{L4Error, datapath::Cursor},
    model::DatapathSpec,
};

/// The instances of clients.
pub(super) type ClientMap = HashMap<MapData, ClientKey, ClientPin>;

/// See the module.
pub(super) struct AffinityMaps {
    vips: Array<MapData, Affinity>,
    services: Array<MapData, u64>,
    clients: OnDemand<ClientMap>,
    /// Clients that fit.
    most: u32,
    /// The clients of a map that was too small or too large, which the program before this one still works on.
    replaced: Option<ClientMap>,
    /// Where the clients are pinned.
    pin: PathBuf,
}

impl std::fmt::Debug for AffinityMaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AffinityMaps").finish_non_exhaustive()
    }
}

/// Makes a map for so many clients.
pub(super) fn clients(most: u32) -> Result<ClientMap, MapError> {
    HashMap::create(most, NO_PREALLOC)
}

/// The clients that are pinned in `folder`, if they are such as this daemon reads.
fn read(folder: &Path, layouts: &Layouts) -> Vec<(ClientKey, ClientPin)> {
    let mut found = Vec::new();
    let clients = Foreign::<ClientKey, ClientPin>::open(folder, names::MAP_CLIENTS, layouts);
    let read = clients.and_then(|clients| clients.each(|key, pin| found.push((*key, *pin))));
    match read {
        Ok(0) => {}
        Ok(lost) => tracing::warn!(lost, "clients will be given other instances"),
        Err(error) => tracing::warn!(%error, "clients will be given other instances"),
    }
    found
}

fn lost(error: &MapError) {
    let error = super::chain(error);
    tracing::warn!(%error, "clients will be given other instances");
}

impl AffinityMaps {
    /// Takes the maps out of a loaded program, and takes over the clients that are pinned beside its maps, or
    /// those of `former`.
    pub(super) fn take(
        program: &mut Ebpf,
        spec: &DatapathSpec,
        ours: &MapSet,
        former: Option<&Former>,
    ) -> Result<Self, L4Error> {
        let vips = shape::<u32, Affinity>(MAX_VIPS);
        let services = shape::<u32, u64>(MAX_INSTANCES);
        let mut maps = Self {
            vips: take_own(program, names::MAP_AFFINITIES, vips)?,
            services: take_own(program, names::MAP_SERVICES, services)?,
            clients: OnDemand::take(program, names::MAP_CLIENTS)?,
            most: spec.max_affinity_clients,
            replaced: None,
            pin: ours.path.join(names::MAP_CLIENTS),
        };
        if fs::exists(&maps.pin).unwrap_or(false)
            && let Err(error) = maps.adopt()
        {
            lost(&error);
        }
        if let Some(former) = former {
            maps.merge(former);
        }
        Ok(maps)
    }

    /// Goes on with the clients that are pinned.
    fn adopt(&mut self) -> Result<(), MapError> {
        let pinned = MapData::from_pin(&self.pin).and_then(Map::from_map_data)?;
        let pinned = ClientMap::try_from(pinned)?;
        let fitting = pinned.map().info()?.max_entries();
        if fitting == self.most {
            self.clients.need(|| Ok(pinned))?;
            return Ok(());
        }
        if let Err(error) = self.need() {
            let error = super::chain(&error);
            let wanted = self.most;
            tracing::warn!(%error, wanted, fitting, "the map of clients that is there goes on");
            self.most = fitting;
            self.clients.need(|| Ok(pinned))?;
            return Ok(());
        }
        self.replaced = Some(pinned);
        self.follow();
        Ok(())
    }

    /// Copies what is in the map before.
    fn follow(&mut self) {
        let Some(replaced) = &self.replaced else {
            return;
        };
        match syscall::lookup_all(replaced.map().fd().as_fd()) {
            Ok(clients) => self.copy(&clients),
            Err(error) => tracing::warn!(%error, "clients will be given other instances"),
        }
    }

    /// Takes over, once no other program gives clients their instance, what the one before has done meanwhile.
    pub(super) fn settle(&mut self) {
        self.follow();
        self.replaced = None;
    }

    /// Takes over clients of another set, but those that are known for longer here.
    pub(super) fn merge(&mut self, former: &Former) {
        self.copy(&read(&former.path, &former.layouts));
    }

    /// What fails here costs clients their instance, but must not keep anybody from being served.
    fn copy(&mut self, clients: &[(ClientKey, ClientPin)]) {
        if clients.is_empty() {
            return;
        }
        let map = match self.need() {
            Ok(map) => map,
            Err(error) => return lost(&error),
        };
        let is_news = |key: &ClientKey, pin: &ClientPin| {
            let known = map.get(key, 0);
            known.map_or(true, |known| known.until < pin.until)
        };
        let news = clients.iter().filter(|(key, pin)| is_news(key, pin));
        let news: Vec<_> = news.collect();
        let inserted = news.iter().map(|(key, pin)| map.insert(key, pin, 0));
        let left = inserted.filter(Result::is_err).count();
        if left > 0 {
            tracing::warn!(
                clients = left,
                "clients will be given other instances: there is no room"
            );
        }
    }

    /// The clients, for which room is made if there is none. What is pinned is replaced at once, or stays.
    fn need(&mut self) -> Result<&mut ClientMap, MapError> {
        let (most, pin) = (self.most, &self.pin);
        self.clients.need(|| {
            let map = clients(most)?;
            // Names of pins have no dots.
            let beside = pin.with_file_name(format!("{}-next", names::MAP_CLIENTS));
            let _ = fs::remove_file(&beside);
            let pinned = map.map().pin(&beside);
            pinned.map_err(|error| MapError::PinError {
                name: Some(names::MAP_CLIENTS.to_owned()),
                error,
            })?;
            fs::rename(&beside, pin).map_err(MapError::IoError)?;
            Ok(map)
        })
    }

    /// Clients that fit.
    pub(super) const fn most(&self) -> u32 {
        self.most
    }

    /// Sets an element.
    pub(super) fn set(&mut self, vip: u32, affinity: &Affinity) -> Result<(), MapError> {
        if affinity.ttl != 0 {
            self.need()?;
        }
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
        let Some(clients) = self.clients.get() else {
            return Ok(None);
        };
        let map = clients.map().fd().as_fd();
        let next = syscall::lookup_batch(map, from.map(|cursor| cursor.0 as u32), into)?;
        Ok(next.map(|bucket| Cursor(bucket.into())))
    }

    /// Removes a client.
    pub(super) fn forget(&mut self, key: &ClientKey) -> Result<(), MapError> {
        let clients = self.clients.get_mut();
        clients.map_or(Ok(()), |clients| clients.remove(key))
    }
}
