use lb_common::INSTANCE_DRAINING;

use super::*;
use crate::{
    l4::fixture::{A, B, World, host, name, service, vip},
    model::Protocol,
};

const VIP4: &str = "192.0.2.1:80";
const VIP6: &str = "[2001:db8::1]:80";

fn web(algorithm: Algorithm, members: &[(&str, u16)]) -> World {
    World::new(
        vec![service("web", algorithm, members)],
        vec![vip(VIP4, Protocol::Tcp, "web")],
    )
}

fn only(plan: &Plan) -> &VipPlan {
    plan.vips.values().next().unwrap()
}

#[test]
fn every_algorithm_has_its_way_of_choosing() {
    let world = web(Algorithm::RoundRobin, &[(A, 1), (B, 3)]);
    for (algorithm, expected, is_smooth) in [
        (Algorithm::RoundRobin, SELECT_TURN, true),
        (Algorithm::WeightedRoundRobin, SELECT_TURN, true),
        (Algorithm::LeastConnections, SELECT_LEAST_CONNECTIONS, false),
        (Algorithm::LeastResponseTime, SELECT_HASH, false),
        (Algorithm::HealthAware, SELECT_HASH, false),
        (Algorithm::ConsistentHash, SELECT_HASH, false),
        (Algorithm::Adaptive, SELECT_HASH, false),
    ] {
        world.algorithm("web", algorithm);
        let plan = world.plan();
        let vip = only(&plan);
        assert_eq!(vip.select, expected, "{algorithm}");
        let weights: Vec<u32> = vip.recipe.shares().iter().map(|s| s.weight).collect();
        let equal = algorithm == Algorithm::RoundRobin;
        assert_eq!(
            weights.iter().sum::<u32>(),
            if equal { 2 } else { 4 },
            "{algorithm}"
        );
        let order = if is_smooth {
            Order::Smooth
        } else {
            Order::Maglev
        };
        let again = Recipe::new(order, vip.recipe.shares().iter().copied());
        assert_eq!(*vip.recipe, again, "{algorithm}");
    }
}

#[test]
fn states_follow_operators_and_checks() {
    let world = web(Algorithm::RoundRobin, &[(A, 1), (B, 0)]);
    let state = |world: &World, instance| {
        let id = world.id("web", instance);
        world.plan().instances[&id.index].state
    };
    assert_eq!(state(&world, A), INSTANCE_ACTIVE);
    assert_eq!(state(&world, B), INSTANCE_DRAINING);
    world.admin("web", A, AdminState::Draining);
    assert_eq!(state(&world, A), INSTANCE_DRAINING);
    assert!(only(&world.plan()).recipe.is_empty());
    world.health("web", A, Health::Unhealthy);
    assert_eq!(state(&world, A), INSTANCE_FAILED);
    world.health("web", A, Health::Healthy);
    world.admin("web", A, AdminState::Disabled);
    assert_eq!(state(&world, A), INSTANCE_DOWN);
}

#[test]
fn entries_are_in_the_form_of_the_maps() {
    let world = web(Algorithm::RoundRobin, &[("10.0.0.7:8080", 9)]);
    let plan = world.plan();
    let (index, entry) = plan.instances.iter().next().unwrap();
    assert_eq!(*index, world.id("web", "10.0.0.7:8080").index);
    assert_eq!(entry.address[10..], [0xff, 0xff, 10, 0, 0, 7]);
    assert_eq!((entry.port, entry.weight), ([0x1f, 0x90], 9));
    let key = plan.vips.keys().next().unwrap();
    assert_eq!(key.address[10..], [0xff, 0xff, 192, 0, 2, 1]);
    assert_eq!((key.port, key.protocol), ([0, 80], PROTOCOL_TCP));
}

#[test]
fn vips_of_a_service_share_a_table_and_families_do_not_mix() {
    let six = "[fd00::1]:80";
    let world = World::new(
        vec![service(
            "web",
            Algorithm::ConsistentHash,
            &[(A, 1), (six, 1)],
        )],
        vec![
            vip(VIP4, Protocol::Tcp, "web"),
            vip(VIP4, Protocol::Udp, "web"),
            vip(VIP6, Protocol::Tcp, "web"),
        ],
    );
    let plan = world.plan();
    let recipe = |address, protocol| {
        let key = vip_key(&vip(address, protocol, "web"));
        Arc::clone(&plan.vips[&key].recipe)
    };
    let four = recipe(VIP4, Protocol::Tcp);
    assert_eq!(four, recipe(VIP4, Protocol::Udp));
    assert_eq!(four.shares()[0].index, world.id("web", A).index);
    assert_eq!(four.shares().len(), 1);
    assert_eq!(
        recipe(VIP6, Protocol::Tcp).shares()[0].index,
        world.id("web", six).index
    );
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
}

