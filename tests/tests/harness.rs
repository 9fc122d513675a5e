//! The harness itself, without the balancer: what end-to-end tests stand on must stand.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use lb_tests::client::held::Held;
use lb_tests::client::load::{self, Plan};
use lb_tests::client::{tcp, udp};
use lb_tests::instance::{self, Instance};
use lb_tests::topology::{Family, Topology};

#[test]
#[ignore = "needs root"]
fn a_client_reaches_instances_through_the_switch() -> Result<()> {
    let topology = Topology::new(2)?;
    let client = &topology.client.namespace;
    for host in &topology.instances {
        let _instance = Instance::start(host, &[])?;
        for family in [Family::V4, Family::V6] {
            let at = |port| SocketAddr::new(host.address(family), port);
            let by_tcp = tcp::connections(client, at(instance::TCP), 5)?;
            assert_eq!(
                (by_tcp.of(&host.name), by_tcp.failures().len()),
                (5, 0),
                "{by_tcp}"
            );
            let by_udp = udp::flows(client, at(instance::UDP), 5, 3)?;
            assert_eq!(
                (by_udp.of(&host.name), by_udp.failures().len()),
                (5, 0),
                "{by_udp}"
            );
            let by_http = load::run(client, &Plan::requests(at(instance::HTTP), "/?size=99", 20))?;
            assert_eq!(
                (by_http.of(&host.name), by_http.failures().len()),
                (20, 0),
                "{by_http}"
            );
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_killed_instance_breaks_what_is_held() -> Result<()> {
    let topology = Topology::new(1)?;
    let host = &topology.instances[0];
    let mut instance = Instance::start(host, &[])?;
    let target = SocketAddr::new(IpAddr::V4(host.v4), instance::TCP);
    let held = Held::open(&topology.client.namespace, target, 3)?;
    assert_eq!(held.opened().of(&host.name), 3);
    instance.kill()?;
    let end = held.close()?;
    assert_eq!((end.total(), end.failures().len()), (0, 3), "{end}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn nothing_is_left_behind() -> Result<()> {
    let topology = Topology::new(1)?;
    let name = topology.balancer.namespace.name().to_owned();
    let path = std::path::Path::new("/run/netns").join(name);
    assert!(path.exists());
    drop(topology);
    assert!(!path.exists());
    Ok(())
}
