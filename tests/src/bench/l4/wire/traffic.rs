//! What is sent: packets as fast as can be or at a pace, and questions that wait for their answers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::bench::cpu;
use crate::instance;
use crate::packet::kernel::pin;

/// Port of those that receive and do not answer.
pub(super) const SINK: u16 = 7009;
/// The processor on which everything happens.
pub(super) const PROCESSOR: usize = 0;
/// Flows of a measurement of packets.
const FLOWS: usize = 48;
/// How long packets are sent for as fast as the processor allows.
const FLOOD: Duration = Duration::from_millis(1500);
/// How long they are sent for at a pace.
const PACED: Duration = Duration::from_millis(300);
/// The most that are sent at a time to keep a pace; well below what a queue of veth holds.
const BURST: u64 = 32;
/// How long it takes what was sent to arrive.
const ARRIVE: Duration = Duration::from_millis(50);
/// Questions and answers of a measurement of latency.
const PINGS: u32 = 3000;
/// The smallest packet that Ethernet has.
const PAYLOAD: [u8; 18] = [0; 18];

/// What was sent.
pub(super) struct Sent {
    pub(super) packets: u64,
    /// Processor time of the sender.
    pub(super) processor: Duration,
    pub(super) clock: Duration,
}

/// Sends packets as fast as the processor allows.
pub(super) fn flood(addresses: &[IpAddr]) -> Result<Sent> {
    let sockets = flows(addresses)?;
    let mut packets = sockets.len() as u64;
    let (begin, before) = (Instant::now(), cpu::own()?);
    while begin.elapsed() < FLOOD {
        for socket in &sockets {
            // A queue that is full is one packet that does not arrive.
            let _ = socket.send(&PAYLOAD);
            packets += 1;
        }
        // Whoever works off queues on this processor has its turn.
        thread::yield_now();
    }
    let (clock, processor) = (begin.elapsed(), cpu::own()?.saturating_sub(before));
    thread::sleep(ARRIVE);
    Ok(Sent {
        packets,
        processor,
        clock,
    })
}

/// Sends packets at a pace, `rate` a second, and says how many: as many as are due in all, also where
/// the processor is not fast enough, or the time that was lost would be a lower pace.
pub(super) fn paced(addresses: &[IpAddr], rate: f64) -> Result<u64> {
    let sockets = flows(addresses)?;
    let due = |time: Duration| (time.as_secs_f64() * rate) as u64;
    let (begin, mut sent) = (Instant::now(), 0);
    let mut turns = sockets.iter().cycle();
    while begin.elapsed() < PACED {
        let burst = due(begin.elapsed()).saturating_sub(sent).min(BURST);
        for socket in turns.by_ref().take(burst as usize) {
            let _ = socket.send(&PAYLOAD);
        }
        sent += burst;
        thread::yield_now();
    }
    thread::sleep(ARRIVE);
    // What is short of the pace by more than a burst was not sent.
    Ok(sent.max(due(PACED).saturating_sub(BURST)) + sockets.len() as u64)
}

/// Sockets of clients, whose flows have begun: the first packet of a flow is dearer than the others,
/// and is not what is measured.
fn flows(addresses: &[IpAddr]) -> Result<Vec<UdpSocket>> {
    pin(PROCESSOR)?;
    let mut sockets = Vec::new();
    for (_, address) in (0..FLOWS).zip(addresses.iter().cycle()) {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(SocketAddr::new(*address, SINK))?;
        socket.send(&PAYLOAD)?;
        sockets.push(socket);
    }
    thread::sleep(Duration::from_millis(20));
    Ok(sockets)
}

/// Asks and waits for the answer, over and over; the microseconds of each.
pub(super) fn ping(address: IpAddr) -> Result<Vec<f64>> {
    pin(PROCESSOR)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.connect(SocketAddr::new(address, instance::UDP))?;
    let mut buffer = [0; 256];
    let mut times = Vec::new();
    for _ in 0..PINGS {
        let begin = Instant::now();
        socket.send(&PAYLOAD)?;
        socket.recv(&mut buffer).context("no answer")?;
        times.push(begin.elapsed().as_nanos() as f64 / 1000.0);
    }
    Ok(times)
}
