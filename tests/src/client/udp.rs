//! UDP flows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::netns::Namespace;
use crate::tally::Tally;

const PATIENCE: Duration = Duration::from_secs(2);

/// Sends so many flows, each from a port of its own, of so many datagrams. A flow counts for the
/// instance that has answered all of it; a datagram without an answer, an answer from another
/// address, and a flow with two instances are failures; a few of them end the attempt.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn flows(
    namespace: &Namespace,
    target: SocketAddr,
    count: u32,
    datagrams: u32,
) -> Result<Tally> {
    namespace.enter(|| {
        let mut tally = Tally::default();
        for number in 0..count {
            match flow(target, datagrams) {
                Ok(instance) => tally.answered(&instance),
                Err(error) => tally.failed(format_args!("flow {number}: {error:#}")),
            }
            if tally.is_hopeless() {
                break;
            }
        }
        tally
    })
}

fn flow(target: SocketAddr, datagrams: u32) -> Result<String> {
    let any: IpAddr = if target.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    // A connected socket takes answers from the address that was asked only.
    socket.connect(target)?;
    let mut instance: Option<String> = None;
    for number in 0..datagrams {
        let sent = format!("datagram {number}");
        socket.send(sent.as_bytes())?;
        let mut buffer = [0; 2048];
        let length = socket
            .recv(&mut buffer)
            .with_context(|| format!("no answer to {sent}"))?;
        let text = String::from_utf8_lossy(&buffer[..length]);
        let (name, echo) = text.split_once('\n').unwrap_or((&text, ""));
        ensure!(echo == sent, "expected {sent:?} back, found {echo:?}");
        let first = instance.get_or_insert_with(|| name.to_owned());
        ensure!(first == name, "the flow went from {first} to {name}");
    }
    instance.context("a flow of no datagrams has no instance")
}

/// Sends a datagram from this very address and returns the name of the instance that answers. For a
/// thread that is in the client's namespace.
///
/// # Errors
/// When there is no answer within two seconds.
pub fn echo(from: SocketAddr, target: SocketAddr) -> Result<String> {
    let socket = UdpSocket::bind(from)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(target)?;
    socket.send(b"hello")?;
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer).context("no answer")?;
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
