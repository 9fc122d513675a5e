//! The network in which balancers stand beside each other, and what is measured in it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::traffic::{self, PROCESSOR, SINK};
use crate::bench::cpu;
use crate::bench::report::Spread;
use crate::client::tcp;
use crate::command;
use crate::daemon::Daemon;
use crate::instance::{self, Instance};
use crate::packet::hook::Hook;
use crate::packet::kernel::pin;
use crate::pass::Attached;
use crate::scene::{Configuration, DSR, NAT};
use crate::topology::{Family, Host, INTERFACE, SECOND, Topology, v4};

/// Last part of the address that nftables balances.
const NFT: u8 = 102;
/// Last parts of the addresses whose packets are sent on without a decision: by XDP, and by traffic control.
const REFLECTED: u8 = 103;
const REFLECTED_TC: u8 = 104;
/// Last parts of the addresses of the hosts that do so.
const REFLECTOR: u8 = 4;
const REFLECTOR_TC: u8 = 5;
/// Last parts of the addresses that lb balances in traffic control, and of its host's.
const NAT_TC: u8 = 105;
const DSR_TC: u8 = 106;
const BALANCER_TC: u8 = 6;
/// The last part of the addresses that are reached through a router begins here.
const ROUTED: u8 = 60;
/// How many instances there are.
const INSTANCES: u8 = 3;
/// Connections of a measurement.
const CONNECTIONS: u32 = 1000;
/// How often the range is halved in which the highest rate without a loss lies.
const HALVINGS: u32 = 7;

/// A way to the instances.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) name: &'static str,
    /// The way that does the same without balancing.
    pub(super) floor: Option<&'static str>,
    addresses: Vec<IpAddr>,
}

/// What packets cost that are sent as fast as the processor allows.
pub(super) struct Packets {
    /// Nanoseconds for each that has arrived.
    pub(super) cost: f64,
    /// How many in a hundred have.
    pub(super) arrived: f64,
    /// How many could be sent.
    pub(super) sent_per_second: f64,
}

/// What connections cost.
pub(super) struct Connections {
    /// Microseconds of processors for each.
    pub(super) cost: f64,
    /// How many there were by the clock.
    pub(super) per_second: f64,
}

/// The network with all that stands in it.
pub(super) struct Stage {
    topology: Topology,
    /// The last one is the one without a balancer.
    pub(super) ways: Vec<Way>,
    _router: Host,
    _reflectors: [(Host, Attached); 2],
    _lb: [Daemon; 2],
    instances: Vec<Instance>,
    /// The kernel's thread for what interrupts leave over.
    softirq: u32,
    _sinks: Vec<UdpSocket>,
}

