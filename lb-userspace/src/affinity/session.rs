//! What lb knows a session by.

use std::{fmt, net::IpAddr};

use ring::digest;

/// A session: the first 128 bits of SHA-256 over its id.
///
/// The same on every lb and after a restart, and enough that two of a billion sessions meet with a
/// probability of 10⁻²¹. Nobody can work out the id from it, unless ids can be guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u128);

impl SessionId {
    /// The session of that id.
    #[must_use]
    pub fn of(id: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, id);
        let first = digest.as_ref().first_chunk().copied();
        Self(u128::from_be_bytes(first.unwrap_or_default()))
    }

    /// The session of a client that is known by its address: that of the address as it is written.
    #[must_use]
    pub fn of_address(address: IpAddr) -> Self {
        Self::of(address.to_canonical().to_string().as_bytes())
    }

    /// What an operator names a session by: its 32 hexadecimal digits, else the id itself.
    #[must_use]
    pub fn named(text: &str) -> Self {
        Self::from_digits(text).unwrap_or_else(|| Self::of(text.as_bytes()))
    }

    /// 64 of its bits, for consistent hashing.
    #[must_use]
    pub const fn key(self) -> u64 {
        self.0 as u64
    }

    fn from_digits(text: &str) -> Option<Self> {
        let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        digits.then(|| u128::from_str_radix(text, 16).ok().map(Self))?
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_found_by_its_id_and_by_its_digits() {
        let session = SessionId::of(b"abc");
        // `printf abc | sha256sum | cut -c1-32`
        assert_eq!(session.to_string(), "ba7816bf8f01cfea414140de5dae2223");
        assert_eq!(SessionId::named("abc"), session);
        assert_eq!(SessionId::named(&session.to_string()), session);
        assert_ne!(SessionId::named("abd"), session);
    }

    #[test]
    fn leading_zeros_are_digits_too() {
        let session = SessionId(7);
        assert_eq!(session.to_string().len(), 32);
        assert_eq!(SessionId::named(&session.to_string()), session);
    }
}
