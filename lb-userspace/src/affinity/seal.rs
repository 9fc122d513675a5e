//! lb's own cookie: session, instance and time of issue under a seal.
//!
//! Clients can neither read nor change what is in it (AES-256-GCM), and it holds no address: an
//! instance is a fingerprint. It is bound to the service that it was made for, so that the cookie
//! of one service means nothing to another.
//!
//! The value, in base64url without padding: version (1 byte) · key (1 byte, tells which of a ring
//! to try first) · nonce (12) · session (16), instance (8), time (4), sealed · tag (16).
//!
//! Nonces are random. The chance that two of 2³² cookies under one key share a nonce is 2⁻³³
//! (NIST SP 800-38D, 8.3 asks for no more than 2⁻³² at that number), so a key that seals 1,000
//! cookies a second is to be replaced within 50 days; one that a process made lives as long as
//! that process. What a repeated nonce would give away is which instance a session is at and, with
//! work, how to forge a cookie that chooses an instance: a nuisance, not a way in.

use std::{fmt, sync::OnceLock};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest,
    rand::{SecureRandom as _, SystemRandom},
};

use super::SessionId;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

const VERSION: u8 = 1;
const HEAD: usize = 2;
const PLAIN: usize = 16 + 8 + 4;
const TAG: usize = 16;
const BYTES: usize = HEAD + NONCE_LEN + PLAIN + TAG;
const TEXT: usize = (BYTES * 4).div_ceil(3);

/// What a cookie says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The session.
    pub session: SessionId,
    /// Fingerprint of the instance that it is pinned to (see [`crate::model::identity`]).
    pub instance: u64,
    /// When it was made, in seconds since 1970; good until 2106.
    pub issued: u32,
}

/// The keys of cookies: the first seals, all open.
pub struct Keyring {
    keys: Vec<(u8, LessSafeKey)>,
    random: SystemRandom,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({} keys)", self.keys.len())
    }
}

/// The system has no random numbers to give, or a key has another length than [`KEY_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {KEY_BYTES} bytes a key and random numbers from the system, found neither")]
pub struct SealError;

