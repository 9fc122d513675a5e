//! Packets and connections on the wire: lb beside the kernel's own balancer, nftables' DNAT by `numgen`
//! with masquerading, which does what `nat` does.
//!
//! Both stand in the same network, each on a host of its own, before the same instances, and take turns
//! within each round. Everything that has to do with a packet, from its sender's system call to its
//! receiver's queue, runs on one processor, in the context of the sender, of the instance, or of the
//! kernel's thread for what they leave over; the processor time of these is what is counted. A kernel
//! that accounts for interrupts separately (`CONFIG_IRQ_TIME_ACCOUNTING`) leaves the packets' part of it
//! out, and the figures mean nothing. What packets cost without a balancer, straight to the instance, is
//! measured in the same round and taken off. What a router costs that only forwards, on the host of
//! nftables, is measured too: so much of nftables' figure is for being on another host.
//!
//! Queues of veth have 256 places. What overflows them is no longer on its way: the share that arrives
//! is measured too.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};
use std::{fs, iter};

use anyhow::{Context, Result, ensure};

use crate::bench::cpu;
use crate::bench::report::{Comparison, Series, Spread};
use crate::client::tcp;
use crate::command;
use crate::daemon::Daemon;
use crate::instance::{self, Instance};
use crate::packet::kernel::pin;
use crate::scene::{Configuration, DSR, NAT, address};
use crate::topology::{Family, Host, SECOND, Topology, v4};

/// Last part of the address that nftables balances.
const NFT: u8 = 102;
/// The last part of the addresses that are reached through a router begins here.
const ROUTED: u8 = 60;
/// Port of those that receive and do not answer.
const SINK: u16 = 7009;
/// How many instances there are.
const INSTANCES: u8 = 3;
/// Flows of a measurement of packets.
const FLOWS: usize = 48;
/// How long packets are sent for.
const TIME: Duration = Duration::from_millis(1500);
/// Connections of a measurement.
const CONNECTIONS: u32 = 1000;
/// Questions and answers of a measurement of latency.
const PINGS: u32 = 3000;
/// The processor on which everything happens.
const PROCESSOR: usize = 0;

/// A way to the instances.
#[derive(Clone, Debug)]
struct Way {
    name: &'static str,
    addresses: Vec<IpAddr>,
}

/// The network with all that stands in it.
struct Stage {
    topology: Topology,
    ways: Vec<Way>,
    _router: Host,
    _lb: Daemon,
    instances: Vec<Instance>,
    /// The kernel's thread for what interrupts leave over.
    softirq: u32,
    _sinks: Vec<UdpSocket>,
}

/// Measures `rounds` rounds. `progress` is told what runs, and what is left out.
///
/// # Errors
/// When this process may not make namespaces, or something does not come up.
pub(super) fn run(rounds: u32, progress: &mut (dyn FnMut(&str) + Send)) -> Result<Vec<Comparison>> {
    let stage = Stage::make(progress)?;
    let mut figures = [
        Figures::new("a packet, one way", "ns per packet", &stage.ways),
        Figures::new("packets that arrive", "per cent", &stage.ways),
        Figures::new(
            "a connection, from SYN to end",
            "µs per connection",
            &stage.ways,
        ),
        Figures::new("latency, median", "µs there and back", &stage.ways),
        Figures::new("latency, 99th percentile", "µs there and back", &stage.ways),
    ];
    for round in 0..rounds {
        for step in 0..stage.ways.len() {
            let at = (step + round as usize) % stage.ways.len();
            let way = &stage.ways[at];
            let (packet, arrived) = stage.packets(way)?;
            let connection = stage.connections(way)?;
            let (median, tail) = stage.latency(way)?;
            for (figures, value) in figures
                .iter_mut()
                .zip([packet, arrived, connection, median, tail])
            {
                figures.0.series[at].values.push(value);
            }
            progress(&format!(
                "on the wire, round {}/{rounds}: {}: {packet:.0} ns a packet ({arrived:.1} % \
                 arrive), {connection:.0} µs a connection, {median:.0} and {tail:.0} µs",
                round + 1,
                way.name
            ));
        }
    }
    let [packet, arrived, connection, median, tail] = figures;
    let mut comparisons = vec![
        packet.beyond(),
        connection.beyond(),
        median.beyond(),
        tail.beyond(),
    ];
    comparisons.extend([packet.0, arrived.0, connection.0, median.0, tail.0]);
    Ok(comparisons)
}

/// Figures of all ways. The last one is the one without a balancer.
struct Figures(Comparison);

