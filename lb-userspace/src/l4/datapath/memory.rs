//! The packet library over maps in memory: a packet path without rights, for tests.
//!
//! The maps are shared between clones of a [`Memory`] and outlive each of them, as pinned maps
//! outlive the daemon. [`Memory::send`] is what a network card is to the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lb_common::{
    Acl, Address, AddressFilter, Affinity, Arrivals, ClientKey, ClientPin, CookieKeys, Counters,
    FlowEntry, FlowKey, InstanceEntry, MAX_INSTANCES, PathMtu, PortRanges, PrefixKey, SLOTS,
    Settings, Subinterface, Table, Traffic, Vip, VipKey,
};
use lb_ebpf::{
    Route, Scratch, Tables as _, Verdict,
    memory::{CLIENTS, Frame, MemoryTables},
    process,
};

use super::{Adopted, AttachMode, Attachment, Cursor, Datapath, DatapathError, Limits};

/// Entries of the connection table: so many that tests may begin thousands of connections by a SYN
/// alone.
const CONNECTIONS: u32 = 65_536;
/// Interface that packets come in by.
const INTERFACE: u32 = 1;

/// A datapath over maps in memory.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    kernel: Arc<MemoryTables>,
    tables: Arc<Mutex<Vec<Arc<Table>>>>,
    /// Indices of tables that there is memory for.
    room: Arc<Mutex<BTreeSet<u32>>>,
    calls: Arc<Mutex<Calls>>,
}

/// What tests learn of calls, and do to them.
#[derive(Debug, Default)]
struct Calls {
    /// How many writes succeed before the next one fails, once.
    fail_after: Option<u32>,
    /// How the writes end that fail.
    refused: Option<&'static str>,
    log: Vec<String>,
    /// How many tables were written that no room had been made for.
    unprepared: u32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    /// Empty maps with room for `tables` tables, and a network in which every neighbour is known.
    pub(crate) fn new(tables: u32) -> Self {
        let kernel = MemoryTables::new(CONNECTIONS as usize, 7);
        kernel.set_default_route(Route::Found(lb_common::NextHop {
            interface: INTERFACE,
            macs: [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1],
            ..lb_common::NextHop::default()
        }));
        let empty = Arc::new(Table::settled([0; SLOTS]));
        kernel.set_table(0, Arc::clone(&empty));
        Self {
            kernel: Arc::new(kernel),
            tables: Arc::new(Mutex::new(vec![empty; tables as usize])),
            room: Arc::default(),
            calls: Arc::default(),
        }
    }

    /// Puts a packet through the program.
    pub(crate) fn send(&self, packet: &mut Vec<u8>) -> Verdict {
        process(
            &mut Frame(packet),
            &*self.kernel,
            &mut Scratch::default(),
            INTERFACE,
        )
    }

    /// The maps.
    pub(crate) fn kernel(&self) -> &MemoryTables {
        &self.kernel
    }

    /// Makes the write after the next `writes` fail.
    pub(crate) fn fail_after(&self, writes: Option<u32>) {
        lock(&self.calls).fail_after = writes;
    }

    /// Makes all writes fail whose name in the log ends so, until it is told otherwise.
    pub(crate) fn refuse(&self, what: Option<&'static str>) {
        lock(&self.calls).refused = what;
    }

    /// What has been written since the last call.
    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.calls).log)
    }

    /// The table at `index`.
    pub(crate) fn table(&self, index: u32) -> Arc<Table> {
        Arc::clone(&lock(&self.tables)[index as usize])
    }

    /// How many tables there is memory for.
    pub(crate) fn room(&self) -> usize {
        lock(&self.room).len()
    }

    /// How many tables were written that no room had been made for.
    pub(crate) fn unprepared(&self) -> u32 {
        lock(&self.calls).unprepared
    }

    /// The VIPs.
    pub(crate) fn vips(&self) -> BTreeMap<VipKey, Vip> {
        self.kernel.vips().into_iter().collect()
    }

    /// The instances that were ever written.
    pub(crate) fn instances(&self) -> BTreeMap<u16, InstanceEntry> {
        (1..MAX_INSTANCES as u16)
            .filter_map(|index| Some((index, self.kernel.instance(index)?)))
            .filter(|(_, entry)| *entry != InstanceEntry::default())
            .collect()
    }

    fn write(&self, what: String) -> Result<(), DatapathError> {
        let mut calls = lock(&self.calls);
        if calls.refused.is_some_and(|refused| what.ends_with(refused)) {
            let why = "injected".to_owned();
            return Err(DatapathError::Write { what, why });
        }
        match &mut calls.fail_after {
            Some(0) => {
                calls.fail_after = None;
                let why = "injected".to_owned();
                return Err(DatapathError::Write { what, why });
            }
            Some(left) => *left -= 1,
            None => {}
        }
        calls.log.push(what);
        Ok(())
    }
}

impl Datapath for Memory {
    fn attachments(&self) -> Vec<Attachment> {
        vec![Attachment {
            interface: "eth0".to_owned(),
            mode: AttachMode::Native,
        }]
    }

