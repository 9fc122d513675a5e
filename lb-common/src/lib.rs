//! The contract between lb's kernel program and its daemon.
//!
//! Everything that crosses the border is a plain `#[repr(C)]` value: no `bool`, no `enum`, no
//! `Option`, because a map hands out whatever bytes it holds and a value that can be invalid must
//! never be formed from them. Padding has a name and is always zero, because hash maps compare
//! keys byte by byte and the verifier refuses uninitialised bytes. Values are aligned to eight
//! bytes, arrays of bytes in them to at least two, because the verifier lets the program copy from
//! and to its stack at aligned places only. Addresses are 16 bytes, IPv4 as
//! IPv4-mapped IPv6 (RFC 4291, 2.5.5.2); addresses and ports are in network byte order, all other
//! integers are native.
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod layout;
pub mod names;

pub use abi::*;

/// Version of the contract: grows when a name in a map comes to mean something else, or its absence
/// something else than zero. Maps that were pinned under another version are not adopted; those of this one
/// are, whatever their [`layout`] is. The numbers of bits and kinds (`STATE_*`, `FORWARD_*`, …) are never used
/// again for others, as those of counters.
pub const ABI: u32 = 5;
