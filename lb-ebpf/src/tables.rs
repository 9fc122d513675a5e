//! The maps, as the packet path sees them.
//!
//! Implementations are thin: a look-up hands out copies of plain values, so the same trait fits a
//! BPF map and a hash map behind a lock, and the compiler drops from the copy what is not used.

use lb_common::{
    Address, Affinity, Arrivals, ClientHop, ClientKey, ClientPin, Counter, FlowEntry, FlowKey,
    InstanceEntry, NextHop, PathMtu, PrefixKey, Settings, Slot, SourceSet, Splice, Subinterface,
    Traffic, Vip, VipKey,
};

use crate::{
    acl::Judged,
    fragment::{FragmentKey, Note},
    recent::Moment,
};

/// An entry of the connection table, in place.
pub trait Flow {
    /// A copy of the entry.
    fn entry(&self) -> FlowEntry;

    /// Notes that a packet was seen at `now`.
    fn touch(&self, now: u64);

    /// Sets bits of [`FlowEntry::state`] and returns the state as it was before, in one atomic
    /// step: two processors that close a connection at once must not both count its end.
    fn set_state(&self, bits: u32) -> u32;

    /// Clears bits of [`FlowEntry::state`] in one atomic step.
    fn clear_state(&self, bits: u32);

    /// What a reply entry says of a spliced connection, read at once.
    fn splice(&self) -> Splice;

    /// Makes `new` of that, in one atomic step, if it is `old`; whether it was.
    fn change_splice(&self, old: Splice, new: Splice) -> bool;
}

/// A way that was last remembered, in place.
pub trait Hop: Copy {
    /// A copy of it.
    fn get(&self) -> NextHop;
}

impl Hop for NextHop {
    #[inline(always)]
    fn get(&self) -> NextHop {
        *self
    }
}

/// What became of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insert {
    /// The entry is in the table.
    Done,
    /// The key was there before; nothing has changed.
    Exists,
    /// The table is full.
    Full,
}

/// What the kernel's route and neighbour tables say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The way; [`NextHop::fresh_until`] and [`NextHop::generation`] are left to the caller.
    Found(NextHop),
    /// There is a route, but the MAC address of the next hop is not known.
    NoNeighbour,
    /// No route that leads out of this host.
    NoRoute,
    /// The kernel does not forward packets from the incoming interface.
    ForwardingDisabled,
}

/// The maps, the clock and the other things that the kernel provides.
pub trait Tables {
    /// A handle to an entry of the connection table.
    type Flow: Flow;
    /// A handle to the way to an instance.
    type Hop: Hop;

    /// The settings; `None` until the daemon has written them.
    fn settings(&self) -> Option<Settings>;
    /// The VIP that packets with this key are for.
    fn vip(&self, key: &VipKey) -> Option<Vip>;
    /// Whether an address is one of VIPs.
    fn is_vip_address(&self, address: &Address) -> bool;
    /// Makes of the key of one port that of the narrowest range of VIPs at its address that holds it,
    /// if there is one.
    fn widen(&self, key: &mut VipKey) -> bool;
    /// An instance by index, below [`lb_common::MAX_INSTANCES`].
    fn instance(&self, index: u16) -> Option<InstanceEntry>;
    /// A slot of a table.
    fn slot(&self, table: u32, slot: u32) -> Slot;
    /// The index of the owner of an unsettled slot; 0 is none.
    fn owner(&self, table: u32, slot: u32) -> u16;
    /// The epoch of VIPs and instances: odd while one is being changed, and another even number after each change.
    /// Never 0 where packets are processed.
    fn vip_epoch(&self) -> u64;
    /// Whether this processor has ever kept a copy of a VIP.
    fn has_recent_vips(&self) -> bool;
    /// This processor's copy of the VIP that packets with this key are for, if there is one and it
    /// [holds](crate::settled::RecentVip::holds) in this epoch.
    fn recent_vip(&self, key: &FlowKey, epoch: u64) -> Option<Vip>;
    /// Keeps a copy of a VIP; `epoch` was read before the VIP was, and is even.
    fn keep_vip(&self, key: &VipKey, vip: &Vip, epoch: u64);

