//! Serving addresses without listening at each of them.

use std::{fmt, net::TcpListener};

use crate::model::GatewayVip;

/// What was handed over so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steered {
    /// Connections that were handed over.
    pub handed: u64,
    /// Connections that should have been, but found no socket.
    pub orphaned: u64,
}

/// Hands connections to addresses that nobody listens at over to sockets that listen elsewhere. The
/// proxy knows which and to whom, the kernel's side how.
pub trait Steer: fmt::Debug + Send {
    /// Hands over what `vips` name from now on, and nothing else, to these sockets, for IPv4 and for
    /// IPv6. Each stands for the whole group that shares its port.
    ///
    /// # Errors
    /// When the kernel does not do it, in words.
    fn follow(
        &mut self,
        vips: &[GatewayVip],
        sockets: [Option<&TcpListener>; 2],
    ) -> Result<(), String>;

    /// What was handed over.
    fn steered(&self) -> Steered;
}
