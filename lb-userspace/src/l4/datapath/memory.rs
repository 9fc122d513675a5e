//! The maps in memory, and the packet library over them: a packet path without rights, for tests.
//!
//! The maps belong to a [`Maps`] that outlives the datapath, as pinned maps outlive the daemon.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lb_common::{
    Counters, FlowEntry, FlowKey, InstanceEntry, Settings, Table, Traffic, Vip, VipKey,
};

use super::{Adopted, AttachMode, Attachment, Cursor, Datapath, DatapathError, Limits};

/// What is "in the kernel".
#[derive(Debug)]
pub(crate) struct Maps {
    pub(crate) settings: Option<Settings>,
    pub(crate) instances: BTreeMap<u16, InstanceEntry>,
    pub(crate) tables: Vec<Box<Table>>,
    pub(crate) vips: BTreeMap<VipKey, Vip>,
    pub(crate) connections: Vec<(FlowKey, FlowEntry)>,
    pub(crate) counters: Counters,
    pub(crate) vip_traffic: BTreeMap<u32, Traffic>,
    pub(crate) instance_traffic: BTreeMap<u16, Traffic>,
    pub(crate) live: BTreeMap<u16, u64>,
    pub(crate) now: u64,
    /// How many writes succeed before the next one fails, once.
    pub(crate) fail_after: Option<u32>,
    /// What has been written, for tests of the order.
    pub(crate) log: Vec<String>,
}

impl Maps {
    /// Adds entries to the connection table.
    pub(crate) fn put_connections(&mut self, entries: &[(FlowKey, FlowEntry)]) {
        self.connections.extend_from_slice(entries);
    }

    /// Entries in the connection table.
    pub(crate) fn connection_count(&self) -> usize {
        self.connections.len()
    }
}

/// A datapath over maps in memory.
#[derive(Clone, Debug)]
pub(crate) struct Memory(Arc<Mutex<Maps>>);

impl Memory {
    /// Empty maps with room for `tables` tables.
    pub(crate) fn new(tables: u32) -> Self {
        let empty = || {
            Box::new(Table {
                slots: [0; lb_common::SLOTS],
            })
        };
        Self(Arc::new(Mutex::new(Maps {
            settings: None,
            instances: BTreeMap::new(),
            tables: (0..tables).map(|_| empty()).collect(),
            vips: BTreeMap::new(),
            connections: Vec::new(),
            counters: Counters::default(),
            vip_traffic: BTreeMap::new(),
            instance_traffic: BTreeMap::new(),
            live: BTreeMap::new(),
            now: 0,
            fail_after: None,
            log: Vec::new(),
        })))
    }

    /// The maps.
    pub(crate) fn maps(&self) -> MutexGuard<'_, Maps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, what: String) -> Result<MutexGuard<'_, Maps>, DatapathError> {
        let mut maps = self.maps();
        match &mut maps.fail_after {
            Some(0) => {
                maps.fail_after = None;
                let why = "injected".to_owned();
                return Err(DatapathError::Write { what, why });
            }
            Some(left) => *left -= 1,
            None => {}
        }
        maps.log.push(what);
        Ok(maps)
    }
}

impl Datapath for Memory {
    fn attachments(&self) -> Vec<Attachment> {
        vec![Attachment {
            interface: "memory".to_owned(),
            mode: AttachMode::Native,
        }]
    }

    fn limits(&self) -> Limits {
        Limits {
            tables: self.maps().tables.len() as u32,
            connections: 1024,
        }
    }

    fn adopted(&self) -> Result<Adopted, DatapathError> {
        let maps = self.maps();
        Ok(Adopted {
            settings: maps.settings,
            instances: maps.instances.iter().map(|(i, e)| (*i, *e)).collect(),
            vips: maps.vips.iter().map(|(k, v)| (*k, *v)).collect(),
        })
    }

    fn activate(&mut self) -> Result<(), DatapathError> {
        self.write("activate".to_owned()).map(drop)
    }

