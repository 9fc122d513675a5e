//! Numbered datagrams, of which none may be lost.
//!
//! They go out at a steady rate over flows some of which are long-lived and some begin anew all the
//! time, and each has to come back from the instance of its flow. No more than a few are under way at
//! once, so that queues do not overflow, however long a busy machine lets one of the parties wait:
//! what is lost was lost on the way.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::netns::Namespace;

/// Datagrams under way at once.
const WINDOW: usize = 64;
/// Flows at once.
const FLOWS: usize = 16;
/// Every so many datagrams the oldest of the short flows is followed by a new one.
const FRESH: u64 = 20;
/// Flows that are there from the beginning to the end.
const LONG: usize = 4;
/// How often datagrams are sent.
const TICK: Duration = Duration::from_millis(1);
/// After which a datagram counts as lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// What has become of the datagrams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How many were sent.
    pub sent: u64,
    /// How many came back.
    pub back: u64,
    /// The first few of those that did not, each with its flow.
    pub lost: Vec<String>,
    /// Flows that began.
    pub flows: u64,
    /// Flows that went from one instance to another.
    pub moved: u64,
}

/// Datagrams being sent.
#[derive(Debug)]
pub struct Sequence {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Outcome>>,
}

impl Sequence {
    /// Begins to send so many at least, so many a second, until [`Self::finish`].
    #[must_use]
    pub fn start(namespace: &Namespace, target: SocketAddr, count: u64, rate: u64) -> Self {
        let sent = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, stopped) = (Arc::clone(&sent), Arc::clone(&stop));
        let run = move || Sender::new(target)?.run(count, rate, &tell, &stopped);
        let thread = namespace.spawn(run);
        Self { sent, stop, thread }
    }

    /// How many were sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops, when so many were sent, and waits for the last one.
    ///
    /// # Errors
    /// When a socket fails, or the thread has panicked.
    pub fn finish(self) -> Result<Outcome> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("a thread panicked"))?
    }
}

/// A flow, and its datagrams that are not back.
struct Flow {
    number: u64,
    socket: UdpSocket,
    instance: Option<String>,
    away: Vec<u64>,
}

struct Sender {
    target: SocketAddr,
    flows: Vec<Flow>,
    /// Datagrams under way, the oldest first, each with the flow that it is of.
    away: VecDeque<(u64, u64, Instant)>,
    under_way: usize,
    outcome: Outcome,
}

impl Sender {
    fn new(target: SocketAddr) -> Result<Self> {
        let mut sender = Self {
            target,
            flows: Vec::new(),
            away: VecDeque::new(),
            under_way: 0,
            outcome: Outcome::default(),
        };
        for _ in 0..FLOWS {
            let flow = sender.flow()?;
            sender.flows.push(flow);
        }
        Ok(sender)
    }

    fn flow(&mut self) -> Result<Flow> {
        let any: IpAddr = if self.target.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind((any, 0))?;
        // A connected socket takes answers from the address that was asked only.
        socket.connect(self.target)?;
        socket.set_nonblocking(true)?;
        self.outcome.flows += 1;
        Ok(Flow {
            number: self.outcome.flows,
            socket,
            instance: None,
            away: Vec::new(),
        })
    }

    fn run(
        mut self,
        count: u64,
        rate: u64,
        tell: &AtomicU64,
        stop: &AtomicBool,
    ) -> Result<Outcome> {
        let start = Instant::now();
        loop {
            let is_over = self.outcome.sent >= count && stop.load(Ordering::Relaxed);
            if is_over && self.under_way == 0 {
                return Ok(self.outcome);
            }
            let due = start.elapsed().as_millis() as u64 * rate / 1000;
            let due = if is_over { 0 } else { due };
            while self.outcome.sent < due && self.under_way < WINDOW {
                self.send()?;
            }
            tell.store(self.outcome.sent, Ordering::Relaxed);
            self.receive()?;
            self.give_up();
            std::thread::sleep(TICK);
        }
    }

    fn send(&mut self) -> Result<()> {
        let number = self.outcome.sent;
        if number % FRESH == FRESH - 1 {
            self.replace()?;
        }
        let place = number as usize % FLOWS;
        let flow = &mut self.flows[place];
        match flow.socket.send(&number.to_be_bytes()) {
            Ok(_) => {}
            // An ICMP message about an earlier datagram; that one will be missed.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(()),
            Err(error) => return Err(error).context("cannot send"),
        }
        flow.away.push(number);
        self.away.push_back((number, flow.number, Instant::now()));
        self.under_way += 1;
        self.outcome.sent += 1;
        Ok(())
    }

    /// Lets a short flow that waits for nothing be followed by a new one.
    fn replace(&mut self) -> Result<()> {
        let done = self.flows[LONG..]
            .iter()
            .position(|flow| flow.away.is_empty());
        if let Some(place) = done {
            let fresh = self.flow()?;
            // The new ones at the end, so that each has its time.
            self.flows.remove(LONG + place);
            self.flows.push(fresh);
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        let mut buffer = [0; 256];
        for flow in self.flows.iter_mut().filter(|flow| !flow.away.is_empty()) {
            loop {
                let length = match flow.socket.recv(&mut buffer) {
                    Ok(length) => length,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => continue,
                    Err(error) => return Err(error).context("cannot receive"),
                };
                let (name, number) = read(&buffer[..length])?;
                let Some(place) = flow.away.iter().position(|away| *away == number) else {
                    continue;
                };
                flow.away.swap_remove(place);
                self.under_way -= 1;
                self.outcome.back += 1;
                let first = flow.instance.get_or_insert_with(|| name.clone());
                if *first != name {
                    self.outcome.moved += 1;
                    *first = name;
                }
            }
        }
        Ok(())
    }

    /// Gives up on what has been away for too long.
    fn give_up(&mut self) {
        while let Some((number, flow, since)) = self.away.front().copied() {
            let flow = self.flows.iter_mut().find(|one| one.number == flow);
            let away = flow.map(|flow| (flow.number, &mut flow.away));
            if let Some((flow, away)) = away
                && let Some(place) = away.iter().position(|away| *away == number)
            {
                if since.elapsed() < PATIENCE {
                    return;
                }
                away.swap_remove(place);
                self.under_way -= 1;
                if self.outcome.lost.len() < 20 {
                    self.outcome.lost.push(format!("{number} of flow {flow}"));
                }
            }
            self.away.pop_front();
        }
    }
}

/// An instance's answer: its name in a line, and the number.
fn read(answer: &[u8]) -> Result<(String, u64)> {
    let end = answer.iter().position(|byte| *byte == b'\n');
    let (name, rest) = answer.split_at(end.context("an answer without a name")?);
    let number = rest[1..].try_into().context("an answer without a number")?;
    Ok((
        String::from_utf8_lossy(name).into_owned(),
        u64::from_be_bytes(number),
    ))
}
