//! Which addresses packets for lb have, so that the program need not look up all others.
//!
//! The filter must never lack an address that is in use, and nothing but speed is lost where it has one
//! too many. So an address is added before the maps are changed to what needs it, and taken out only
//! after a walk over the whole connection table, during which nothing was added: what the walk has met,
//! and what the maps and the plan say now, is then all that there is. Until the first such walk of a
//! daemon the filter is off.

use std::collections::BTreeSet;

use lb_common::{
    Address, AddressFilter, FLOW_FORWARD, FORWARD_DNAT, FlowEntry, FlowKey, Settings, VipKey,
    forward_of,
};

use super::{
    datapath::{Datapath, DatapathError},
    plan::Plan,
    reconcile::Reconciler,
};

/// Addresses that packets have at one end or the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    /// Of packets for VIPs.
    destinations: BTreeSet<Address>,
    /// Of replies to lb itself.
    replies: BTreeSet<Address>,
    /// Ports that those are for: the first and the last.
    ports: Option<(u16, u16)>,
    /// Of replies that are for clients.
    sources: BTreeSet<Address>,
}

impl Ends {
    /// Notes what packets of a connection have that the configuration need not say any more, given its
    /// reply's entry.
    pub(crate) fn note(&mut self, key: &FlowKey, entry: &FlowEntry) {
        if entry.direction == FLOW_FORWARD {
            return;
        }
        if forward_of(entry.forward) == FORWARD_DNAT {
            self.sources.insert(key.source);
        } else {
            self.replies.insert(key.destination);
            let port = u16::from_be_bytes(key.destination_port);
            self.add_ports((port, port));
        }
    }

    fn add_ports(&mut self, (first, last): (u16, u16)) {
        let ports = self.ports.get_or_insert((first, last));
        *ports = (ports.0.min(first), ports.1.max(last));
    }

    fn add_vips<'a>(&mut self, vips: impl IntoIterator<Item = &'a VipKey>) {
        self.destinations
            .extend(vips.into_iter().map(|key| key.address));
    }

    fn add_settings(&mut self, settings: &Settings) {
        let own = [settings.nat_source_v4, settings.nat_source_v6];
        self.replies
            .extend(own.into_iter().filter(|address| *address != [0; 16]));
        self.add_ports((settings.nat_port_first, settings.nat_port_last));
    }

    fn includes(&self, other: &Self) -> bool {
        let mut both = self.clone();
        both.extend(other);
        both == *self
    }

    fn extend(&mut self, other: &Self) {
        self.destinations.extend(&other.destinations);
        self.replies.extend(&other.replies);
        self.sources.extend(&other.sources);
        other
            .ports
            .into_iter()
            .for_each(|ports| self.add_ports(ports));
    }

    fn filter(&self) -> AddressFilter {
        // Without ports there are no addresses either.
        let (nat_port_first, nat_port_last) = self.ports.unwrap_or((1, 0));
        let mut filter = AddressFilter {
            is_on: 1,
            nat_port_first,
            nat_port_last,
            ..AddressFilter::default()
        };
        self.replies
            .iter()
            .for_each(|address| filter.add_reply(address));
        self.destinations
            .iter()
            .for_each(|address| filter.add_destination(address));
        self.sources
            .iter()
            .for_each(|address| filter.add_source(address));
        filter
    }
}

/// The filter that is in the kernel.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    /// What it says; `None` while it is off.
    present: Option<Ends>,
    /// What the latest plan needs.
    planned: Ends,
    /// Whether something was added since the walk began that is under way.
    has_grown: bool,
}

impl Filter {
    /// Adds what `plan` needs that is not there, before the maps are brought to it.
    ///
    /// # Errors
    /// When the map cannot be written. The maps must not be changed then.
    pub(crate) fn widen(
        &mut self,
        plan: &Plan,
        datapath: &mut dyn Datapath,
    ) -> Result<(), DatapathError> {
        let planned = planned(plan);
        // Also of what is less: connections that begin meanwhile may have what the walk does not meet.
        self.has_grown |= planned != self.planned;
        self.planned = planned;
        match &self.present {
            Some(present) if !present.includes(&self.planned) => {
                let mut wider = present.clone();
                wider.extend(&self.planned);
                self.put(wider, datapath)
            }
            _ => Ok(()),
        }
    }

