//! A balancer that exists twice: in the kernel, and in the pure library over hash maps.
//!
//! Both get the same maps and the same packets and must do the same: verdict, bytes, every counter,
//! live connections. The kernel's half is in a namespace with the routes of [`super::network`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aya::programs::xdp::XdpMode;
use lb_common::{
    Acl, Address, AddressFilter, Affinity, Arrivals, ClientKey, ClientPin, CookieKeys, Counter,
    Counters, EVENT_BYTES, FAR_WORDS, FOLLOW_ALL_VIPS, FORWARD_NAT, Follower, INSTANCE_ACTIVE,
    InstanceEntry, NEAR_WORDS, PROTOCOL_TCP, PROTOCOL_UDP, PortRanges, PrefixKey, SELECT_HASH,
    SLOTS, Settings, Slot, Subinterface, Table, Vip, VipKey, from_v4, names,
};
use lb_ebpf::memory::{Frame, MemoryTables};
use lb_ebpf::{Scratch, Tables, Verdict, cookie::SLOT_BITS, process};
use rustix::time::{ClockId, clock_gettime};

use super::hook::Hook;
use super::kernel::{Kernel, Sizes, pin};
use super::network::{self, BACK, FRONT, NAT_V4, NAT_V6};
use crate::artifact;

/// What both halves have done with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its fate.
    pub verdict: Verdict,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

/// Both halves.
#[derive(Debug)]
pub struct Lab {
    kernel: Kernel,
    memory: MemoryTables,
    settings: Settings,
    /// Of everything that was ever written; addresses are never taken out.
    filter: AddressFilter,
    /// Whether somebody follows packets.
    is_followed: bool,
}

/// Why the tests here cannot run, if they cannot.
#[must_use]
pub fn missing() -> Option<&'static str> {
    if !nix::unistd::Uid::effective().is_root() {
        Some("needs root")
    } else if !artifact::object_path().is_ok_and(|path| path.is_file()) {
        Some("needs the XDP object; run `cargo xtask build`")
    } else {
        None
    }
}

/// Runs `test` with the programs of each hook, in a namespace made for it, or says why it cannot.
///
/// # Errors
/// Whatever `test` finds wrong.
pub fn run(sizes: Sizes, test: impl Fn(&mut Lab) -> Result<()> + Send + Sync) -> Result<()> {
    at_each_hook(|hook| test(&mut Lab::new(hook, sizes)?))
}

/// Does `work`, which makes labs one after the other, for each hook.
///
/// # Errors
/// Whatever `work` finds wrong.
pub fn at_each_hook(work: impl Fn(Hook) -> Result<()> + Send + Sync) -> Result<()> {
    Hook::each(|hook| in_network(|| work(hook)))
}

/// Does `work`, which makes labs one after the other, in a namespace made for it, or says why it cannot.
///
/// # Errors
/// Whatever `work` finds wrong.
#[expect(clippy::print_stderr, reason = "says why a test was skipped")]
pub fn in_network(work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    if let Some(reason) = missing() {
        eprintln!("skipped: {reason}");
        return Ok(());
    }
    network::make()?.enter(|| {
        pin(0)?;
        work()
    })?
}

/// An address as the maps have it.
///
/// # Panics
/// When the text is none.
#[must_use]
#[expect(clippy::expect_used, reason = "addresses are written in the tests")]
pub fn address(text: &str) -> Address {
    from_ip(text.parse().expect("an address"))
}

