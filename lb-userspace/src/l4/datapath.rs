//! The packet path as the control plane sees it: verbs of the domain, no maps.
//!
//! There are two implementations. [`kernel`] writes the maps of the XDP program and is the only
//! place that names aya. The memory one, for tests, keeps the same maps in memory and runs the same
//! packet library over them, so that a test of the reconciler forwards real packets without rights.
//!
//! Nothing here decides anything. What should be in the maps is worked out by [`super::plan`], and
//! in which order it gets there by [`super::reconcile`].

use std::{collections::BTreeSet, fmt, os::fd::AsFd};

use lb_common::{
    Acl, Address, AddressFilter, Affinity, Arrivals, ClientKey, ClientPin, CookieKeys, Counters,
    FlowEntry, FlowEvent, FlowKey, Follower, InstanceEntry, PathMtu, PortRanges, PrefixKey,
    Settings, Subinterface, Table, Traffic, Vip, VipKey,
};

pub(crate) mod kernel;
#[cfg(test)]
pub(crate) mod memory;

/// A call to the packet path failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatapathError {
    /// A value could not be read.
    #[error("expected to read {what}, but the kernel says: {why}")]
    Read {
        /// Map and key.
        what: String,
        /// The system's words.
        why: String,
    },
    /// A value could not be written or removed.
    #[error("expected to write {what}, but the kernel says: {why}")]
    Write {
        /// Map and key.
        what: String,
        /// The system's words.
        why: String,
    },
    /// A link could not be moved to the new program.
    #[error("expected to attach the new program to {interface}, but the kernel says: {why}")]
    Attach {
        /// The interface.
        interface: String,
        /// The system's words.
        why: String,
    },
}

/// What an earlier daemon has left in the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Adopted {
    /// Settings in force; `None` when none were ever written.
    pub settings: Option<Settings>,
    /// Instances by index, without those that were never used. Entries of state
    /// [`lb_common::INSTANCE_ABSENT`] are the tombstones of removed instances: they keep the
    /// generation, so that the next tenant of the index gets another.
    pub instances: Vec<(u16, InstanceEntry)>,
    /// VIPs.
    pub vips: Vec<(VipKey, Vip)>,
}

/// How large the maps are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Tables; the first is never written and stays empty.
    pub tables: u32,
    /// Entries of the connection table.
    pub connections: u32,
    /// Clients whose instance can be remembered.
    pub clients: u32,
}

/// How the program is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver, before the kernel allocates anything for a packet.
    Native,
    /// In the network stack: works with every driver, at a multiple of the cost.
    Generic,
    /// In traffic control: works with every driver, on socket buffers as the network stack has them.
    Tc,
}

impl AttachMode {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Native, Self::Generic, Self::Tc];

    /// The name in API, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Tc => "tc",
        }
    }

    /// The first version of Linux that attaches so by links, as lb does.
    pub(crate) const fn oldest_kernel(self) -> &'static str {
        match self {
            Self::Native | Self::Generic => "5.9",
            Self::Tc => "6.6",
        }
    }
}

impl fmt::Display for AttachMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An interface that the program is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Name of the interface.
    pub interface: String,
    /// How.
    pub mode: AttachMode,
}

/// A place in a walk over the connection table, meaningful to the datapath that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor(pub u64);

/// The packet path. Calls are short system calls; none waits for traffic.
pub(crate) trait Datapath: fmt::Debug + Send {
    /// The interfaces, and how the program is attached to each.
    fn attachments(&self) -> Vec<Attachment>;

    /// How large the maps are.
    fn limits(&self) -> Limits;

    /// What is in the maps.
    ///
    /// # Errors
    /// When a map cannot be read.
    fn adopted(&self) -> Result<Adopted, DatapathError>;

    /// Makes the program work on these maps. Called once the maps have been filled for the first
    /// time: until then a program of an earlier daemon, if there is one, goes on with its own.
    ///
    /// # Errors
    /// When a link cannot be moved to this program.
    fn activate(&mut self) -> Result<(), DatapathError>;

