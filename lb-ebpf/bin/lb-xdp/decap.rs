//! The far end of tunnels: [`lb_ebpf::decap`] over what comes in, and [`lb_ebpf::mss`] over what leaves the host.

use core::ptr;

use aya_ebpf::{
    EbpfContext,
    bindings::TC_ACT_UNSPEC,
    helpers::generated::{
        bpf_csum_diff, bpf_l4_csum_replace, bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
    macros::{classifier, map},
    maps::{Array, HashMap, PerCpuArray},
    programs::TcContext,
};
use lb_common::{
    Address, COUNTER_COUNT, Counters, DecapCounter, DecapSettings, MAX_FRIENDS, MAX_LOCAL,
};
use lb_ebpf::{
    Header, Packet,
    decap::{Fate, Host, unpack},
    mss,
    record::{DROP, Fate as Verdict, PASS},
};

use crate::hook::{Depth, Hook};

#[map]
static DECAP_SETTINGS: Array<DecapSettings> = Array::with_max_entries(1, 0);

#[map]
static DECAP_LOCAL: HashMap<Address, u32> = HashMap::with_max_entries(MAX_LOCAL, 0);

#[map]
static DECAP_FRIENDS: HashMap<Address, u32> = HashMap::with_max_entries(MAX_FRIENDS, 0);

#[map]
static DECAP_COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// The maps.
struct Maps;

impl Host for Maps {
    #[inline(always)]
    fn settings(&self) -> Option<DecapSettings> {
        DECAP_SETTINGS.get(0).copied()
    }

    #[inline(always)]
    fn is_local(&self, address: &Address) -> bool {
        DECAP_LOCAL.get_ptr(address).is_some()
    }

    #[inline(always)]
    fn note_overhead(&self, address: &Address, bytes: u32) {
        if let Some(known) = DECAP_LOCAL.get_ptr_mut(address) {
            // SAFETY: a map value of four aligned bytes, read and written as a whole. Written only
            // when it changes, so that its cache line does not travel.
            unsafe {
                if ptr::read_volatile(known) != bytes {
                    ptr::write_volatile(known, bytes);
                }
            }
        }
    }

    #[inline(always)]
    fn overhead(&self, address: &Address) -> u32 {
        // SAFETY: as above.
        DECAP_LOCAL
            .get_ptr(address)
            .map_or(0, |known| unsafe { ptr::read_volatile(known) })
    }

    #[inline(always)]
    fn is_friend(&self, address: &Address) -> bool {
        DECAP_FRIENDS.get_ptr(address).is_some()
    }

    #[inline(always)]
    fn count(&self, counter: DecapCounter) {
        let index = counter as usize;
        if let Some(counters) = DECAP_COUNTERS.get_ptr_mut(0)
            && index < COUNTER_COUNT
        {
            // SAFETY: this processor's element; the index is below the length of the array.
            unsafe { *(&raw mut (*counters).values).cast::<u64>().add(index) += 1 }
        }
    }
}

/// Unpacks what comes in by a tunnel.
#[inline(always)]
pub(crate) fn decap<H: Hook>(context: &H) -> H::Action {
    let action = match unpack(&mut context.packet(Depth::All), &Maps) {
        Fate::Pass(_) => PASS,
        Fate::Drop(_) => DROP,
    };
    context.carry_out(Verdict {
        action,
        ..Verdict::default()
    })
}

/// Lowers the MSS of what answers tunnelled connections.
#[classifier]
pub fn lb_clamp(context: TcContext) -> i32 {
    let mut packet = SocketBuffer(&context);
    if let Some(clamp) = mss::clamp(&mut packet, &Maps) {
        packet.change(&clamp);
    }
    TC_ACT_UNSPEC
}

/// A packet on its way out. It may lie in memory in pieces, so it is read by a helper.
struct SocketBuffer<'a>(&'a TcContext);

impl SocketBuffer<'_> {
    /// Changes an MSS and the checksum over it; the helper knows whether that is still to be filled
    /// in by the network card.
    #[inline(always)]
    fn change(&mut self, clamp: &mss::Clamp) {
        let (mut old, mut new) = (
            [clamp.old[0], clamp.old[1], 0, 0],
            [clamp.new[0], clamp.new[1], 0, 0],
        );
        if clamp.is_odd {
            old = [0, clamp.old[0], clamp.old[1], 0];
            new = [0, clamp.new[0], clamp.new[1], 0];
        }
        let (mut old, mut new) = (u32::from_ne_bytes(old), u32::from_ne_bytes(new));
        // SAFETY: helpers on the program's context, with buffers of the lengths given.
        unsafe {
            let skb = self.0.skb.skb;
            let difference = bpf_csum_diff(&raw mut old, 4, &raw mut new, 4, 0);
            if difference < 0 {
                return;
            }
            let check_at = clamp.check_at as u32;
            if bpf_l4_csum_replace(skb, check_at, 0, difference as u64, 0) == 0 {
                let value = clamp.new;
                bpf_skb_store_bytes(skb, clamp.at as u32, value.as_ptr().cast(), 2, 0);
            }
        }
    }
}

impl Packet for SocketBuffer<'_> {
    fn length(&self) -> usize {
        self.0.len() as usize
    }

    #[inline(always)]
    fn forget(&mut self, value: u64) -> u64 {
        value
    }

    #[inline(always)]
    fn read<H: Header>(&self, offset: usize) -> Option<H> {
        let mut header = core::mem::MaybeUninit::<H>::uninit();
        // SAFETY: the buffer has the length given, and any bytes are a valid `H`.
        unsafe {
            let result = bpf_skb_load_bytes(
                self.0.as_ptr(),
                offset as u32,
                header.as_mut_ptr().cast(),
                size_of::<H>() as u32,
            );
            (result == 0).then(|| header.assume_init())
        }
    }

    // Nothing that goes out is changed but by `change`.
    fn write<H: Header>(&mut self, _offset: usize, _header: H) -> Option<()> {
        None
    }

    fn grow(&mut self, _bytes: usize) -> Option<()> {
        None
    }

    fn strip(&mut self, _bytes: usize) -> Option<()> {
        None
    }

    fn resize(&mut self, _length: usize) -> Option<()> {
        None
    }
}