impl Stage {
    pub(super) fn make(progress: &mut (dyn FnMut(&str) + Send)) -> Result<Self> {
        const FORWARDED: &str = "forwarded alone";
        const STEERED: &str = "steered by XDP alone";
        const STEERED_TC: &str = "steered by tc alone";
        let topology = Topology::new(INSTANCES)?;
        let router = topology.router("router", SECOND)?;
        let mut instances = Vec::new();
        let mut sinks = Vec::new();
        let mut routed = Vec::new();
        for (host, number) in topology.instances.iter().zip(ROUTED..) {
            let far: IpAddr = v4(number).into();
            let held = [DSR, DSR_TC, REFLECTED, REFLECTED_TC].map(|number| v4(number).into());
            let held = [&held[..], &[far]].concat();
            for address in &held {
                host.hold(*address)?;
            }
            router
                .namespace
                .ip(&[format!("route add {far}/32 via {}", host.v4)])?;
            topology.move_route(far, &router)?;
            routed.push(far);
            let instance = Instance::start(host, &held)?;
            instance.stay_on(PROCESSOR)?;
            instances.push(instance);
            let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, SINK));
            sinks.push(host.namespace.enter(bind)??);
        }
        for number in [NAT, DSR] {
            topology.route_to_balancer(v4(number).into())?;
        }
        let by_tc = topology.router("tc", BALANCER_TC)?;
        for number in [NAT_TC, DSR_TC] {
            topology.move_route(v4(number).into(), &by_tc)?;
        }
        let first = topology.another_balancer("reflector", REFLECTOR)?;
        let second = topology.router("reflector-tc", REFLECTOR_TC)?;
        let reflectors = [
            reflector(&topology, first, Hook::Xdp, REFLECTED)?,
            reflector(&topology, second, Hook::Tc, REFLECTED_TC)?,
        ];
        let lb = [
            Daemon::start(
                &topology.balancer,
                configuration(Hook::Xdp, 1, [NAT, DSR]).text(),
            )?,
            Daemon::start(
                &by_tc,
                configuration(Hook::Tc, BALANCER_TC, [NAT_TC, DSR_TC]).text(),
            )?,
        ];
        let way = |name, floor, numbers: &[u8]| Way {
            name,
            floor,
            addresses: numbers.iter().map(|number| v4(*number).into()).collect(),
        };
        let mut ways = Vec::new();
        match nftables(&topology, &router) {
            Ok(()) => ways.push(way("nftables", Some(FORWARDED), &[NFT])),
            Err(error) => progress(&format!("left out: nftables ({error:#})")),
        }
        ways.push(way("lb, nat", Some(STEERED), &[NAT]));
        ways.push(way("lb, l2dsr", Some(STEERED), &[DSR]));
        ways.push(way("lb by tc, nat", Some(STEERED_TC), &[NAT_TC]));
        ways.push(way("lb by tc, l2dsr", Some(STEERED_TC), &[DSR_TC]));
        ways.push(Way {
            addresses: routed,
            ..way(FORWARDED, None, &[])
        });
        ways.push(way(STEERED, None, &[REFLECTED]));
        ways.push(way(STEERED_TC, None, &[REFLECTED_TC]));
        let hosts = topology.instances.iter();
        ways.push(Way {
            addresses: hosts.map(|host| host.v4.into()).collect(),
            ..way("no balancer", None, &[])
        });
        Ok(Self {
            topology,
            ways,
            _router: router,
            _reflectors: reflectors,
            _lb: lb,
            instances,
            softirq: cpu::kernel_thread(&format!("ksoftirqd/{PROCESSOR}"))?,
            _sinks: sinks,
        })
    }

    /// Sends as fast as the processor allows.
    pub(super) fn packets(&self, way: &Way) -> Result<Packets> {
        let (before, others) = (self.received()?, cpu::time(self.softirq)?);
        let client = &self.topology.client.namespace;
        let sent = client.enter(|| traffic::flood(&way.addresses))??;
        let time = sent.processor + cpu::time(self.softirq)?.saturating_sub(others);
        let arrived = self.received()?.saturating_sub(before).min(sent.packets);
        ensure!(arrived > 0, "no packet arrives by {}", way.name);
        Ok(Packets {
            cost: time.as_nanos() as f64 / arrived as f64,
            arrived: 100.0 * arrived as f64 / sent.packets as f64,
            sent_per_second: sent.packets as f64 / sent.clock.as_secs_f64(),
        })
    }

    /// The highest rate at which no packet is lost, in packets a second, as far as halving the range
    /// below `ceiling` finds it.
    pub(super) fn most_packets(&self, way: &Way, ceiling: f64) -> Result<f64> {
        let client = &self.topology.client.namespace;
        let (mut good, mut bad) = (0.0, ceiling);
        for _ in 0..HALVINGS {
            let rate = f64::midpoint(good, bad);
            let before = self.received()?;
            let sent = client.enter(|| traffic::paced(&way.addresses, rate))??;
            let arrived = self.received()?.saturating_sub(before);
            if arrived >= sent {
                good = rate;
            } else {
                bad = rate;
            }
        }
        Ok(good)
    }

    pub(super) fn connections(&self, way: &Way) -> Result<Connections> {
        let client = &self.topology.client.namespace;
        let (mut time, mut clock) = (Duration::ZERO, Duration::ZERO);
        let each = CONNECTIONS / way.addresses.len() as u32;
        for address in &way.addresses {
            let target = SocketAddr::new(*address, instance::TCP);
            let before = self.others()?;
            let (tally, own, elapsed) = client.enter(|| -> Result<_> {
                pin(PROCESSOR)?;
                let (begin, started) = (cpu::own()?, Instant::now());
                let tally = tcp::connect(target, each);
                let elapsed = started.elapsed();
                Ok((tally, cpu::own()?.saturating_sub(begin), elapsed))
            })??;
            time += own + self.others()?.saturating_sub(before);
            clock += elapsed;
            ensure!(tally.failures().is_empty(), "{}: {tally}", way.name);
        }
        let count = f64::from(each) * way.addresses.len() as f64;
        Ok(Connections {
            cost: time.as_nanos() as f64 / 1000.0 / count,
            per_second: count / clock.as_secs_f64(),
        })
    }

    /// Microseconds from question to answer: the median, and what one in a hundred exceeds.
    pub(super) fn latency(&self, way: &Way) -> Result<(f64, f64)> {
        let client = &self.topology.client.namespace;
        let mut times = client.enter(|| traffic::ping(way.addresses[0]))??;
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

    /// IPv4 packets that have reached the instances.
    fn received(&self) -> Result<u64> {
        let mut sum = 0;
        for host in &self.topology.instances {
            let read = || fs::read_to_string("/proc/thread-self/net/snmp");
            let text = host.namespace.enter(read)??;
            // A line of names, then one of figures; the third is `InReceives`.
            let figures = text.lines().filter(|line| line.starts_with("Ip:")).nth(1);
            let packets = figures.and_then(|line| line.split_whitespace().nth(3));
            sum += packets.context("no figures of IPv4")?.parse::<u64>()?;
        }
        Ok(sum)
    }
}

/// VIPs at two addresses, forwarded by `nat` and by `l2dsr`, on a host.
fn configuration(hook: Hook, host: u8, numbers: [u8; 2]) -> Configuration {
    let mut configuration = Configuration::new("[]").packets_on(hook, host);
    for (name, number) in ["nat", "l2dsr"].into_iter().zip(numbers) {
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

/// Lets a host send everything for one address to the first instance.
fn reflector(topology: &Topology, host: Host, hook: Hook, address: u8) -> Result<(Host, Attached)> {
    let first = topology.instances.first().context("no instance")?;
    let mac = first.namespace.mac(INTERFACE)?;
    let reflector = Attached::reflector(hook, v4(address), mac)?;
    reflector.attach(&host.namespace, INTERFACE)?;
    topology.move_route(v4(address).into(), &host)?;
    Ok((host, reflector))
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
