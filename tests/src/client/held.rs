//! TCP connections that are held open and kept busy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::tcp::{self, PATIENCE};
use crate::netns::Namespace;
use crate::tally::Tally;

/// Rest between two rounds of heartbeats.
const PAUSE: Duration = Duration::from_millis(20);

/// Connections over each of which a byte goes there and back, again and again.
#[derive(Debug)]
pub struct Held {
    opened: Tally,
    stop: Arc<AtomicBool>,
    broke: Arc<OnceLock<Instant>>,
    thread: JoinHandle<Result<Tally>>,
}

impl Held {
    /// Opens so many.
    ///
    /// # Errors
    /// When one of them cannot be opened.
    pub fn open(namespace: &Namespace, target: SocketAddr, count: u32) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let broke = Arc::new(OnceLock::new());
        let first = Arc::clone(&broke);
        let (tell, told) = mpsc::channel();
        let thread = namespace.spawn(move || {
            let mut connections = Vec::new();
            for number in 0..count {
                let opened = tcp::open(target).with_context(|| format!("connection {number}"))?;
                connections.push(opened);
            }
            let mut tally = Tally::default();
            connections
                .iter()
                .for_each(|(_, instance)| tally.answered(instance));
            tell.send(tally)
                .context("nobody waits for the connections")?;
            Ok(beat(connections, &stopped, &first))
        });
        match told.recv_timeout(PATIENCE * 2) {
            Ok(opened) => Ok(Self {
                opened,
                stop,
                broke,
                thread,
            }),
            Err(_) => {
                stop.store(true, Ordering::Relaxed);
                match thread.join().map_err(|_| anyhow!("a thread panicked"))? {
                    Ok(_) => Err(anyhow!("{count} connections took longer than {PATIENCE:?}")),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Connections by instance, when they were opened.
    #[must_use]
    pub const fn opened(&self) -> &Tally {
        &self.opened
    }

    /// When the first of them broke, if one has.
    #[must_use]
    pub fn broke(&self) -> Option<Instant> {
        self.broke.get().copied()
    }

    /// Closes all: those that were alive to the end, by instance, and those that broke.
    ///
    /// # Errors
    /// When the thread has panicked.
    pub fn close(self) -> Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("a thread panicked"))?
    }
}

fn beat(
    mut connections: Vec<(TcpStream, String)>,
    stop: &AtomicBool,
    broke: &OnceLock<Instant>,
) -> Tally {
    let mut tally = Tally::default();
    let mut last = false;
    while !last {
        // One more round after the order to stop: it shows who is alive.
        last = stop.load(Ordering::Relaxed);
        connections.retain_mut(|(stream, instance)| match heartbeat(stream) {
            Ok(()) => true,
            Err(error) => {
                broke.get_or_init(Instant::now);
                tally.failed(format_args!("connection to {instance}: {error}"));
                false
            }
        });
        std::thread::sleep(PAUSE);
    }
    connections
        .iter()
        .for_each(|(_, instance)| tally.answered(instance));
    tally
}

fn heartbeat(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b".")?;
    stream.read_exact(&mut [0])
}
