//! Time as an argument.
//!
//! Everything that decides by time takes a [`Timestamp`]; whoever needs to read one holds a
//! [`Clock`], which a test can turn by hand.

use std::{
    ops::{Add, Sub},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Seconds since 1970, until 2106; 0 on a machine whose clock says that it is earlier. For what
/// is to be understood by other processes.
#[must_use]
pub fn unix_seconds() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u32::try_from(since.unwrap_or_default().as_secs()).unwrap_or(u32::MAX)
}

/// Microseconds since the process began; monotonic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Time since `earlier`; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// Whole seconds since the process began.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0 / 1_000_000
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub for Timestamp {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

/// A source of [`Timestamp`]s: the machine's, or one that a test sets.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    manual: Option<Arc<AtomicU64>>,
}

impl Clock {
    /// The machine's monotonic clock.
    #[must_use]
    pub const fn real() -> Self {
        Self { manual: None }
    }

    /// A clock that stands still until [`Clock::advance`].
    #[must_use]
    pub fn manual(start: Timestamp) -> Self {
        Self {
            manual: Some(Arc::new(AtomicU64::new(start.0))),
        }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        static BASE: OnceLock<Instant> = OnceLock::new();
        match &self.manual {
            Some(time) => Timestamp(time.load(Ordering::Relaxed)),
            None => Timestamp::default() + BASE.get_or_init(Instant::now).elapsed(),
        }
    }

    /// Moves a manual clock forward; the machine's clock takes no orders.
    pub fn advance(&self, by: Duration) {
        if let Some(time) = &self.manual {
            let by = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
            time.fetch_add(by, Ordering::Relaxed);
        }
    }
}