impl Figures {
    fn new(title: &str, unit: &'static str, ways: &[Way]) -> Self {
        let series = ways.iter().map(|way| Series {
            name: way.name.to_owned(),
            values: Vec::new(),
        });
        Self(Comparison {
            title: format!("{title}, in all"),
            unit,
            series: series.collect(),
        })
    }

    /// What the balancers add to the way without one.
    fn beyond(&self) -> Comparison {
        let all = &self.0.series;
        let (without, balanced) = all
            .split_last()
            .map_or((&[][..], &all[..]), |(last, rest)| (&last.values[..], rest));
        let series = balanced.iter().map(|series| Series {
            name: series.name.clone(),
            values: iter::zip(&series.values, without)
                .map(|(a, b)| a - b)
                .collect(),
        });
        Comparison {
            title: self.0.title.replace(", in all", ", what the balancer adds"),
            unit: self.0.unit,
            series: series.collect(),
        }
    }
}

impl Stage {
    fn make(progress: &mut (dyn FnMut(&str) + Send)) -> Result<Self> {
        let topology = Topology::new(INSTANCES)?;
        let router = topology.router("router", SECOND)?;
        let mut instances = Vec::new();
        let mut sinks = Vec::new();
        let mut routed = Way {
            name: "routed alone",
            addresses: Vec::new(),
        };
        for (host, number) in topology.instances.iter().zip(ROUTED..) {
            let far: IpAddr = v4(number).into();
            let held = [address(DSR, Family::V4), far];
            for address in held {
                host.hold(address)?;
            }
            router
                .namespace
                .ip(&[format!("route add {far}/32 via {}", host.v4)])?;
            topology.move_route(far, &router)?;
            routed.addresses.push(far);
            let instance = Instance::start(host, &held)?;
            instance.stay_on(PROCESSOR)?;
            instances.push(instance);
            let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, SINK));
            sinks.push(host.namespace.enter(bind)??);
        }
        for number in [NAT, DSR] {
            topology.route_to_balancer(v4(number).into())?;
        }
        let lb = Daemon::start(&topology.balancer, configuration().text())?;
        let mut ways = Vec::new();
        match nftables(&topology, &router) {
            Ok(()) => ways.push(way("nftables", NFT)),
            Err(error) => progress(&format!("left out: nftables ({error:#})")),
        }
        ways.push(way("lb, nat", NAT));
        ways.push(way("lb, l2dsr", DSR));
        ways.push(routed);
        ways.push(Way {
            name: "no balancer",
            addresses: topology
                .instances
                .iter()
                .map(|host| host.v4.into())
                .collect(),
        });
        Ok(Self {
            topology,
            ways,
            _router: router,
            _lb: lb,
            instances,
            softirq: cpu::kernel_thread(&format!("ksoftirqd/{PROCESSOR}"))?,
            _sinks: sinks,
        })
    }

    /// Nanoseconds for each packet that has arrived, and how many in a hundred have.
    fn packets(&self, way: &Way) -> Result<(f64, f64)> {
        let (before, others) = (self.received()?, cpu::time(self.softirq)?);
        let client = &self.topology.client.namespace;
        let (sent, own) = client.enter(|| send(&way.addresses))??;
        let time = own + cpu::time(self.softirq)?.saturating_sub(others);
        let arrived = self.received()?.saturating_sub(before).min(sent);
        ensure!(arrived > 0, "no packet arrives by {}", way.name);
        let cost = time.as_nanos() as f64 / arrived as f64;
        Ok((cost, 100.0 * arrived as f64 / sent as f64))
    }

    /// Microseconds for each connection.
    fn connections(&self, way: &Way) -> Result<f64> {
        let client = &self.topology.client.namespace;
        let mut time = Duration::ZERO;
        let each = CONNECTIONS / way.addresses.len() as u32;
        for address in &way.addresses {
            let target = SocketAddr::new(*address, instance::TCP);
            let before = self.others()?;
            let (tally, own) = client.enter(|| -> Result<_> {
                pin(PROCESSOR)?;
                let begin = cpu::own()?;
                let tally = tcp::connect(target, each);
                Ok((tally, cpu::own()?.saturating_sub(begin)))
            })??;
            time += own + self.others()?.saturating_sub(before);
            ensure!(tally.failures().is_empty(), "{}: {tally}", way.name);
        }
        let count = each * way.addresses.len() as u32;
        Ok(time.as_nanos() as f64 / 1000.0 / f64::from(count))
    }

    /// Microseconds from question to answer: the median, and what one in a hundred exceeds.
    fn latency(&self, way: &Way) -> Result<(f64, f64)> {
        let client = &self.topology.client.namespace;
        let mut times = client.enter(|| ping(way.addresses[0]))??;
        times.sort_by(f64::total_cmp);
        let tail = times[times.len() * 99 / 100];
        Ok((Spread::of(&times).median, tail))
    }

    /// Processor time of those who work beside the client.
    fn others(&self) -> Result<Duration> {
        let mut sum = cpu::time(self.softirq)?;
        for instance in &self.instances {
            sum += cpu::time(instance.pid())?;
        }
        Ok(sum)
    }

    /// Packets that have reached the instances.
    fn received(&self) -> Result<u64> {
        let mut sum = 0;
        for host in &self.topology.instances {
            let read = || fs::read_to_string("/proc/thread-self/net/dev");
            let text = host.namespace.enter(read)??;
            let line = text
                .lines()
                .find_map(|line| line.trim().strip_prefix("eth0:"));
            let packets = line.and_then(|line| line.split_whitespace().nth(1));
            sum += packets.context("no figures of eth0")?.parse::<u64>()?;
        }
        Ok(sum)
    }
}

