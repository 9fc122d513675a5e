//! The packet path in the kernel: the balancing program, its links and its maps. aya is named here and
//! below, and nowhere else.
//!
//! **What outlives the daemon.** Links and maps are pinned. A daemon that starts looks for a set of
//! maps that fits its own layout and sizes and goes on with it; traffic does not notice. If none
//! fits, it makes a set beside the old one, takes over what can be taken over, fills it, and only
//! then moves the links from the old program to the new one. Moving a link is one atomic step.
//!
//! **Order at start.** [`open`] loads the program and attaches it where nothing was attached;
//! links of an earlier daemon keep running that one's program until [`Datapath::activate`], which
//! the reconciler calls once the maps hold what they should.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::fd::AsFd as _,
};

use aya::{
    Ebpf,
    maps::{IterableMap as _, MapData, MapError, PerCpuValues},
};
use lb_common::{
    Acl, Address, AddressFilter, Affinity, Arrivals, ClientKey, ClientPin, CookieKeys, Counters,
    FlowEntry, FlowKey, InstanceEntry, PathMtu, PortRanges, PrefixKey, Settings, Subinterface,
    Table, Traffic, Vip, VipKey,
};

use self::{
    acl::AclMaps,
    affinity::AffinityMaps,
    events::Events,
    former::Former,
    hook::Hook,
    layout::Layouts,
    links::Links,
    maps::{AddressMap, ArrivalMaps, CeilingMap, CookieMap, FilterMap, Maps, VlanMap},
    path_mtus::PathMtuMap,
    pins::MapSet,
};
use super::{Adopted, Attachment, Cursor, Datapath, DatapathError, Limits};
use crate::l4::{L4Error, host};

mod acl;
mod affinity;
pub(crate) mod decap;
mod epoch;
mod events;
mod former;
mod hook;
mod layout;
mod links;
mod load;
mod maps;
mod on_demand;
mod path_mtus;
pub(crate) mod pins;
mod processors;
mod recorder;
mod rehearsal;
mod stages;
mod status;
pub(crate) mod steer;
mod syscall;
mod tables;
mod takeover;

pub(crate) use load::{Loaded, open};
pub(crate) use recorder::RecorderMaps;
pub(crate) use rehearsal::Rehearsal;
pub(crate) use status::status;

/// The packet path in the kernel.
#[derive(Debug)]
pub(crate) struct Kernel {
    program: Ebpf,
    hook: Hook,
    maps: Maps,
    ceilings: CeilingMap,
    acl: AclMaps,
    arrivals: ArrivalMaps,
    filter: FilterMap,
    affinity: AffinityMaps,
    cookies: CookieMap,
    addresses: AddressMap,
    vlans: VlanMap,
    path_mtus: PathMtuMap,
    links: Links,
    events: Events,
    /// Our set of maps, and the name of our stages' pin in it.
    ours: (MapSet, String),
    /// The set of maps that earlier daemons' links work on, when it is not ours.
    former: Option<Former>,
    /// What is left to take over of it once all links are ours.
    rest: Option<takeover::Rest>,
    /// Whether links work on our set of maps already.
    has_run: bool,
    /// Sets that nobody will need once all links are ours.
    leftover: Vec<MapSet>,
    /// Keeps other daemons away from the maps.
    _lock: File,
}

impl Datapath for Kernel {
    fn attachments(&self) -> Vec<Attachment> {
        // Whoever takes a pin away takes the program off; the daemon must not say otherwise.
        let links = self.links.adopted.iter().chain(&self.links.made);
        links
            .filter(|link| fs::exists(&link.path).unwrap_or(false))
            .map(|link| Attachment {
                interface: link.interface.clone(),
                mode: link.mode,
            })
            .collect()
    }

    fn limits(&self) -> Limits {
        Limits {
            clients: self.affinity.most(),
            ..self.maps.limits()
        }
    }

