//! What becomes of a packet.

use lb_common::Counter;

/// What becomes of a packet, with the counter that says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To the host's network stack, untouched.
    Pass(Counter),
    /// Refused.
    Drop(Counter),
    /// Answered: what was made of it goes back out of the interface it came in by.
    Answer(Counter),
    /// Rewritten; back out of the interface it came in by.
    Transmit,
    /// Rewritten; out of the interface with this index.
    Redirect(u32),
}

impl Verdict {
    /// The one counter beside [`Counter::Received`] that a packet with this verdict is counted
    /// under.
    #[inline(always)]
    #[must_use]
    pub const fn counter(self) -> Counter {
        match self {
            Self::Pass(counter) | Self::Drop(counter) | Self::Answer(counter) => counter,
            Self::Transmit => Counter::Transmitted,
            Self::Redirect(_) => Counter::Redirected,
        }
    }
}
