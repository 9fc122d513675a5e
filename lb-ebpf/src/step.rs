//! Stages.
//!
//! The packets that are by far the most numerous are those of known connections that are rewritten
//! in place, and whatever else the program can do must not make them slower: not by a larger stack
//! frame, not by registers that are spilled for somebody else. So what is rarer or costs more by its
//! nature is done by programs of their own, which the first one hands a packet on to by a tail call.
//! Each has the whole stack and the verifier's whole patience for itself.
//!
//! A stage parses nothing again. What the first one has found lies in [`crate::Scratch`].

use crate::Verdict;

/// A program that a packet may be handed on to. The numbers are places in the array
/// [`lb_common::names::MAP_STAGES`], in the order of [`lb_common::names::STAGES`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// [`crate::encapsulate`]; also for what is sent as it is, but rarely.
    Encapsulate = 0,
    /// [`crate::too_big`].
    TooBig = 1,
    /// [`crate::icmp`].
    Icmp = 2,
    /// [`crate::finish`].
    Finish = 3,
    /// [`crate::fragment`].
    Fragment = 4,
    /// [`crate::refuse`].
    Refuse = 5,
    /// [`crate::admit`].
    Admit = 6,
    /// [`crate::handshake`].
    Cookie = 7,
    /// [`crate::splice`].
    Splice = 8,
    /// [`crate::path_mtu`].
    PathMtu = 9,
}

/// How far a packet has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// To the end; it is counted.
    Done(Verdict),
    /// It goes on elsewhere, where it will be counted.
    Next(Stage),
}

/// What a stage is told of a packet beside its tuple.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handover {
    /// Offset of the IP header.
    pub l3: u32,
    /// Offset of the TCP or UDP header.
    pub l4: u32,
    /// Length of the IP packet in bytes, its header included.
    pub ip_length: u32,
    /// Largest IP packet that the way takes, for [`Stage::TooBig`].
    pub mtu: u32,
    /// [`lb_common::NextHop::interface`] of its way, for [`Stage::Finish`].
    pub out: u32,
    /// [`lb_common::NextHop::flags`] of it, for the same.
    pub hop_flags: u16,
    /// [`lb_common::Vip::id`].
    pub vip: u16,
    /// Index of the instance.
    pub index: u16,
    /// Its generation when the connection began.
    pub generation: u16,
    /// [`lb_common::FlowEntry::forward`].
    pub forward: u8,
    /// 1 for IPv4, 0 for IPv6.
    pub v4: u8,
    /// Flags of the TCP header; 0 for UDP.
    pub tcp_flags: u8,
    /// One of the `FLOW_*` directions.
    pub direction: u8,
    /// 1 when no checksum of TCP or UDP covers what the packet holds: of a fragment, and of an ICMP
    /// message about the connection.
    pub is_unsummed: u8,
    /// 1 when nobody may be told that the packet is too large: of a later fragment and of an ICMP
    /// message (RFC 1122, 3.2.2).
    pub is_unanswered: u8,
    /// Always zero.
    pub pad: [u8; 2],
}

const _: () = assert!(size_of::<Handover>() == 36);
