//! As many bytes as fit, in both directions at once; each must come back as it was sent.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};

use super::tcp;
use crate::netns::Namespace;

/// Bytes handed to the socket at a time.
const STEP: usize = 64 * 1024;

/// Sends so many bytes to an echoing instance while it reads them back; the name of the instance.
///
/// # Errors
/// When a byte is missing, comes twice or is another than was sent.
pub fn echo(namespace: &Namespace, target: SocketAddr, bytes: usize) -> Result<String> {
    namespace.enter(|| {
        let (stream, instance) = tcp::open(target)?;
        let sender = stream.try_clone()?;
        thread::scope(|scope| {
            let sent = scope.spawn(|| send(sender, bytes));
            let received = receive(stream, bytes);
            sent.join().map_err(|_| anyhow!("the sender panicked"))??;
            received
        })?;
        Ok(instance)
    })?
}

fn send(mut stream: TcpStream, bytes: usize) -> Result<()> {
    let mut noise = Noise::new();
    let mut buffer = vec![0; STEP];
    for at in (0..bytes).step_by(STEP) {
        let part = &mut buffer[..STEP.min(bytes - at)];
        noise.fill(part);
        stream
            .write_all(part)
            .with_context(|| format!("sending from byte {at} on"))?;
    }
    // The instance ends its side when it has echoed everything.
    Ok(stream.shutdown(Shutdown::Write)?)
}

fn receive(mut stream: TcpStream, bytes: usize) -> Result<()> {
    let mut noise = Noise::new();
    let (mut buffer, mut expected) = (vec![0; STEP], vec![0; STEP]);
    for at in (0..bytes).step_by(STEP) {
        let length = STEP.min(bytes - at);
        stream
            .read_exact(&mut buffer[..length])
            .with_context(|| format!("reading from byte {at} on"))?;
        noise.fill(&mut expected[..length]);
        ensure!(
            buffer[..length] == expected[..length],
            "a byte between {at} and {} came back changed",
            at + length
        );
    }
    let rest = stream.read(&mut buffer)?;
    ensure!(rest == 0, "{rest} bytes more than were sent");
    Ok(())
}

/// Bytes that look random and are the same every time (xorshift64, Marsaglia 2003), so that
/// segments that are repeated, lost or swapped are seen.
struct Noise(u64);

impl Noise {
    const fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            part.copy_from_slice(&self.0.to_le_bytes()[..part.len()]);
        }
    }
}
