//! Clients: real sockets on threads that have entered a namespace.

pub mod bulk;
pub mod curl;
pub mod flood;
pub mod held;
pub mod http;
pub mod load;
pub mod sequence;
pub mod tcp;
pub mod timeline;
pub mod transfer;
pub mod tunnels;
pub mod udp;
