//! What packets meet: settings, instances, tables and VIPs, drawn from a seed, and what happens to them
//! meanwhile.
//!
//! Every combination is allowed in which both halves must do the same. That leaves out what depends on
//! chance, of which each half has its own: the choice by load has one instance to choose, and beside
//! an instance that is limited, and may be full, there is at most one other to go to.

use anyhow::Result;
use lb_common::{
    Affinity, Arrivals, FORWARD_DNAT, FORWARD_GUE, FORWARD_IPIP, FORWARD_L2DSR, FORWARD_NAT,
    HASH_FLOW, HASH_SOURCE, INSTANCE_ABSENT, INSTANCE_ACTIVE, INSTANCE_DOWN, INSTANCE_DRAINING,
    InstanceEntry, PREFIX_ALLOWED, PREFIX_DENIED, PROTOCOL_TCP, PROTOCOL_UDP, PortRange,
    SELECT_HASH, SELECT_LEAST_CONNECTIONS, SELECT_TURN, SLOTS, Settings, Slot, TAG_CUSTOMER,
    TAG_SERVICE, Table, VIP_COOKIES, VIP_KEEPS_PORT, VIP_LIMITED, VIP_OWNED, VIP_OWNED_BY_SOURCE,
    VIP_REFUSES, VIP_SETTLES, Vip, VipKey, tag, translates,
};

use crate::packet::kernel::Sizes;
use crate::packet::lab::{Lab, address, instance, vip};
use crate::packet::network::{NAT_V4, NAT_V6};
use crate::packet::random::Random;

/// Addresses of VIPs.
pub(super) const VIPS: &[&str] = &["10.1.1.1", "10.1.1.2", "fd00:f::1"];
/// The first port that VIPs may have.
pub(super) const FIRST_PORT: u16 = 80;
/// How many ports from there on may have one.
pub(super) const PORTS: u16 = 8;

/// Instances by index: on both interfaces, behind the router, without a neighbour, without a route.
const INSTANCES: &[(u16, &str)] = &[
    (1, "10.0.1.11"),
    (2, "10.0.1.12"),
    (3, "10.0.2.21"),
    (4, "fd00:1::11"),
    (5, "fd00:2::21"),
    (6, "10.9.0.9"),
    (7, "fd00:9::9"),
    (8, "10.0.1.99"),
    (9, "10.66.0.1"),
    (LIMITED, "10.0.1.11"),
];
/// The one that may have so many connections and no more.
const LIMITED: u16 = 10;

/// What VLANs the second interface may be of the first: the outer tag, the inner one. Nothing is sent to the last.
const VLANS: [(u32, u32); 5] = [
    (tag(TAG_CUSTOMER, 7), 0),
    (tag(TAG_CUSTOMER, 7), 0),
    (tag(TAG_SERVICE, 7), 0),
    (tag(TAG_SERVICE, 9), tag(TAG_CUSTOMER, 7)),
    (0, 0),
];

const TABLES: u32 = 8;

/// A table and what may use it.
#[derive(Clone, Debug)]
struct Plan {
    instances: Vec<u16>,
    is_owned: bool,
}

/// The world as it is at the moment.
#[derive(Debug)]
pub(super) struct World {
    vips: Vec<(VipKey, Vip)>,
    tables: Vec<Plan>,
    generations: [u16; 16],
    has_cookies: bool,
}

impl World {
    /// The sizes of maps that are not fixed. Small ones, so that they are full now and then.
    pub(super) fn sizes(random: &mut Random) -> Sizes {
        Sizes {
            connections: random.pick(&[64, 300, 4000, 4000]),
            tables: TABLES,
        }
    }

    pub(super) fn make(random: &mut Random, lab: &mut Lab) -> Result<Self> {
        let mut world = Self {
            vips: Vec::new(),
            tables: (0..TABLES).map(|_| plan(random)).collect(),
            generations: [1; 16],
            has_cookies: false,
        };
        let settings = settings(random, lab.settings());
        lab.set_settings(settings)?;
        if random.one_in(4) {
            let (outer, inner) = random.pick(&VLANS);
            lab.make_vlan(outer, inner)?;
        }
        for (index, _) in INSTANCES {
            world.set_instance(*index, INSTANCE_ACTIVE, random, lab)?;
        }
        lab.set_ceiling(LIMITED, random.pick(&[0, 1, 5, 30]))?;
        let mut id = 0;
        for at in VIPS {
            for port in FIRST_PORT..FIRST_PORT + PORTS {
                for protocol in [PROTOCOL_TCP, PROTOCOL_UDP] {
                    id += 1;
                    if random.one_in(6) {
                        continue;
                    }
                    let several = random.one_in(4);
                    let width = random.pick(&[0, 1, 3, 1000, u16::MAX - port]);
                    let key = if several {
                        let range = PortRange::new(protocol, port, port + width);
                        VipKey::of_ports(address(at), range)
                    } else {
                        VipKey::new(address(at), port.to_be_bytes(), protocol)
                    };
                    let value = world.vip(id, protocol, several, random);
                    world.serve(key, value, random, lab)?;
                }
            }
        }
        world.keep_clients(&mut random.clone(), lab)?;
        Ok(world)
    }

