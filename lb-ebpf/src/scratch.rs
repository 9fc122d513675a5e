//! Memory for a packet's large values.

use lb_common::{ClientKey, FlowEntry, FlowKey, PrefixKey, Vip, VipKey};

use crate::{
    fragment::{FragmentKey, Note},
    handshake::Shown,
    parse::Layout,
    record::Fate,
    step::Handover,
};

/// The values of a packet that must have an address: keys and entries for the maps. They would take
/// nearly half of the 512 bytes of stack that the kernel gives a program and everything it calls,
/// so the kernel's half of the adapters keeps one of these for each processor.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Scratch {
    /// The packet's tuple.
    pub key: FlowKey,
    /// What its VIP is looked up by.
    pub vip: VipKey,
    /// The tuple of the other direction.
    pub partner: FlowKey,
    /// An entry to be inserted.
    pub entry: FlowEntry,
    /// What the fragments of the datagram have in common.
    pub fragment: FragmentKey,
    /// What is noted of the datagram.
    pub note: Note,
    /// What its source is looked up by in the ACL.
    pub prefix: PrefixKey,
    /// What its client is remembered by.
    pub client: ClientKey,
    /// Not 0 when an entry was inserted for the packet that is [marked](crate::opening).
    pub opened: u32,
    /// [`Vip::forward_of_owners`], from where it began to where there is no room for the packet's connection.
    pub owned_forward: u32,
    /// What is known of the packet's SYN cookie, from [`crate::admit`] on.
    pub shown: Shown,
    /// The VIP of a packet that SYN cookies are a question for.
    pub asked: Vip,
    /// What the headers of a packet say that is handed on before anything was done with it.
    pub layout: Layout,
    /// What the next stage is told.
    pub handover: Handover,
    /// What became of the packet; only for who records it.
    pub fate: Fate,
    /// A bit for each follower who wants to see the packet; for the same.
    pub followers: u32,
}