    /// Whether a packet with this key may be for a VIP or belong to a connection
    /// ([`lb_common::AddressFilter::expects`]).
    fn expects(&self, key: &FlowKey) -> bool;
    /// Whether a source may be in a prefix of the ACL ([`lb_common::Acl::suspects`]).
    fn is_suspect(&self, source: &Address) -> bool;
    /// The epoch of the ACL, which moves after each change of a rule.
    fn acl_epoch(&self) -> u64;
    /// Whether the longest prefix that holds an address denies it. `key` has all bits of one.
    fn denies(&self, key: &PrefixKey) -> bool;
    /// What this processor has kept at a place, below [`crate::acl::JUDGED`].
    fn judged(&self, place: u32) -> Judged;
    /// Keeps what the ACL has said of a source, in the place of what was there.
    fn keep_judged(&self, place: u32, judged: &Judged);

    /// How fast new connections of a VIP may begin, by [`Vip::id`]; no limits where there are none.
    fn arrivals(&self, vip: u32) -> Arrivals;
    /// A word of a service, below [`lb_common::BUCKETS`]: nanoseconds at which a bucket is full again, or
    /// something was done last.
    fn bucket(&self, place: u32) -> u64;
    /// Makes `new` of such a word, atomically, if it is `old`; whether it was.
    fn change_bucket(&self, place: u32, old: u64, new: u64) -> bool;
    /// Which key SYN cookies are made with: 0 or 1.
    fn cookie_key_in_use(&self) -> u32;
    /// Nanoseconds since the time from which the age of SYN cookies is counted.
    fn cookie_time(&self) -> u64;
    /// The key with this number, which counts in its lowest bit; all zero when there is none.
    fn cookie_key(&self, which: u32) -> [u64; 2];
    /// A set of buckets of sources, below [`lb_common::SOURCE_SETS`].
    fn source_set(&self, set: u32) -> SourceSet;
    /// Makes `new` of a word of a set, atomically, if it is `old`; whether it was.
    fn change_source(&self, set: u32, way: usize, old: u64, new: u64) -> bool;

    /// How the clients of a VIP stay, by [`Vip::id`].
    fn affinity(&self, vip: u32) -> Affinity;
    /// The service ([`Affinity::service`]) of an instance whose clients stay.
    fn service_of(&self, index: u16) -> u64;
    /// The instance of a client, as it was last remembered.
    fn client(&self, key: &ClientKey) -> Option<ClientPin>;
    /// Remembers the instance of a client in the place of what was remembered, if there is room.
    fn pin_client(&self, key: &ClientKey, pin: &ClientPin) -> Insert;

    /// The connection with this key.
    fn flow(&self, key: &FlowKey) -> Option<Self::Flow>;
    /// Inserts a connection that must not be there yet.
    fn insert_flow(&self, key: &FlowKey, entry: &FlowEntry) -> Insert;
    /// Puts a key into this processor's ring of connections that have hardly begun, and the one that
    /// falls out of it in its place; all zero while the ring has room.
    fn swap_opening(&self, key: &mut FlowKey);
    /// Where the next [swap](Self::swap_opening) of this processor will be.
    fn opening(&self) -> u32;
    /// Takes a key out of its place, if it is there.
    fn remove_opening(&self, place: u32, key: &FlowKey);
    /// The epoch of a place for copies, below [`crate::recent::RECENT`].
    fn epoch(&self, place: u32) -> u64;
    /// This processor's copy of the connection with this key, if there is one and it
    /// [holds](crate::recent::Mark::holds).
    fn recent_flow(&self, key: &FlowKey, moment: Moment) -> Option<Self::Flow>;
    /// Keeps a copy of a connection that holds until `until`, unless one is there that holds.
    fn keep_recent(&self, key: &FlowKey, moment: Moment, flow: &Self::Flow, until: u64);
    /// A handle to an entry that is in no table. There is one at a time: the next call overwrites it.
    fn without_entry(&self, entry: &FlowEntry) -> Self::Flow;
    /// Removes a connection, if it is there, and makes all copies at its place void.
    fn remove_flow(&self, key: &FlowKey);

