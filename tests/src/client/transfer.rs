//! A paced TCP transfer whose every byte must come back.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::tcp;
use crate::netns::Namespace;

/// Bytes of one step.
pub const STEP: usize = 16 * 1024;

/// A transfer under way.
#[derive(Debug)]
pub struct Transfer {
    done: Arc<AtomicU64>,
    thread: JoinHandle<Result<u64>>,
}

impl Transfer {
    /// Starts one of so many steps of 16 KiB with a rest between them.
    #[must_use]
    pub fn start(namespace: &Namespace, target: SocketAddr, steps: u32, rest: Duration) -> Self {
        let done = Arc::new(AtomicU64::new(0));
        let progress = Arc::clone(&done);
        let thread = namespace.spawn(move || {
            let (mut stream, _) = tcp::open(target)?;
            let mut back = vec![0; STEP];
            for step in 0..steps {
                let bytes: Vec<u8> = (0..STEP).map(|at| pattern(step, at)).collect();
                stream
                    .write_all(&bytes)
                    .with_context(|| format!("sending step {step}"))?;
                stream
                    .read_exact(&mut back)
                    .with_context(|| format!("reading step {step}"))?;
                ensure!(back == bytes, "step {step} came back changed");
                progress.fetch_add(STEP as u64, Ordering::Relaxed);
                std::thread::sleep(rest);
            }
            Ok(progress.load(Ordering::Relaxed))
        });
        Self { done, thread }
    }

    /// Bytes that have come back so far.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits for the end; the bytes that came back.
    ///
    /// # Errors
    /// When the connection breaks, stalls, or a byte is wrong.
    pub fn finish(self) -> Result<u64> {
        self.thread
            .join()
            .map_err(|_| anyhow!("the transfer's thread panicked"))?
    }
}

fn pattern(step: u32, at: usize) -> u8 {
    // Different in each step, so that repeated or swapped segments would be seen.
    (at as u32)
        .wrapping_mul(31)
        .wrapping_add(step.wrapping_mul(17))
        .to_le_bytes()[0]
}
