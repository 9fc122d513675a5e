//! Changing packets.

pub mod l2;
pub mod nat;
