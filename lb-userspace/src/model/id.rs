//! Names and ids.

use std::{fmt, sync::Arc};

use super::Endpoint;

/// Number of an instance, the same in both data planes.
///
/// The index addresses the kernel's arrays (1 to 4095) and the generation tells one tenant of an
/// index from the next, so that a stale connection entry can never reach a reused index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId {
    /// From 1 to `MAX_INSTANCES - 1`.
    pub index: u16,
    /// Grows with each reuse of the index, wrapping.
    pub generation: u16,
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

/// Fingerprint of an instance: FNV-1a (64 bits) over service name, a zero byte and address.
/// Stable over restarts and versions, never 0.
#[must_use]
pub fn identity(service: &ServiceName, endpoint: &Endpoint) -> u64 {
    let address = endpoint.address().to_string();
    let bytes = service.as_str().bytes().chain([0]).chain(address.bytes());
    fnv(bytes).max(1)
}

/// Fingerprint of a service's name, by which the kernel remembers whose clients are whose.
#[must_use]
pub fn fingerprint(service: &ServiceName) -> u64 {
    fnv(service.as_str().bytes())
}

fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Name of a service: 1 to 63 lower-case letters, digits and hyphens, no hyphen at either end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName(Arc<str>);

/// A name that breaks the rule of [`ServiceName`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected 1 to 63 lower-case letters, digits or hyphens, without a hyphen at either end, \
     found {found:?}"
)]
pub struct NameError {
    found: String,
}

impl ServiceName {
    /// Checks and wraps a name.
    ///
    /// # Errors
    /// When `name` breaks the rule.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let fits = (1..=63).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !name.starts_with('-')
            && !name.ends_with('-');
        if fits {
            Ok(Self(name.into()))
        } else {
            Err(NameError {
                found: name.to_owned(),
            })
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for ServiceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for good in ["a", "main-backend", "ocr2", &"x".repeat(63)] {
            assert_eq!(ServiceName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ä", &"x".repeat(64)] {
            assert!(ServiceName::new(bad).is_err(), "{bad}");
        }
    }
}
