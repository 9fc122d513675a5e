//! Whose fault it is that a socket has no connection to give.

use std::io;

/// Whether accepting failed for a reason that concerns that one connection only (`accept(2)`).
pub(crate) fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

/// Whether it is this machine that has no connection to give: neither a port, nor a descriptor, nor
/// memory is left. No packet has been sent then.
pub(crate) fn is_own(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EADDRNOTAVAIL
                | libc::EADDRINUSE
                | libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
        )
    )
}
