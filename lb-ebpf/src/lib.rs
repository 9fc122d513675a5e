//! The packet path, as a pure library.
//!
//! [`process()`] is the whole program: it parses a packet, finds its connection or its VIP, selects
//! an instance, rewrites the packet and returns a [`Verdict`]. Everything outside of it, the packet
//! memory ([`Packet`]) and the maps ([`Tables`]), is a trait, so the same code runs in the kernel
//! (`bin/lb-xdp`, over XDP memory and BPF maps) and on the host (feature `memory`, over a byte
//! slice and hash maps), and a test of one is a test of the other.
//!
//! The verifier shapes the code. All of it is `#[inline(always)]`: the verifier then sees one
//! function in which it can follow every bound. Loops have constant limits. Nothing can panic,
//! since a panic path is a call that the verifier cannot prove away. Nothing is returned by value
//! that is much larger than a key, since the stack has 512 bytes; large values lie in a [`Scratch`].
#![cfg_attr(not(any(test, feature = "memory")), no_std)]

pub mod begin;
pub mod checksum;
pub mod conntrack;
pub mod hash;
pub mod hop;
#[cfg(any(test, feature = "memory"))]
pub mod memory;
pub mod packet;
pub mod parse;
mod process;
pub mod recent;
pub mod rewrite;
mod scratch;
pub mod select;
pub mod tables;
#[cfg(test)]
mod tests;
mod verdict;

pub use packet::{Header, Packet};
pub use process::process;
pub use scratch::Scratch;
pub use tables::{Flow, Insert, Route, Tables};
pub use verdict::Verdict;
