//! Connections for the proxy that no socket listens for: which are its own is looked up here, when the
//! kernel looks for the socket of a new connection, and its socket is named instead.
//!
//! The kernel asks for every packet that belongs to no connection and is for an address of this host,
//! so nothing here costs a connection that is there.

use core::ptr;

use aya_ebpf::{
    bindings::sk_action,
    macros::{map, sk_lookup},
    maps::{LpmTrie, PerCpuArray, SockMap, lpm_trie::Key},
    programs::SkLookupContext,
};
use lb_common::{
    Address, MAX_STEERED, PROTOCOL_TCP, STEER_V4, STEER_V6, SteerCounts, SteerPorts, from_halves,
    from_v4,
};

/// `AF_INET` and `AF_INET6` of `linux/socket.h`.
const INET: u32 = 2;
const INET6: u32 = 10;

#[map]
static STEER_PORTS: LpmTrie<Address, SteerPorts> = LpmTrie::with_max_entries(MAX_STEERED, 0);

/// One socket of each group that shares a port; the kernel spreads connections over the group.
#[map]
static STEER_SOCKETS: SockMap = SockMap::with_max_entries(2, 0);

#[map]
static STEER_COUNTS: PerCpuArray<SteerCounts> = PerCpuArray::with_max_entries(1, 0);

/// Hands a connection over, if it is the proxy's.
#[sk_lookup]
pub fn lb_steer(context: SkLookupContext) -> u32 {
    if let Some((address, port, socket)) = destination(&context)
        && let Some(ports) = STEER_PORTS.get(Key::new(128, address))
        && ports.hold(port)
    {
        let is_handed = STEER_SOCKETS
            .redirect_sk_lookup(&context, socket, 0)
            .is_ok();
        count(is_handed);
    }
    // Without a socket of its own the connection goes where it would have gone.
    sk_action::SK_PASS
}

/// Reads a field of the context, four bytes at a time, as the verifier wants it.
macro_rules! field {
    ($context:ident.$($field:tt)+) => {
        // SAFETY: the kernel passes a context of this type.
        unsafe { ptr::read_volatile(&raw const (*$context.lookup).$($field)+) }
    };
}

/// Where a TCP connection is to, and which socket would take it.
#[inline(always)]
fn destination(context: &SkLookupContext) -> Option<(Address, u16, u32)> {
    // All are read, whatever they say: of reads in branches the compiler makes one with a place that
    // is computed, and the verifier wants places that are written in the instructions.
    let (family, protocol) = (field!(context.family), field!(context.protocol));
    let (port, v4) = (field!(context.local_port), field!(context.local_ip4));
    let v6 = [
        field!(context.local_ip6[0]),
        field!(context.local_ip6[1]),
        field!(context.local_ip6[2]),
        field!(context.local_ip6[3]),
    ];
    if protocol != u32::from(PROTOCOL_TCP) {
        return None;
    }
    match family {
        INET => Some((from_v4(v4.to_ne_bytes()), port as u16, STEER_V4)),
        INET6 => {
            // The bytes as they lie in memory.
            let [a, b, c, d] = v6.map(|word| u64::from(word.to_le()));
            let address = from_halves([a | b << 32, c | d << 32]);
            Some((address, port as u16, STEER_V6))
        }
        _ => None,
    }
}

#[inline(always)]
fn count(is_handed: bool) {
    if let Some(counts) = STEER_COUNTS.get_ptr_mut(0) {
        // SAFETY: this processor's element; programs of this type do not interrupt each other on a
        // processor, but for a packet that one of them looks up in an interrupt, which may cost a count.
        unsafe {
            if is_handed {
                (*counts).handed += 1;
            } else {
                (*counts).orphaned += 1;
            }
        }
    }
}