    /// What is noted of a datagram.
    fn noted(&self, key: &FragmentKey) -> Option<Note>;
    /// Notes a datagram, in the place of an older note with this key. Whether there was room for it
    /// nobody needs to know.
    fn note(&self, key: &FragmentKey, note: &Note);

    /// The next number of the VIP's turn counter; every processor has its own, each with another
    /// start.
    fn turn(&self, vip: u32) -> u32;
    /// A random number.
    fn random(&self) -> u32;
    /// Live connections of an instance.
    fn live(&self, index: u16) -> u64;
    /// Adds 1 to the live connections of an instance, atomically, unless it has as many as it may have;
    /// whether it did. However many processors do so at once, there are never more, though one that
    /// is refused may keep another one out in the same moment.
    fn live_begin(&self, index: u16) -> bool;
    /// Whether the live connections of an instance are limited.
    fn is_limited(&self, index: u16) -> bool;
    /// Takes 1 from the live connections of an instance, atomically.
    fn live_end(&self, index: u16);

    /// What was last remembered by [`Tables::cache_instance_hop`], in place: for who carries it past calls, for
    /// which a copy would have to lie on the stack.
    fn hop_in_place(&self, index: u16) -> Option<Self::Hop>;
    /// A copy of the same.
    #[inline(always)]
    fn instance_hop(&self, index: u16) -> Option<NextHop> {
        self.hop_in_place(index).map(|hop| hop.get())
    }
    /// Remembers the way to an instance.
    fn cache_instance_hop(&self, index: u16, hop: &NextHop);
    /// What was last remembered by [`Tables::cache_client_hop`]; `place` is below
    /// [`lb_common::CLIENT_HOPS`].
    fn client_hop(&self, place: u32) -> Option<ClientHop>;
    /// Remembers the way to a client.
    fn cache_client_hop(&self, place: u32, hop: &ClientHop);
    /// Asks the kernel for the way from `source` to `destination` for a packet that came in by
    /// `interface`.
    fn route(&self, source: &Address, destination: &Address, interface: u32) -> Route;

    /// What is known of an interface that is a VLAN, by its index.
    fn subinterface(&self, index: u32) -> Option<Subinterface>;
    /// What was last noted of the path to an instance behind a tunnel; `None` when it is none.
    fn path_mtu(&self, instance: &Address) -> Option<PathMtu>;
    /// Notes it, if it is one; whether it was.
    fn note_path_mtu(&self, instance: &Address, path: &PathMtu) -> bool;

    /// `CLOCK_MONOTONIC` in nanoseconds; a few milliseconds late is good enough.
    fn now(&self) -> u64;
    /// Whether lb may send a message of its own at `now`, which is then counted as sent; see
    /// [`crate::budget::Budget`].
    fn may_answer(&self, now: u64, per_second: u32) -> bool;
    /// The same for answers to echo requests, which have a budget of their own: pinging must not keep
    /// errors from being told.
    fn may_echo(&self, now: u64, per_second: u32) -> bool;
    /// Counts a packet or an event.
    fn count(&self, counter: Counter);
    /// Notes that the packet at hand has begun a connection, for whoever follows packets.
    fn note_begun(&self);
    /// Changes the traffic counters of a VIP, whose the packet at hand is.
    fn vip_traffic(&self, vip: u32, change: impl FnOnce(&mut Traffic));
    /// Counts the packet at hand as one of a VIP that is not forwarded, for this reason.
    fn vip_dropped(&self, vip: u32, reason: Counter);
    /// Changes the traffic counters of an instance, whose the packet at hand is.
    fn instance_traffic(&self, index: u16, change: impl FnOnce(&mut Traffic));
}
