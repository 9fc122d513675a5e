//! TCP connections that come and go.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::netns::Namespace;
use crate::tally::Tally;

/// After which a step of a connection counts as failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// Connects, learns the instance's name, has something echoed, and closes: so many times, one after
/// the other, each from a port of its own. Gives up after a few failures.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn connections(namespace: &Namespace, target: SocketAddr, count: u32) -> Result<Tally> {
    namespace.enter(|| connect(target, count))
}

/// The same from the calling thread's namespace.
pub fn connect(target: SocketAddr, count: u32) -> Tally {
    let mut tally = Tally::default();
    for number in 0..count {
        match exchange(target, number) {
            Ok(instance) => tally.answered(&instance),
            Err(error) => tally.failed(format_args!("connection {number}: {error:#}")),
        }
        if tally.is_hopeless() {
            break;
        }
    }
    tally
}

fn exchange(target: SocketAddr, number: u32) -> Result<String> {
    let (mut stream, instance) = open(target)?;
    let sent = format!("message {number}");
    stream.write_all(sent.as_bytes()).context("cannot send")?;
    let mut echo = vec![0; sent.len()];
    stream.read_exact(&mut echo).context("no echo")?;
    ensure!(
        echo == sent.as_bytes(),
        "expected {sent:?} back, found {echo:?}"
    );
    Ok(instance)
}

/// A new connection and the name of the instance at its other end.
pub(super) fn open(target: SocketAddr) -> Result<(TcpStream, String)> {
    let stream = TcpStream::connect_timeout(&target, PATIENCE).context("cannot connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    // Nothing but the line is sent before we speak, so the reader cannot take more than it.
    let mut line = String::new();
    BufReader::new(&stream)
        .read_line(&mut line)
        .context("no greeting")?;
    let instance = line.trim_end();
    ensure!(
        !instance.is_empty(),
        "the connection ended before the greeting"
    );
    Ok((stream, instance.to_owned()))
}
