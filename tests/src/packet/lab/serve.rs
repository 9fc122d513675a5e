//! What both halves are told.

use std::sync::Arc;

use anyhow::Result;
use lb_common::{
    Acl, Address, Affinity, Arrivals, CookieKeys, FAR_WORDS, FOLLOW_ALL_VIPS, Follower,
    InstanceEntry, NEAR_WORDS, PathMtu, PortRanges, PrefixKey, SLOTS, Settings, Slot, Subinterface,
    Table, Vip, VipKey,
};
use lb_ebpf::{Tables, cookie::SLOT_BITS};
use rustix::time::{ClockId, clock_gettime};

use super::Lab;
use crate::packet::network::{self, BACK, FRONT};

impl Lab {
    /// The settings that hold.
    #[must_use]
    pub const fn settings(&self) -> Settings {
        self.settings
    }

    /// Writes the settings.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_settings(&mut self, settings: Settings) -> Result<()> {
        self.settings = settings;
        self.memory.set_settings(settings);
        self.kernel.set_settings(&settings)?;
        self.filter.add_reply(&settings.nat_source_v4);
        self.filter.add_reply(&settings.nat_source_v6);
        let (first, last) = (
            &mut self.filter.nat_port_first,
            &mut self.filter.nat_port_last,
        );
        *last = (*last).max(settings.nat_port_last);
        *first = match *first {
            0 => settings.nat_port_first,
            before => before.min(settings.nat_port_first),
        };
        self.put_filter()
    }

    fn put_filter(&mut self) -> Result<()> {
        self.memory.set_address_filter(&self.filter);
        self.kernel.set_address_filter(&self.filter)
    }

    /// Serves a VIP by a table with these instances in turn in its slots.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn serve(&mut self, key: VipKey, vip: Vip, instances: &[u16]) -> Result<()> {
        let slots = std::array::from_fn(|slot| {
            if instances.is_empty() {
                0
            } else {
                instances[slot % instances.len()]
            }
        });
        self.serve_table(key, vip, Table::settled(slots))
    }

    /// Serves a VIP by a table whose slots are all alike.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn serve_owned(&mut self, key: VipKey, vip: Vip, slot: Slot, owner: u16) -> Result<()> {
        let (slots, owners) = ([slot.0; SLOTS], [owner; SLOTS]);
        self.serve_table(key, vip, Table { slots, owners })
    }

    /// Serves a VIP by a table.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn serve_table(&mut self, key: VipKey, vip: Vip, table: Table) -> Result<()> {
        let table = Arc::new(table);
        self.kernel.set_table(vip.table, &table)?;
        self.memory.set_table(vip.table, table);
        self.change_vip(key, vip)?;
        self.note_address(&key.address)
    }

    /// Changes a VIP, or adds one whose table is there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn change_vip(&mut self, key: VipKey, vip: Vip) -> Result<()> {
        self.kernel.set_vip(&key, &vip)?;
        self.memory.set_vip(key, vip);
        Ok(())
    }

    /// Makes the second interface a VLAN of [`FRONT`] with these tags, as far as the program knows.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn make_vlan(&mut self, outer: u32, inner: u32) -> Result<()> {
        let of = Subinterface {
            parent: FRONT,
            outer,
            inner,
        };
        network::tell_vlan(&self.memory, &of);
        self.kernel.set_subinterface(BACK, &of)
    }

    /// Removes a VIP.
    ///
    /// # Errors
    /// When it is not there.
    pub fn withdraw(&mut self, key: &VipKey) -> Result<()> {
        self.memory.remove_vip(key);
        self.kernel.remove_vip(key)?;
        self.note_address(&key.address)
    }

    /// Says whether an address is that of VIPs, and of which ports.
    fn note_address(&mut self, address: &Address) -> Result<()> {
        let mut keys: Vec<VipKey> = self.memory.vips().into_iter().map(|(key, _)| key).collect();
        // Of ranges of one width the order counts.
        keys.sort();
        let has_ranges = keys.iter().any(|key| key.range().is_some());
        keys.retain(|key| key.address == *address);
        if keys.is_empty() {
            self.memory.remove_vip_address(address);
            self.kernel.remove_vip_address(address)?;
        } else {
            let ranges = PortRanges::new(keys.iter().filter_map(VipKey::range));
            self.memory.set_vip_address(*address, ranges);
            self.kernel.set_vip_address(*address, &ranges)?;
            self.filter.add_destination(address);
        }
        self.set_settings(Settings {
            has_ranges: u8::from(has_ranges),
            ..self.settings
        })
    }

    /// Sets how fast new connections of a VIP may begin.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_arrivals(&mut self, vip: u32, limit: Arrivals) -> Result<()> {
        self.memory.set_arrivals(vip, Some(limit));
        self.kernel.set_arrivals(vip, &limit)
    }

    /// Sets how the clients of a VIP stay.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_affinity(&mut self, vip: u32, affinity: Affinity) -> Result<()> {
        self.memory.set_affinity(vip, affinity);
        self.kernel.set_affinity(vip, &affinity)
    }

    /// Sets the service of an instance whose clients stay.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_service_of(&mut self, index: u16, service: u64) -> Result<()> {
        self.memory.set_service_of(index, service);
        self.kernel.set_service_of(index, service)
    }

    /// Sets the keys of SYN cookies, and makes it the middle of the slot of time with this number, in either
    /// half by its own clock. So neither that nor which tick of its clock the program has seen makes a
    /// difference.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_cookie_keys(&mut self, keys: CookieKeys, slot: u64) -> Result<()> {
        let age = (2 * slot + 1) << (SLOT_BITS - 1);
        let begun = |now: u64| CookieKeys {
            origin: now.wrapping_sub(age),
            ..keys
        };
        self.memory.set_cookie_keys(begun(self.memory.now()));
        let now = clock_gettime(ClockId::MonotonicCoarse);
        let now = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        self.kernel.set_cookie_keys(&begun(now))
    }

    /// Sets how many live connections an instance may have.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_ceiling(&mut self, index: u16, most: u64) -> Result<()> {
        self.memory.set_ceiling(index, Some(most));
        self.kernel.set_ceiling(index, most)
    }

    /// Makes these the rules of the source ACL: the first address of a prefix, its length of 128 bits,
    /// and one of `PREFIX_*`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_rules(&mut self, rules: &[(Address, u32, u32)]) -> Result<()> {
        for key in self.memory.prefixes().keys() {
            self.memory.set_prefix(*key, None);
            self.kernel.set_prefix(key, None)?;
        }
        let mut acl = Box::new(Acl {
            epoch: self.memory.acl().map_or(0, |acl| acl.epoch) + 1,
            flags: 0,
            near: [0; NEAR_WORDS],
            far: [0; FAR_WORDS],
        });
        for (address, length, rule) in rules {
            let key = PrefixKey::new(address, *length);
            self.memory.set_prefix(key, Some(*rule));
            self.kernel.set_prefix(&key, Some(*rule))?;
            acl.note(address, *length);
        }
        self.kernel.set_acl(&acl)?;
        self.memory.set_acl(acl);
        Ok(())
    }

    /// Follows all packets from now on: what became of each has to be told as it is, where it is told.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn follow_all(&mut self) -> Result<()> {
        let everybody = Follower {
            counters: u64::MAX,
            flags: FOLLOW_ALL_VIPS,
            ..Follower::default()
        };
        self.kernel.set_follower(3, &everybody)?;
        self.kernel.set_followed(u64::MAX)?;
        self.is_followed = true;
        Ok(())
    }

    /// Writes an instance, which may be behind a tunnel.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_instance(&mut self, index: u16, instance: InstanceEntry) -> Result<()> {
        // As with `dnat`, of which an instance does not know.
        self.filter.add_source(&instance.address);
        self.put_filter()?;
        if self.paths.insert(instance.address) {
            let unknown = PathMtu::default();
            self.memory.set_path_mtu(&instance.address, Some(unknown));
            self.kernel.set_path(&instance.address)?;
        }
        self.memory.set_instance(index, instance);
        self.kernel.set_instance(index, &instance)
    }
}
