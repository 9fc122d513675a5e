//! VIPs of more than one port.

/// Ranges that an address may have at most, of both protocols together.
pub const MAX_RANGES: usize = 16;

/// Ports from `first` to `last`, both among them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// The first port, native byte order.
    pub first: u16,
    /// The last port, native byte order.
    pub last: u16,
    /// [`super::PROTOCOL_TCP`] or [`super::PROTOCOL_UDP`]; 0: there is no such range.
    pub protocol: u8,
    /// Always zero.
    pub pad: [u8; 3],
}

impl PortRange {
    /// A range.
    #[must_use]
    pub const fn new(protocol: u8, first: u16, last: u16) -> Self {
        Self {
            first,
            last,
            protocol,
            pad: [0; 3],
        }
    }

    /// Whether `port` is in it.
    #[inline(always)]
    #[must_use]
    pub const fn holds(&self, protocol: u8, port: u16) -> bool {
        self.protocol == protocol && self.first <= port && port <= self.last
    }
}

/// The ranges of the VIPs of an address. A packet that is for no VIP of one port is for the first one
/// that holds its port, so those of few ports come before those of many.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortRanges {
    /// The ranges, and behind them none.
    pub ranges: [PortRange; MAX_RANGES],
}

impl PortRanges {
    /// In the order in which they are looked at; those beyond [`MAX_RANGES`] are left out.
    #[must_use]
    pub fn new(of: impl IntoIterator<Item = PortRange>) -> Self {
        let mut all = Self::default();
        for range in of {
            let ports = |range: &PortRange| range.last.wrapping_sub(range.first);
            let mut place = MAX_RANGES;
            while place > 0
                && (all.ranges[place - 1].protocol == 0
                    || ports(&all.ranges[place - 1]) > ports(&range))
            {
                place -= 1;
            }
            if place < MAX_RANGES {
                all.ranges.copy_within(place..MAX_RANGES - 1, place + 1);
                all.ranges[place] = range;
            }
        }
        all
    }
}

const _: () = assert!(size_of::<PortRange>() == 8 && size_of::<PortRanges>() == 128);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_ports_come_before_many() {
        let (any, wide, narrow) = (
            PortRange::new(6, 0, 65_535),
            PortRange::new(6, 1000, 1999),
            PortRange::new(17, 53, 54),
        );
        for of in [
            [any, wide, narrow],
            [narrow, any, wide],
            [wide, narrow, any],
        ] {
            let all = PortRanges::new(of);
            assert_eq!(all.ranges[..3], [narrow, wide, any]);
            assert_eq!(all.ranges[3..], [PortRange::default(); MAX_RANGES - 3]);
        }
        let many = (0..40).map(|n| PortRange::new(6, 100 * n, 100 * n + 40 - n));
        let all = PortRanges::new(many);
        assert!(all.ranges.iter().all(|range| range.protocol == 6));
        assert!(
            all.ranges
                .is_sorted_by_key(|range| range.last - range.first)
        );
    }

    #[test]
    fn both_ends_are_in() {
        let range = PortRange::new(6, 80, 90);
        let of = |protocol, port| range.holds(protocol, port);
        assert!(of(6, 80) && of(6, 90) && !of(6, 79) && !of(6, 91) && !of(17, 85));
        assert!(!PortRange::default().holds(6, 0));
    }
}