    /// Makes the clients of some VIPs stay with their instances. Drawn beside everything else, so that a
    /// seed which has found something means the same as before.
    fn keep_clients(&mut self, random: &mut Random, lab: &mut Lab) -> Result<()> {
        for (index, _) in INSTANCES {
            lab.set_service_of(*index, random.pick(&[0, 1, 1, 2]))?;
        }
        for (key, vip) in &mut self.vips {
            if random.one_in(3) {
                let ttl = random.pick(&[0, 1 << 60]);
                let service = random.pick(&[1, 2]);
                lab.set_affinity(vip.id, Affinity { ttl, service })?;
                vip.flags |= VIP_LIMITED;
                lab.change_vip(*key, *vip)?;
            }
        }
        Ok(())
    }

    /// Indices that an instance has.
    pub(super) fn instances(&self) -> impl Iterator<Item = u16> {
        INSTANCES.iter().map(|(index, _)| *index)
    }

    /// Compares what is counted of VIPs and instances.
    pub(super) fn compare_traffic(&self, lab: &Lab) -> Result<()> {
        for (_, vip) in &self.vips {
            lab.check_traffic(vip.id, 0)?;
        }
        for index in self.instances() {
            lab.check_traffic(0, index)?;
        }
        Ok(())
    }

    /// Makes VIPs answer all SYNs by cookies, those that there are and those that they become.
    pub(super) fn bake(&mut self, lab: &mut Lab) -> Result<()> {
        self.has_cookies = true;
        for (key, vip) in &mut self.vips {
            vip.flags |= cookies(vip.id, key.protocol, vip.forward);
            lab.change_vip(*key, *vip)?;
            let limit = Arrivals {
                cookie_interval: 1,
                bucket: vip.id,
                ..Arrivals::default()
            };
            lab.set_arrivals(vip.id, limit)?;
        }
        Ok(())
    }

    /// The source ACL has other rules, more often none.
    pub(super) fn rule(random: &mut Random, lab: &mut Lab) -> Result<()> {
        let all = |rule| (address("0.0.0.0"), 96, rule);
        let rules = [
            vec![
                all(PREFIX_ALLOWED),
                (address("10.0.1.2"), 128, PREFIX_DENIED),
            ],
            vec![
                all(PREFIX_ALLOWED),
                (address("fd00:1::"), 64, PREFIX_DENIED),
            ],
            vec![
                all(PREFIX_DENIED),
                (address("10.0.1.0"), 120, PREFIX_ALLOWED),
            ],
            vec![],
            vec![],
            vec![],
        ];
        lab.set_rules(&random.pick(&rules))
    }

    /// Something happens, and is put into words.
    pub(super) fn change(&mut self, random: &mut Random, lab: &mut Lab) -> Result<String> {
        match random.below(10) {
            0..=4 => {
                let (index, _) = random.pick(INSTANCES);
                let state = random.pick(&[
                    INSTANCE_ACTIVE,
                    INSTANCE_ACTIVE,
                    INSTANCE_ACTIVE,
                    INSTANCE_DRAINING,
                    INSTANCE_DOWN,
                    INSTANCE_ABSENT,
                ]);
                if random.one_in(4) {
                    self.generations[usize::from(index)] += 1;
                }
                self.set_instance(index, state, random, lab)?;
                Ok(format!("instance {index} in state {state}"))
            }
            5 | 6 => {
                let settings = settings(random, lab.settings());
                lab.set_settings(settings)?;
                Ok(format!("{settings:?}"))
            }
            _ => {
                let place = random.below(self.vips.len());
                let (key, old) = self.vips[place];
                // Gone for a moment, or another table, or another way of forwarding.
                lab.withdraw(&key)?;
                let several = key.range().is_some();
                let vip = Vip {
                    generation: old.generation + 1,
                    ..self.vip(old.id, key.protocol, several, random)
                };
                self.vips.swap_remove(place);
                self.serve(key, vip, random, lab)?;
                Ok(format!("{key:?} became {vip:?}"))
            }
        }
    }

