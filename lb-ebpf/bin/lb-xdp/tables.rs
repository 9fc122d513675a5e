//! The maps and helpers behind [`lb_ebpf::Tables`].

use core::ptr;

use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
        BPF_NOEXIST, bpf_fib_lookup,
    },
    helpers::{
        bpf_get_prandom_u32, bpf_get_smp_processor_id,
        generated::{bpf_fib_lookup as fib_lookup, bpf_jiffies64, bpf_ktime_get_coarse_ns},
    },
    programs::XdpContext,
};
use lb_common::{
    Address, COUNTER_COUNT, ClientHop, Counter, Counters, FlowEntry, FlowKey, HOP_GATEWAY,
    InstanceEntry, NextHop, SLOTS, Settings, Traffic, Vip, VipKey, halves, is_v4,
};
use lb_ebpf::{
    Flow, Insert, Route, Scratch, Tables,
    recent::{self, Moment},
};

use crate::{
    atomic,
    maps::{
        CLIENT_HOPS, CONNECTIONS, COUNTERS, EPOCHS, EXPIRED, INSTANCE_TRAFFIC, INSTANCES, LIVE,
        NEXT_HOPS, RECENT, SETTINGS, TABLES, TURNS, VIP_TRAFFIC, VIPS, WORKPLACE, Workplace,
    },
};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const EEXIST: i32 = -17;

/// An element of the connection table.
///
/// It may be removed while the program holds it. The kernel keeps its memory until the program has
/// ended, though it may give it to another connection of the same table by then, as with every
/// BPF hash map; a packet in flight at that moment meets the new owner's entry.
pub(crate) struct MapFlow(*mut FlowEntry);

impl Flow for MapFlow {
    #[inline(always)]
    fn entry(&self) -> FlowEntry {
        // SAFETY: a pointer to a whole map value, valid while the program runs.
        unsafe { ptr::read(self.0) }
    }

    #[inline(always)]
    fn touch(&self, now: u64) {
        // SAFETY: as above; eight aligned bytes are written at once.
        unsafe { ptr::write_volatile(&raw mut (*self.0).last_seen, now) }
    }

    #[inline(always)]
    fn set_state(&self, bits: u32) -> u32 {
        // SAFETY: as above; all writers of the field are atomic, and the assertion below this block
        // says that it begins eight aligned bytes.
        unsafe { atomic::fetch_or(&raw mut (*self.0).state, bits) }
    }
}

// What `atomic::fetch_or` asks of the field.
const _: () = assert!(core::mem::offset_of!(FlowEntry, state) % 8 == 0);

/// All maps, with what is looked up once for a packet.
pub(crate) struct Maps<'a> {
    context: &'a XdpContext,
    counters: *mut Counters,
    workplace: *mut Workplace,
}

