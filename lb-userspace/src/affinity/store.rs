//! The sessions that lb remembers: which instance each is pinned to, by service.
//!
//! An entry is 36 bytes: a million of them take 49 MB with the room that a hash table keeps free.
//! The table is cut into [`SHARDS`] with a lock each, held for a lookup, so that workers hardly
//! ever meet; the number makes a shard's part of a million fill its table well. All entries of a
//! session are in one shard and under one hash, so a session is found, listed and deleted as one.
//!
//! An entry whose time is over is none, whether or not it was swept so far: a lookup sees that by
//! itself, and [`Store::sweep`] takes a few shards at a time for the memory's sake. When the store
//! is full, a shard gives up the sixteenth of its entries that would have expired first, which is
//! those that were used longest ago where all services remember equally long. Doing many at once
//! makes the search cheap for each.

mod shard;

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use self::shard::{Hasher, Shard};
use super::SessionId;
use crate::model::{ServiceName, Timestamp};

/// Parts of a store. A million entries are 6,250 a shard, with hardly ever as many as the 7,168
/// for which hash tables of 8,192 places have room.
pub const SHARDS: usize = 160;

/// A session that is pinned to an instance of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The session.
    pub session: SessionId,
    /// The service, see [`scope`].
    pub service: u32,
    /// Fingerprint of the instance.
    pub instance: u64,
    /// When it was pinned there.
    pub pinned: Timestamp,
    /// When it is forgotten, unless a request comes before.
    pub expires: Timestamp,
}

/// What [`Store::pin`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// The session is pinned as asked.
    Here,
    /// Another request was quicker: it is pinned to the instance of this fingerprint.
    There(u64),
}

/// Part of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Entries, those of a session next to each other.
    pub entries: Vec<Entry>,
    /// The session after which the next page begins; `None` at the end.
    pub next: Option<SessionId>,
}

/// See the module.
#[derive(Debug)]
pub struct Store {
    shards: Box<[Mutex<Shard>]>,
    hasher: Hasher,
    length: AtomicUsize,
    capacity: AtomicUsize,
    expired: AtomicU64,
    evicted: AtomicU64,
    swept: AtomicUsize,
    cleared: AtomicU32,
}

/// The number of a service in entries: a hash of its name, the same in every process.
#[must_use]
pub fn scope(service: &ServiceName) -> u32 {
    let hash = |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    service.as_str().bytes().fold(0x811c_9dc5, hash)
}

