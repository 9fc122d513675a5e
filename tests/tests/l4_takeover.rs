//! From one set of maps to the next: other sizes, and other layouts, with connections going on.

use std::{
    fs,
    path::Path,
    sync::mpsc::{self, TryRecvError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData, MapInfo};
use lb_common::{Counter, FLOW_FORWARD, FlowEntry, FlowKey, STATE_FIN_CLIENT, names};
use lb_tests::{
    cleanup,
    client::{held::Held, udp},
    datapath::{Daemon, Place, ours, pins, sets, vip},
    instance, other_layout,
};
use lb_userspace::{
    l4::{self, L4Error, Report},
    model::DatapathSpec,
};

#[test]
#[ignore = "needs root"]
fn other_sizes_move_to_other_maps_and_break_no_connection() -> Result<()> {
    let place = Place::make()?;
    place.balancer(|| {
        let spec = place.spec();
        let daemon = Daemon::start(&spec, [1, 1])?;
        daemon.settled()?;
        let indices = daemon.indices();
        let client = &place.topology.client.namespace;
        let held = Held::open(client, vip(instance::TCP), 20)?;
        drop(daemon);
        let larger = DatapathSpec {
            max_connections: 8192,
            max_tables: 16,
            preallocate: true,
            ..spec.clone()
        };
        let daemon = Daemon::start(&larger, [1, 1])?;
        let report = daemon.settled()?;
        assert_eq!((report.connections.max, report.tables_max), (8192, 16));
        assert_eq!(daemon.indices(), indices);
        assert_eq!(report.vips[0].traffic.connections, 20);
        assert_eq!(pins(&spec.pin_path)?, ["links".to_owned(), ours(2)]);
        let table = spec.pin_path.join(ours(2)).join(names::MAP_CONNECTIONS);
        // BPF_F_NO_PREALLOC.
        assert_eq!(MapInfo::from_pin(table)?.map_flags() & 1, 0);
        place.connect(20)?;
        let flows = udp::flows(client, vip(instance::UDP), 10, 3)?;
        assert_eq!((flows.total(), flows.failures().len()), (10, 0), "{flows}");
        let end = held.close()?;
        assert_eq!((end.total(), end.failures().len()), (20, 0), "{end}");
        let opened = |report: &Report| report.counters.get(Counter::ConnectionsOpened);
        let report = daemon.until("connections", |report| opened(report) == 50)?;
        assert_eq!(report.counters.get(Counter::ConnectionsMoved), 0);
        Ok(())
    })
}

/// The connection table of a set of maps.
fn table(set: &Path) -> Result<HashMap<MapData, FlowKey, FlowEntry>> {
    let map = MapData::from_pin(set.join(names::MAP_CONNECTIONS))?;
    Ok(Map::from_map_data(map)?.try_into()?)
}

/// Notes in the table `old` that clients have ended their connections, as the program of that does, as
/// soon as they are in the table of another set below `path`. Those of which that was in time.
fn end_once_copied(path: &Path, old: &Path) -> Result<Vec<FlowKey>> {
    let mut former = table(old)?;
    let mut flows = former.iter().collect::<Result<Vec<_>, _>>()?;
    flows.retain(|(_, entry)| entry.direction == FLOW_FORWARD);
    let mut copy = None;
    let is_copied = cleanup::within(Duration::from_secs(20), || {
        let sets = sets(path).unwrap_or_default();
        let other = sets.iter().find(|set| *set != old);
        copy = other.and_then(|set| table(set).ok());
        copy.is_some()
    });
    ensure!(is_copied, "there are no other maps");
    let copy = copy.context("no copy")?;
    let (mut ended, begun) = (Vec::new(), Instant::now());
    for (key, mut entry) in flows {
        while copy.get(&key, 0).is_err() {
            ensure!(
                begun.elapsed() < Duration::from_secs(20),
                "{key:?} is not copied"
            );
            thread::yield_now();
        }
        entry.state |= STATE_FIN_CLIENT;
        // BPF_EXIST: what was taken over is not there any more.
        if former.insert(key, entry, 2).is_ok() {
            ended.push(key);
        }
    }
    Ok(ended)
}

#[test]
#[ignore = "needs root"]
fn what_the_old_program_sees_after_the_copy_is_known_to_the_new_one() -> Result<()> {
    let place = Place::make()?;
    place.balancer(|| {
        let mut spec = place.spec();
        let mut daemon = Daemon::start(&spec, [1, 1])?;
        daemon.settled()?;
        let client = &place.topology.client.namespace;
        let held = Held::open(client, vip(instance::TCP), 20)?;
        let mut ended = Vec::new();
        // Whoever watches from outside may come too late, on a machine that has much to do.
        for _ in 0..10 {
            drop(daemon);
            spec.max_connections += 1024;
            let old = sets(&spec.pin_path)?.remove(0);
            let watching = {
                let path = spec.pin_path.clone();
                thread::spawn(move || end_once_copied(&path, &old))
            };
            daemon = Daemon::start(&spec, [1, 1])?;
            // It moves while somebody waits for it.
            daemon.until("the copy", |_| watching.is_finished())?;
            ended = watching
                .join()
                .map_err(|_| anyhow::anyhow!("it panicked"))??;
            if !ended.is_empty() {
                break;
            }
        }
        ensure!(!ended.is_empty(), "it was never in time");
        let table = table(&sets(&spec.pin_path)?.remove(0))?;
        for key in &ended {
            let entry = table.get(key, 0)?;
            ensure!(entry.state & STATE_FIN_CLIENT != 0, "{key:?}: {entry:?}");
        }
        daemon.settled()?;
        let end = held.close()?;
        assert_eq!((end.total(), end.failures().len()), (20, 0), "{end}");
        let closed = |report: &Report| report.counters.get(Counter::ConnectionsClosed);
        daemon.until("the ends", |report| closed(report) >= 20)?;
        Ok(())
    })
}

#[test]
#[ignore = "needs root"]
fn what_the_old_program_counts_while_the_new_one_is_loaded_is_counted() -> Result<()> {
    let place = Place::make()?;
    place.balancer(|| {
        let mut spec = place.spec();
        let client = place.topology.client.namespace.clone();
        let daemon = Daemon::start(&spec, [1, 1])?;
        daemon.settled()?;
        let flows = udp::flows(&client, vip(instance::UDP), 5, 3)?;
        ensure!(flows.failures().is_empty(), "{flows}");
        drop(daemon);
        spec.max_connections += 1024;
        let (end, ended) = mpsc::channel::<()>();
        let sending = thread::spawn(move || -> Result<u64> {
            let mut sent = 5 * 3;
            while ended.try_recv() == Err(TryRecvError::Empty) {
                // Few connections: what has no place in the table is not counted.
                let flows = udp::flows(&client, vip(instance::UDP), 1, 20)?;
                ensure!(flows.failures().is_empty(), "{flows}");
                sent += 20;
                thread::sleep(Duration::from_millis(2));
            }
            Ok(sent)
        });
        let daemon = Daemon::start(&spec, [1, 1])?;
        daemon.settled()?;
        drop(end);
        let sent = sending
            .join()
            .map_err(|_| anyhow::anyhow!("it panicked"))??;
        let report = daemon.until("figures of by now", |_| true)?;
        let vips = report.vips.iter().map(|vip| vip.traffic.packets_in);
        let found: u64 = vips.sum();
        // All but those of the moment in which the links move.
        ensure!(
            found <= sent && found * 20 >= sent * 19,
            "{found} of {sent} packets were counted"
        );
        Ok(())
    })
}

#[test]
#[ignore = "needs root"]
fn another_layout_moves_to_ours_and_breaks_no_connection() -> Result<()> {
    let place = Place::make()?;
    place.balancer(|| {
        let spec = place.spec();
        let daemon = Daemon::start(&spec, [1, 1])?;
        let before = daemon.settled()?;
        let indices = daemon.indices();
        let client = &place.topology.client.namespace;
        let held = Held::open(client, vip(instance::TCP), 20)?;
        let flows = udp::flows(client, vip(instance::UDP), 10, 3)?;
        assert_eq!((flows.total(), flows.failures().len()), (10, 0), "{flows}");
        drop(daemon);
        let before_it = l4::status(&spec.pin_path)?.maps.context("no maps")?;
        let other = spec.pin_path.join(ours(7));
        other_layout::set(&spec.pin_path.join(ours(1)), &other)?;

        // Its figures can be read, by name.
        let status = l4::status(&spec.pin_path)?.maps.context("no maps")?;
        assert_eq!(
            (status.vips, status.instances, status.connections),
            (before_it.vips, before_it.instances, before_it.connections)
        );
        let opened = |report: &Report| report.counters.get(Counter::ConnectionsOpened);
        assert_eq!(status.counters.get(Counter::ConnectionsOpened), 30);

        // With the same sizes: only the layout is another one.
        let daemon = Daemon::start(&spec, [1, 1])?;
        let report = daemon.settled()?;
        assert_eq!(pins(&spec.pin_path)?, ["links".to_owned(), ours(8)]);
        assert_eq!(daemon.indices(), indices);
        assert_eq!(report.vips.len(), before.vips.len());
        let connections = report.vips.iter().map(|vip| vip.traffic.connections);
        assert_eq!(connections.sum::<u64>(), 30);
        assert!(opened(&report) >= 30, "{:?}", report.counters);
        place.connect(20)?;
        let flows = udp::flows(client, vip(instance::UDP), 10, 3)?;
        assert_eq!((flows.total(), flows.failures().len()), (10, 0), "{flows}");
        let opened_at = held.opened().clone();
        let end = held.close()?;
        assert_eq!((end.total(), end.failures().len()), (20, 0), "{end}");
        assert_eq!(end.of("i1"), opened_at.of("i1"));
        let report = daemon.until("connections", |report| opened(report) == 60)?;
        assert_eq!(report.counters.get(Counter::ConnectionsMoved), 0);
        let closed = |report: &Report| report.counters.get(Counter::ConnectionsClosed);
        daemon.until("the ends", |report| closed(report) >= 40)?;
        Ok(())
    })
}

#[test]
#[ignore = "needs root"]
fn maps_that_mean_something_else_are_left_alone_and_said_to_be() -> Result<()> {
    let place = Place::make()?;
    place.balancer(|| {
        let spec = place.spec();
        let daemon = Daemon::start(&spec, [1, 1])?;
        daemon.settled()?;
        drop(daemon);
        let other = format!("maps-{}-1", lb_common::ABI + 1);
        other_layout::set(&spec.pin_path.join(ours(1)), &spec.pin_path.join(&other))?;
        let error = l4::status(&spec.pin_path).unwrap_err();
        assert!(matches!(error, L4Error::Unreadable { .. }), "{error}");
        let versions = (
            format!("version {}", lb_common::ABI),
            format!("version {}", lb_common::ABI + 1),
        );
        let text = error.to_string();
        assert!(
            text.contains(&versions.0) && text.contains(&versions.1),
            "{text}"
        );
        let daemon = Daemon::start(&spec, [1, 1])?;
        daemon.settled()?;
        assert_eq!(pins(&spec.pin_path)?, ["links".to_owned(), ours(1)]);
        place.connect(20)?;
        Ok(())
    })
}

#[test]
#[ignore = "needs root"]
fn a_set_that_is_not_described_or_wrongly_is_left_alone() -> Result<()> {
    let place = Place::make()?;
    place.balancer(|| {
        let spec = place.spec();
        let layout = |number| spec.pin_path.join(ours(number)).join(names::MAP_LAYOUT);
        // What it says instead, and what is said of that.
        let spoilt = [
            (None, "not described"),
            (Some("no JSON"), "other text"),
            (Some("{}"), "FlowKey"),
        ];
        Daemon::start(&spec, [1, 1])?.settled()?;
        for ((text, why), number) in spoilt.into_iter().zip(1..) {
            match text {
                Some(text) => other_layout::write(&layout(number), text)?,
                None => fs::remove_file(layout(number))?,
            }
            let error = l4::status(&spec.pin_path).unwrap_err().to_string();
            ensure!(error.contains(why), "{error}");
            let daemon = Daemon::start(&spec, [1, 1])?;
            daemon.settled()?;
            assert_eq!(
                pins(&spec.pin_path)?,
                ["links".to_owned(), ours(number + 1)]
            );
            place.connect(10)?;
        }
        Ok(())
    })
}
