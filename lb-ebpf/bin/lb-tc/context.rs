//! What traffic control calls the programs with, and what they answer.

use core::{arch::asm, ffi::c_void, mem::offset_of, ptr};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::{bpf_redirect, generated::bpf_skb_load_bytes},
    programs::TcContext,
};
use lb_common::EVENT_BYTES;
use lb_ebpf::{
    opaque,
    record::{DROP, Fate, REDIRECT, TRANSMIT},
};

use crate::{
    hook::{Depth, Hook},
    skb::{SocketBuffer, field},
};

/// Bytes of a VLAN tag, and of what is before the first one.
const TAG: u32 = 4;
const MACS: u32 = 12;

impl Hook for TcContext {
    type Packet = SocketBuffer;
    type Action = i32;
    /// Whoever comes behind may still look at it.
    const PASS: i32 = TC_ACT_UNSPEC;

    #[inline(always)]
    fn packet(&self, depth: Depth) -> SocketBuffer {
        SocketBuffer::new(self, depth)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        let tag = if field!(self.skb.skb, vlan_present) != 0 {
            TAG
        } else {
            0
        };
        field!(self.skb.skb, len) + tag
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        // Not `ingress_ifindex`, which is the same but where a packet is only tried.
        field!(self.skb.skb, ifindex)
    }

    /// The tag is where it is on a wire.
    #[inline(always)]
    unsafe fn load(&self, to: *mut c_void, length: u32) -> bool {
        let part = |from: u32, to: *mut c_void, length: u32| {
            // SAFETY: the caller's.
            unsafe { bpf_skb_load_bytes(self.as_ptr(), from, to, length) == 0 }
        };
        if field!(self.skb.skb, vlan_present) == 0 {
            return part(0, to, length);
        }
        let kind = (field!(self.skb.skb, vlan_proto) as u16).to_ne_bytes();
        let control = (field!(self.skb.skb, vlan_tci) as u16).to_be_bytes();
        let rest = opaque(u64::from(length.wrapping_sub(MACS + TAG))) as u32;
        if rest == 0 || rest > EVENT_BYTES as u32 - MACS - TAG {
            return false;
        }
        // SAFETY: the caller's.
        unsafe {
            let tag = to.byte_add(MACS as usize).cast();
            ptr::write_unaligned(tag, [kind[0], kind[1], control[0], control[1]]);
            part(0, to, MACS) && part(MACS, to.byte_add((MACS + TAG) as usize), rest)
        }
    }

    #[inline(always)]
    fn carry_out(&self, fate: Fate) -> i32 {
        let out = match fate.action {
            DROP => return TC_ACT_SHOT,
            TRANSMIT => self.interface(),
            REDIRECT => fate.out,
            _ => return TC_ACT_UNSPEC,
        };
        // SAFETY: a helper without pointers.
        unsafe { bpf_redirect(out, 0) as i32 }
    }
}
