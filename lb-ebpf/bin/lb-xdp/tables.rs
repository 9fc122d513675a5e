//! The maps and helpers behind [`lb_ebpf::Tables`].

use core::{ffi::c_void, marker::PhantomData, ptr};

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_EXIST, BPF_NOEXIST},
    helpers::{
        bpf_get_prandom_u32, bpf_get_smp_processor_id,
        generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns},
    },
    maps::lpm_trie::Key,
};
use lb_common::{
    ACL_ON, Address, Affinity, Arrivals, COUNTER_COUNT, ClientHop, ClientKey, ClientPin, Counter,
    Counters, DROP_COUNT, Drops, FlowEntry, FlowKey, InstanceEntry, MAX_RANGES, NextHop,
    PREFIX_DENIED, PathMtu, PrefixKey, SOURCE_WAYS, Settings, Slot, SourceSet, Subinterface,
    Traffic, VIP_OF_PORTS, Vip, VipKey, same_flow,
};
use lb_ebpf::{
    Flow as _, Insert, Route, Scratch, Tables,
    acl::Judged,
    fragment::{FragmentKey, Note},
    opaque,
    recent::{self, Mark, Moment, RECENT as RECENT_COUNT},
    record::Whose,
    settled::{self, RECENT_VIPS, RecentVip},
};

use crate::{
    atomic, fib,
    flow::{MapFlow, MapHop},
    former,
    maps::{
        ADDRESS_FILTER, AFFINITIES, ARRIVALS, BUCKETS, CLIENT_HOPS, CLIENTS, CONNECTIONS,
        COOKIE_KEYS, COUNTERS, EPOCHS, EXPIRED, FRAGMENTS, INSTANCE_TRAFFIC, INSTANCES, JUDGED,
        LIVE, NEXT_HOPS, OPENINGS, PATH_MTUS, PREFIXES, RECENT, SERVICES, SETTINGS, SOURCES,
        SUBINTERFACES, TURNS, VIP_ADDRESSES, VIP_DROPS, VIP_EPOCH, VIP_TRAFFIC, VIPS, WORKPLACE,
        Workplace,
    },
    parts::{acl, add_live, ceiling, column, is_expected, is_marked},
};

const EEXIST: i32 = -17;

/// All maps, with what is looked up once for a packet.
pub(crate) struct Maps<'a> {
    context: *mut c_void,
    counters: *mut Counters,
    workplace: *mut Workplace,
    of: PhantomData<&'a ()>,
}

impl<'a> Maps<'a> {
    #[inline(always)]
    pub(crate) fn new(context: &'a impl EbpfContext) -> Option<Self> {
        Some(Self {
            context: context.as_ptr(),
            counters: COUNTERS.get_ptr_mut(0)?,
            workplace: WORKPLACE.get_ptr_mut(0)?,
            of: PhantomData,
        })
    }
}

impl Maps<'_> {
    /// Memory for the packet at hand. At most one reference may be in use at a time.
    #[inline(always)]
    pub(crate) const fn scratch(&self) -> *mut Scratch {
        // SAFETY: a field of a map value that the pointer is of.
        unsafe { &raw mut (*self.workplace).scratch }
    }

    /// Forgets whose the last packet was.
    #[inline(always)]
    pub(crate) fn forget_whose(&self) {
        // SAFETY: this processor's element, which nothing else writes.
        unsafe { (*self.workplace).whose = Whose::default() }
    }

    /// Whose the packet at hand is, as far as it was counted as somebody's.
    #[inline(always)]
    pub(crate) fn whose(&self) -> Whose {
        // SAFETY: as above.
        unsafe { (*self.workplace).whose }
    }

    /// Whether there may be another flow event at `now`, which is then counted as made.
    #[inline(always)]
    pub(crate) fn may_record(&self, now: u64, per_second: u32) -> bool {
        // SAFETY: as above.
        unsafe { (*self.workplace).events.spend(now, per_second) }
    }

    /// The mark of a connection's place.
    #[inline(always)]
    fn mark(&self, moment: Moment) -> *mut Mark {
        let place = opaque(u64::from(moment.place)) as usize & (RECENT_COUNT as usize - 1);
        // SAFETY: fields of a map value that the pointer is of; the place is below the length.
        unsafe { (&raw mut (*self.workplace).marks).cast::<Mark>().add(place) }
    }

    #[inline(always)]
    fn place_of_vip(&self, place: usize) -> *mut RecentVip {
        let place = opaque(place as u64) as usize & (RECENT_VIPS - 1);
        // SAFETY: fields of a map value that the pointer is of; the place is below the length.
        unsafe {
            (&raw mut (*self.workplace).vips)
                .cast::<RecentVip>()
                .add(place)
        }
    }
}

