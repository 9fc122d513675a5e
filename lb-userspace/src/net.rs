//! Sockets as both data planes use them: what groups that share a port are opened with, and what
//! errors mean.

mod accepting;
mod fault;
#[cfg(test)]
pub(crate) mod fixture;
mod listening;
mod local;
mod steer;

pub(crate) use accepting::Accepting;
pub(crate) use fault::{is_of_the_peer, is_own};
pub(crate) use listening::{Group, KEEPALIVE};
pub(crate) use local::is_delivered;
pub use steer::{Steer, Steered};