    fn put_settings(&mut self, settings: &Settings) -> Result<(), DatapathError> {
        self.write("settings".to_owned())?.settings = Some(*settings);
        Ok(())
    }

    fn put_instance(&mut self, index: u16, entry: &InstanceEntry) -> Result<(), DatapathError> {
        let mut maps = self.write(format!("instance {index} state {}", entry.state))?;
        maps.instances.insert(index, *entry);
        Ok(())
    }

    fn reset_instance(&mut self, index: u16) -> Result<(), DatapathError> {
        let mut maps = self.write(format!("reset instance {index}"))?;
        maps.instance_traffic.remove(&index);
        maps.live.remove(&index);
        Ok(())
    }

    fn read_table(&self, index: u32) -> Result<Box<Table>, DatapathError> {
        Ok(self.maps().tables[index as usize].clone())
    }

    fn write_table(&mut self, index: u32, table: &Table) -> Result<(), DatapathError> {
        let mut maps = self.write(format!("table {index}"))?;
        assert!(
            !maps.vips.values().any(|vip| vip.table == index),
            "table {index} was written while a VIP pointed to it"
        );
        assert_ne!(index, 0, "the empty table was written");
        *maps.tables[index as usize] = *table;
        Ok(())
    }

    fn put_vip(&mut self, key: &VipKey, vip: &Vip) -> Result<(), DatapathError> {
        let mut maps = self.write(format!("vip {}", vip.id))?;
        maps.vips.insert(*key, *vip);
        Ok(())
    }

    fn remove_vip(&mut self, key: &VipKey) -> Result<(), DatapathError> {
        self.write("remove vip".to_owned())?.vips.remove(key);
        Ok(())
    }

    fn reset_vip(&mut self, id: u32) -> Result<(), DatapathError> {
        self.write(format!("reset vip {id}"))?
            .vip_traffic
            .remove(&id);
        Ok(())
    }

    fn counters(&self) -> Result<Counters, DatapathError> {
        Ok(self.maps().counters)
    }

    fn vip_traffic(&self, id: u32) -> Result<Traffic, DatapathError> {
        Ok(self
            .maps()
            .vip_traffic
            .get(&id)
            .copied()
            .unwrap_or_default())
    }

    fn instance_traffic(&self, index: u16) -> Result<Traffic, DatapathError> {
        Ok(self
            .maps()
            .instance_traffic
            .get(&index)
            .copied()
            .unwrap_or_default())
    }

    fn live(&self, index: u16) -> Result<u64, DatapathError> {
        Ok(self.maps().live.get(&index).copied().unwrap_or(0))
    }

    fn adjust_live(&mut self, index: u16, by: i64) -> Result<(), DatapathError> {
        let mut maps = self.write(format!("live {index}"))?;
        let live = maps.live.entry(index).or_default();
        *live = live.saturating_add_signed(by);
        Ok(())
    }

    fn connections(
        &self,
        from: Option<Cursor>,
        into: &mut Vec<(FlowKey, FlowEntry)>,
    ) -> Result<Option<Cursor>, DatapathError> {
        // Walks backwards, so that removals behind the walk move nothing that lies before it.
        let maps = self.maps();
        let end = from.map_or(maps.connections.len(), |c| c.0 as usize);
        let begin = end.saturating_sub(4);
        into.extend_from_slice(&maps.connections[begin..end.min(maps.connections.len())]);
        Ok((begin > 0).then_some(Cursor(begin as u64)))
    }

    fn connection(&self, key: &FlowKey) -> Result<Option<FlowEntry>, DatapathError> {
        let maps = self.maps();
        let found = maps.connections.iter().find(|(found, _)| found == key);
        Ok(found.map(|(_, entry)| *entry))
    }

    fn remove_connection(&mut self, key: &FlowKey) -> Result<bool, DatapathError> {
        let mut maps = self.write("remove connection".to_owned())?;
        let before = maps.connections.len();
        maps.connections.retain(|(found, _)| found != key);
        Ok(maps.connections.len() < before)
    }

    fn now(&self) -> u64 {
        self.maps().now
    }
}
