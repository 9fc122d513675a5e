//! The packet path, as a pure library.
//!
//! [`process()`] is everything that happens to a packet: it is parsed, its connection or its VIP is
//! found, an instance selected, the packet rewritten; what comes out is a [`Verdict`]. In the kernel
//! that is one program for what is frequent ([`enter()`]) and one for each [`Stage`] of the rest. Everything outside of it, the packet
//! memory ([`Packet`]) and the maps ([`Tables`]), is a trait, so the same code runs in the kernel
//! (`bin/lb-xdp`, over XDP memory and BPF maps) and on the host (feature `memory`, over a byte
//! slice and hash maps), and a test of one is a test of the other.
//!
//! The verifier shapes the code. All of it is `#[inline(always)]`: the verifier then sees one
//! function in which it can follow every bound. Loops have constant limits. Nothing can panic,
//! since a panic path is a call that the verifier cannot prove away. Nothing is returned by value
//! that is much larger than a key, since the stack has 512 bytes; large values lie in a [`Scratch`].
#![cfg_attr(not(any(test, feature = "memory")), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod acl;
pub mod admit;
mod affinity;
pub mod arrivals;
pub mod begin;
pub mod budget;
pub mod checksum;
pub mod clamp;
pub mod conntrack;
pub mod cookie;
pub mod decap;
pub mod echo;
pub mod encapsulate;
pub mod finish;
pub mod fragment;
pub mod handshake;
pub mod hash;
pub mod hop;
pub mod icmp;
#[cfg(any(test, feature = "memory"))]
pub mod memory;
pub mod mss;
mod opaque;
mod opening;
pub mod owner;
pub mod pace;
pub mod packet;
pub mod parse;
pub mod path_mtu;
pub mod plain;
mod process;
pub mod recent;
pub mod record;
pub mod refuse;
pub mod rewrite;
mod scratch;
pub mod select;
pub mod settled;
pub mod splice;
mod stages;
pub mod step;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod too_big;
mod verdict;
pub mod vips;
mod way;

pub use opaque::opaque;
pub use packet::{Header, Packet};
pub use scratch::Scratch;
pub use stages::{enter, process, resume};
pub use step::{Stage, Step};
pub use tables::{Flow, Hop, Insert, Route, Tables};
pub use verdict::Verdict;
