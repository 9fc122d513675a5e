//! One shard of the store.

use std::time::Duration;

use hashbrown::HashTable;

use super::{Entry, Pinned};
use crate::{affinity::SessionId, model::Timestamp};

/// A table shrinks when not even a quarter of it is in use, unless it is this small.
const SMALL: usize = 64;

/// The part of a full shard that gives way: one in so many.
const EVICTED: usize = 16;

/// Hashes sessions with a secret, which keeps clients from choosing ids that all meet in one place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hasher(pub(super) [u64; 2]);

impl Hasher {
    pub(super) const fn hash(self, session: SessionId) -> u64 {
        let [low, high] = [session.0 as u64, (session.0 >> 64) as u64];
        let product = (low ^ self.0[0]) as u128 * (high ^ self.0[1]) as u128;
        (product ^ (product >> 64)) as u64
    }
}

/// An entry in the table: 36 bytes, in words of four so that none is lost between entries. Times
/// are whole seconds since the process began; an expiry is rounded up.
#[derive(Clone, Copy, Debug)]
struct Slot {
    session: [u32; 4],
    instance: [u32; 2],
    service: u32,
    pinned: u32,
    expires: u32,
}

impl Slot {
    fn new(entry: &Entry) -> Self {
        let words = |number: u64| [(number >> 32) as u32, number as u32];
        let [[a, b], [c, d]] = [
            words((entry.session.0 >> 64) as u64),
            words(entry.session.0 as u64),
        ];
        Self {
            session: [a, b, c, d],
            instance: words(entry.instance),
            service: entry.service,
            pinned: entry.pinned.seconds() as u32,
            expires: expiry(entry.expires),
        }
    }

    fn session(&self) -> SessionId {
        let join = |joined: u128, word: &u32| (joined << 32) | u128::from(*word);
        SessionId(self.session.iter().fold(0, join))
    }

    fn instance(&self) -> u64 {
        let [high, low] = self.instance.map(u64::from);
        (high << 32) | low
    }

    const fn lives(&self, now: Timestamp) -> bool {
        self.expires as u64 > now.seconds()
    }

    fn entry(&self) -> Entry {
        let time = |seconds: u32| Timestamp(u64::from(seconds) * 1_000_000);
        Entry {
            session: self.session(),
            service: self.service,
            instance: self.instance(),
            pinned: time(self.pinned),
            expires: time(self.expires),
        }
    }
}

fn expiry(at: Timestamp) -> u32 {
    u32::try_from(at.0.div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

#[derive(Debug)]
pub(super) struct Shard {
    table: HashTable<Slot>,
    hasher: Hasher,
}

impl Shard {
    pub(super) const fn new(hasher: Hasher) -> Self {
        let table = HashTable::new();
        Self { table, hasher }
    }

    fn slot(&mut self, session: SessionId, service: u32) -> Option<&mut Slot> {
        let same = |slot: &Slot| slot.service == service && slot.session() == session;
        self.table.find_mut(self.hasher.hash(session), same)
    }

    pub(super) fn touch(
        &mut self,
        session: SessionId,
        service: u32,
        ttl: Duration,
        now: Timestamp,
    ) -> Option<u64> {
        let slot = self.slot(session, service)?;
        if !slot.lives(now) {
            return None;
        }
        slot.expires = expiry(now + ttl);
        Some(slot.instance())
    }

    /// Returns also whether there is one entry more.
    pub(super) fn pin(
        &mut self,
        entry: &Entry,
        instead_of: Option<u64>,
        now: Timestamp,
    ) -> (Pinned, bool) {
        if let Some(slot) = self.slot(entry.session, entry.service) {
            let (lives, instance) = (slot.lives(now), slot.instance());
            let same = instance == entry.instance;
            if lives && !same && Some(instance) != instead_of {
                return (Pinned::There(instance), false);
            }
            let pinned = slot.pinned;
            *slot = Slot::new(entry);
            if lives && same {
                slot.pinned = pinned;
            }
            return (Pinned::Here, false);
        }
        let hasher = self.hasher;
        let hash = hasher.hash(entry.session);
        let rehash = |slot: &Slot| hasher.hash(slot.session());
        self.table.insert_unique(hash, Slot::new(entry), rehash);
        (Pinned::Here, true)
    }

    pub(super) fn find(&self, session: SessionId, now: Timestamp) -> Vec<Entry> {
        let same = self.table.iter_hash(self.hasher.hash(session));
        same.filter(|slot| slot.session() == session && slot.lives(now))
            .map(Slot::entry)
            .collect()
    }

    /// Forgets a session: entries that were alive, and all that were there.
    pub(super) fn remove(&mut self, session: SessionId, now: Timestamp) -> (usize, usize) {
        let hash = self.hasher.hash(session);
        let (mut live, mut all) = (0, 0);
        while let Ok(found) = self
            .table
            .find_entry(hash, |slot| slot.session() == session)
        {
            let (slot, _) = found.remove();
            live += usize::from(slot.lives(now));
            all += 1;
        }
        (live, all)
    }

    pub(super) fn clear(&mut self) -> usize {
        std::mem::take(&mut self.table).len()
    }

    pub(super) fn entries(&self, now: Timestamp) -> impl Iterator<Item = Entry> {
        let live = self.table.iter().filter(move |slot| slot.lives(now));
        live.map(Slot::entry)
    }

    /// Removes what has expired, and gives memory back that is no longer needed.
    pub(super) fn sweep(&mut self, now: Timestamp) -> usize {
        let before = self.table.len();
        self.table.retain(|slot| slot.lives(now));
        let after = self.table.len();
        if self.table.capacity() > SMALL.max(4 * after) {
            let hasher = self.hasher;
            let rehash = |slot: &Slot| hasher.hash(slot.session());
            self.table.shrink_to(2 * after, rehash);
        }
        before - after
    }

    /// Removes a part of the entries, those first that would expire first.
    pub(super) fn evict(&mut self) -> usize {
        let count = self.table.len().div_ceil(EVICTED);
        let mut expiries: Vec<u32> = self.table.iter().map(|slot| slot.expires).collect();
        if count == 0 {
            return 0;
        }
        let (_, last, _) = expiries.select_nth_unstable(count - 1);
        let (last, mut left) = (*last, count);
        self.table.retain(|slot| {
            let goes = slot.expires <= last && left > 0;
            left -= usize::from(goes);
            !goes
        });
        count - left
    }

    pub(super) fn memory(&self) -> usize {
        self.table.allocation_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_36_bytes_and_keeps_what_it_is_given() {
        assert_eq!(size_of::<Slot>(), 36);
        let entry = Entry {
            session: SessionId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
            service: 7,
            instance: 0x0123_4567_89ab_cdef,
            pinned: Timestamp(5_000_000),
            expires: Timestamp(6_000_001),
        };
        let expires = Timestamp(7_000_000);
        assert_eq!(Slot::new(&entry).entry(), Entry { expires, ..entry });
    }
}