    fn adopted(&self) -> Result<Adopted, DatapathError> {
        let adopted = former::adopted(&self.ours.0.path, &Layouts::ours());
        adopted.map_err(|error| DatapathError::Read {
            what: "instances and VIPs".to_owned(),
            why: error.to_string(),
        })
    }

    fn activate(&mut self) -> Result<(), DatapathError> {
        if let Some(former) = self.former.take() {
            self.rest = Some(takeover::connections(former, &mut self.maps, self.has_run));
        }
        for link in &self.links.adopted {
            let switched = self.hook.switch(&mut self.program, link);
            switched.map_err(|why| DatapathError::Attach {
                interface: link.interface.clone(),
                why,
            })?;
        }
        for link in self.links.replaced.drain(..) {
            if let Err(error) = link.remove() {
                tracing::warn!(%error, "an old link stays behind");
            }
        }
        self.affinity.settle();
        // After all of them have moved, and not before: who tries again finds it still to be done.
        if let Some(rest) = self.rest.take() {
            self.affinity.merge(rest.old());
            takeover::rest(rest, &mut self.maps);
            if let Err(error) = self.ours.0.follow_nobody() {
                tracing::warn!(%error, "it will be asked again whether something was left behind");
            }
        }
        let (set, stages) = &self.ours;
        if let Err(error) = set.remove_stages_but(stages) {
            tracing::warn!(%error, "stages of an old program stay behind");
        }
        for set in self.leftover.drain(..) {
            if let Err(error) = set.remove() {
                tracing::warn!(%error, "an old set of maps stays behind");
            }
        }
        Ok(())
    }

    fn put_settings(&mut self, settings: &Settings) -> Result<(), DatapathError> {
        let result = self.maps.settings.set(0, settings, 0);
        result.map_err(written(|| "the settings".to_owned()))
    }

    fn put_instance(&mut self, index: u16, entry: &InstanceEntry) -> Result<(), DatapathError> {
        let maps = &mut self.maps;
        let write = || maps.instances.set(index.into(), entry, 0);
        let result = maps.vip_epoch.change(write);
        result.map_err(written(|| format!("instance {index}")))
    }

    fn reset_instance(&mut self, index: u16) -> Result<(), DatapathError> {
        let what = || format!("figures of instance {index}");
        zero(&mut self.maps.instance_traffic, index.into()).map_err(written(what))?;
        let index = index.into();
        let live = self.maps.live.get(&index, 0).map_err(read(what))?;
        let expired = self.maps.expired.set(index, live, 0);
        expired.map_err(written(what))
    }

    fn read_table(&self, index: u32) -> Result<Box<Table>, DatapathError> {
        let table = self.maps.tables.get(index);
        table.map_err(read(|| format!("table {index}")))
    }

    fn write_table(&mut self, index: u32, table: &Table) -> Result<(), DatapathError> {
        let result = self.maps.tables.set(index, table);
        result.map_err(written(|| format!("table {index}")))
    }

    fn make_room(&mut self, tables: &BTreeSet<u32>) -> Result<(), DatapathError> {
        let result = self.maps.tables.make(tables);
        result.map_err(written(|| "room for tables".to_owned()))
    }

    fn give_room_back(&mut self, tables: &BTreeSet<u32>) -> Result<bool, DatapathError> {
        let result = self.maps.tables.release_one(tables);
        result.map_err(written(|| "room for tables".to_owned()))
    }

    fn put_vip(&mut self, key: &VipKey, vip: &Vip) -> Result<(), DatapathError> {
        let what = || format!("VIP {}", vip.id);
        let maps = &mut self.maps;
        let result = maps.vip_epoch.change(|| maps.vips.insert(key, vip, 0));
        result.map_err(written(what))
    }

    fn remove_vip(&mut self, key: &VipKey) -> Result<(), DatapathError> {
        let maps = &mut self.maps;
        match maps.vip_epoch.change(|| maps.vips.remove(key)) {
            Err(error) if !is_absent(&error) => Err(written(|| "a VIP".to_owned())(error)),
            _ => Ok(()),
        }
    }