    /// Writes the settings.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn put_settings(&mut self, settings: &Settings) -> Result<(), DatapathError>;

    /// Writes the entry of an instance. `index` is below [`lb_common::MAX_INSTANCES`].
    ///
    /// # Errors
    /// When the map cannot be written.
    fn put_instance(&mut self, index: u16, entry: &InstanceEntry) -> Result<(), DatapathError>;

    /// Sets traffic and live connections of an instance index to zero, for its next tenant.
    ///
    /// # Errors
    /// When a map cannot be written.
    fn reset_instance(&mut self, index: u16) -> Result<(), DatapathError>;

    /// Reads a table.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn read_table(&self, index: u32) -> Result<Box<Table>, DatapathError>;

    /// Writes a table that no VIP uses.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn write_table(&mut self, index: u32, table: &Table) -> Result<(), DatapathError>;

    /// Sees to it that there is memory for tables at these indices, so that writing one is quick.
    ///
    /// # Errors
    /// When there is none; some of them may have it.
    fn make_room(&mut self, tables: &BTreeSet<u32>) -> Result<(), DatapathError>;

    /// Gives the memory of one table back, which is at none of these indices and which no packet
    /// reads; whether there may be another one.
    ///
    /// # Errors
    /// When it cannot be done.
    fn give_room_back(&mut self, tables: &BTreeSet<u32>) -> Result<bool, DatapathError>;

    /// Writes the entry of a VIP.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn put_vip(&mut self, key: &VipKey, vip: &Vip) -> Result<(), DatapathError>;

    /// Removes a VIP; its packets go to the host from now on.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn remove_vip(&mut self, key: &VipKey) -> Result<(), DatapathError>;

