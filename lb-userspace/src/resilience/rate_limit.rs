//! Rate limits: how many requests may come in a time.
//!
//! The generic cell rate algorithm (ITU-T I.371, annex A, as a virtual scheduling algorithm): a
//! budget is one number, the *theoretical arrival time* of the next request. A request at `t` is
//! allowed when that time is at most `t + τ`, and moves it to `max(t, TAT) + T`, with `T` the time
//! for one request and `τ = (burst - 1) × T`. It is a token bucket of `burst` tokens that is never
//! refilled by a timer. In any window of length `w` at most `burst + w / T` requests pass.
//!
//! One number fits an atomic: a budget that all share is exact across workers without a lock.
//! Budgets by key live in a table of fixed size. A budget whose time has passed is full, which is
//! what an unknown one is, so entries expire by themselves and nothing has to be swept.
//!
//! The table is as associative as a processor's cache: a key's hash names a set of sixteen, behind
//! one of 128 locks. Who finds the set full of budgets that are in use takes over the one that is
//! nearest to being full *with what it has used* (the rule of Space-Saving, Metwally et al. 2005):
//! inventing keys wins nobody a fresh budget, and all keys of a set together get no more than
//! sixteen may. That is counted; it takes more keys in use than the table was made for.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher as _, Hash},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::model::{RateKey, RateLimitSpec, RateScope, Timestamp};

/// Parts of a microsecond that time is counted in: a sixteenth of a nanosecond, which rounds the
/// time for one request up by less than one part in 10,000 at a million requests a second. A count
/// of 64 bits lasts 36 years.
const TICKS_PER_US: u64 = 16_000;

/// The longest that a burst may reach back, in ticks: 9 years.
const LONGEST: u64 = 1 << 62;

/// Budgets of a set.
const WAYS: usize = 16;

/// Parts of a table with a lock each.
const SHARDS: usize = 128;

/// The rule of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gcra {
    /// Time for one request, in ticks.
    step: u64,
    /// How far ahead of the time a budget may be, in ticks.
    tolerance: u64,
}

impl Gcra {
    /// The rule of `spec`. The time for one request is rounded up, never down.
    #[must_use]
    pub fn new(spec: &RateLimitSpec) -> Self {
        let per = u64::try_from(spec.per.as_nanos()).unwrap_or(u64::MAX);
        let per = per.saturating_mul(TICKS_PER_US / 1000).min(LONGEST);
        let step = per.div_ceil(u64::from(spec.requests.max(1))).max(1);
        let tolerance = step.saturating_mul(u64::from(spec.burst.max(1)) - 1);
        Self {
            step,
            tolerance: tolerance.min(LONGEST),
        }
    }

    /// The budget `tat` after one more request at `now`.
    ///
    /// # Errors
    /// In how many ticks there is one, when there is none now.
    const fn take(self, tat: u64, now: u64) -> Result<u64, u64> {
        let base = if tat > now { tat } else { now };
        let ahead = base - now;
        if ahead > self.tolerance {
            Err(ahead - self.tolerance)
        } else {
            Ok(base.saturating_add(self.step))
        }
    }
}

const fn ticks(now: Timestamp) -> u64 {
    now.0.saturating_mul(TICKS_PER_US)
}

/// Ticks as a duration, rounded up.
const fn duration(ticks: u64) -> Duration {
    Duration::from_nanos(ticks.div_ceil(TICKS_PER_US / 1000))
}

/// Budgets by key.
struct Table {
    hasher: RandomState,
    shards: Box<[Mutex<Vec<Budget>>]>,
    sets_per_shard: usize,
    crowded: AtomicU64,
}

/// A budget of the table; one whose time has passed is free.
#[derive(Clone, Copy, Debug, Default)]
struct Budget {
    key: u64,
    tat: u64,
}

impl Table {
    fn new(max_keys: u32) -> Self {
        // Half as many again, for hashes do not spread evenly over sets.
        let budgets = (max_keys as usize).saturating_mul(3) / 2;
        let sets = budgets.div_ceil(WAYS * SHARDS).next_power_of_two();
        Self {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            sets_per_shard: sets,
            crowded: AtomicU64::new(0),
        }
    }

    fn take(&self, rule: Gcra, key: impl Hash, now: u64) -> Result<(), u64> {
        // Two keys of one hash share a budget: with 100,000 keys one time in 10^9.
        let key = self.hasher.hash_one(key);
        let shard = &self.shards[key as usize % SHARDS];
        let set = (key as usize / SHARDS) % self.sets_per_shard;
        // Nobody panics while holding it, and a budget has no state in between.
        let mut budgets = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if budgets.is_empty() {
            budgets.resize(self.sets_per_shard * WAYS, Budget::default());
        }
        let ways = &mut budgets[set * WAYS..(set + 1) * WAYS];
        let mut found = 0;
        for at in 0..ways.len() {
            if ways[at].key == key {
                found = at;
                break;
            }
            if ways[at].tat < ways[found].tat {
                found = at;
            }
        }
        let budget = &mut ways[found];
        if budget.key != key && budget.tat > now {
            self.crowded.fetch_add(1, Ordering::Relaxed);
        }
        let tat = rule.take(budget.tat, now)?;
        *budget = Budget { key, tat };
        Ok(())
    }