    fn put_vip_address(
        &mut self,
        address: &Address,
        ranges: &PortRanges,
    ) -> Result<(), DatapathError> {
        let what = || "the address of a VIP".to_owned();
        // Which VIP a port is for may change.
        let put = || self.addresses.put(address, ranges);
        self.maps.vip_epoch.change(put).map_err(written(what))
    }

    fn remove_vip_address(&mut self, address: &Address) -> Result<(), DatapathError> {
        match self.addresses.remove(address) {
            Err(error) if !is_absent(&error) => {
                Err(written(|| "the address of a VIP".to_owned())(error))
            }
            _ => Ok(()),
        }
    }

    fn put_subinterface(&mut self, index: u32, of: &Subinterface) -> Result<(), DatapathError> {
        let result = self.vlans.put(index, of);
        result.map_err(written(|| format!("the VLAN of interface {index}")))
    }

    fn remove_subinterface(&mut self, index: u32) -> Result<(), DatapathError> {
        match self.vlans.remove(index) {
            Err(error) if !is_absent(&error) => {
                Err(written(|| format!("the VLAN of interface {index}"))(error))
            }
            _ => Ok(()),
        }
    }

    fn path_mtus(&self) -> Result<Vec<(Address, PathMtu)>, DatapathError> {
        let all = self.path_mtus.all();
        all.map_err(|error| DatapathError::Read {
            what: "the MTUs of paths".to_owned(),
            why: error.to_string(),
        })
    }

    fn put_path(&mut self, instance: &Address) -> Result<(), DatapathError> {
        let result = self.path_mtus.add(instance);
        result.map_err(written(|| "the path to an instance".to_owned()))
    }

    fn remove_path(&mut self, instance: &Address) -> Result<(), DatapathError> {
        match self.path_mtus.remove(instance) {
            Err(error) if !is_absent(&error) => {
                Err(written(|| "the path to an instance".to_owned())(error))
            }
            _ => Ok(()),
        }
    }

    fn reset_vip(&mut self, id: u32) -> Result<(), DatapathError> {
        let what = || format!("figures of VIP {id}");
        zero(&mut self.maps.vip_traffic, id).map_err(written(what))?;
        zero(&mut self.maps.vip_drops, id).map_err(written(what))
    }

    fn counters(&self) -> Result<Counters, DatapathError> {
        let cpus = self.maps.counters.get(&0, 0);
        let cpus = cpus.map_err(read(|| "the counters".to_owned()))?;
        Ok(added(&cpus))
    }

    fn vip_traffic(&self, id: u32) -> Result<Traffic, DatapathError> {
        let values = self.maps.vip_traffic.get(&id, 0);
        values
            .map(|v| sum(&v))
            .map_err(read(|| format!("traffic of VIP {id}")))
    }

    fn vip_drops(&self, id: u32) -> Result<Counters, DatapathError> {
        let cpus = self.maps.vip_drops.get(&id, 0);
        let cpus = cpus.map_err(read(|| format!("drops of VIP {id}")))?;
        let mut sum = Counters::default();
        cpus.iter().for_each(|cpu| cpu.add_to(&mut sum));
        Ok(sum)
    }

    fn instance_traffic(&self, index: u16) -> Result<Traffic, DatapathError> {
        let values = self.maps.instance_traffic.get(&index.into(), 0);
        let what = || format!("traffic of instance {index}");
        values.map(|v| sum(&v)).map_err(read(what))
    }

    fn live(&self, index: u16) -> Result<u64, DatapathError> {
        let what = || format!("live connections of instance {index}");
        let begun = self.maps.live.get(&index.into(), 0).map_err(read(what))?;
        let expired = self
            .maps
            .expired
            .get(&index.into(), 0)
            .map_err(read(what))?;
        Ok(still(begun, expired))
    }

