//! Where the kernel calls the programs: on a packet that has just come in (XDP), or on the socket buffer that it
//! makes of one (traffic control).
//!
//! XDP costs less where the driver brings it: nothing has been made of the packet yet. Where it does not, or only
//! by copying what it has a socket buffer for already, as a veth pair does, traffic control is as near.
//!
//! Each is an object of its own, made of the same modules: `lb-xdp`, which also has what else lb runs in the
//! kernel, and `lb-tc`. In one object each would have its functions cut up by what the other one calls, and
//! the stack has no room for that.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use lb_ebpf::{Packet, record::Fate};

/// How much of a packet is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// The headers down to the ports.
    Ports,
    /// Whatever is there.
    All,
}

/// What a program is called with.
pub(crate) trait Hook: EbpfContext + Sized {
    /// The packet.
    type Packet: Packet;
    /// What the program answers.
    type Action;
    /// The answer that leaves a packet to the host.
    const PASS: Self::Action;

    /// The packet, of which so much is read.
    fn packet(&self, depth: Depth) -> Self::Packet;

    /// Bytes of the packet.
    fn length(&self) -> u32;

    /// The index of the interface that it came in by.
    fn interface(&self) -> u32;

    /// Copies as many bytes from the packet's beginning, wherever they lie.
    ///
    /// # Safety
    ///
    /// There must be room for them.
    unsafe fn load(&self, to: *mut c_void, length: u32) -> bool;

    /// The answer that does what was decided.
    fn carry_out(&self, fate: Fate) -> Self::Action;
}