    fn set_instance(
        &self,
        index: u16,
        state: u8,
        random: &mut Random,
        lab: &mut Lab,
    ) -> Result<()> {
        let at = INSTANCES.iter().find(|(number, _)| *number == index);
        let (_, at) = at.unwrap_or(&INSTANCES[0]);
        let port = if index == LIMITED { 9090 } else { 8080 };
        let entry = InstanceEntry {
            state,
            generation: self.generations[usize::from(index)],
            weight: random.pick(&[0, 1, 100]),
            ..instance(at, port)
        };
        lab.set_instance(index, entry)
    }

    fn serve(&mut self, key: VipKey, vip: Vip, random: &mut Random, lab: &mut Lab) -> Result<()> {
        let plan = &self.tables[vip.table as usize];
        lab.serve_table(key, vip, table(plan, random))?;
        self.vips.push((key, vip));
        Ok(())
    }

    fn vip(&self, id: u32, protocol: u8, several: bool, random: &mut Random) -> Vip {
        let table = random.below(self.tables.len());
        let plan = &self.tables[table];
        let forward = random.pick(&[
            FORWARD_NAT,
            FORWARD_DNAT,
            FORWARD_L2DSR,
            FORWARD_IPIP,
            FORWARD_GUE,
        ]);
        let mut select = random.pick(&[SELECT_HASH, SELECT_HASH, SELECT_TURN]);
        let mut flags = 0;
        if plan.instances.len() < 2 && random.one_in(3) {
            select = SELECT_LEAST_CONNECTIONS;
        }
        let mut owned_forward = 0;
        if plan.is_owned && protocol == PROTOCOL_TCP {
            flags |= VIP_OWNED;
            if random.one_in(3) {
                flags |= VIP_OWNED_BY_SOURCE;
            }
            if !translates(forward) && !plan.instances.contains(&LIMITED) && !random.one_in(3) {
                flags |= VIP_SETTLES;
                select = SELECT_HASH;
            } else if translates(forward) || random.one_in(2) {
                owned_forward = random.pick(&[FORWARD_L2DSR, FORWARD_IPIP, FORWARD_GUE]);
            }
        }
        if random.one_in(3) {
            flags |= VIP_REFUSES;
        }
        if several || random.one_in(4) {
            flags |= VIP_KEEPS_PORT;
        }
        if self.has_cookies && flags & VIP_OWNED == 0 {
            flags |= cookies(id, protocol, forward);
        }
        Vip {
            table: table as u32,
            forward,
            select,
            flags,
            hash_of: random.pick(&[HASH_FLOW, HASH_FLOW, HASH_SOURCE]),
            owned_forward,
            ..vip(id)
        }
    }
}

/// Flags of the VIP with this number, of which two in three answer SYNs by cookies if they can.
const fn cookies(id: u32, protocol: u8, forward: u8) -> u8 {
    if id.is_multiple_of(3) || protocol != PROTOCOL_TCP || !translates(forward) {
        0
    } else {
        VIP_COOKIES | VIP_LIMITED
    }
}

fn plan(random: &mut Random) -> Plan {
    let ordinary = &INSTANCES[..INSTANCES.len() - 1];
    let mut instances = Vec::new();
    for _ in 0..random.pick(&[0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4]) {
        instances.push(random.pick(ordinary).0);
    }
    if random.one_in(4) {
        instances.truncate(1);
        instances.push(LIMITED);
    }
    Plan {
        instances,
        is_owned: random.one_in(2),
    }
}

/// A table of a plan. One that has owners has slots of all kinds.
fn table(plan: &Plan, random: &mut Random) -> Table {
    let names = &plan.instances;
    if names.is_empty() {
        return Table::settled([0; SLOTS]);
    }
    if !plan.is_owned {
        return Table::settled(std::array::from_fn(|slot| names[slot % names.len()]));
    }
    let owner = random.pick(names);
    let slots = std::array::from_fn(|slot| {
        let name = names[slot % names.len()];
        match slot / names.len() % 4 {
            0 => Slot::unsettled(name).0,
            1 => Slot::settled(name).0,
            _ => Slot::clear(name).0,
        }
    });
    Table {
        slots,
        owners: [owner; SLOTS],
    }
}

fn settings(random: &mut Random, before: Settings) -> Settings {
    let first = 40_000;
    let source = |address: &str, random: &mut Random| {
        if random.one_in(12) {
            [0; 16]
        } else {
            self::address(address)
        }
    };
    Settings {
        nat_source_v4: source(NAT_V4, random),
        nat_source_v6: source(NAT_V6, random),
        nat_port_first: first,
        nat_port_last: first + random.pick(&[0, 3, 63, 999]),
        // Each second anew, or for longer than a round takes.
        next_hop_ttl_ms: random.pick(&[0, 3_600_000]),
        icmp_rate: random.pick(&[0, 1_000_000, 1_000_000]),
        echo_rate: random.pick(&[0, u16::MAX]),
        ..before
    }
}
