//! Random numbers that follow from a seed.

use lb_ebpf::hash;

/// A source of them; the same in each run, on each machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The source of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub const fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash::finish(self.0)
    }

    /// A number below `limit`, which must not be 0.
    pub const fn below(&mut self, limit: usize) -> usize {
        (self.any() >> 32) as usize % limit
    }

    /// Any byte.
    pub const fn byte(&mut self) -> u8 {
        (self.any() >> 56) as u8
    }

    /// Whether the one case in `n` has come.
    pub const fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of several; what stands there twice comes twice as often.
    ///
    /// # Panics
    /// When there are none.
    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}
