//! Clients that stay with their instance.

use super::Address;

/// How the clients of a VIP stay, by [`super::Vip::id`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Nanoseconds for which a client's instance is remembered after it has begun a connection; 0: it is
    /// not.
    pub ttl: u64,
    /// Fingerprint of the service's name. VIPs of one service share what is remembered.
    pub service: u64,
}

/// Whose instance is remembered.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientKey {
    /// The client's address.
    pub client: Address,
    /// [`Affinity::service`].
    pub service: u64,
}

/// The instance of a client.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientPin {
    /// `CLOCK_MONOTONIC` nanoseconds until which it holds.
    pub until: u64,
    /// Index of the instance.
    pub instance: u16,
    /// Its generation then.
    pub generation: u16,
    /// Always zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<Affinity>() == 16);
const _: () = assert!(size_of::<ClientKey>() == 24 && align_of::<ClientKey>() == 8);
const _: () = assert!(size_of::<ClientPin>() == 16);
