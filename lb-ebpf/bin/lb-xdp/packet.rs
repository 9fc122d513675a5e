//! XDP memory.

use core::ptr;

use aya_ebpf::programs::XdpContext;
use lb_ebpf::{Header, Packet};

/// No offset is above this: Ethernet, two tags, IPv6, the extension headers that are walked, and a
/// TCP header are less. Without a limit the verifier cannot follow `data + offset`.
const MAX_OFFSET: usize = 0x3ff;

/// The packet that an XDP program was called for.
pub(crate) struct XdpPacket<'a> {
    context: &'a XdpContext,
}

impl<'a> XdpPacket<'a> {
    #[inline(always)]
    pub(crate) fn new(context: &'a XdpContext) -> Self {
        Self { context }
    }

    /// The address of `H` at `offset`, if it lies in the packet as a whole.
    #[inline(always)]
    fn at<H: Header>(&self, offset: usize) -> Option<*mut H> {
        if offset > MAX_OFFSET {
            return None;
        }
        let start = self.context.data() + offset;
        if start + size_of::<H>() > self.context.data_end() {
            return None;
        }
        Some(start as *mut H)
    }
}

impl Packet for XdpPacket<'_> {
    #[inline(always)]
    fn length(&self) -> usize {
        self.context.data_end() - self.context.data()
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
}
