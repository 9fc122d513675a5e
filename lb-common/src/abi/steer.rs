//! Which connections the socket look-up program hands over to the proxy.

/// Ranges of ports that are handed over at one address.
pub const MAX_STEER_RANGES: usize = 16;
/// Ranges of addresses that are told of at most.
pub const MAX_STEERED: u32 = 1024;

/// The ports of a range of addresses whose connections are handed over.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SteerPorts {
    /// First and last port of each range, in the host's byte order. Those that are not used have a
    /// first one above the last.
    pub ranges: [[u16; 2]; MAX_STEER_RANGES],
}

impl SteerPorts {
    /// No port.
    pub const NONE: Self = Self {
        ranges: [[1, 0]; MAX_STEER_RANGES],
    };

    /// Whether connections to `port` are handed over.
    #[inline(always)]
    #[must_use]
    pub const fn hold(&self, port: u16) -> bool {
        let mut held = false;
        let mut at = 0;
        // Without a branch for each: what is looked at is the same for every port.
        while at < MAX_STEER_RANGES {
            let [first, last] = self.ranges[at];
            held |= first <= port && port <= last;
            at += 1;
        }
        held
    }
}

/// What the program counts, on each processor.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteerCounts {
    /// Connections that were handed over.
    pub handed: u64,
    /// Connections that should have been, but there was no socket: the host's own sockets got them.
    pub orphaned: u64,
}

/// Index of the socket for IPv4, and of that for IPv6.
pub const STEER_V4: u32 = 0;
/// See [`STEER_V4`].
pub const STEER_V6: u32 = 1;

const _: () = assert!(size_of::<SteerPorts>() == 64 && size_of::<SteerCounts>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_their_ends_and_nothing_else() {
        let mut ports = SteerPorts::NONE;
        assert!((0..=u16::MAX).all(|port| !ports.hold(port)));
        ports.ranges[0] = [80, 80];
        ports.ranges[15] = [8000, u16::MAX];
        for (port, expected) in [
            (79, false),
            (80, true),
            (81, false),
            (7999, false),
            (8000, true),
            (u16::MAX, true),
        ] {
            assert_eq!(ports.hold(port), expected, "{port}");
        }
    }
}