impl Keyring {
    /// A ring of these keys.
    ///
    /// # Errors
    /// When one has not [`KEY_BYTES`] bytes.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, SealError> {
        let keys = keys.into_iter().map(|key| {
            let id = digest::digest(&digest::SHA256, key).as_ref()[0];
            let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| SealError)?;
            Ok((id, LessSafeKey::new(key)))
        });
        Ok(Self {
            keys: keys.collect::<Result<_, _>>()?,
            random: SystemRandom::new(),
        })
    }

    /// A ring of one key that this process has made and nobody else knows.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn of_process() -> Result<Self, SealError> {
        static KEY: OnceLock<Result<[u8; KEY_BYTES], SealError>> = OnceLock::new();
        let make = || {
            let mut key = [0; KEY_BYTES];
            let filled = SystemRandom::new().fill(&mut key);
            filled.map_err(|_| SealError).map(|()| key)
        };
        let key = KEY.get_or_init(make).as_ref();
        Self::new([key.map_err(|error| *error)?.as_slice()])
    }

    /// A session that nobody has so far.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn new_session(&self) -> Result<SessionId, SealError> {
        let mut bytes = [0; 16];
        self.random.fill(&mut bytes).map_err(|_| SealError)?;
        Ok(SessionId(u128::from_be_bytes(bytes)))
    }

    /// The value of a cookie for `service`.
    ///
    /// # Errors
    /// When the ring is empty or the system has no random numbers.
    pub fn seal(&self, sealed: &Sealed, service: &str) -> Result<String, SealError> {
        let (id, key) = self.keys.first().ok_or(SealError)?;
        let mut bytes = [0; BYTES];
        let (head, rest) = bytes.split_at_mut(HEAD);
        let (nonce, rest) = rest.split_at_mut(NONCE_LEN);
        let (plain, tag) = rest.split_at_mut(PLAIN);
        head.copy_from_slice(&[VERSION, *id]);
        self.random.fill(nonce).map_err(|_| SealError)?;
        plain[..16].copy_from_slice(&sealed.session.0.to_be_bytes());
        plain[16..24].copy_from_slice(&sealed.instance.to_be_bytes());
        plain[24..].copy_from_slice(&sealed.issued.to_be_bytes());
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError)?;
        let bound = Aad::from(service.as_bytes());
        let made = key.seal_in_place_separate_tag(nonce, bound, plain);
        tag.copy_from_slice(made.map_err(|_| SealError)?.as_ref());
        Ok(BASE64.encode(bytes))
    }

    /// What a cookie for `service` says; `None` unless one of the keys has sealed it.
    #[must_use]
    pub fn open(&self, value: &[u8], service: &str) -> Option<Sealed> {
        if value.len() != TEXT {
            return None;
        }
        let mut bytes = [0; BYTES];
        let length = BASE64.decode_slice(value, &mut bytes).ok()?;
        if length != BYTES || bytes[0] != VERSION {
            return None;
        }
        let fits = |(id, _): &&(u8, LessSafeKey)| *id == bytes[1];
        self.keys.iter().filter(fits).find_map(|(_, key)| {
            // Opening writes over the text even when it fails.
            let mut rest = bytes;
            let (nonce, text) = rest[HEAD..].split_at_mut(NONCE_LEN);
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let bound = Aad::from(service.as_bytes());
            let plain = key.open_in_place(nonce, bound, text).ok()?;
            Some(Sealed {
                session: SessionId(u128::from_be_bytes(*plain.first_chunk()?)),
                instance: u64::from_be_bytes(*plain.get(16..)?.first_chunk()?),
                issued: u32::from_be_bytes(*plain.get(24..)?.first_chunk()?),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEALED: Sealed = Sealed {
        session: SessionId(0x0123_4567_89ab_cdef),
        instance: 0xfeed_beef,
        issued: 1_700_000_000,
    };

    fn ring(keys: &[u8]) -> Keyring {
        let keys: Vec<[u8; KEY_BYTES]> = keys.iter().map(|byte| [*byte; KEY_BYTES]).collect();
        Keyring::new(keys.iter().map(<[u8; KEY_BYTES]>::as_slice)).unwrap()
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let value = ring(&[1]).seal(&SEALED, "a").unwrap();
        assert_eq!(value.len(), TEXT);
        assert_eq!(ring(&[1]).open(value.as_bytes(), "a"), Some(SEALED));
        assert_eq!(ring(&[2, 3, 1]).open(value.as_bytes(), "a"), Some(SEALED));
        assert_eq!(ring(&[2]).open(value.as_bytes(), "a"), None);
        assert_eq!(ring(&[1]).open(value.as_bytes(), "b"), None);
        assert_eq!(ring(&[]).open(value.as_bytes(), "a"), None);
        let rotated = ring(&[2, 1]).seal(&SEALED, "a").unwrap();
        assert_eq!(ring(&[1]).open(rotated.as_bytes(), "a"), None);
    }

    #[test]
    fn two_cookies_of_one_session_have_nothing_in_common_to_see() {
        let ring = ring(&[1]);
        let (one, two) = (ring.seal(&SEALED, "a"), ring.seal(&SEALED, "a"));
        assert_ne!(one.unwrap()[3..], two.unwrap()[3..]);
        assert!(format!("{ring:?}").contains("1 keys"));
        assert_ne!(ring.new_session(), ring.new_session());
        let value = Keyring::of_process().unwrap().seal(&SEALED, "a").unwrap();
        let again = Keyring::of_process().unwrap();
        assert_eq!(again.open(value.as_bytes(), "a"), Some(SEALED));
        assert_eq!(Keyring::new([&b"short"[..]]).unwrap_err(), SealError);
    }

    proptest! {
        #[test]
        fn a_cookie_that_was_touched_is_none(at in 0..TEXT, with in 0u8..128) {
            let ring = ring(&[1]);
            let mut value = ring.seal(&SEALED, "a").unwrap().into_bytes();
            prop_assume!(value[at] != with);
            value[at] = with;
            prop_assert_eq!(ring.open(&value, "a"), None);
        }

        #[test]
        fn anything_may_come(value in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(ring(&[1]).open(&value, "a"), None);
        }

        #[test]
        fn what_was_sealed_comes_out(session: u128, instance: u64, issued: u32) {
            let sealed = Sealed { session: SessionId(session), instance, issued };
            let ring = ring(&[5]);
            let value = ring.seal(&sealed, "svc").unwrap();
            prop_assert_eq!(ring.open(value.as_bytes(), "svc"), Some(sealed));
        }
    }
}
