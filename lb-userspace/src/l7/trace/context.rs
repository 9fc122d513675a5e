//! Ids, and the parent that a request names.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
};

use hyper::HeaderMap;

use super::TRACEPARENT;
use crate::balance::Random;

/// Flags that are passed on: sampled, and that the id is random (Trace Context level 2).
const KNOWN_FLAGS: u8 = 0b11;

/// Id of a trace.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

/// Id of a span.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub [u8; 8]);

macro_rules! hexadecimal {
    ($($name:ident),+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )+};
}

hexadecimal!(TraceId, SpanId);

/// What a `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::l7) struct Parent {
    pub(in crate::l7) trace: TraceId,
    pub(super) span: SpanId,
    pub(super) flags: u8,
}

impl Parent {
    /// The parent that a request names, if it names one validly (W3C Trace Context, 3.2): version,
    /// trace id, parent id and flags. Later versions may add fields after those.
    pub(in crate::l7) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(&TRACEPARENT).iter();
        let (value, None) = (values.next()?.as_bytes(), values.next()) else {
            return None;
        };
        let mut parts = value.split(|byte| *byte == b'-');
        let (version, trace) = (bytes::<1>(parts.next()?)?, bytes(parts.next()?)?);
        let (span, flags) = (bytes(parts.next()?)?, bytes::<1>(parts.next()?)?);
        let more = parts.next().is_some();
        let version = version[0];
        let bad = version == 0xff || (version == 0 && more) || trace == [0; 16] || span == [0; 8];
        (!bad).then_some(Self {
            trace: TraceId(trace),
            span: SpanId(span),
            flags: flags[0] & KNOWN_FLAGS,
        })
    }
}

/// Bytes from lower-case hexadecimal digits: no others are allowed there.
fn bytes<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// Ids of a worker. Their seed is the system's: the worker's own generator begins alike after each
/// start, and a trace id must not come twice.
#[derive(Debug)]
pub(in crate::l7) struct Ids(pub(super) Random);

impl Ids {
    pub(in crate::l7) fn new() -> Self {
        Self(Random::new(RandomState::new().hash_one(0)))
    }

    /// Random bits.
    pub(in crate::l7) fn bits(&self) -> u64 {
        self.0.bits()
    }

    pub(super) fn trace(&self) -> TraceId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.bits().to_be_bytes());
        // Never zero, which is no id.
        id[8..].copy_from_slice(&(self.bits() | 1).to_be_bytes());
        TraceId(id)
    }

    pub(super) fn span(&self) -> SpanId {
        SpanId((self.bits() | 1).to_be_bytes())
    }
}
