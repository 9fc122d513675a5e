//! The packet path in the kernel, driven by the daemon's library: attached, filled, pinned, adopted,
//! taken off; with connections going through it all the while.

use std::{net::Ipv4Addr, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use lb_common::{Counter, CounterKind, names};
use lb_tests::{
    cleanup,
    client::{held::Held, udp},
    datapath::{Daemon, Place, VIP, configuration, ours, pins, vip},
    instance,
    topology::INTERFACE,
};
use lb_userspace::{
    l4::{self, AttachMode, L4Error, PathMode, Report},
    model::{AdminState, Clock, DatapathMode, DatapathSpec, Protocol, Timestamp},
    registry::Change,
};

/// The id of the program on the balancer's interface, as the system's own tool sees it.
fn xdp_program() -> Result<Option<String>> {
    let output = Command::new("ip")
        .args(["-d", "link", "show", INTERFACE])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let mut rest = text.split("prog/xdp id ").skip(1);
    Ok(rest
        .next()
        .and_then(|rest| rest.split_whitespace().next())
        .map(str::to_owned))
}

/// Its name.
fn xdp_program_name() -> Result<Option<String>> {
    let Some(id) = xdp_program()? else {
        return Ok(None);
    };
    let id = id.parse::<u32>()?;
    let mut all = aya::programs::loaded_programs().filter_map(Result::ok);
    let program = all.find(|program| program.id() == id);
    Ok(program.and_then(|program| program.name_as_str().map(str::to_owned)))
}

/// Whether a number is what weights of 1 and 3 make of `count` connections; a processor that meets
/// few of them begins its turn somewhere.
fn is_a_quarter(found: u64, count: u64) -> bool {
    found.abs_diff(count / 4) <= 4
}

#[test]
#[ignore = "needs root"]
fn outlives_the_daemon_is_adopted_and_comes_off() -> Result<()> {
    let place = Place::make()?;
    place.balancer(|| {
        let spec = place.spec();
        let daemon = Daemon::start(&spec, [1, 3])?;
        let report = daemon.settled()?;
        assert_eq!(report.mode, Some(PathMode::Native));
        assert_eq!(report.interfaces[0].interface, INTERFACE);
        assert_eq!(
            (report.vips.len(), report.tables_used, report.tables_max),
            (2, 2, 8)
        );
        assert_eq!(report.connections.max, 4096);
        assert_eq!(
            (&report.reconcile.error, &report.warnings),
            (&None, &Vec::new())
        );
        let first = place.connect(100)?;
        assert!(is_a_quarter(first, 100), "{first} of 100");
        let opened = |report: &Report| report.counters.get(Counter::ConnectionsOpened);
        let report = daemon.until("connections", |report| opened(report) == 100)?;
        let counters = report.counters;
        assert!(counters.adds_up(), "{counters:?}");
        assert!(
            counters.total(CounterKind::Forwarded) >= 800,
            "{counters:?}"
        );
        assert_eq!(counters.total(CounterKind::Dropped), 0, "{counters:?}");
        assert_eq!(report.vips[0].traffic.connections, 100);
        let snapshot = daemon.registry.snapshot();
        let kernel = &snapshot.services[0].members[0].instance.kernel;
        let connections = kernel
            .connections
            .load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(connections, first);
        let (indices, program) = (daemon.indices(), xdp_program()?);
        drop(daemon);

        // Without a daemon: still attached, still balancing.
        assert_eq!(xdp_program()?, program);
        place.connect(40)?;
        let status = l4::status(&spec.pin_path)?;
        assert_eq!(status.interfaces[0].mode, AttachMode::Native);
        let maps = status.maps.context("no maps")?;
        assert_eq!((maps.vips, maps.instances), (2, 4));
        assert!(maps.connections >= 280, "{}", maps.connections);
        assert_eq!(maps.counters.get(Counter::ConnectionsOpened), 140);

        // The next daemon keeps ids and figures, writes nothing but its program, and that at once.
        let held = Held::open(&place.topology.client.namespace, vip(instance::TCP), 20)?;
        let daemon = Daemon::start(&spec, [1, 3])?;
        let report = daemon.settled()?;
        assert_eq!(daemon.indices(), indices);
        assert_eq!(report.reconcile.writes, 0);
        assert_eq!(report.counters.get(Counter::ConnectionsOpened), 160);
        assert_ne!(xdp_program()?, program);
        assert_eq!(pins(&spec.pin_path)?, ["links".to_owned(), ours(1)]);

        // Draining takes effect at once, and breaks nothing.
        daemon.admin(AdminState::Draining)?;
        let report = daemon.settled()?;
        assert!(
            report.reconcile.took < Duration::from_millis(100),
            "{:?}",
            report.reconcile
        );
        assert_eq!(place.connect(20)?, 0);
        let opened = held.opened().of("i1");
        let end = held.close()?;
        assert!(
            opened > 0 && end.of("i1") == opened && end.failures().is_empty(),
            "{end}"
        );

        // Whoever takes it off while the daemon runs is believed.
        assert_eq!(l4::detach(&spec.pin_path)?.len(), 1);
        assert_eq!(xdp_program()?, None);
        let report = daemon.until("the loss", |report| report.mode.is_none())?;
        assert!(
            report.reason.contains("taken off eth0"),
            "{}",
            report.reason
        );
        drop(daemon);
        assert!(!spec.pin_path.exists());
        assert!(l4::detach(&spec.pin_path)?.is_empty());
        Ok(())
    })
}

#[test]
#[ignore = "needs root"]
fn a_removed_vip_takes_its_connections_along() -> Result<()> {
    let place = Place::make()?;
    place.balancer(|| {
        let daemon = Daemon::start(&place.spec(), [1, 1])?;
        daemon.settled()?;
        let client = &place.topology.client.namespace;
        let held = Held::open(client, vip(instance::TCP), 10)?;
        udp::flows(client, vip(instance::UDP), 5, 1)?;
        let live = |daemon: &Daemon| {
            let snapshot = daemon.registry.snapshot();
            let members = snapshot.services.iter().flat_map(|s| s.members.iter());
            members
                .map(|m| {
                    m.instance
                        .kernel
                        .live
                        .load(std::sync::atomic::Ordering::Relaxed)
                })
                .sum::<u64>()
        };
        daemon.until("connections", |_| live(&daemon) == 15)?;
        let Change::Configure(mut desired) = configuration([1, 1])? else {
            anyhow::bail!("no configuration");
        };
        desired.vips.retain(|vip| vip.protocol == Protocol::Udp);
        daemon.registry.apply(Change::Configure(desired))?;
        // The daemon forgets them; but a packet that comes between the moment that the VIP's instances
        // are gone and the walk makes the program forget its connection itself, and counts it as moved.
        let report = daemon.until("the connections' end", |report| {
            let moved = report.counters.get(Counter::ConnectionsMoved);
            report.connections.entries == 10 && report.connections.forgotten + 2 * moved >= 20
        })?;
        assert_eq!(report.vips.len(), 1);
        assert_eq!(report.connections.corrected, 0);
        // Those of the other VIP stay. Instances without a VIP are not looked at any more.
        let status = l4::status(&place.pins)?.maps.context("no maps")?;
        assert_eq!(
            (status.vips, status.instances, status.connections),
            (1, 2, 10)
        );
        let end = held.close()?;
        assert_eq!((end.total(), end.failures().len()), (0, 10), "{end}");
        Ok(())
    })
}

#[test]
#[ignore = "needs root"]
fn interfaces_and_modes_follow_the_configuration() -> Result<()> {
    let place = Place::make()?;
    place
        .topology
        .balancer
        .namespace
        .ip(&["link add other0 type veth peer name other1"])?;
    place.balancer(|| {
        let mut spec = place.spec();
        spec.interfaces.push("other0".to_owned());
        let daemon = Daemon::start(&spec, [1, 1])?;
        assert_eq!(daemon.settled()?.interfaces.len(), 2);
        drop(daemon);
        spec.interfaces.pop();
        spec.mode = DatapathMode::Generic;
        let daemon = Daemon::start(&spec, [1, 1])?;
        let report = daemon.settled()?;
        assert_eq!(report.mode, Some(PathMode::Generic));
        assert_eq!(report.interfaces.len(), 1);
        place.connect(10)?;
        drop(daemon);
        assert_eq!(pins(&spec.pin_path.join("links"))?.len(), 1);
        // What is there will do for auto, and is not taken for what was wished for.
        spec.mode = DatapathMode::Auto;
        let daemon = Daemon::start(&spec, [1, 1])?;
        let report = daemon.settled()?;
        assert_eq!(report.mode, Some(PathMode::Generic));
        assert!(
            report.reason.contains("generic mode since"),
            "{}",
            report.reason
        );
        drop(daemon);
        // Off takes everything off.
        spec.mode = DatapathMode::Off;
        assert!(l4::open(&spec, false)?.reason().is_some());
        assert_eq!(xdp_program()?, None);
        assert!(matches!(l4::open(&spec, true), Err(L4Error::Off)));
        // With nothing there, the one end of a veth pair is best served by traffic control.
        spec.mode = DatapathMode::Auto;
        for start in ["first", "second"] {
            let daemon = Daemon::start(&spec, [1, 1])?;
            let report = daemon.settled()?;
            let found = (report.mode, &*report.reason);
            assert_eq!(found, (Some(PathMode::Tc), ""), "{start}");
            place.connect(10)?;
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs root"]
fn xdp_leaves_all_to_traffic_control_until_it_knows_all() -> Result<()> {
    let place = Place::make()?;
    let other = ["link add other0 type veth peer name other1"];
    place.topology.balancer.namespace.ip(&other)?;
    place.balancer(|| {
        let mut spec = place.spec();
        spec.interfaces.push("other0".to_owned());
        spec.mode = DatapathMode::Tc;
        let daemon = Daemon::start(&spec, [1, 1])?;
        assert_eq!(daemon.settled()?.mode, Some(PathMode::Tc));
        place.connect(10)?;
        drop(daemon);
        // Dies before it has written anything, over maps of another size.
        spec.mode = DatapathMode::Native;
        spec.max_connections *= 2;
        drop(l4::open(&spec, true)?);
        assert_eq!(xdp_program_name()?.as_deref(), Some(names::PROGRAM_PASS));
        assert_eq!(pins(&spec.pin_path.join("links"))?.len(), 4);
        place.connect(10)?;
        let daemon = Daemon::start(&spec, [1, 1])?;
        assert_eq!(daemon.settled()?.mode, Some(PathMode::Native));
        assert_eq!(xdp_program_name()?.as_deref(), Some(names::PROGRAM));
        assert_eq!(pins(&spec.pin_path.join("links"))?.len(), 2);
        place.connect(10)?;
        daemon.until("all connections to be counted", |report| {
            report.counters.get(Counter::ConnectionsOpened) == 30
        })?;
        Ok(())
    })
}

#[test]
#[ignore = "needs root"]
fn dropped_packets_are_logged_on_demand_and_not_each() -> Result<()> {
    let place = Place::make()?;
    for wanted in [true, false] {
        let daemon = lb_tests::daemon::Daemon::start(
            &place.topology.balancer,
            &format!(
                "[gateway]\nlisten = []\n\
                 [datapath]\ninterfaces = [\"{INTERFACE}\"]\npin_path = \"@PINS@\"\n\
                 log = {wanted}\n\
                 [services.dns]\ninstances = []\n\
                 [[vips]]\naddress = \"{VIP}\"\nport = 53\nprotocol = \"udp\"\nservice = \"dns\"\n"
            ),
        )?;
        let is_published = || {
            let report = daemon.get("/datapath");
            report.is_ok_and(|report| report["reconcile"]["revision"] == 1)
        };
        ensure!(
            cleanup::within(Duration::from_secs(5), is_published),
            "the VIP is not in the kernel: {}",
            daemon.log()
        );
        let client = &place.topology.client.namespace;
        client.enter(|| -> Result<()> {
            let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            (0..100).try_for_each(|_| socket.send_to(&[], vip(53)).map(drop))?;
            Ok(())
        })??;
        let lines = || {
            let reason = format!("packet dropped, reason {}", Counter::DropNoInstance as u32);
            daemon.log().matches(&reason).count()
        };
        let said = cleanup::within(Duration::from_secs(3), || lines() > 0);
        assert_eq!(said, wanted, "{}", daemon.log());
        // Once a second for each processor, of which few have seen one of these.
        assert!(lines() <= 8, "{}", daemon.log());
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn what_is_missing_is_said() -> Result<()> {
    let place = Place::make()?;
    place.balancer(|| {
        let mut spec = place.spec();
        spec.interfaces = vec!["nothing0".to_owned()];
        let error = l4::open(&spec, true).map(drop).unwrap_err().to_string();
        assert!(error.contains("\"nothing0\""), "{error}");
        // IP packets without an Ethernet header are none that the programs can read.
        if Path::new("/dev/net/tun").exists() {
            let tun = ["tuntap add dev bare0 mode tun"];
            place.topology.balancer.namespace.ip(&tun)?;
            let bare = DatapathSpec {
                interfaces: vec!["bare0".to_owned()],
                ..place.spec()
            };
            let error = l4::open(&bare, true).map(drop).unwrap_err().to_string();
            let found = "\"bare0\", an interface of type NONE (tun)";
            assert!(error.contains(found), "{error}");
            // Beside others it costs what it is good for only.
            let both = DatapathSpec {
                interfaces: vec!["bare0".to_owned(), INTERFACE.to_owned()],
                mode: DatapathMode::Auto,
                ..place.spec()
            };
            let daemon = Daemon::start(&both, [1, 1])?;
            let report = daemon.settled()?;
            assert!(report.reason.contains(found), "{}", report.reason);
            assert_eq!(report.mode, Some(PathMode::Tc));
            place.connect(10)?;
            drop(daemon);
            l4::detach(&both.pin_path)?;
        }
        spec.mode = DatapathMode::Auto;
        let opened = l4::open(&spec, true)?;
        assert!(
            opened
                .reason()
                .is_some_and(|why| why.contains("\"nothing0\""))
        );
        let first = Daemon::start(&place.spec(), [1, 1])?;
        first.settled()?;
        let error = l4::open(&place.spec(), true).map(drop).unwrap_err();
        assert!(matches!(error, L4Error::Busy { .. }), "{error}");
        // Somebody else's program is on the interface.
        let elsewhere = DatapathSpec {
            pin_path: place.pins.join("elsewhere"),
            ..place.spec()
        };
        let error = l4::open(&elsewhere, true)
            .map(drop)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(INTERFACE) && error.contains("native"),
            "{error}"
        );
        l4::detach(&elsewhere.pin_path)?;
        Ok(())
    })
}

/// The epoch of VIPs and instances.
fn epoch_of(spec: &DatapathSpec) -> Result<Array<MapData, u64>> {
    let pin = spec.pin_path.join(ours(1)).join(names::MAP_VIP_EPOCH);
    Ok(Array::try_from(Map::from_map_data(MapData::from_pin(
        pin,
    )?)?)?)
}

fn epoch(spec: &DatapathSpec) -> Result<u64> {
    Ok(epoch_of(spec)?.get(&0, 0)?)
}

#[test]
#[ignore = "needs root"]
fn instances_that_change_void_what_programs_have_kept_of_them() -> Result<()> {
    let place = Place::make()?;
    place.balancer(|| {
        let spec = place.spec();
        let daemon = Daemon::start(&spec, [1, 3])?;
        daemon.settled()?;
        let before = epoch(&spec)?;
        daemon.admin(AdminState::Draining)?;
        daemon.settled()?;
        // One for the instance, one for the VIP whose table is another one. It is odd during each.
        let after = epoch(&spec)?;
        ensure!(after >= before + 4, "from {before} to {after}");
        ensure!(
            before % 2 == 0 && after % 2 == 0,
            "from {before} to {after}"
        );
        // As a daemon leaves it that ends in the middle of a change.
        drop(daemon);
        epoch_of(&spec)?.set(0, after + 1, 0)?;
        place.connect(10)?;
        let daemon = Daemon::start(&spec, [1, 3])?;
        daemon.settled()?;
        let next = epoch(&spec)?;
        ensure!(next > after && next % 2 == 0, "from {after} to {next}");
        Ok(())
    })
}

#[test]
#[ignore = "needs root"]
fn memory_of_tables_follows_their_number() -> Result<()> {
    let place = Place::make()?;
    place.balancer(|| {
        let spec = DatapathSpec {
            max_tables: 16,
            ..place.spec()
        };
        let clock = Clock::manual(Timestamp(1));
        let daemon = Daemon::start_by(clock.clone(), &spec, [1, 1])?;
        let tables = || -> Result<usize> {
            let pins = pins(&spec.pin_path.join(ours(1)))?;
            Ok(pins.iter().filter(|p| p.starts_with("TABLES-")).count())
        };
        let wait = |daemon: &Daemon, count: usize, step: Duration| -> Result<()> {
            for _ in 0..300 {
                if tables()? == count {
                    return Ok(());
                }
                clock.advance(step);
                let pause = async { tokio::time::sleep(Duration::from_millis(200)).await };
                daemon.runtime.block_on(pause);
            }
            anyhow::bail!("expected {count} tables, found {}", tables()?);
        };
        daemon.settled()?;
        // Those of both services, and two for changes.
        wait(&daemon, 4, Duration::ZERO)?;
        place.connect(10)?;
        // As the clock stands still, nothing that was written may be written again.
        for weights in [[1, 3], [1, 5]] {
            daemon.registry.apply(configuration(weights)?)?;
            daemon.settled()?;
        }
        wait(&daemon, 7, Duration::ZERO)?;
        place.connect(10)?;
        // The next daemon finds them; what it has no use for it gives back.
        drop(daemon);
        let daemon = Daemon::start_by(clock.clone(), &spec, [1, 5])?;
        let report = daemon.settled()?;
        assert_eq!((report.reconcile.writes, report.tables_used), (0, 2));
        place.connect(10)?;
        daemon.registry.apply(Change::Configure(Box::default()))?;
        daemon.settled()?;
        wait(&daemon, 0, Duration::from_secs(10))
    })
}