fn from_ip(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => from_v4(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// An address with a port.
///
/// # Panics
/// When the text is none.
#[must_use]
#[expect(clippy::expect_used, reason = "addresses are written in the tests")]
pub fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address with a port")
}

impl Lab {
    /// Loads the programs of a hook, in a namespace of [`in_network`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(hook: Hook, sizes: Sizes) -> Result<Self> {
        Self::of(Kernel::load(hook, sizes)?, sizes)
    }

    /// As [`Self::new`], with a connection table that has memory for all of its elements.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn preallocated(hook: Hook, sizes: Sizes) -> Result<Self> {
        Self::of(Kernel::load_preallocated(hook, sizes)?, sizes)
    }

    /// As [`Self::new`], after a program whose connection table is pinned at `former` and has its fields at
    /// these places. Of that the library's half knows nothing: see [`Self::kernel`].
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn after(hook: Hook, sizes: Sizes, former: &Path, places: &[u8]) -> Result<Self> {
        Self::of(Kernel::load_after(hook, sizes, former, places)?, sizes)
    }

    fn of(mut kernel: Kernel, sizes: Sizes) -> Result<Self> {
        // A receive queue exists for XDP only where a program is attached.
        let attached = match kernel.hook() {
            Hook::Xdp => &[FRONT, BACK][..],
            Hook::Tc => &[],
        };
        for interface in attached.iter().copied() {
            kernel
                .program(names::PROGRAM_PASS)?
                .attach(network::name(interface), XdpMode::Driver)
                .with_context(|| format!("cannot attach to {}", network::name(interface)))?;
        }
        // The lab stays on one processor, and that one's share is what both halves have.
        let memory = MemoryTables::new(sizes.connections as usize, 1)
            .with_opening_places(sizes.opening_places());
        network::tell(&memory);
        let mut lab = Self {
            kernel,
            memory,
            settings: Settings::default(),
            filter: AddressFilter {
                is_on: 1,
                ..AddressFilter::default()
            },
            is_followed: false,
        };
        lab.set_settings(Settings {
            nat_source_v4: address(NAT_V4),
            nat_source_v6: address(NAT_V6),
            nat_port_first: 40_000,
            nat_port_last: 40_000,
            next_hop_ttl_ms: 60_000,
            gue_port: 6080_u16.to_be_bytes(),
            ..Settings::default()
        })?;
        Ok(lab)
    }

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

    /// Makes the second interface a VLAN of [`FRONT`], as far as the program knows.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn make_vlan(&mut self, vlan: u16) -> Result<()> {
        let of = Subinterface {
            parent: FRONT,
            vlan,
            ..Subinterface::default()
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

    /// Compares which clients are remembered, and where; returns how many.
    ///
    /// # Errors
    /// When the halves differ.
    pub fn compare_clients(&mut self) -> Result<usize> {
        let of = |clients: Vec<(ClientKey, ClientPin)>| -> BTreeMap<(Address, u64), (u16, u16)> {
            let place = |(key, pin): (ClientKey, ClientPin)| {
                ((key.client, key.service), (pin.instance, pin.generation))
            };
            clients.into_iter().map(place).collect()
        };
        let (kernel, library) = (of(self.kernel.clients()?), of(self.memory.clients()));
        ensure!(
            kernel == library,
            "expected the clients {library:?}, found {kernel:?}"
        );
        Ok(kernel.len())
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

    /// Holds what was recorded of a packet, if there was room for it, against what became of it.
    fn compare_event(&mut self, sent: &[u8], seen: &Seen, interface: u32) -> Result<()> {
        let Some(event) = self.kernel.event() else {
            return Ok(());
        };
        let bytes = seen.frame.get(..EVENT_BYTES).unwrap_or(&seen.frame);
        let out = match seen.verdict {
            Verdict::Pass(_) | Verdict::Drop(_) => 0,
            Verdict::Transmit | Verdict::Answer(_) => interface,
            Verdict::Redirect(out) => out,
        };
        ensure!(
            event.counter == seen.verdict.counter() as u32
                && (event.interface, event.out) == (interface, out)
                && (event.length as usize, event.packet()) == (seen.frame.len(), bytes)
                && event.followers == 1 << 3,
            "expected an event of {:?} for {sent:02x?}, found {event:?}",
            seen.verdict
        );
        ensure!(self.kernel.event().is_none(), "a packet has two events");
        Ok(())
    }

    /// Writes an instance.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_instance(&mut self, index: u16, instance: InstanceEntry) -> Result<()> {
        // As with `dnat`, of which an instance does not know.
        self.filter.add_source(&instance.address);
        self.put_filter()?;
        self.memory.set_instance(index, instance);
        self.kernel.set_instance(index, &instance)
    }

    /// Sends a frame in by [`FRONT`].
    ///
    /// # Errors
    /// When the halves differ in anything, or the counters do not add up.
    pub fn send(&mut self, frame: &[u8]) -> Result<Seen> {
        self.send_by(frame, FRONT)
    }

    /// Sends a frame in by an interface.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_by(&mut self, frame: &[u8], interface: u32) -> Result<Seen> {
        let seen = self.forward(frame, interface)?;
        self.compare_counters()?;
        Ok(seen)
    }

    /// Sends a frame in by an interface, and leaves it to [`Self::compare_counters`] to look at what was
    /// counted.
    ///
    /// # Errors
    /// When the halves differ in the verdict or the bytes.
    pub fn forward(&mut self, frame: &[u8], interface: u32) -> Result<Seen> {
        let outcome = self.kernel.run(frame, interface)?;
        let mut copy = frame.to_vec();
        let verdict = process(
            &mut Frame(&mut copy),
            &self.memory,
            &mut Scratch::default(),
            interface,
        );
        let hook = self.kernel.hook();
        ensure!(
            outcome.action == hook.action(verdict),
            "expected the kernel to do as the library ({verdict:?}), found action {}, counters \
             {:?}",
            outcome.action,
            nonzero(&self.kernel.counters()?)
        );
        ensure!(
            hook.is_same(&outcome.frame, &copy),
            "expected the kernel's frame to be the library's\n {copy:02x?}, found\n {:02x?}",
            outcome.frame
        );
        let seen = Seen {
            verdict,
            frame: copy,
        };
        if self.is_followed {
            self.compare_event(frame, &seen, interface)?;
        }
        Ok(seen)
    }

    /// Compares what was counted.
    ///
    /// # Errors
    /// When the halves differ, or the counters do not add up.
    pub fn compare_counters(&self) -> Result<()> {
        let (mut counters, modelled) = (self.kernel.counters()?, self.memory.counters());
        // The library records nothing.
        for counter in [Counter::FlowsRecorded, Counter::FlowsLost] {
            counters.values[counter as usize] = 0;
        }
        ensure!(
            counters == modelled,
            "expected the library's counters {:?}, found {:?}",
            nonzero(&modelled),
            nonzero(&counters)
        );
        ensure!(counters.adds_up(), "counters do not add up: {counters:?}");
        Ok(())
    }

    /// Tells the library's half the kernel's route to the sender of a frame.
    pub fn know_way_back(&self, sender: IpAddr) {
        let address = from_ip(sender);
        if let Some(route) = network::way_to(sender) {
            self.memory.set_route(address, route);
        }
    }

    /// The counters, which are the same in both halves.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.memory.counters()
    }

    /// Live connections of an instance.
    ///
    /// # Errors
    /// When the halves differ.
    pub fn live(&mut self, index: u16) -> Result<u64> {
        let (kernel, memory) = (self.kernel.live(index)?, self.memory.live(index));
        ensure!(
            kernel == memory,
            "expected {memory} live connections of {index} as in the library, found {kernel}"
        );
        Ok(kernel)
    }

    /// Entries in the connection table.
    ///
    /// # Errors
    /// When the halves differ.
    pub fn flows(&mut self) -> Result<usize> {
        let (mut kernel, mut memory) = (self.kernel.flows()?, self.memory.flows());
        for flows in [&mut kernel, &mut memory] {
            flows.iter_mut().for_each(|(_, entry)| entry.last_seen = 0);
            flows.sort_by_key(|(key, _)| {
                (
                    key.source,
                    key.destination,
                    key.source_port,
                    key.destination_port,
                    key.protocol,
                )
            });
        }
        ensure!(
            kernel == memory,
            "expected the library's connections {memory:?}, found {kernel:?}"
        );
        Ok(kernel.len())
    }

    /// The traffic of a VIP and of an instance, checked against the library's.
    ///
    /// # Errors
    /// When the halves differ.
    pub fn check_traffic(&self, vip: u32, index: u16) -> Result<()> {
        let kernel = self.kernel.traffic(names::MAP_VIP_TRAFFIC, vip)?;
        let memory = self.memory.traffic_of_vip(vip);
        ensure!(kernel == memory, "VIP {vip}: {memory:?} is not {kernel:?}");
        let (drops, reasons) = (self.kernel.drops(vip)?, self.memory.drops_of_vip(vip));
        ensure!(drops == reasons, "VIP {vip}: {reasons:?} is not {drops:?}");
        let sum: u64 = drops.values.iter().sum();
        ensure!(
            sum == kernel.dropped,
            "VIP {vip} has dropped {}, for reasons {sum}",
            kernel.dropped
        );
        let kernel = self
            .kernel
            .traffic(names::MAP_INSTANCE_TRAFFIC, u32::from(index))?;
        let memory = self.memory.traffic_of_instance(index);
        ensure!(
            kernel == memory,
            "instance {index}: {memory:?} is not {kernel:?}"
        );
        Ok(())
    }

    /// The program, for what concerns it alone.
    pub const fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// The library's half, for what concerns it alone.
    #[must_use]
    pub const fn memory(&self) -> &MemoryTables {
        &self.memory
    }
}

fn nonzero(counters: &Counters) -> Vec<(&'static str, u64)> {
    Counter::ALL
        .iter()
        .map(|counter| (counter.label(), counters.get(*counter)))
        .filter(|(_, value)| *value != 0)
        .collect()
}

/// A VIP's key from `address:port`.
#[must_use]
pub fn vip_key(vip: &str, port: u16, protocol: u8) -> VipKey {
    assert!(protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP);
    VipKey::new(address(vip), port.to_be_bytes(), protocol)
}

/// A `nat` VIP that selects by hash.
#[must_use]
pub fn vip(id: u32) -> Vip {
    Vip {
        id,
        table: 0,
        generation: 1,
        forward: FORWARD_NAT,
        select: SELECT_HASH,
        ..Vip::default()
    }
}

/// An instance that takes connections.
#[must_use]
pub fn instance(at: &str, port: u16) -> InstanceEntry {
    InstanceEntry {
        address: address(at),
        port: port.to_be_bytes(),
        generation: 1,
        weight: 100,
        state: INSTANCE_ACTIVE,
        ..InstanceEntry::default()
    }
}
