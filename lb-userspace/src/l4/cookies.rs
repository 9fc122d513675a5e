//! The keys of SYN cookies.
//!
//! They are random, and another one is made each time that a daemon starts and each hour after. What was
//! made with the last one is accepted as long as it is good at all, so neither a new key nor a new
//! daemon costs a connection; a daemon that is started again and again keeps the key of the last one
//! for as long as cookies of the one before may be under way.

use std::time::Duration;

use lb_common::CookieKeys;
use lb_ebpf::cookie::LIFETIME;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::datapath::{Datapath, DatapathError};

/// After how long another key is made.
const RENEW: Duration = Duration::from_secs(3600);

/// Renews the keys of the packet path.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// Whether the key in use is one that this daemon has made.
    is_own: bool,
}

impl Keys {
    /// Makes another key, if it is time to.
    ///
    /// # Errors
    /// When the map cannot be read or written.
    pub(crate) fn renew(&mut self, datapath: &mut dyn Datapath) -> Result<(), DatapathError> {
        let (keys, now) = (datapath.cookie_keys()?, datapath.now());
        if !is_due(&keys, self.is_own, now) {
            return Ok(());
        }
        let Some(key) = random() else {
            tracing::warn!("the system has no random numbers: there is no new key for SYN cookies");
            return Ok(());
        };
        // In two steps: a packet that finds the new key half written must not find it in use.
        let prepared = keys.prepared(key);
        datapath.put_cookie_keys(&prepared)?;
        datapath.put_cookie_keys(&prepared.turned(now))?;
        self.is_own = true;
        Ok(())
    }
}

/// Whether another key is to be made; it takes the place of the one before the present one.
fn is_due(keys: &CookieKeys, is_own: bool, now: u64) -> bool {
    let age = now.saturating_sub(keys.since);
    let most = if is_own {
        RENEW.as_nanos() as u64
    } else {
        LIFETIME
    };
    !keys.is_set() || age > most
}

/// A key; `None` when the system has no random numbers.
fn random() -> Option<[u64; 2]> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).ok()?;
    let (words, _) = bytes.as_chunks::<8>();
    let key = [u64::from_ne_bytes(words[0]), u64::from_ne_bytes(words[1])];
    // That is no key, and comes once in 2^128 times.
    (key != [0; 2]).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l4::datapath::memory::Memory;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn keys_are_made_at_the_start_and_each_hour_and_the_last_one_stays() {
        let mut memory = Memory::new(2);
        let at = |memory: &Memory, seconds: u64| memory.kernel().set_now(seconds * SECOND);
        at(&memory, 1000);
        let mut first = Keys::default();
        first.renew(&mut memory).unwrap();
        let made = memory.kernel().cookie_keys();
        assert!(made.is_set() && made.since == 1000 * SECOND);
        at(&memory, 4600);
        first.renew(&mut memory).unwrap();
        assert_eq!(memory.kernel().cookie_keys(), made);
        at(&memory, 4601);
        first.renew(&mut memory).unwrap();
        let renewed = memory.kernel().cookie_keys();
        let (one, other) = (made.current as usize, renewed.current as usize);
        assert!(one != other && renewed.keys[one] == made.keys[one]);
        assert_ne!(renewed.keys[other], made.keys[one]);
        // Daemons that are started in a row.
        for seconds in [4602, 4640, 4669] {
            at(&memory, seconds);
            Keys::default().renew(&mut memory).unwrap();
            assert_eq!(memory.kernel().cookie_keys(), renewed);
        }
        at(&memory, 4670);
        Keys::default().renew(&mut memory).unwrap();
        let again = memory.kernel().cookie_keys();
        assert!(again.current as usize == one && again.keys[other] == renewed.keys[other]);
        assert_ne!(again.keys[one], made.keys[one]);
    }

    #[test]
    fn a_key_is_written_before_it_is_used() {
        let mut memory = Memory::new(2);
        memory.kernel().set_now(SECOND);
        memory.fail_after(Some(1));
        assert!(Keys::default().renew(&mut memory).is_err());
        let half = memory.kernel().cookie_keys();
        assert!(!half.is_set() && half.keys != [[0; 2]; 2]);
        Keys::default().renew(&mut memory).unwrap();
        assert!(memory.kernel().cookie_keys().is_set());
    }
}
