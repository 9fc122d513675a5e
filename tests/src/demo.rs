//! The demo: one network, one daemon, and acts that each show what the daemon promises.
//!
//! An act takes the [`World`] as it finds it, leaves it as it was, and tells the [`Report`] what it
//! expected and what it found. End-to-end tests play the same acts, each in a world of its own.

mod crash;
mod drain;
mod kill;
mod report;
mod requests;
mod spread;

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};

pub use report::Report;

use crate::daemon::Daemon;
use crate::instance::{self, Instance};
use crate::topology::{self, Family, Host, Topology};

/// What the daemon is configured with.
const CONFIGURATION: &str = include_str!("demo/lb.toml");

/// Instances of the demo's network.
const INSTANCES: u8 = 3;

/// Weights of the three instances, as shares.
const SHARES: [(&str, f64); 3] = [("i1", 0.5), ("i2", 0.25), ("i3", 0.25)];

/// The network, with everything running in it.
#[derive(Debug)]
pub struct World {
    // Dropped in this order: the daemon, what it balances over, and the network.
    /// The daemon.
    pub daemon: Daemon,
    instances: Vec<Instance>,
    /// The network.
    pub topology: Topology,
}

/// How packets reach the instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forwarding {
    Nat,
    L2Dsr,
}

impl Forwarding {
    const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::L2Dsr => "l2dsr",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Nat => 100,
            Self::L2Dsr => 101,
        }
    }
}

/// The address that clients connect to.
fn vip(forwarding: Forwarding, family: Family) -> IpAddr {
    match family {
        Family::V4 => topology::v4(forwarding.number()).into(),
        Family::V6 => topology::v6(forwarding.number()).into(),
    }
}

impl World {
    /// Builds the network, starts instances and daemon, and waits until all instances are healthy.
    ///
    /// # Errors
    /// When something does not come up; the message has the log.
    pub fn new() -> Result<Self> {
        let topology = Topology::new(INSTANCES)?;
        for forwarding in [Forwarding::Nat, Forwarding::L2Dsr] {
            for family in [Family::V4, Family::V6] {
                topology.route_to_balancer(vip(forwarding, family))?;
            }
        }
        let mut instances = Vec::new();
        for host in &topology.instances {
            for address in held() {
                host.hold(address)?;
            }
            instances.push(Instance::start(host, &held())?);
        }
        let daemon = Daemon::start(&topology.balancer, CONFIGURATION)?;
        let world = Self {
            daemon,
            instances,
            topology,
        };
        world.wait_until_healthy()?;
        Ok(world)
    }

    /// Waits until the daemon has found every instance healthy and given it its whole weight.
    fn wait_until_healthy(&self) -> Result<()> {
        let limit = std::time::Duration::from_secs(10);
        let healthy =
            |one: &serde_json::Value| one["health"] == "healthy" && one["recovery"].is_null();
        self.daemon.wait_for("/instances", limit, |answer| {
            let all = answer["instances"].as_array();
            all.is_some_and(|all| all.iter().all(healthy))
        })?;
        Ok(())
    }

    /// Starts a killed instance again, and waits until it has its share back.
    fn revive(&mut self, name: &str) -> Result<()> {
        let host = self.host(name)?.clone();
        self.instances.retain(|instance| instance.name != name);
        self.instances.push(Instance::start(&host, &held())?);
        self.wait_until_healthy()
    }

    fn kill(&mut self, name: &str) -> Result<()> {
        let instance = self
            .instances
            .iter_mut()
            .find(|instance| instance.name == name);
        instance
            .with_context(|| format!("no instance {name}"))?
            .kill()
    }

    fn host(&self, name: &str) -> Result<&Host> {
        self.topology
            .instance(name)
            .with_context(|| format!("no instance {name}"))
    }

    /// What to type to look around.
    ///
    /// # Errors
    /// When the daemon was not built.
    pub fn commands(&self) -> Result<String> {
        let client = self.topology.client.namespace.name();
        let balancer = self.topology.balancer.namespace.name();
        let lb = crate::artifact::program_path("lb")?;
        let lb = lb.display();
        let tcp = instance::TCP;
        Ok(format!(
            "from the client:\n  \
               nsenter --net=/run/netns/{client} curl -i http://{gateway}/shop/hat\n  \
               nsenter --net=/run/netns/{client} curl telnet://{nat}:{tcp}\n\
             where the daemon runs:\n  \
               nsenter --net=/run/netns/{balancer} {lb} status\n  \
               nsenter --net=/run/netns/{balancer} {lb} instances list\n  \
               nsenter --net=/run/netns/{balancer} {lb} instances drain shop 10.77.0.12:8080\n  \
               nsenter --net=/run/netns/{balancer} {lb} algorithm set shop consistent_hash\n  \
               nsenter --net=/run/netns/{balancer} {lb} datapath status\n\
             its configuration:\n  {file}",
            gateway = self.topology.balancer.v4,
            nat = vip(Forwarding::Nat, Family::V4),
            file = self.daemon.file().display(),
        ))
    }
}

/// The addresses that instances hold themselves, for direct server return.
fn held() -> [IpAddr; 2] {
    [
        vip(Forwarding::L2Dsr, Family::V4),
        vip(Forwarding::L2Dsr, Family::V6),
    ]
}

/// Where the proxy listens.
fn gateway(world: &World) -> SocketAddr {
    SocketAddr::new(world.topology.balancer.v4.into(), 80)
}

/// A part of the demo.
#[derive(Clone, Copy, Debug)]
pub struct Act {
    /// What it shows.
    pub title: &'static str,
    play: fn(&mut World, &mut Report) -> Result<()>,
}

impl Act {
    /// Plays it. What goes wrong is a failed expectation of the report.
    pub fn play(&self, world: &mut World, report: &mut Report) {
        report.act(self.title);
        if let Err(error) = (self.play)(world, report) {
            report.expect("the act comes to its end", false, format_args!("{error:#}"));
        }
    }
}

/// All acts, in order.
pub const ACTS: [Act; 5] = [
    Act {
        title: "connections spread by weight, in the kernel",
        play: spread::play,
    },
    Act {
        title: "an instance is drained while connections are held",
        play: drain::play,
    },
    Act {
        title: "requests routed by path, under each algorithm",
        play: requests::play,
    },
    Act {
        title: "an instance dies under load",
        play: kill::play,
    },
    Act {
        title: "the daemon is killed during a transfer",
        play: crash::play,
    },
];
