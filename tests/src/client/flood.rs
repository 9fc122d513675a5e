//! SYNs from addresses at random: nobody's, so whoever answers them hears nothing more.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use crate::netns::Namespace;
use crate::packet::Build;
use crate::packet::build::tcp;
use crate::packet::random::Random;

/// How many are sent at a time, and the rest after that.
const BATCH: u64 = 100;
const REST: Duration = Duration::from_millis(4);

/// A flood that is under way.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Flood {
    /// Begins to send from a namespace, over IPv4; it ends when it is told to, but not before so many were sent.
    #[must_use]
    pub fn start(namespace: &Namespace, to: SocketAddr, least: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = namespace.spawn(move || {
            let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))?;
            let IpAddr::V4(via) = to.ip() else {
                return Err(anyhow!("expected an IPv4 address, found {to}"));
            };
            let via = SocketAddrV4::new(via, 0);
            let (mut random, mut sent) = (Random::new(5), 0);
            while sent < least || !stopped.load(Ordering::Relaxed) {
                for _ in 0..BATCH {
                    let [a, b, c, d, e, f, ..] = random.any().to_be_bytes();
                    // Of nobody in particular, but of hosts.
                    let source = [100 + a % 20, b, c, 1 + d % 250];
                    let port = u16::from_be_bytes([e, f]) | 1024;
                    let syn = Build::tcp(SocketAddr::from((source, port)), to, tcp::SYN);
                    // A queue that is full loses some, as the network does.
                    let _ = sendto(&socket, &syn.bytes()[14..], SendFlags::empty(), &via);
                    sent += 1;
                }
                thread::sleep(REST);
            }
            Ok(sent)
        });
        Self { stop, thread }
    }

    /// Ends it when enough was sent; how many that were.
    ///
    /// # Errors
    /// When they cannot be sent.
    pub fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.join();
        thread.map_err(|_| anyhow!("the flood's thread panicked"))?
    }
}
