//! What `lb decap`, the far end of tunnels, shares with its programs.

use super::counter::counters;

/// What the programs are told.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecapSettings {
    /// UDP port that `gue` comes in by, network byte order.
    pub gue_port: [u8; 2],
    /// Largest packet that the way from lb takes, in bytes: what the MSS of answers must leave room
    /// for a tunnel in. 0: they stay as they are.
    pub mtu: u16,
    /// 1: tunnels may come from anywhere; 0: from known addresses only.
    pub from_anywhere: u8,
    /// Always zero.
    pub pad: [u8; 3],
}

const _: () = assert!(size_of::<DecapSettings>() == 8);

/// Addresses of the host that are told of at most.
pub const MAX_LOCAL: u32 = 4096;
/// Addresses that tunnels may come from at most.
pub const MAX_FRIENDS: u32 = 1024;

impl super::Counters {
    /// What has been counted under `counter`, where these are the far end's.
    #[must_use]
    pub const fn get_decap(&self, counter: DecapCounter) -> u64 {
        self.values[counter as usize]
    }
}

counters! {
    /// What the far end of tunnels counts: each packet that comes in once under
    /// [`DecapCounter::Received`] and once under one of the others. Their places in
    /// [`super::Counters`].
    DecapCounter;
    /// Packets that the program has seen.
    Received = 0, "received", Received;
    /// Unpacked from `ipip`.
    UnpackedIpip = 1, "unpacked_ipip", Forwarded;
    /// Unpacked from `gue`.
    UnpackedGue = 2, "unpacked_gue", Forwarded;
    /// Not in a tunnel.
    PassedPlain = 3, "plain", Passed;
    /// In a tunnel to somebody else.
    PassedNotOurs = 4, "not_for_this_host", Passed;
    /// A fragment of what may be in a tunnel; the stack may put it together.
    PassedFragment = 5, "fragment", Passed;
    /// From an address that tunnels may not come from.
    DropStranger = 8, "stranger", Dropped;
    /// What is inside is for an address that this host does not have.
    DropInnerNotOurs = 9, "inner_not_for_this_host", Dropped;
    /// What is inside is no whole packet.
    DropMalformed = 10, "inner_malformed", Dropped;
    /// Congestion was marked on the way of a packet whose sender does not understand that.
    DropCongestion = 11, "congestion", Dropped;
    /// The packet ended inside headers that had been read before: a defect of this program.
    DropRewrite = 12, "rewrite_failed", Dropped;
    /// Answers whose MSS was lowered.
    Clamped = 48, "mss_clamped", Event;
}
