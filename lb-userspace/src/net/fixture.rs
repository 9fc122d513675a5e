//! What tests with real sockets need.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

/// Longest time that a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A loopback address that nothing else in any test process uses, at a port that is not ephemeral.
pub(crate) fn unused_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let next = NEXT.fetch_add(1, Relaxed);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, 128 | high, low, (next % 250) as u8 + 1);
    SocketAddr::from((ip, 8080 + next / 250))
}

/// Waits until `holds`.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
