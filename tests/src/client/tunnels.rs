//! WebSockets that are held open through the proxy and kept busy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::instance::NAME_HEADER;
use crate::netns::Namespace;
use crate::tally::Tally;

/// Rest between two rounds of heartbeats.
const PAUSE: Duration = Duration::from_millis(100);

/// For one heartbeat, and for opening a tunnel.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tunnels through each of which a byte goes there and back, again and again.
#[derive(Debug)]
pub struct Tunnels {
    opened: Tally,
    stop: Arc<AtomicBool>,
    beats: Arc<AtomicU64>,
    thread: JoinHandle<Result<Tally>>,
}

impl Tunnels {
    /// Opens so many at a path.
    ///
    /// # Errors
    /// When one of them cannot be opened.
    pub fn open(namespace: &Namespace, target: SocketAddr, path: &str, count: u32) -> Result<Self> {
        let (stop, beats) = (
            Arc::new(AtomicBool::new(false)),
            Arc::<AtomicU64>::default(),
        );
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&beats));
        let path = path.to_owned();
        let (tell, told) = mpsc::channel();
        let thread = namespace.spawn(move || {
            let mut tunnels = Vec::new();
            let mut tally = Tally::default();
            for number in 0..count {
                let opened = open(target, &path).with_context(|| format!("tunnel {number}"))?;
                tally.answered(&opened.1);
                tunnels.push(opened);
            }
            tell.send(tally).context("nobody waits for the tunnels")?;
            Ok(beat(tunnels, &stopped, &counted))
        });
        match told.recv() {
            Ok(opened) => Ok(Self {
                opened,
                stop,
                beats,
                thread,
            }),
            Err(_) => match thread.join().map_err(|_| anyhow!("a thread panicked"))? {
                Ok(_) => Err(anyhow!("the tunnels are gone")),
                Err(error) => Err(error),
            },
        }
    }

    /// Tunnels by instance, when they were opened.
    #[must_use]
    pub const fn opened(&self) -> &Tally {
        &self.opened
    }

    /// Bytes that have come back so far.
    #[must_use]
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
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

fn open(target: SocketAddr, path: &str) -> Result<(TcpStream, String)> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: lb.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).context("no head")?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    ensure!(head.starts_with("http/1.1 101 "), "{head}");
    let field = format!("{NAME_HEADER}: ");
    let name = head.lines().find_map(|line| line.strip_prefix(&field));
    Ok((stream, name.context("no name")?.to_owned()))
}

fn beat(mut tunnels: Vec<(TcpStream, String)>, stop: &AtomicBool, beats: &AtomicU64) -> Tally {
    let mut tally = Tally::default();
    let mut last = false;
    while !last {
        // One more round after the order to stop: it shows who is alive.
        last = stop.load(Ordering::Relaxed);
        tunnels.retain_mut(|(stream, instance)| match heartbeat(stream) {
            Ok(()) => {
                beats.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(error) => {
                tally.failed(format_args!("tunnel to {instance}: {error}"));
                false
            }
        });
        std::thread::sleep(PAUSE);
    }
    tunnels
        .iter()
        .for_each(|(_, instance)| tally.answered(instance));
    tally
}

fn heartbeat(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b".")?;
    stream.read_exact(&mut [0])
}