    /// Notes that a walk over the connection table begins.
    pub(crate) const fn begin_walk(&mut self) {
        self.has_grown = false;
    }

    /// Leaves nothing but what is in use, now that a walk over the connection table has met `seen`.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub(crate) fn narrow(
        &mut self,
        mut seen: Ends,
        state: &Reconciler,
        datapath: &mut dyn Datapath,
    ) -> Result<(), DatapathError> {
        if self.has_grown {
            return Ok(());
        }
        seen.extend(&self.planned);
        seen.add_vips(state.vips().keys());
        if let Some(settings) = state.settings() {
            seen.add_settings(settings);
        }
        if self.present.as_ref() == Some(&seen) {
            return Ok(());
        }
        self.put(seen, datapath)
    }

    fn put(&mut self, ends: Ends, datapath: &mut dyn Datapath) -> Result<(), DatapathError> {
        datapath.put_address_filter(&ends.filter())?;
        self.present = Some(ends);
        Ok(())
    }
}

fn planned(plan: &Plan) -> Ends {
    let mut ends = Ends::default();
    ends.add_vips(plan.vips.keys());
    ends.add_settings(&plan.settings);
    let vips = plan.vips.values();
    let kept = vips.filter(|vip| vip.forward() == FORWARD_DNAT);
    let members = kept.flat_map(|vip| vip.recipe.shares());
    let instances = members.filter_map(|share| plan.instances.get(&share.index));
    ends.sources.extend(instances.map(|entry| entry.address));
    ends
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use lb_common::{FLOW_REPLY, FORWARD_NAT, FORWARD_SPLICED, FORWARD_WAITING};
    use lb_ebpf::Tables as _;

    use super::*;
    use crate::{
        l4::{
            datapath::memory::Memory,
            fixture::{A, World, host, service, vip},
            plan::{address, plan},
            reconcile::GRACE,
        },
        model::{Algorithm, Forwarding, Protocol, Timestamp},
    };

    const VIP: &str = "192.0.2.1";
    const CLIENT: &str = "10.1.0.1";
    const STRANGER: &str = "198.51.100.7";
    /// The first address of [`host`].
    const NAT: &str = "10.0.9.1";
    /// One of those that `nat` has.
    const PORT: u16 = 20_000;

    struct Daemon {
        memory: Memory,
        state: Reconciler,
        filter: Filter,
    }

    impl Daemon {
        fn new() -> Self {
            let memory = Memory::new(8);
            let state = Reconciler::adopt(&memory, GRACE).unwrap();
            let filter = Filter::default();
            Self {
                memory,
                state,
                filter,
            }
        }

        fn bring(&mut self, plan: &Plan) {
            self.filter.widen(plan, &mut self.memory).unwrap();
            let memory = &mut self.memory.clone();
            self.state.apply(plan, memory, Timestamp(1)).unwrap();
        }

        fn walk(&mut self, seen: Ends) {
            self.filter.begin_walk();
            self.narrow(seen);
        }

        fn narrow(&mut self, seen: Ends) {
            let memory = &mut self.memory.clone();
            self.filter.narrow(seen, &self.state, memory).unwrap();
        }

        fn expects(&self, source: &str, destination: &str) -> bool {
            let [source, destination] = [source, destination].map(of);
            self.memory.kernel().expects(&FlowKey {
                source,
                destination,
                destination_port: PORT.to_be_bytes(),
                ..FlowKey::default()
            })
        }
    }

    fn of(text: &str) -> Address {
        address(text.parse::<IpAddr>().unwrap())
    }

    fn world(forwarding: Forwarding) -> World {
        let mut web = service("web", Algorithm::RoundRobin, &[(A, 1)]);
        web.forwarding = forwarding;
        let vips = vec![vip("192.0.2.1:80", Protocol::Tcp, "web")];
        World::new(vec![web], vips)
    }

    /// What a walk meets of a connection with this reply.
    fn reply(source: &str, destination: &str, forward: u8) -> Ends {
        let mut ends = Ends::default();
        let [source, destination] = [source, destination].map(of);
        let key = FlowKey {
            source,
            destination,
            destination_port: PORT.to_be_bytes(),
            ..FlowKey::default()
        };
        let entry = FlowEntry {
            direction: FLOW_REPLY,
            forward,
            ..FlowEntry::default()
        };
        ends.note(&key, &entry);
        ends
    }

    #[test]
    fn strangers_are_told_after_the_first_walk() {
        let mut daemon = Daemon::new();
        daemon.bring(&world(Forwarding::Nat).plan());
        assert!(daemon.expects(CLIENT, STRANGER), "nothing is known yet");
        daemon.walk(Ends::default());
        assert!(!daemon.expects(CLIENT, STRANGER));
        assert!(daemon.expects(CLIENT, VIP) && daemon.expects("10.0.0.1", NAT));
        assert!(!daemon.expects("10.0.0.1", CLIENT), "nat is not dnat");
        let more = world(Forwarding::Nat);
        more.configure(
            vec![service("web", Algorithm::RoundRobin, &[(A, 1)])],
            vec![vip("198.51.100.7:80", Protocol::Tcp, "web")],
        );
        daemon.bring(&more.plan());
        assert!(daemon.expects(CLIENT, STRANGER) && daemon.expects(CLIENT, VIP));
        daemon.walk(Ends::default());
        assert!(daemon.expects(CLIENT, STRANGER) && !daemon.expects(CLIENT, VIP));
    }

    #[test]
    fn replies_are_expected_for_as_long_as_there_are_connections() {
        let mut daemon = Daemon::new();
        let world = world(Forwarding::Nat);
        daemon.bring(&world.plan());
        daemon.walk(Ends::default());
        let mut host = host();
        host.addresses = vec!["10.0.9.2".parse().unwrap()];
        daemon.bring(&plan(&world.snapshot(), &host));
        assert!(daemon.expects("10.0.0.1", NAT) && daemon.expects("10.0.0.1", "10.0.9.2"));
        daemon.walk(reply("10.0.0.1", NAT, FORWARD_NAT));
        assert!(daemon.expects("10.0.0.1", NAT));
        daemon.walk(Ends::default());
        assert!(!daemon.expects("10.0.0.1", NAT) && daemon.expects("10.0.0.1", "10.0.9.2"));
    }

    #[test]
    fn replies_for_clients_are_known_by_their_source() {
        let mut daemon = Daemon::new();
        let world = world(Forwarding::Dnat);
        daemon.bring(&world.plan());
        daemon.walk(Ends::default());
        assert!(daemon.expects("10.0.0.1", CLIENT) && !daemon.expects("10.0.0.2", CLIENT));
        world.configure(Vec::new(), Vec::new());
        daemon.bring(&world.plan());
        daemon.walk(reply("10.0.0.1", CLIENT, FORWARD_DNAT));
        assert!(daemon.expects("10.0.0.1", CLIENT));
        daemon.walk(Ends::default());
        assert!(!daemon.expects("10.0.0.1", CLIENT));
    }

    #[test]
    fn what_a_cookie_has_begun_is_known_like_the_rest() {
        let spliced = FORWARD_DNAT | FORWARD_SPLICED;
        for forward in [spliced, spliced | FORWARD_WAITING] {
            let mut daemon = Daemon::new();
            let world = world(Forwarding::Dnat);
            daemon.bring(&world.plan());
            daemon.walk(Ends::default());
            world.configure(Vec::new(), Vec::new());
            daemon.bring(&world.plan());
            daemon.walk(reply("10.0.0.1", CLIENT, forward));
            // From this instance to whomever, and not from whomever to this client.
            assert!(daemon.expects("10.0.0.1", CLIENT) && daemon.expects("10.0.0.1", STRANGER));
            assert!(!daemon.expects("10.0.0.2", CLIENT));
        }
        let spliced = FORWARD_NAT | FORWARD_SPLICED;
        assert_eq!(
            reply("10.0.0.1", NAT, spliced),
            reply("10.0.0.1", NAT, FORWARD_NAT)
        );
    }

    #[test]
    fn a_walk_during_which_something_changed_takes_nothing_away() {
        let mut daemon = Daemon::new();
        let world = world(Forwarding::Nat);
        daemon.bring(&world.plan());
        daemon.walk(Ends::default());
        daemon.filter.begin_walk();
        let mut host = host();
        host.addresses = vec!["10.0.9.2".parse().unwrap()];
        daemon.bring(&plan(&world.snapshot(), &host));
        daemon.narrow(Ends::default());
        assert!(daemon.expects("10.0.0.1", NAT));
    }
}