impl Store {
    /// A store for `capacity` entries.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let random = RandomState::new();
        let hasher = Hasher([random.hash_one(0), random.hash_one(1)]);
        Self {
            shards: (0..SHARDS)
                .map(|_| Mutex::new(Shard::new(hasher)))
                .collect(),
            hasher,
            length: AtomicUsize::new(0),
            capacity: AtomicUsize::new(capacity),
            expired: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            swept: AtomicUsize::new(0),
            cleared: AtomicU32::new(0),
        }
    }

    /// Changes the capacity; what is above it goes as new entries come.
    pub fn set_capacity(&self, capacity: usize) {
        self.capacity.store(capacity, Relaxed);
    }

    /// Most entries.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity.load(Relaxed)
    }

    /// Entries, those included that have expired and were not swept so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length.load(Relaxed)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries that have expired since the start.
    #[must_use]
    pub fn expired(&self) -> u64 {
        self.expired.load(Relaxed)
    }

    /// Entries that gave way to new ones since the start.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }

    /// Bytes that the entries take, the free places of the tables included.
    #[must_use]
    pub fn memory(&self) -> usize {
        let fixed = size_of_val(&*self.shards);
        (0..SHARDS).map(|at| self.shard(at).memory()).sum::<usize>() + fixed
    }

    /// The instance that a session of `service` is pinned to; it is for another `ttl` from now.
    #[must_use]
    pub fn get(
        &self,
        session: SessionId,
        service: u32,
        ttl: Duration,
        now: Timestamp,
    ) -> Option<u64> {
        self.shard(self.place(session))
            .touch(session, service, ttl, now)
    }

    /// Pins a session of `service` to `instance`, unless it is pinned already to another one than
    /// `instead_of`: of several requests of a new session, all go where the first one went.
    pub fn pin(
        &self,
        session: SessionId,
        service: u32,
        instance: u64,
        instead_of: Option<u64>,
        ttl: Duration,
        now: Timestamp,
    ) -> Pinned {
        let at = self.place(session);
        if self.len() >= self.capacity() {
            self.make_room(at, now);
        }
        let entry = Entry {
            session,
            service,
            instance,
            pinned: now,
            expires: now + ttl,
        };
        let (pinned, new) = self.shard(at).pin(&entry, instead_of, now);
        if new {
            self.length.fetch_add(1, Relaxed);
        }
        pinned
    }

    /// The entries of a session.
    #[must_use]
    pub fn find(&self, session: SessionId, now: Timestamp) -> Vec<Entry> {
        self.shard(self.place(session)).find(session, now)
    }

    /// Forgets a session; returns how many entries it had.
    pub fn remove(&self, session: SessionId, now: Timestamp) -> usize {
        let (live, removed) = self.shard(self.place(session)).remove(session, now);
        self.length.fetch_sub(removed, Relaxed);
        live
    }

    /// Forgets all sessions, at `unix` seconds since 1970: cookies that were issued by then count
    /// no more (see [`Store::cleared`]). Returns how many entries there were.
    pub fn clear(&self, unix: u32) -> usize {
        self.cleared.store(unix, Relaxed);
        let mut removed = 0;
        for at in 0..SHARDS {
            removed += self.shard(at).clear();
        }
        self.length.fetch_sub(removed, Relaxed);
        removed
    }

    /// When all sessions were forgotten last, in seconds since 1970; 0 when they never were. What
    /// was issued at that time or before is not to be believed.
    #[must_use]
    pub fn cleared(&self) -> u32 {
        self.cleared.load(Relaxed)
    }

    /// Sessions that are pinned to an instance. Looks at all entries: for people who ask.
    #[must_use]
    pub fn count(&self, instance: u64, now: Timestamp) -> usize {
        let here = |entry: &Entry| entry.instance == instance;
        let shards = 0..SHARDS;
        let counts = shards.map(|at| self.shard(at).entries(now).filter(here).count());
        counts.sum()
    }

    /// Entries that `wanted` takes, of at most `limit` sessions (at least one), after `after`. The order is one that
    /// pages can be turned by and means nothing else.
    #[must_use]
    pub fn page(
        &self,
        after: Option<SessionId>,
        limit: usize,
        now: Timestamp,
        wanted: impl Fn(&Entry) -> bool,
    ) -> Page {
        let mut page = Page::default();
        let mut sessions = 0;
        let mut last = None;
        let first = after.map_or(0, |session| self.place(session));
        for at in first..SHARDS {
            let after = after.filter(|_| at == first);
            let follows = |entry: &Entry| after.is_none_or(|after| entry.session > after);
            let mut entries: Vec<Entry> = self
                .shard(at)
                .entries(now)
                .filter(|entry| follows(entry) && wanted(entry))
                .collect();
            entries.sort_unstable_by_key(|entry| (entry.session, entry.service));
            for entry in entries {
                if last != Some(entry.session) {
                    if sessions == limit.max(1) {
                        page.next = last;
                        return page;
                    }
                    sessions += 1;
                    last = Some(entry.session);
                }
                page.entries.push(entry);
            }
        }
        page
    }

    /// Gives back what expired entries of the next `shards` shards take.
    pub fn sweep(&self, shards: usize, now: Timestamp) {
        for _ in 0..shards.min(SHARDS) {
            let at = self.swept.fetch_add(1, Relaxed) % SHARDS;
            let removed = self.shard(at).sweep(now);
            self.forget(removed, &self.expired);
        }
    }

    /// Takes out what has expired in the shard that was not looked at for the longest, or, if
    /// there is nothing, live entries of the first shard from `from` on that has any. Whoever
    /// always looked at the shard of the new session would evict live ones there while others are
    /// full of expired ones.
    #[cold]
    fn make_room(&self, from: usize, now: Timestamp) {
        let oldest = self.swept.fetch_add(1, Relaxed) % SHARDS;
        let expired = self.shard(oldest).sweep(now);
        self.forget(expired, &self.expired);
        if expired > 0 {
            return;
        }
        for at in (from..SHARDS).chain(0..from) {
            let evicted = self.shard(at).evict();
            self.forget(evicted, &self.evicted);
            if evicted > 0 {
                break;
            }
        }
    }

    fn forget(&self, removed: usize, counter: &AtomicU64) {
        self.length.fetch_sub(removed, Relaxed);
        counter.fetch_add(removed as u64, Relaxed);
    }

    fn shard(&self, at: usize) -> MutexGuard<'_, Shard> {
        // No holder of the lock can leave half an entry behind.
        self.shards[at]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The shard of a session: by bits of its hash that the table in it looks at neither for the
    /// bucket (the lowest) nor for the tag (the highest).
    const fn place(&self, session: SessionId) -> usize {
        let bits = (self.hasher.hash(session) >> 24) & 0xffff_ffff;
        ((bits * SHARDS as u64) >> 32) as usize
    }
}

#[cfg(test)]
mod tests;
