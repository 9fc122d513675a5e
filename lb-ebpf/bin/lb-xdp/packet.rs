//! XDP memory.

use core::{arch::asm, ffi::c_void, mem::offset_of, ptr};

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    helpers::{
        bpf_redirect,
        generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_load_bytes},
    },
    programs::XdpContext,
};
use lb_ebpf::{
    Header, Packet,
    record::{DROP, Fate, REDIRECT, TRANSMIT},
};

use crate::{
    bytes,
    hook::{Depth, Hook},
};

/// The packet that an XDP program was called for.
pub(crate) struct XdpPacket {
    context: *mut xdp_md,
    start: usize,
    end: usize,
}

impl XdpPacket {
    #[inline(always)]
    pub(crate) fn new(context: &XdpContext) -> Self {
        let context = context.ctx;
        let (start, end) = bounds(context);
        Self {
            context,
            start,
            end,
        }
    }

    /// The address of `H` at `offset`, if it lies in the packet as a whole.
    #[inline(always)]
    fn at<H: Header>(&self, offset: usize) -> Option<*mut H> {
        bytes::place(self.start, self.end, offset)
    }
}

impl XdpPacket {
    #[inline(always)]
    fn move_start(&mut self, by: i32) -> Option<()> {
        // SAFETY: the context is the program's; the pointers into the packet are read anew.
        let result = unsafe { bpf_xdp_adjust_head(self.context, by) };
        (self.start, self.end) = bounds(self.context);
        (result == 0).then_some(())
    }
}

/// The packet's first byte and the one behind its last.
#[inline(always)]
fn bounds(context: *mut xdp_md) -> (usize, usize) {
    let (start, end);
    // SAFETY: reads two fields of the context. They are declared as 32 bits wide but the verifier
    // makes them pointers; a read in Rust would be followed by a conversion from 32 to 64 bits,
    // after which they are none.
    unsafe {
        asm!(
            "{start} = *(u32 *)({context} + {data})",
            "{end} = *(u32 *)({context} + {data_end})",
            context = in(reg) context,
            data = const offset_of!(xdp_md, data),
            data_end = const offset_of!(xdp_md, data_end),
            start = out(reg) start,
            end = out(reg) end,
            options(readonly, nostack),
        );
    }
    (start, end)
}

impl Packet for XdpPacket {
    #[inline(always)]
    fn length(&self) -> usize {
        self.end - self.start
    }

    #[inline(always)]
    fn forget(&mut self, mut value: u64) -> u64 {
        // SAFETY: adds and subtracts the same value. The verifier knows that value as a range only,
        // and the difference of two ranges is another.
        unsafe {
            asm!(
                "{copy} = {length}",
                "{value} += {length}",
                "{value} -= {copy}",
                copy = out(reg) _,
                length = in(reg) self.length(),
                value = inout(reg) value,
                options(nomem, nostack),
            );
        }
        // What has been compared with the old end is forgotten with the old pointers.
        (self.start, self.end) = bounds(self.context);
        value
    }

    #[inline(always)]
    fn read<H: Header>(&self, offset: usize) -> Option<H> {
        // SAFETY: `at` has compared with the packet's end; any bytes are a valid `H`.
        self.at(offset)
            .map(|header| unsafe { ptr::read_unaligned(header) })
    }

    #[inline(always)]
    fn write<H: Header>(&mut self, offset: usize, header: H) -> Option<()> {
        // SAFETY: `at` has compared with the packet's end; `H` is plain bytes.
        self.at(offset)
            .map(|place| unsafe { ptr::write_unaligned(place, header) })
    }

    #[inline(always)]
    fn grow(&mut self, bytes: usize) -> Option<()> {
        self.move_start(-(bytes as i32))
    }

    #[inline(always)]
    fn strip(&mut self, bytes: usize) -> Option<()> {
        self.move_start(bytes as i32)
    }

    #[inline(always)]
    fn resize(&mut self, length: usize) -> Option<()> {
        let change = length as i32 - self.length() as i32;
        // What is behind a packet may be no memory of anybody's.
        if change > 0 {
            return self.grow(change as usize);
        }
        // SAFETY: as above.
        let result = unsafe { bpf_xdp_adjust_tail(self.context, change) };
        (self.start, self.end) = bounds(self.context);
        (result == 0).then_some(())
    }
}

impl Hook for XdpContext {
    type Packet = XdpPacket;
    type Action = u32;
    const PASS: u32 = xdp_action::XDP_PASS;

    #[inline(always)]
    fn packet(&self, _depth: Depth) -> XdpPacket {
        XdpPacket::new(self)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        XdpPacket::new(self).length() as u32
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        self.ingress_ifindex() as u32
    }

    #[inline(always)]
    unsafe fn load(&self, to: *mut c_void, length: u32) -> bool {
        // SAFETY: the caller's.
        unsafe { bpf_xdp_load_bytes(self.ctx, 0, to, length) == 0 }
    }

    #[inline(always)]
    fn carry_out(&self, fate: Fate) -> u32 {
        match fate.action {
            DROP => xdp_action::XDP_DROP,
            TRANSMIT => xdp_action::XDP_TX,
            // SAFETY: a helper without pointers.
            REDIRECT => unsafe { bpf_redirect(fate.out, 0) as u32 },
            _ => xdp_action::XDP_PASS,
        }
    }
}