    fn limits(&self) -> Limits {
        Limits {
            tables: lock(&self.tables).len() as u32,
            connections: CONNECTIONS,
            clients: CLIENTS as u32,
        }
    }

    fn adopted(&self) -> Result<Adopted, DatapathError> {
        Ok(Adopted {
            settings: self.kernel.settings(),
            instances: self.instances().into_iter().collect(),
            vips: self.kernel.vips(),
        })
    }

    fn activate(&mut self) -> Result<(), DatapathError> {
        self.write("activate".to_owned())
    }

    fn put_settings(&mut self, settings: &Settings) -> Result<(), DatapathError> {
        self.write("settings".to_owned())?;
        self.kernel.set_settings(*settings);
        Ok(())
    }

    fn put_instance(&mut self, index: u16, entry: &InstanceEntry) -> Result<(), DatapathError> {
        self.write(format!("instance {index} state {}", entry.state))?;
        self.kernel.set_instance(index, *entry);
        Ok(())
    }

    fn reset_instance(&mut self, index: u16) -> Result<(), DatapathError> {
        self.write(format!("reset instance {index}"))?;
        self.kernel
            .instance_traffic(index, |t| *t = Traffic::default());
        self.kernel.reset_live(index);
        Ok(())
    }

    fn read_table(&self, index: u32) -> Result<Box<Table>, DatapathError> {
        Ok(Box::new(*self.table(index)))
    }

    fn write_table(&mut self, index: u32, table: &Table) -> Result<(), DatapathError> {
        self.write(format!("table {index}"))?;
        let vips = self.kernel.vips();
        assert!(
            vips.iter().all(|(_, vip)| vip.table != index),
            "table {index} was written while a VIP pointed to it"
        );
        assert_ne!(index, 0, "the empty table was written");
        if lock(&self.room).insert(index) {
            lock(&self.calls).unprepared += 1;
        }
        let table = Arc::new(*table);
        lock(&self.tables)[index as usize] = Arc::clone(&table);
        self.kernel.set_table(index, table);
        Ok(())
    }

    fn make_room(&mut self, tables: &BTreeSet<u32>) -> Result<(), DatapathError> {
        lock(&self.room).extend(tables);
        Ok(())
    }

    fn give_room_back(&mut self, tables: &BTreeSet<u32>) -> Result<bool, DatapathError> {
        let mut room = lock(&self.room);
        let unused = room.iter().rev().find(|at| !tables.contains(at)).copied();
        let Some(index) = unused else {
            return Ok(false);
        };
        let vips = self.kernel.vips();
        assert!(
            vips.iter().all(|(_, vip)| vip.table != index),
            "table {index} was given back while a VIP pointed to it"
        );
        Ok(room.remove(&index))
    }

    fn put_vip(&mut self, key: &VipKey, vip: &Vip) -> Result<(), DatapathError> {
        self.write(format!("vip {}", vip.id))?;
        self.kernel.set_vip(*key, *vip);
        Ok(())
    }

    fn remove_vip(&mut self, key: &VipKey) -> Result<(), DatapathError> {
        self.write("remove vip".to_owned())?;
        self.kernel.remove_vip(key);
        Ok(())
    }

    fn put_vip_address(
        &mut self,
        address: &Address,
        ranges: &PortRanges,
    ) -> Result<(), DatapathError> {
        self.write("vip address".to_owned())?;
        self.kernel.set_vip_address(*address, *ranges);
        Ok(())
    }

    fn remove_vip_address(&mut self, address: &Address) -> Result<(), DatapathError> {
        self.write("remove vip address".to_owned())?;
        self.kernel.remove_vip_address(address);
        Ok(())
    }

    fn put_subinterface(&mut self, index: u32, of: &Subinterface) -> Result<(), DatapathError> {
        self.write(format!("tag {:08x} of {} is {index}", of.outer, of.parent))?;
        self.kernel.set_subinterface(index, Some(*of));
        Ok(())
    }

    fn remove_subinterface(&mut self, index: u32) -> Result<(), DatapathError> {
        self.write(format!("{index} is no vlan"))?;
        self.kernel.set_subinterface(index, None);
        Ok(())
    }

    fn path_mtus(&self) -> Result<Vec<(Address, PathMtu)>, DatapathError> {
        Ok(self.kernel.path_mtus())
    }

    fn put_path(&mut self, instance: &Address) -> Result<(), DatapathError> {
        self.write("path".to_owned())?;
        let unknown = PathMtu::default();
        self.kernel.set_path_mtu(instance, Some(unknown));
        Ok(())
    }

    fn remove_path(&mut self, instance: &Address) -> Result<(), DatapathError> {
        self.write("remove path".to_owned())?;
        self.kernel.set_path_mtu(instance, None);
        Ok(())
    }

    fn reset_vip(&mut self, id: u32) -> Result<(), DatapathError> {
        self.write(format!("reset vip {id}"))?;
        self.kernel.reset_vip(id);
        Ok(())
    }

    fn counters(&self) -> Result<Counters, DatapathError> {
        Ok(self.kernel.counters())
    }