    fn all_instances(&self, last: u16) -> Result<Vec<(Traffic, u64)>, DatapathError> {
        self.maps
            .all_instances(last)
            .map_err(|error| DatapathError::Read {
                what: format!("figures of the instances up to {last}"),
                why: error.to_string(),
            })
    }

    fn adjust_live(&mut self, index: u16, by: i64) -> Result<(), DatapathError> {
        // The program's counter is the program's alone; what the daemon ends is counted here.
        let what = || format!("expired connections of instance {index}");
        let expired = self
            .maps
            .expired
            .get(&index.into(), 0)
            .map_err(read(what))?;
        let expired = expired.wrapping_sub(by.cast_unsigned());
        let result = self.maps.expired.set(index.into(), expired, 0);
        result.map_err(written(what))
    }

    fn put_ceiling(&mut self, index: u16, most: Option<u64>) -> Result<(), DatapathError> {
        let ceiling = most.map_or(0, |most| most.saturating_add(1));
        let result = self.ceilings.set(index.into(), ceiling);
        result.map_err(written(|| format!("the limit of instance {index}")))
    }

    fn put_address_filter(&mut self, filter: &AddressFilter) -> Result<(), DatapathError> {
        let result = self.filter.set(filter);
        result.map_err(written(|| "the address filter".to_owned()))
    }

    fn put_prefixes(&mut self, rules: &[(PrefixKey, u32)]) -> Result<(), DatapathError> {
        let result = self.acl.put(rules);
        result.map_err(|error| DatapathError::Write {
            what: "rules of the source ACL".to_owned(),
            why: error.to_string(),
        })
    }

