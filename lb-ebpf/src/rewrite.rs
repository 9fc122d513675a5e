//! Changing packets.

pub mod l2;
pub mod link;
pub mod nat;
pub mod outer;
pub(crate) mod segment;
pub mod tag;