impl<'a> Maps<'a> {
    #[inline(always)]
    pub(crate) fn new(context: &'a XdpContext) -> Option<Self> {
        Some(Self {
            context,
            counters: COUNTERS.get_ptr_mut(0)?,
            workplace: WORKPLACE.get_ptr_mut(0)?,
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
}

impl Tables for Maps<'_> {
    type Flow = MapFlow;

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
    fn instance(&self, index: u16) -> Option<InstanceEntry> {
        INSTANCES.get(index as u32).copied()
    }

    #[inline(always)]
    fn slot(&self, table: u32, slot: u32) -> u16 {
        let Some(table) = TABLES.get_ptr(table) else {
            return 0;
        };
        let slot = opaque(u64::from(slot)) as usize;
        if slot >= SLOTS {
            return 0;
        }
        // SAFETY: the slot is in the table. The daemon writes spare tables only.
        unsafe { ptr::read((&raw const (*table).slots).cast::<u16>().add(slot)) }
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<MapFlow> {
        CONNECTIONS.get_ptr_mut(key).map(MapFlow)
    }

    #[inline(always)]
    fn insert_flow(&self, key: &FlowKey, entry: &FlowEntry) -> Insert {
        match CONNECTIONS.insert(key, entry, BPF_NOEXIST as u64) {
            Ok(()) => Insert::Done,
            Err(EEXIST) => Insert::Exists,
            Err(_) => Insert::Full,
        }
    }

    #[inline(always)]
    fn epoch(&self, place: u32) -> u64 {
        EPOCHS.get(place).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn recent_flow(&self, key: &FlowKey, moment: Moment) -> Option<MapFlow> {
        let recent = RECENT.get_ptr_mut(moment.place)?;
        // SAFETY: this processor's element, which nothing else writes.
        unsafe {
            (*recent)
                .holds(key, moment)
                .then(|| MapFlow(&raw mut (*recent).entry))
        }
    }

    #[inline(always)]
    fn keep_recent(&self, key: &FlowKey, moment: Moment, flow: &MapFlow, until: u64) {
        let Some(recent) = RECENT.get_ptr_mut(moment.place) else {
            return;
        };
        // SAFETY: this processor's element, which nothing else writes.
        unsafe {
            if (*recent).is_over(moment) {
                (*recent).key = *key;
                (*recent).entry = flow.entry();
                (*recent).until = until;
                (*recent).epoch = moment.epoch;
            }
        }
    }

    #[inline(always)]
    fn remove_flow(&self, key: &FlowKey) {
        // An entry that is not there any more is what was wanted.
        let _ = CONNECTIONS.remove(key);
        if let Some(epoch) = EPOCHS.get_ptr_mut(recent::place(key)) {
            // SAFETY: a map value of eight aligned bytes; all writers are atomic.
            unsafe { atomic::add(epoch, 1) }
        }
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
    fn live_begin(&self, index: u16) {
        add_live(index, 1);
    }

    #[inline(always)]
    fn live_end(&self, index: u16) {
        add_live(index, u64::MAX);
    }

    #[inline(always)]
    fn instance_hop(&self, index: u16) -> Option<NextHop> {
        NEXT_HOPS.get(index as u32).copied()
    }

    #[inline(always)]
    fn cache_instance_hop(&self, index: u16, hop: &NextHop) {
        if let Some(element) = NEXT_HOPS.get_ptr_mut(index as u32) {
            // SAFETY: this processor's element, which nothing else writes.
            unsafe { ptr::write(element, *hop) }
        }
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
        ask_kernel(self.context, source, destination, interface)
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
    fn count(&self, counter: Counter) {
        let index = opaque(counter as u64) as usize & (COUNTER_COUNT - 1);
        // SAFETY: this processor's element; the index is below the length of the array.
        unsafe { *(&raw mut (*self.counters).values).cast::<u64>().add(index) += 1 }
    }

    #[inline(always)]
    fn vip_traffic(&self, vip: u32, change: impl FnOnce(&mut Traffic)) {
        if let Some(traffic) = VIP_TRAFFIC.get_ptr_mut(vip) {
            // SAFETY: this processor's element, which nothing else writes.
            change(unsafe { &mut *traffic });
        }
    }

    #[inline(always)]
    fn instance_traffic(&self, index: u16, change: impl FnOnce(&mut Traffic)) {
        if let Some(traffic) = INSTANCE_TRAFFIC.get_ptr_mut(index as u32) {
            // SAFETY: this processor's element, which nothing else writes.
            change(unsafe { &mut *traffic });
        }
    }
}

/// Hides a value's origin from the compiler, which otherwise proves a comparison superfluous that
/// the verifier, who knows less arithmetic, insists on.
#[inline(always)]
fn opaque(mut value: u64) -> u64 {
    // SAFETY: copies a register to itself. Without any instruction at all, the debug information
    // would name the same place twice, which the kernel refuses.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) value, options(nomem, nostack)) };
    value
}

#[inline(always)]
fn add_live(index: u16, change: u64) {
    if let Some(live) = LIVE.get_ptr_mut(index as u32) {
        // SAFETY: a map value of eight aligned bytes; all writers are atomic.
        unsafe { atomic::add(live, change) }
    }
}

/// Asks the kernel's FIB. `tot_len` stays zero: the answer is kept for packets of any length, so
/// the MTU is remembered and compared by the caller.
#[inline(always)]
fn ask_kernel(
    context: &XdpContext,
    source: &Address,
    destination: &Address,
    interface: u32,
) -> Route {
    // SAFETY: the struct is integers and unions of integers, for which zero is valid.
    let mut query: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    query.ifindex = interface;
    let v4 = is_v4(destination);
    if v4 {
        query.family = AF_INET;
        query.__bindgen_anon_3.ipv4_src = words(source)[3];
        query.__bindgen_anon_4.ipv4_dst = words(destination)[3];
    } else {
        query.family = AF_INET6;
        query.__bindgen_anon_3.ipv6_src = words(source);
        query.__bindgen_anon_4.ipv6_dst = words(destination);
    }
    // SAFETY: the context and the query are valid for the call, the length is the query's.
    let answer = unsafe {
        fib_lookup(
            context.as_ptr(),
            &raw mut query,
            size_of::<bpf_fib_lookup>() as i32,
            0,
        )
    };
    match answer as u32 {
        BPF_FIB_LKUP_RET_SUCCESS => {
            // SAFETY: the kernel has filled the fields of the answer.
            let (mtu, next, next_v4) = unsafe {
                (
                    query.__bindgen_anon_1.mtu_result,
                    query.__bindgen_anon_4.ipv6_dst,
                    query.__bindgen_anon_4.ipv4_dst,
                )
            };
            // The kernel puts the router's address in the place of the destination's.
            let direct = if v4 {
                next_v4 == words(destination)[3]
            } else {
                next == words(destination)
            };
            Route::Found(NextHop {
                fresh_until: 0,
                interface: query.ifindex,
                generation: 0,
                macs: macs(&query),
                flags: if direct { 0 } else { HOP_GATEWAY },
                mtu: mtu as u32,
            })
        }
        BPF_FIB_LKUP_RET_NO_NEIGH => Route::NoNeighbour,
        BPF_FIB_LKUP_RET_FWD_DISABLED => Route::ForwardingDisabled,
        _ => Route::NoRoute,
    }
}

/// The addresses of an answer, in the order of a frame. The query lies on the stack, where the
/// verifier allows aligned reads only, and the kernel has the addresses at multiples of two.
#[inline(always)]
fn macs(query: &bpf_fib_lookup) -> [u8; 12] {
    let mut macs = [0; 12];
    let halves = [(&raw const query.dmac, 0), (&raw const query.smac, 6)];
    for (mac, start) in halves {
        for unit in 0..3 {
            // SAFETY: two bytes at an even offset of a field of six. Volatile, or the compiler
            // joins the reads.
            let [a, b] = unsafe { ptr::read_volatile(mac.cast::<u16>().add(unit)) }.to_ne_bytes();
            macs[start + 2 * unit] = a;
            macs[start + 2 * unit + 1] = b;
        }
    }
    macs
}

/// An address as the kernel's query has it: four words in network byte order.
#[inline(always)]
const fn words(address: &Address) -> [u32; 4] {
    let [first, second] = halves(address);
    [
        (first as u32).to_le(),
        ((first >> 32) as u32).to_le(),
        (second as u32).to_le(),
        ((second >> 32) as u32).to_le(),
    ]
}