fn way(name: &'static str, number: u8) -> Way {
    Way {
        name,
        addresses: vec![v4(number).into()],
    }
}

fn configuration() -> Configuration {
    let mut configuration = Configuration::new("[]").packets();
    for (name, number) in [("nat", NAT), ("l2dsr", DSR)] {
        for (protocol, port) in [
            ("udp", SINK),
            ("udp", instance::UDP),
            ("tcp", instance::TCP),
        ] {
            let service = format!("{name}-{port}");
            let settings = format!("forwarding = \"{name}\"");
            configuration = configuration
                .service_over(
                    &[Family::V4],
                    &service,
                    port,
                    &[10; INSTANCES as usize],
                    &settings,
                )
                .with(&format!(
                    "[[vips]]\naddress = \"{}\"\nport = {port}\nprotocol = \"{protocol}\"\n\
                     service = \"{service}\"",
                    v4(number)
                ));
        }
    }
    configuration
}

/// Lets a router balance by nftables.
fn nftables(topology: &Topology, router: &Host) -> Result<()> {
    let members: Vec<String> = topology
        .instances
        .iter()
        .map(|one| one.v4.to_string())
        .collect();
    let numbered: Vec<String> = (0..)
        .zip(&members)
        .map(|(n, at)| format!("{n} : {at}"))
        .collect();
    let choice = format!(
        "numgen inc mod {INSTANCES} map {{ {} }}",
        numbered.join(", ")
    );
    let vip = v4(NFT);
    let rules = format!(
        "table ip lb {{\n\
         chain to {{ type nat hook prerouting priority dstnat;\n\
         ip daddr {vip} dnat to {choice}\n}}\n\
         chain from {{ type nat hook postrouting priority srcnat;\n\
         ip daddr {{ {} }} masquerade\n}}\n}}\n",
        members.join(", ")
    );
    let mut nft = router.namespace.command("nft");
    command::with_input(nft.args(["-f", "-"]), &rules)?;
    topology.move_route(vip.into(), router)
}

/// Sends packets as fast as the processor allows; how many, and the processor time it took.
fn send(addresses: &[IpAddr]) -> Result<(u64, Duration)> {
    pin(PROCESSOR)?;
    let mut sockets = Vec::new();
    for (_, address) in (0..FLOWS).zip(addresses.iter().cycle()) {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(SocketAddr::new(*address, SINK))?;
        // The first packet of a flow is dearer than the others, and is not what is measured.
        socket.send(&[0; 18])?;
        sockets.push(socket);
    }
    std::thread::sleep(Duration::from_millis(20));
    let (begin, before, mut sent) = (Instant::now(), cpu::own()?, 0);
    while begin.elapsed() < TIME {
        for socket in &sockets {
            // A queue that is full is one packet that does not arrive.
            let _ = socket.send(&[0; 18]);
            sent += 1;
        }
        // Whoever works off queues on this processor has its turn.
        std::thread::yield_now();
    }
    let time = cpu::own()?.saturating_sub(before);
    // What is still on its way arrives.
    std::thread::sleep(Duration::from_millis(50));
    Ok((sent, time))
}

/// Asks and waits for the answer, over and over; the microseconds of each.
fn ping(address: IpAddr) -> Result<Vec<f64>> {
    pin(PROCESSOR)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.connect(SocketAddr::new(address, instance::UDP))?;
    let mut buffer = [0; 256];
    let mut times = Vec::new();
    for _ in 0..PINGS {
        let begin = Instant::now();
        socket.send(&[0; 18])?;
        socket.recv(&mut buffer).context("no answer")?;
        times.push(begin.elapsed().as_nanos() as f64 / 1000.0);
    }
    Ok(times)
}
