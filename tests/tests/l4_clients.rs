//! Clients that stay with their instance, in maps of one size after the other.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, IterableMap as _, Map, MapData};
use lb_common::{ClientKey, ClientPin, from_v4, names};
use lb_tests::datapath::{Daemon, Place, desired, sets};
use lb_userspace::model::{AffinitySpec, Clock, DatapathSpec, SessionSource};

/// A daemon with room for so many clients, whose TCP clients stay with their instance.
fn start(place: &Place, max_affinity_clients: u32) -> Result<Daemon> {
    let spec = DatapathSpec {
        max_affinity_clients,
        ..place.spec()
    };
    let mut desired = desired([1, 1])?;
    desired.services[0].affinity = AffinitySpec {
        enabled: true,
        sources: vec![SessionSource::Address],
        ..AffinitySpec::default()
    };
    Daemon::start_as(Clock::real(), &spec, desired)
}

type Clients = HashMap<MapData, ClientKey, ClientPin>;

fn pinned(pin: &Path) -> Result<Clients> {
    Ok(Map::from_map_data(MapData::from_pin(pin)?)?.try_into()?)
}

fn pin(place: &Place) -> Result<PathBuf> {
    let sets = sets(&place.pins)?;
    let set = sets.first().context("no maps")?;
    Ok(set.join(names::MAP_CLIENTS))
}

#[test]
#[ignore = "needs root"]
fn another_number_of_clients_costs_nobody_his_instance_even_without_memory() -> Result<()> {
    let place = Place::make()?;
    place.balancer(|| {
        let daemon = start(&place, 1024)?;
        daemon.settled()?;
        let at_first = place.connect(1)?;
        ensure!(place.connect(20)? == 20 * at_first);
        drop(daemon);
        // The kernel has no map for so many; the one that is there goes on.
        for (wanted, most) in [(u32::MAX, 1024), (2048, 2048), (u32::MAX, 2048)] {
            let daemon = start(&place, wanted)?;
            let report = daemon.settled()?;
            assert_eq!(report.clients.max, most);
            assert_eq!(pinned(&pin(&place)?)?.map().info()?.max_entries(), most);
            ensure!(place.connect(20)? == 20 * at_first, "{wanted}");
        }
        Ok(())
    })
}

/// Gives another client the instance of the first one, in the map `old`, as soon as the first one has been
/// copied from there to what is pinned in its place.
fn stay_once_copied(pin: &Path, old: &mut Clients, other: ClientKey) -> Result<()> {
    let first = old.iter().next().context("nobody is remembered")??;
    let begun = Instant::now();
    loop {
        ensure!(
            begun.elapsed() < Duration::from_secs(20),
            "nothing is copied"
        );
        let copied = pinned(pin).ok().filter(|new| new.get(&first.0, 0).is_ok());
        let is_other = |new: &Clients| {
            let size = |map: &Clients| map.map().info().map(|info| info.max_entries()).ok();
            size(new) != size(old)
        };
        if copied.as_ref().is_some_and(is_other) {
            break;
        }
        thread::yield_now();
    }
    Ok(old.insert(other, first.1, 0)?)
}

#[test]
#[ignore = "needs root"]
fn who_is_given_an_instance_after_the_copy_keeps_it() -> Result<()> {
    let place = Place::make()?;
    place.balancer(|| {
        let mut daemon = start(&place, 1024)?;
        daemon.settled()?;
        place.connect(1)?;
        let pin = pin(&place)?;
        let service = pinned(&pin)?.keys().next().context("nobody")??.service;
        // Whoever watches from outside may come too late, on a machine that has much to do.
        for number in 1..=10_u8 {
            drop(daemon);
            let mut old = pinned(&pin)?;
            // The others would be copied with the first one.
            let others = old.keys().skip(1).collect::<Result<Vec<_>, _>>()?;
            others.iter().try_for_each(|key| old.remove(key))?;
            let other = ClientKey {
                client: from_v4([198, 51, 100, number]),
                service,
            };
            let watching = {
                let pin = pin.clone();
                thread::spawn(move || stay_once_copied(&pin, &mut old, other))
            };
            daemon = start(&place, 1024 + u32::from(number))?;
            daemon.until("the copy", |_| watching.is_finished())?;
            watching
                .join()
                .map_err(|_| anyhow::anyhow!("it panicked"))??;
            daemon.settled()?;
            if pinned(&pin)?.get(&other, 0).is_ok() {
                return Ok(());
            }
        }
        anyhow::bail!("nobody has kept it")
    })
}