    /// Notes that VIPs have this address, some of them several ports.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn put_vip_address(
        &mut self,
        address: &Address,
        ranges: &PortRanges,
    ) -> Result<(), DatapathError>;

    /// Notes that no VIP has this address any more.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn remove_vip_address(&mut self, address: &Address) -> Result<(), DatapathError>;

    /// Says that an interface is a VLAN of another one.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn put_subinterface(&mut self, index: u32, of: &Subinterface) -> Result<(), DatapathError>;

    /// Forgets an interface that was one.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn remove_subinterface(&mut self, index: u32) -> Result<(), DatapathError>;

    /// Instances behind tunnels, and what routers have said of the paths to them.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn path_mtus(&self) -> Result<Vec<(Address, PathMtu)>, DatapathError>;

    /// Notes that an instance is behind a tunnel; nothing is known of its path.
    ///
    /// # Errors
    /// When the map cannot be made or written.
    fn put_path(&mut self, instance: &Address) -> Result<(), DatapathError>;

    /// Notes that it is not any more.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn remove_path(&mut self, instance: &Address) -> Result<(), DatapathError>;

    /// Sets the traffic of a VIP id to zero, for its next tenant.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn reset_vip(&mut self, id: u32) -> Result<(), DatapathError>;

    /// The counters, all CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn counters(&self) -> Result<Counters, DatapathError>;

    /// The traffic of a VIP by [`Vip::id`], all CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn vip_traffic(&self, id: u32) -> Result<Traffic, DatapathError>;

    /// The packets of a VIP by [`Vip::id`] that were not forwarded, by reason, all CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn vip_drops(&self, id: u32) -> Result<Counters, DatapathError>;

    /// The traffic of an instance index, all CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn instance_traffic(&self, index: u16) -> Result<Traffic, DatapathError>;

    /// Live connections of an instance index.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn live(&self, index: u16) -> Result<u64, DatapathError>;

    /// Traffic and live connections of the instance indices from 0 to `last`, in their order.
    ///
    /// # Errors
    /// When a map cannot be read.
    fn all_instances(&self, last: u16) -> Result<Vec<(Traffic, u64)>, DatapathError> {
        let of = |index| Ok((self.instance_traffic(index)?, self.live(index)?));
        (0..=last).map(of).collect()
    }

    /// Adds `by` to the live connections of an instance index; the sum does not go below zero.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn adjust_live(&mut self, index: u16, by: i64) -> Result<(), DatapathError>;

    /// Sets how many live connections an instance index may have; `None` for any number.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn put_ceiling(&mut self, index: u16, most: Option<u64>) -> Result<(), DatapathError>;

    /// Writes the filter in front of connections and VIPs.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn put_address_filter(&mut self, filter: &AddressFilter) -> Result<(), DatapathError>;

    /// Inserts or replaces rules of the source ACL, in order; on an error some of them.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn put_prefixes(&mut self, rules: &[(PrefixKey, u32)]) -> Result<(), DatapathError>;

    /// Removes rules of the source ACL; on an error some of them. One that is not there is no error.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn remove_prefixes(&mut self, prefixes: &[PrefixKey]) -> Result<(), DatapathError>;

    /// Writes what is known of all rules together.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn put_acl(&mut self, acl: &Acl) -> Result<(), DatapathError>;

    /// Sets how fast new connections of a VIP may begin, by [`Vip::id`].
    ///
    /// # Errors
    /// When the map cannot be written.
    fn put_arrivals(&mut self, vip: u32, limit: &Arrivals) -> Result<(), DatapathError>;

    /// Sets how the clients of a VIP stay, by [`Vip::id`].
    ///
    /// # Errors
    /// When the map cannot be written.
    fn put_affinity(&mut self, vip: u32, affinity: &Affinity) -> Result<(), DatapathError>;

    /// Sets the service of an instance whose clients stay; 0 is none.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn put_service_of(&mut self, index: u16, service: u64) -> Result<(), DatapathError>;

    /// Appends the next clients whose instance is remembered to `into`, as [`Self::connections`] does.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn clients(
        &self,
        from: Option<Cursor>,
        into: &mut Vec<(ClientKey, ClientPin)>,
    ) -> Result<Option<Cursor>, DatapathError>;

    /// Forgets the instance of a client. One that is not remembered is no error.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn forget_client(&mut self, key: &ClientKey) -> Result<(), DatapathError>;

    /// The keys of SYN cookies; those of an earlier daemon, where there was one.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn cookie_keys(&self) -> Result<CookieKeys, DatapathError>;

    /// Writes the keys of SYN cookies.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn put_cookie_keys(&mut self, keys: &CookieKeys) -> Result<(), DatapathError>;

    /// Appends the next entries of the connection table to `into`, a few hundred at a time, and
    /// says where to go on; `None` when the walk is over. Entries that come or go meanwhile may or
    /// may not be seen; one that stays is seen once.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn connections(
        &self,
        from: Option<Cursor>,
        into: &mut Vec<(FlowKey, FlowEntry)>,
    ) -> Result<Option<Cursor>, DatapathError>;

    /// One entry of the connection table.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn connection(&self, key: &FlowKey) -> Result<Option<FlowEntry>, DatapathError>;

    /// Removes an entry of the connection table; whether it was there.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn remove_connection(&mut self, key: &FlowKey) -> Result<bool, DatapathError>;

    /// Nanoseconds on the clock of [`FlowEntry::last_seen`].
    fn now(&self) -> u64;

    /// Puts what the program itself has logged into the log.
    fn log_events(&mut self) {}
}

/// Who follows packets, and what was recorded for them. Its descriptor is readable when there is something.
pub(crate) trait Recorder: fmt::Debug + AsFd + Send {
    /// Says what the follower in a place wants to see, below [`lb_common::MAX_FOLLOWERS`]; one of zeros
    /// is nobody.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn set_follower(&mut self, place: usize, follower: &Follower) -> Result<(), DatapathError>;

    /// Says until when packets are to be recorded, on the clock of [`FlowEvent::time`]; 0 is not at all.
    ///
    /// # Errors
    /// When the map cannot be written.
    fn set_until(&mut self, until: u64) -> Result<(), DatapathError>;

    /// Hands out so many events at most, and whether there may be more.
    fn read(&mut self, most: usize, each: &mut dyn FnMut(FlowEvent)) -> bool;
}
