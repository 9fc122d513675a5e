//! Traffic counters.

/// What one CPU has seen for a VIP or an instance.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets from clients that were forwarded.
    pub packets_in: u64,
    /// Bytes of those packets, Ethernet header included.
    pub bytes_in: u64,
    /// Packets from instances that were forwarded (only `nat` sees them).
    pub packets_out: u64,
    /// Bytes of those packets.
    pub bytes_out: u64,
    /// Connections begun.
    pub connections: u64,
    /// Packets refused after the VIP or the instance was known.
    pub dropped: u64,
}

const _: () = assert!(size_of::<Traffic>() == 48);