#[test]
fn instances_that_no_vip_can_use_are_told_of_once() {
    let instances = [(A, 1), ("[fd00::1]:80", 1)];
    let world = World::new(
        vec![service("web", Algorithm::RoundRobin, &instances)],
        vec![
            vip(VIP4, Protocol::Tcp, "web"),
            vip(VIP4, Protocol::Udp, "web"),
        ],
    );
    let warnings = world.plan().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("1 of 2 instances of service web"));
}

#[test]
fn dsr_takes_the_other_family_when_there_is_none_of_its_own() {
    let mut spec = service("web", Algorithm::ConsistentHash, &[(A, 1)]);
    spec.forwarding = Forwarding::L2Dsr;
    let vips = [VIP4, VIP6].map(|address| vip(address, Protocol::Tcp, "web"));
    let plan = World::new(vec![spec], vips.to_vec()).plan();
    assert_eq!(plan.vips.len(), 2);
    assert!(plan.vips.values().all(|vip| vip.recipe.shares().len() == 1));
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
    // Where there are both, a host with two addresses must not get two shares.
    let mut spec = service(
        "web",
        Algorithm::ConsistentHash,
        &[(A, 1), ("[fd00::1]:80", 0)],
    );
    spec.forwarding = Forwarding::L2Dsr;
    let plan = World::new(vec![spec], vips.to_vec()).plan();
    let shares = |address| {
        let key = vip_key(&vip(address, Protocol::Tcp, "web"));
        plan.vips[&key].recipe.shares().len()
    };
    assert_eq!((shares(VIP4), shares(VIP6)), (1, 0));
}

#[test]
fn services_without_a_vip_are_none_of_the_kernels_business() {
    let world = World::new(
        vec![
            service("web", Algorithm::RoundRobin, &[(A, 1)]),
            service("http-only", Algorithm::RoundRobin, &[(B, 1)]),
        ],
        vec![vip(VIP4, Protocol::Tcp, "web")],
    );
    let plan = world.plan();
    assert_eq!(plan.instances.len(), 1);
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
}

#[test]
fn nat_sources_are_found_and_their_absence_is_said() {
    let world = World::new(
        vec![service(
            "web",
            Algorithm::RoundRobin,
            &[(A, 1), ("[fd00::1]:80", 1)],
        )],
        // The first address of each family is a VIP or means nothing off its link.
        vec![
            vip("10.0.9.1:80", Protocol::Tcp, "web"),
            vip(VIP6, Protocol::Tcp, "web"),
        ],
    );
    let snapshot = world.snapshot();
    let mut host = host();
    let found = plan(&snapshot, &host);
    assert_eq!(found.settings.nat_source_v4, [0; 16]);
    assert_eq!(
        found.settings.nat_source_v6,
        address("fd00::9".parse().unwrap())
    );
    let missing = |plan: &Plan| {
        plan.warnings
            .iter()
            .any(|w| w.contains("needs an IPv4 address"))
    };
    assert!(missing(&found), "{:?}", found.warnings);
    host.spec.nat_sources = vec!["10.0.9.7".parse().unwrap()];
    let found = plan(&snapshot, &host);
    assert_eq!(
        found.settings.nat_source_v4,
        address("10.0.9.7".parse().unwrap())
    );
    assert!(!missing(&found));
}

#[test]
fn dsr_to_another_port_is_warned_of() {
    let mut spec = service("web", Algorithm::RoundRobin, &[("10.0.0.1:8080", 1)]);
    spec.forwarding = Forwarding::L2Dsr;
    let world = World::new(vec![spec], vec![vip(VIP4, Protocol::Tcp, "web")]);
    let plan = world.plan();
    assert_eq!(only(&plan).forward(), FORWARD_L2DSR);
    assert!(
        plan.warnings[0].contains("keeps the port"),
        "{:?}",
        plan.warnings
    );
    assert_eq!(only(&plan).spec.service, name("web"));
}

#[test]
fn an_interface_that_does_not_forward_is_warned_of_when_it_matters() {
    let world = web(Algorithm::RoundRobin, &[(A, 1)]);
    let mut host = host();
    host.not_forwarding = vec![("eth0".to_owned(), false)];
    assert!(plan(&world.snapshot(), &host).warnings.is_empty());
    host.not_forwarding = vec![("eth0".to_owned(), true)];
    let warnings = plan(&world.snapshot(), &host).warnings;
    assert!(
        warnings[0].contains("net.ipv4.conf.eth0.forwarding=1"),
        "{warnings:?}"
    );
}
