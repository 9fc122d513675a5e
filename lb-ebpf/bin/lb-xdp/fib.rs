//! The kernel's route and neighbour tables, asked by a helper.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
        bpf_fib_lookup,
    },
    helpers::generated::bpf_fib_lookup as fib_lookup,
};
use lb_common::{Address, HOP_GATEWAY, NextHop, halves, is_v4};
use lb_ebpf::Route;

use crate::maps::SUBINTERFACES;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Asks for the way from `source` to `destination` for a packet that came in by `interface`, to which `context`
/// belongs. The answer is kept for packets of any length, so the MTU is remembered and compared by the caller. A
/// length of one fits all ways; without any, the kernel would compare that of a socket buffer, with the
/// interface's MTU instead of the route's.
#[inline(always)]
pub(crate) fn ask(
    context: *mut c_void,
    source: &Address,
    destination: &Address,
    interface: u32,
) -> Route {
    // SAFETY: the struct is integers and unions of integers, for which zero is valid.
    let mut query: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    query.ifindex = interface;
    query.__bindgen_anon_1.tot_len = 1;
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
            context,
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
            let mut interface = query.ifindex;
            let mut flags = if direct { 0 } else { HOP_GATEWAY };
            // SAFETY: copied at once.
            if let Some(vlan) = unsafe { SUBINTERFACES.get(&interface) } {
                let Some((out, tagged)) = vlan.way(interface) else {
                    return Route::NoRoute;
                };
                interface = out;
                flags |= tagged;
            }
            Route::Found(NextHop {
                fresh_until: 0,
                interface,
                generation: 0,
                macs: macs(&query),
                flags,
                mtu_and_epoch: mtu as u32,
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