    fn vip_traffic(&self, id: u32) -> Result<Traffic, DatapathError> {
        Ok(self.kernel.traffic_of_vip(id))
    }

    fn vip_drops(&self, id: u32) -> Result<Counters, DatapathError> {
        Ok(self.kernel.drops_of_vip(id))
    }

    fn instance_traffic(&self, index: u16) -> Result<Traffic, DatapathError> {
        Ok(self.kernel.traffic_of_instance(index))
    }

    fn live(&self, index: u16) -> Result<u64, DatapathError> {
        Ok(self.kernel.live(index))
    }

    fn adjust_live(&mut self, index: u16, by: i64) -> Result<(), DatapathError> {
        self.write(format!("live {index}"))?;
        for _ in 0..by.unsigned_abs() {
            if by < 0 {
                self.kernel.expire(index);
            } else {
                self.kernel.live_begin(index);
            }
        }
        Ok(())
    }

    fn put_ceiling(&mut self, index: u16, most: Option<u64>) -> Result<(), DatapathError> {
        self.write(format!("ceiling {index}"))?;
        self.kernel.set_ceiling(index, most);
        Ok(())
    }

    fn put_address_filter(&mut self, filter: &AddressFilter) -> Result<(), DatapathError> {
        self.write("address filter".to_owned())?;
        self.kernel.set_address_filter(filter);
        Ok(())
    }

    fn put_prefixes(&mut self, rules: &[(PrefixKey, u32)]) -> Result<(), DatapathError> {
        self.write(format!("{} prefixes", rules.len()))?;
        for (key, rule) in rules {
            self.kernel.set_prefix(*key, Some(*rule));
        }
        Ok(())
    }

    fn remove_prefixes(&mut self, prefixes: &[PrefixKey]) -> Result<(), DatapathError> {
        self.write(format!("remove {} prefixes", prefixes.len()))?;
        for key in prefixes {
            self.kernel.set_prefix(*key, None);
        }
        Ok(())
    }

    fn put_acl(&mut self, acl: &Acl) -> Result<(), DatapathError> {
        self.write("acl".to_owned())?;
        self.kernel.set_acl(Box::new(*acl));
        Ok(())
    }

    fn cookie_keys(&self) -> Result<CookieKeys, DatapathError> {
        Ok(self.kernel.cookie_keys())
    }

    fn put_cookie_keys(&mut self, keys: &CookieKeys) -> Result<(), DatapathError> {
        self.write("cookie keys".to_owned())?;
        self.kernel.set_cookie_keys(*keys);
        Ok(())
    }

    fn put_arrivals(&mut self, vip: u32, limit: &Arrivals) -> Result<(), DatapathError> {
        self.write(format!("arrivals {vip}"))?;
        let limit = Some(*limit).filter(|limit| *limit != Arrivals::default());
        self.kernel.set_arrivals(vip, limit);
        Ok(())
    }

    fn put_affinity(&mut self, vip: u32, affinity: &Affinity) -> Result<(), DatapathError> {
        self.write(format!("affinity {vip}"))?;
        self.kernel.set_affinity(vip, *affinity);
        Ok(())
    }

    fn put_service_of(&mut self, index: u16, service: u64) -> Result<(), DatapathError> {
        self.write(format!("service of {index}"))?;
        self.kernel.set_service_of(index, service);
        Ok(())
    }

    fn clients(
        &self,
        _from: Option<Cursor>,
        into: &mut Vec<(ClientKey, ClientPin)>,
    ) -> Result<Option<Cursor>, DatapathError> {
        into.extend(self.kernel.clients());
        Ok(None)
    }

    fn forget_client(&mut self, key: &ClientKey) -> Result<(), DatapathError> {
        self.write("forget client".to_owned())?;
        self.kernel.remove_client(key);
        Ok(())
    }

    fn connections(
        &self,
        from: Option<Cursor>,
        into: &mut Vec<(FlowKey, FlowEntry)>,
    ) -> Result<Option<Cursor>, DatapathError> {
        // A cursor is a bucket, as in the kernel: entries that go do not move those that stay.
        const BUCKETS: u64 = 64;
        let bucket = from.map_or(0, |cursor| cursor.0);
        let flows = self.kernel.flows();
        into.extend(flows.into_iter().filter(|(key, _)| {
            let port =
                u16::from_be_bytes(key.source_port) ^ u16::from_be_bytes(key.destination_port);
            u64::from(port) % BUCKETS == bucket
        }));
        Ok((bucket + 1 < BUCKETS).then_some(Cursor(bucket + 1)))
    }

    fn connection(&self, key: &FlowKey) -> Result<Option<FlowEntry>, DatapathError> {
        use lb_ebpf::Flow as _;
        Ok(self.kernel.flow(key).map(|flow| flow.entry()))
    }

    fn remove_connection(&mut self, key: &FlowKey) -> Result<bool, DatapathError> {
        self.write("remove connection".to_owned())?;
        let was_there = self.kernel.flow(key).is_some();
        self.kernel.remove_flow(key);
        Ok(was_there)
    }

    fn now(&self) -> u64 {
        self.kernel.now()
    }
}