impl Tables for Maps<'_> {
    type Flow = MapFlow;
    type Hop = MapHop;

    #[inline(always)]
    fn settings(&self) -> Option<Settings> {
        SETTINGS.get(0).copied()
    }

    #[inline(always)]
    fn vip(&self, key: &VipKey) -> Option<Vip> {
        // SAFETY: copied at once; the daemon replaces a VIP's value as a whole.
        unsafe { VIPS.get(key).copied() }
    }

    #[inline(always)]
    fn is_vip_address(&self, address: &Address) -> bool {
        VIP_ADDRESSES.get_ptr(address).is_some()
    }

    /// Out of line: it is for packets that are few, or for none of ours.
    #[inline(never)]
    fn widen(&self, key: &mut VipKey) -> bool {
        let Some(ranges) = VIP_ADDRESSES.get_ptr(&key.address) else {
            return false;
        };
        let (protocol, port) = (key.protocol, u16::from_be_bytes(key.port));
        for place in 0..MAX_RANGES {
            // SAFETY: in the array of a map value. The daemon replaces the value as a whole.
            let range = unsafe { ptr::read((&raw const (*ranges).ranges[place])) };
            if range.holds(protocol, port) {
                key.port = range.first.to_be_bytes();
                key.last = range.last.to_be_bytes();
                key.kind = VIP_OF_PORTS;
                return true;
            }
        }
        false
    }

    #[inline(always)]
    fn instance(&self, index: u16) -> Option<InstanceEntry> {
        INSTANCES.get(index as u32).copied()
    }

    #[inline(always)]
    fn slot(&self, table: u32, slot: u32) -> Slot {
        Slot(column(table, slot, |table| {
            // SAFETY: a field of a map value.
            unsafe { &raw const (*table).slots }.cast()
        }))
    }

    #[inline(always)]
    fn owner(&self, table: u32, slot: u32) -> u16 {
        column(table, slot, |table| {
            // SAFETY: a field of a map value.
            unsafe { &raw const (*table).owners }.cast()
        })
    }

    #[inline(always)]
    fn vip_epoch(&self) -> u64 {
        VIP_EPOCH.get(0).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn has_recent_vips(&self) -> bool {
        // SAFETY: this processor's element.
        unsafe { (*self.workplace).keeps != 0 }
    }

    #[inline(always)]
    fn recent_vip(&self, key: &FlowKey, epoch: u64) -> Option<Vip> {
        let place = settled::place(&key.destination, key.destination_port);
        // SAFETY: this processor's element, which nothing else writes.
        let copy = unsafe { &*self.place_of_vip(place) };
        copy.holds(key, epoch).then_some(copy.vip)
    }

    #[inline(always)]
    fn keep_vip(&self, key: &VipKey, vip: &Vip, epoch: u64) {
        let place = settled::place(&key.address, key.port);
        // SAFETY: this processor's element, which nothing else writes.
        unsafe {
            ptr::write(self.place_of_vip(place), RecentVip::new(key, vip, epoch));
            (*self.workplace).keeps = 1;
        }
    }

    #[inline(always)]
    fn expects(&self, key: &FlowKey) -> bool {
        let Some(filter) = ADDRESS_FILTER.get_ptr(0) else {
            return true;
        };
        is_expected(filter, key)
    }

    #[inline(always)]
    fn is_suspect(&self, source: &Address) -> bool {
        let Some(acl) = acl() else {
            return false;
        };
        // SAFETY: a field of a map value, which the daemon writes word by word.
        let flags = unsafe { ptr::read_volatile(&raw const (*acl).flags) };
        flags & ACL_ON != 0 && is_marked(acl, flags, source)
    }

    #[inline(always)]
    fn acl_epoch(&self) -> u64 {
        // SAFETY: as above.
        acl().map_or(0, |acl| unsafe {
            ptr::read_volatile(&raw const (*acl).epoch)
        })
    }

    #[inline(always)]
    fn denies(&self, key: &PrefixKey) -> bool {
        // SAFETY: both are a length and four words, one after the other.
        let key = unsafe { &*ptr::from_ref(key).cast::<Key<[u32; 4]>>() };
        PREFIXES.get(key).is_some_and(|rule| *rule == PREFIX_DENIED)
    }

    #[inline(always)]
    fn judged(&self, place: u32) -> Judged {
        JUDGED.get(place).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn keep_judged(&self, place: u32, judged: &Judged) {
        if let Some(kept) = JUDGED.get_ptr_mut(place) {
            // SAFETY: this processor's element, which nothing else writes.
            unsafe { ptr::write(kept, *judged) }
        }
    }

    #[inline(always)]
    fn arrivals(&self, vip: u32) -> Arrivals {
        // The daemon may be replacing the value: what is read then is one limit or the other.
        ARRIVALS.get(vip).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn bucket(&self, place: u32) -> u64 {
        // SAFETY: a map value of eight aligned bytes.
        BUCKETS
            .get_ptr(place)
            .map_or(0, |bucket| unsafe { ptr::read_volatile(bucket) })
    }

    #[inline(always)]
    fn change_bucket(&self, place: u32, old: u64, new: u64) -> bool {
        // SAFETY: a map value of eight aligned bytes; all writers are atomic.
        BUCKETS
            .get_ptr_mut(place)
            .is_some_and(|bucket| unsafe { atomic::compare_exchange(bucket, old, new) } == old)
    }

    #[inline(always)]
    fn cookie_key_in_use(&self) -> u32 {
        // SAFETY: eight aligned bytes of a map value, which the daemon writes after the keys.
        COOKIE_KEYS.get_ptr(0).map_or(0, |keys| unsafe {
            ptr::read_volatile(&raw const (*keys).current) as u32 & 1
        })
    }

    #[inline(always)]
    fn cookie_time(&self) -> u64 {
        // SAFETY: as above.
        let origin = COOKIE_KEYS.get_ptr(0).map_or(0, |keys| unsafe {
            ptr::read_volatile(&raw const (*keys).origin)
        });
        self.now().wrapping_sub(origin)
    }

    #[inline(always)]
    fn cookie_key(&self, which: u32) -> [u64; 2] {
        let Some(keys) = COOKIE_KEYS.get_ptr(0) else {
            return [0; 2];
        };
        let which = opaque(u64::from(which)) as usize & 1;
        // SAFETY: one of two keys in a map value.
        unsafe { ptr::read((&raw const (*keys).keys).cast::<[u64; 2]>().add(which)) }
    }

    #[inline(always)]
    fn source_set(&self, set: u32) -> SourceSet {
        // SAFETY: a map value of four words, each of which is read as a whole.
        SOURCES
            .get_value_ptr_mut(0, &set)
            .map_or([0; SOURCE_WAYS], |set| unsafe { ptr::read_volatile(set) })
    }

    #[inline(always)]
    fn change_source(&self, set: u32, way: usize, old: u64, new: u64) -> bool {
        let Some(set) = SOURCES.get_value_ptr_mut(0, &set) else {
            return false;
        };
        let way = opaque(way as u64) as usize & (SOURCE_WAYS - 1);
        // SAFETY: a word of a map value; all writers are atomic.
        unsafe { atomic::compare_exchange(set.cast::<u64>().add(way), old, new) == old }
    }

    #[inline(always)]
    fn affinity(&self, vip: u32) -> Affinity {
        AFFINITIES.get(vip).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn service_of(&self, index: u16) -> u64 {
        SERVICES.get(index as u32).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn client(&self, key: &ClientKey) -> Option<ClientPin> {
        // SAFETY: copied at once. Were another processor replacing it, the kernel would leave the old
        // value as it is.
        unsafe { CLIENTS.get(0)?.get(key).copied() }
    }

    #[inline(always)]
    fn pin_client(&self, key: &ClientKey, pin: &ClientPin) -> Insert {
        match CLIENTS.get(0).map(|clients| clients.insert(key, pin, 0)) {
            Some(Ok(())) => Insert::Done,
            _ => Insert::Full,
        }
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<MapFlow> {
        let flow = CONNECTIONS.get_ptr_mut(key).map(MapFlow);
        if flow.is_none() && former::exists() && former::take_over(key) {
            return CONNECTIONS.get_ptr_mut(key).map(MapFlow);
        }
        flow
    }

    #[inline(always)]
    fn insert_flow(&self, key: &FlowKey, entry: &FlowEntry) -> Insert {
        if former::exists() {
            former::take_over(key);
        }
        match CONNECTIONS.insert(key, entry, BPF_NOEXIST as u64) {
            Ok(()) => Insert::Done,
            Err(EEXIST) => Insert::Exists,
            Err(_) => Insert::Full,
        }
    }

    #[inline(always)]
    fn swap_opening(&self, key: &mut FlowKey) {
        // SAFETY: this processor's elements, which nothing else writes.
        unsafe {
            let next = self.opening();
            (*self.workplace).opening = next + 1;
            if let Some(place) = OPENINGS.get_ptr_mut(next) {
                let oldest = ptr::read(place);
                ptr::write(place, *key);
                *key = oldest;
            }
        }
    }

    #[inline(always)]
    fn opening(&self) -> u32 {
        // SAFETY: this processor's element, which nothing else writes.
        let next = unsafe { (*self.workplace).opening };
        if OPENINGS.get_ptr(next).is_some() {
            next
        } else {
            // Once round.
            0
        }
    }

    #[inline(always)]
    fn remove_opening(&self, place: u32, key: &FlowKey) {
        if let Some(place) = OPENINGS.get_ptr_mut(place) {
            // SAFETY: this processor's element, which nothing else writes.
            let found = unsafe { &mut *place };
            if same_flow(found, key) {
                found.protocol = 0;
            }
        }
    }

    #[inline(always)]
    fn epoch(&self, place: u32) -> u64 {
        EPOCHS.get(place).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn recent_flow(&self, key: &FlowKey, moment: Moment) -> Option<MapFlow> {
        // SAFETY: this processor's element, which nothing else writes.
        if unsafe { !(*self.mark(moment)).holds(moment) } {
            return None;
        }
        let recent = RECENT.get_ptr_mut(moment.place)?;
        // SAFETY: as above.
        unsafe { same_flow(&(*recent).key, key).then(|| MapFlow(&raw mut (*recent).entry)) }
    }

    #[inline(always)]
    fn keep_recent(&self, key: &FlowKey, moment: Moment, flow: &MapFlow, until: u64) {
        let mark = self.mark(moment);
        // SAFETY: this processor's element, which nothing else writes.
        if unsafe { !(*mark).is_over(moment) } {
            return;
        }
        if let Some(recent) = RECENT.get_ptr_mut(moment.place) {
            // SAFETY: as above.
            unsafe {
                (*recent).key = *key;
                (*recent).entry = flow.entry();
                *mark = Mark::new(moment, until);
            }
        }
    }

    #[inline(always)]
    fn without_entry(&self, entry: &FlowEntry) -> MapFlow {
        // SAFETY: this processor's element, which nothing else writes.
        unsafe {
            let place = &raw mut (*self.workplace).entry;
            ptr::write(place, *entry);
            MapFlow(place)
        }
    }

    #[inline(always)]
    fn remove_flow(&self, key: &FlowKey) {
        if former::exists() {
            former::forget(key);
        }
        // An entry that is not there any more is what was wanted.
        let _ = CONNECTIONS.remove(key);
        if let Some(epoch) = EPOCHS.get_ptr_mut(recent::spot(key).place) {
            // SAFETY: a map value of eight aligned bytes; all writers are atomic.
            unsafe { atomic::add(epoch, 1) }
        }
    }

    #[inline(always)]
    fn noted(&self, key: &FragmentKey) -> Option<Note> {
        // SAFETY: copied at once. Were another processor writing it, it would be the note of another
        // datagram between the same two addresses with the same id, and one of the two is lost anyway.
        unsafe { FRAGMENTS.get(key).copied() }
    }

    #[inline(always)]
    fn note(&self, key: &FragmentKey, note: &Note) {
        let _ = FRAGMENTS.insert(key, note, 0);
    }

    #[inline(always)]
    fn turn(&self, vip: u32) -> u32 {
        let Some(turn) = TURNS.get_ptr_mut(vip) else {
            return 0;
        };
        // SAFETY: this processor's element, which nothing else writes.
        let next = unsafe {
            *turn = (*turn).wrapping_add(1);
            *turn
        };
        // SAFETY: a helper without arguments. The factor spreads processors over the table.
        let processor = unsafe { bpf_get_smp_processor_id() };
        next.wrapping_add(processor.wrapping_mul(0x9e37_79b9))
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn live(&self, index: u16) -> u64 {
        let (Some(live), Some(expired)) = (LIVE.get(index as u32), EXPIRED.get(index as u32))
        else {
            return 0;
        };
        // The daemon's half may run ahead for a moment.
        (live.wrapping_sub(*expired) as i64).max(0) as u64
    }

    #[inline(always)]
    fn live_begin(&self, index: u16) -> bool {
        let Some(live) = LIVE.get_ptr_mut(index as u32) else {
            return true;
        };
        // SAFETY: a map value of eight aligned bytes; all writers are atomic.
        let before = unsafe { atomic::fetch_add(live, 1) };
        let ceiling = ceiling(index);
        if ceiling == 0 {
            return true;
        }
        let expired = EXPIRED.get(index as u32).copied().unwrap_or(0);
        // The daemon's half may run ahead for a moment.
        let others = (before.wrapping_sub(expired) as i64).max(0) as u64;
        let fits = others + 1 < ceiling;
        if !fits {
            add_live(index, u64::MAX);
        }
        fits
    }

    #[inline(always)]
    fn is_limited(&self, index: u16) -> bool {
        ceiling(index) != 0
    }

    #[inline(always)]
    fn live_end(&self, index: u16) {
        add_live(index, u64::MAX);
    }

    #[inline(always)]
    fn hop_in_place(&self, index: u16) -> Option<MapHop> {
        NEXT_HOPS.get_ptr(index as u32).map(MapHop)
    }

    #[inline(always)]
    fn cache_instance_hop(&self, index: u16, hop: &NextHop) {
        if let Some(element) = NEXT_HOPS.get_ptr_mut(index as u32) {
            // SAFETY: this processor's element, which nothing else writes.
            unsafe { ptr::write(element, *hop) }
        }
    }

    #[inline(always)]
    fn subinterface(&self, index: u32) -> Option<Subinterface> {
        // SAFETY: copied at once.
        unsafe { SUBINTERFACES.get(&index).copied() }
    }

    #[inline(always)]
    fn path_mtu(&self, instance: &Address) -> Option<PathMtu> {
        // SAFETY: the value is copied at once; what is read while another processor changes it is a moment of
        // either.
        unsafe { PATH_MTUS.get(0)?.get(instance).copied() }
    }

    #[inline(always)]
    fn note_path_mtu(&self, instance: &Address, path: &PathMtu) -> bool {
        let flags = BPF_EXIST as u64;
        let noted = PATH_MTUS
            .get(0)
            .map(|paths| paths.insert(instance, path, flags));
        matches!(noted, Some(Ok(())))
    }

    #[inline(always)]
    fn client_hop(&self, place: u32) -> Option<ClientHop> {
        CLIENT_HOPS.get(place).copied()
    }

    #[inline(always)]
    fn cache_client_hop(&self, place: u32, hop: &ClientHop) {
        if let Some(element) = CLIENT_HOPS.get_ptr_mut(place) {
            // SAFETY: this processor's element, which nothing else writes.
            unsafe { ptr::write(element, *hop) }
        }
    }

    #[inline(always)]
    fn route(&self, source: &Address, destination: &Address, interface: u32) -> Route {
        fib::ask(self.context, source, destination, interface)
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: a helper without arguments, which the kernel replaces by one load.
        let ticks = unsafe { bpf_jiffies64() };
        // The coarse clock moves with the ticks, and reading it is a call that takes a tenth of the
        // time that a packet has; so it is read once in a tick.
        //
        // SAFETY: this processor's element, which nothing else writes, and a helper without
        // arguments.
        unsafe {
            let place = self.workplace;
            if (*place).ticks != ticks {
                (*place).ticks = ticks;
                (*place).now = bpf_ktime_get_coarse_ns();
            }
            (*place).now
        }
    }

    #[inline(always)]
    fn may_answer(&self, now: u64, per_second: u32) -> bool {
        // SAFETY: this processor's element, which nothing else writes.
        unsafe { (*self.workplace).budget.spend(now, per_second) }
    }

    #[inline(always)]
    fn may_echo(&self, now: u64, per_second: u32) -> bool {
        // SAFETY: as above.
        unsafe { (*self.workplace).echoes.spend(now, per_second) }
    }

    #[inline(always)]
    fn count(&self, counter: Counter) {
        let index = opaque(counter as u64) as usize & (COUNTER_COUNT - 1);
        // SAFETY: this processor's element; the index is below the length of the array.
        unsafe { *(&raw mut (*self.counters).values).cast::<u64>().add(index) += 1 }
    }

    #[inline(always)]
    fn note_begun(&self) {
        // SAFETY: this processor's element, which nothing else writes.
        unsafe { (*self.workplace).whose.begun = 1 }
    }

    #[inline(always)]
    fn vip_traffic(&self, vip: u32, change: impl FnOnce(&mut Traffic)) {
        // SAFETY: as above.
        unsafe { (*self.workplace).whose.vip = vip as u16 + 1 }
        if let Some(traffic) = VIP_TRAFFIC.get_ptr_mut(vip) {
            // SAFETY: this processor's element, which nothing else writes.
            change(unsafe { &mut *traffic });
        }
    }

    #[inline(always)]
    fn vip_dropped(&self, vip: u32, reason: Counter) {
        self.vip_traffic(vip, |traffic| traffic.dropped += 1);
        if let Some(drops) = VIP_DROPS.get_ptr_mut(vip) {
            let index = opaque(Drops::index(reason) as u64) as usize & (DROP_COUNT - 1);
            // SAFETY: this processor's element; the index is below the length of the array.
            unsafe { *(&raw mut (*drops).values).cast::<u64>().add(index) += 1 }
        }
    }

    #[inline(always)]
    fn instance_traffic(&self, index: u16, change: impl FnOnce(&mut Traffic)) {
        // SAFETY: this processor's element, which nothing else writes.
        unsafe { (*self.workplace).whose.index = index }
        if let Some(traffic) = INSTANCE_TRAFFIC.get_ptr_mut(index as u32) {
            // SAFETY: this processor's element, which nothing else writes.
            change(unsafe { &mut *traffic });
        }
    }
}