    fn remove_prefixes(&mut self, prefixes: &[PrefixKey]) -> Result<(), DatapathError> {
        for key in prefixes {
            match self.acl.remove(key) {
                Err(error) if !is_absent(&error) => {
                    return Err(written(|| "a rule of the source ACL".to_owned())(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn put_acl(&mut self, acl: &Acl) -> Result<(), DatapathError> {
        let result = self.acl.put_whole(acl);
        result.map_err(written(|| "the marks of the source ACL".to_owned()))
    }

    fn put_arrivals(&mut self, vip: u32, limit: &Arrivals) -> Result<(), DatapathError> {
        let result = self.arrivals.set(vip, limit);
        result.map_err(written(|| {
            format!("the limit of new connections of VIP {vip}")
        }))
    }

    fn put_affinity(&mut self, vip: u32, affinity: &Affinity) -> Result<(), DatapathError> {
        let result = self.affinity.set(vip, affinity);
        result.map_err(written(|| format!("the affinity of VIP {vip}")))
    }

    fn put_service_of(&mut self, index: u16, service: u64) -> Result<(), DatapathError> {
        let result = self.affinity.set_service_of(index, service);
        result.map_err(written(|| format!("the service of instance {index}")))
    }

    fn clients(
        &self,
        from: Option<Cursor>,
        into: &mut Vec<(ClientKey, ClientPin)>,
    ) -> Result<Option<Cursor>, DatapathError> {
        let next = self.affinity.walk(from, into);
        next.map_err(|error| DatapathError::Read {
            what: "the clients".to_owned(),
            why: error.to_string(),
        })
    }

    fn forget_client(&mut self, key: &ClientKey) -> Result<(), DatapathError> {
        match self.affinity.forget(key) {
            Err(error) if !is_absent(&error) => Err(written(|| "a client".to_owned())(error)),
            _ => Ok(()),
        }
    }

    fn cookie_keys(&self) -> Result<CookieKeys, DatapathError> {
        let result = self.cookies.get();
        result.map_err(read(|| "the keys of SYN cookies".to_owned()))
    }

    fn put_cookie_keys(&mut self, keys: &CookieKeys) -> Result<(), DatapathError> {
        let result = self.cookies.set(keys);
        result.map_err(written(|| "the keys of SYN cookies".to_owned()))
    }

    fn connections(
        &self,
        from: Option<Cursor>,
        into: &mut Vec<(FlowKey, FlowEntry)>,
    ) -> Result<Option<Cursor>, DatapathError> {
        walk(&self.maps, from, into)
    }

    fn connection(&self, key: &FlowKey) -> Result<Option<FlowEntry>, DatapathError> {
        match self.maps.connections.get(key, 0) {
            Ok(entry) => Ok(Some(entry)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(read(|| "a connection".to_owned())(error)),
        }
    }

    fn remove_connection(&mut self, key: &FlowKey) -> Result<bool, DatapathError> {
        match self.maps.connections.remove(key) {
            Ok(()) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(written(|| "a connection".to_owned())(error)),
        }
    }

    fn now(&self) -> u64 {
        host::monotonic_ns()
    }

    fn log_events(&mut self) {
        self.events.flush();
    }
}

fn added(cpus: &[Counters]) -> Counters {
    let mut sum = Counters::default();
    cpus.iter().for_each(|cpu| sum.add(cpu));
    sum
}

fn walk(
    maps: &Maps,
    from: Option<Cursor>,
    into: &mut Vec<(FlowKey, FlowEntry)>,
) -> Result<Option<Cursor>, DatapathError> {
    let map = maps.connections.map().fd().as_fd();
    let next = syscall::lookup_batch(map, from.map(|cursor| cursor.0 as u32), into);
    next.map(|next| next.map(|bucket| Cursor(bucket.into())))
        .map_err(|error| DatapathError::Read {
            what: "the connection table".to_owned(),
            why: error.to_string(),
        })
}

fn zero<T: aya::Pod + Default>(
    map: &mut aya::maps::PerCpuArray<MapData, T>,
    index: u32,
) -> Result<(), MapError> {
    let cpus = map.get(&index, 0)?.len();
    let zeros = PerCpuValues::try_from(vec![T::default(); cpus])?;
    map.set(index, zeros, 0)
}

fn sum(values: &[Traffic]) -> Traffic {
    values.iter().fold(Traffic::default(), |sum, cpu| Traffic {
        packets_in: sum.packets_in + cpu.packets_in,
        bytes_in: sum.bytes_in + cpu.bytes_in,
        packets_out: sum.packets_out + cpu.packets_out,
        bytes_out: sum.bytes_out + cpu.bytes_out,
        connections: sum.connections + cpu.connections,
        dropped: sum.dropped + cpu.dropped,
    })
}

/// Connections that are left of those that have begun.
fn still(begun: u64, expired: u64) -> u64 {
    u64::try_from(begun.wrapping_sub(expired).cast_signed()).unwrap_or(0)
}

fn is_absent(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}

fn read(what: impl Fn() -> String) -> impl Fn(MapError) -> DatapathError {
    move |error| DatapathError::Read {
        what: what(),
        why: chain(&error),
    }
}

fn written(what: impl Fn() -> String) -> impl Fn(MapError) -> DatapathError {
    move |error| DatapathError::Write {
        what: what(),
        why: chain(&error),
    }
}

/// Lets go of the maps of `object` that nobody has taken. Programs hold those that they use; the others,
/// of programs that were not loaded, are gone.
fn forget_maps(object: &mut Ebpf) {
    let names: Vec<String> = object.maps().map(|(name, _)| name.to_owned()).collect();
    for name in names {
        drop(object.take_map(&name));
    }
}

/// An error and its causes in one line; aya's own messages often leave the cause to the source.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// A map of an object that was loaded.
fn take<T: TryFrom<aya::maps::Map, Error = MapError>>(
    object: &mut Ebpf,
    name: &'static str,
) -> Result<T, L4Error> {
    let map = object.take_map(name).ok_or_else(|| L4Error::Mismatch {
        map: name,
        expected: "there".to_owned(),
        found: "none".to_owned(),
    })?;
    T::try_from(map).map_err(|error| L4Error::Load { why: chain(&error) })
}
