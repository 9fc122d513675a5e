//! Instances behind tunnels, of whose paths the program may learn.
//!
//! It believes messages about nobody else, so that strangers cannot fill its memory, and learns nothing where the
//! configuration does not want it to. What it has learned is read from time to time, to be shown.

use std::{collections::BTreeSet, time::Duration};

use lb_common::Address;

use super::{
    datapath::{Datapath, DatapathError},
    plan::{Plan, ip},
    report::PathMtuReport,
};

/// What is in the kernel of it.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    present: BTreeSet<Address>,
}

impl Paths {
    /// Brings into the kernel which instances are behind tunnels, if it `learns` of any.
    ///
    /// # Errors
    /// When the map cannot be made or written; the next call goes on from there.
    pub(crate) fn apply(
        &mut self,
        plan: &Plan,
        learns: bool,
        datapath: &mut dyn Datapath,
    ) -> Result<(), DatapathError> {
        let none = BTreeSet::new();
        let wanted = if learns { &plan.tunnelled } else { &none };
        // Whoever is behind no tunnel any more stays too: its service may have got another forwarding, and what
        // began before that goes on through tunnels.
        let instances = plan.instances.values().filter(|_| learns);
        let there: BTreeSet<Address> = instances.map(|entry| entry.address).collect();
        let gone: Vec<Address> = self.present.difference(&there).copied().collect();
        for address in gone {
            datapath.remove_path(&address)?;
            self.present.remove(&address);
        }
        for address in wanted {
            if !self.present.contains(address) {
                datapath.put_path(address)?;
                self.present.insert(*address);
            }
        }
        Ok(())
    }

    /// What is known of paths now.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub(crate) fn read(
        &self,
        datapath: &dyn Datapath,
    ) -> Result<Vec<PathMtuReport>, DatapathError> {
        if self.present.is_empty() {
            return Ok(Vec::new());
        }
        let now = datapath.now();
        let known = datapath.path_mtus()?.into_iter();
        let known = known.filter(|(_, path)| now < path.until);
        let mut known: Vec<_> = known
            .map(|(address, path)| PathMtuReport {
                address: ip(address),
                mtu: path.mtu,
                left: Duration::from_nanos(path.until - now),
            })
            .collect();
        known.sort_by_key(|path| path.address);
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        l4::{
            datapath::memory::Memory,
            fixture::{A, B, World, service, vip},
            plan::address,
        },
        model::{Algorithm, Forwarding, Protocol, ServiceSpec},
    };

    #[test]
    fn a_path_is_known_as_long_as_its_instance_is_there() {
        let spec = |forwarding, members: &[(&str, u16)]| ServiceSpec {
            forwarding,
            ..service("web", Algorithm::ConsistentHash, members)
        };
        let vips = || vec![vip("192.0.2.1:80", Protocol::Tcp, "web")];
        let both = [(A, 1), (B, 1)];
        let world = World::new(vec![spec(Forwarding::L2Dsr, &both)], vips());
        let (mut paths, mut memory) = (Paths::default(), Memory::new(8));
        let mut known = |world: &World, learns| {
            paths.apply(&world.plan(), learns, &mut memory).unwrap();
            paths.present.iter().copied().collect::<Vec<_>>()
        };
        let [a, b] = [A, B].map(|text| address(text.parse::<std::net::SocketAddr>().unwrap().ip()));
        assert!(known(&world, true).is_empty());
        world.configure(vec![spec(Forwarding::Ipip, &both)], vips());
        assert_eq!(known(&world, true), [a, b]);
        // What began in tunnels goes on in them.
        world.configure(vec![spec(Forwarding::L2Dsr, &both)], vips());
        assert_eq!(known(&world, true), [a, b]);
        world.configure(vec![spec(Forwarding::L2Dsr, &[(B, 1)])], vips());
        assert_eq!(known(&world, true), [b]);
        assert!(known(&world, false).is_empty());
    }
}