    /// Whether there is a request in the budget of `key`; in how many ticks, when there is none.
    fn look(&self, rule: Gcra, key: impl Hash, now: u64) -> Result<(), u64> {
        let key = self.hasher.hash_one(key);
        let shard = &self.shards[key as usize % SHARDS];
        let set = (key as usize / SHARDS) % self.sets_per_shard;
        let budgets = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let ways = budgets.get(set * WAYS..(set + 1) * WAYS).unwrap_or(&[]);
        match ways.iter().find(|budget| budget.key == key) {
            Some(budget) => rule.take(budget.tat, now).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Budgets that there is room for.
    const fn size(&self) -> usize {
        SHARDS * self.sets_per_shard * WAYS
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Table");
        debug.field("size", &self.size()).finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum Budgets {
    One(AtomicU64),
    ByKey(Table),
}

/// A rate limit at work, for all workers.
#[derive(Debug)]
pub struct RateLimiter {
    /// What was asked for.
    pub spec: RateLimitSpec,
    /// What it is a limit of.
    pub scope: RateScope,
    /// Which service or route that is; empty for the gateway.
    pub name: String,
    rule: Gcra,
    budgets: Budgets,
    refused: AtomicU64,
}

impl RateLimiter {
    /// A limit that has seen no request: every budget is full.
    #[must_use]
    pub fn new(spec: RateLimitSpec, scope: RateScope, name: String) -> Self {
        Self {
            rule: Gcra::new(&spec),
            budgets: match spec.key {
                RateKey::All => Budgets::One(AtomicU64::new(0)),
                RateKey::Client | RateKey::Header(_) => Budgets::ByKey(Table::new(spec.max_keys)),
            },
            spec,
            scope,
            name,
            refused: AtomicU64::new(0),
        }
    }

    /// Takes one request from the budget of `key`, which is asked for only when budgets go by key.
    ///
    /// # Errors
    /// In what time there is one again, when there is none now; nothing was taken then.
    pub fn take<K: Hash>(&self, now: Timestamp, key: impl FnOnce() -> K) -> Result<(), Duration> {
        let now = ticks(now);
        let taken = match &self.budgets {
            Budgets::One(budget) => self.take_shared(budget, now),
            Budgets::ByKey(table) => table.take(self.rule, key(), now),
        };
        taken.map_err(|wait| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            duration(wait)
        })
    }

    /// Whether [`RateLimiter::take`] would succeed. Takes nothing and counts nothing.
    ///
    /// # Errors
    /// In what time it would, when it would not now.
    pub fn look<K: Hash>(&self, now: Timestamp, key: impl FnOnce() -> K) -> Result<(), Duration> {
        let now = ticks(now);
        let left = match &self.budgets {
            Budgets::One(budget) => {
                let taken = self.rule.take(budget.load(Ordering::Relaxed), now);
                taken.map(|_| ())
            }
            Budgets::ByKey(table) => table.look(self.rule, key(), now),
        };
        left.map_err(duration)
    }

    /// What a refusal says of the rule and of when to come again, as header fields
    /// (draft-ietf-httpapi-ratelimit-headers-10).
    #[must_use]
    pub fn fields(&self, wait: Duration) -> [(&'static str, String); 2] {
        let (spec, scope) = (&self.spec, self.scope.as_str());
        // The fields know whole seconds; a shorter period is told as what it is in one.
        let per = spec.per.as_secs_f64().max(1.0);
        let quota = f64::from(spec.requests) * per / spec.per.as_secs_f64();
        let wait = wait.as_micros().div_ceil(1_000_000);
        [
            (
                "ratelimit-policy",
                format!("\"{scope}\";q={quota:.0};w={:.0}", per.ceil()),
            ),
            ("ratelimit", format!("\"{scope}\";r=0;t={wait}")),
        ]
    }

    fn take_shared(&self, budget: &AtomicU64, now: u64) -> Result<(), u64> {
        let next = |tat| self.rule.take(tat, now).ok();
        // The number is all there is: it guards no other memory.
        match budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(_) => Ok(()),
            Err(tat) => self.rule.take(tat, now).map(|_| ()),
        }
    }

    /// Whether budgets go by key.
    #[must_use]
    pub const fn is_keyed(&self) -> bool {
        matches!(self.budgets, Budgets::ByKey(_))
    }

    /// Requests that were refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Requests that found no room for a budget of their own and took over another's.
    #[must_use]
    pub fn crowded(&self) -> u64 {
        match &self.budgets {
            Budgets::One(_) => 0,
            Budgets::ByKey(table) => table.crowded.load(Ordering::Relaxed),
        }
    }

    /// Forgets what was counted. Budgets stay: they are no statistics.
    pub fn reset(&self) {
        self.refused.store(0, Ordering::Relaxed);
        if let Budgets::ByKey(table) = &self.budgets {
            table.crowded.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
