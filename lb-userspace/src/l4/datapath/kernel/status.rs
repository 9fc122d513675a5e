//! What is pinned, seen from outside.

use std::path::Path;

use aya::maps::MapInfo;
use lb_common::{Counters, names};

use super::{
    added,
    former::{Former, FormerError},
    load::running,
    pins::{MapSet, PinnedLink, Pins},
};
use crate::l4::{
    L4Error,
    datapath::{Adopted, Limits},
};

/// What is pinned at `path`, with or without a daemon.
///
/// # Errors
/// When `path` cannot be read.
pub(crate) fn status(path: &Path) -> Result<(Vec<PinnedLink>, Vec<SetStatus>), L4Error> {
    let pins = Pins::new(path);
    let sets = pins.map_sets()?;
    let running = running(&pins, &sets)?;
    let status = |set: MapSet| SetStatus {
        is_used: running.last() == Some(&set),
        contents: Former::open(&set).and_then(|maps| contents(&maps)),
    };
    Ok((pins.links()?, sets.into_iter().map(status).collect()))
}

/// What a pinned set of maps holds.
#[derive(Debug)]
pub(crate) struct SetStatus {
    /// Whether an attached program works on it.
    pub(crate) is_used: bool,
    /// What is in it, or why that cannot be read.
    pub(crate) contents: Result<Contents, FormerError>,
}

/// What maps hold.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) adopted: Adopted,
    pub(crate) limits: Limits,
    pub(crate) connections: u64,
    pub(crate) counters: Counters,
}

fn contents(former: &Former) -> Result<Contents, FormerError> {
    let mut connections = 0;
    let unread = former.connections.each(|_, _| connections += 1)?;
    let tables = MapInfo::from_pin(former.path.join(names::MAP_TABLES));
    Ok(Contents {
        adopted: former.adopted.clone(),
        limits: Limits {
            tables: tables.map_or(0, |info| info.max_entries()),
            connections: former.connections.most(),
            clients: 0,
        },
        connections: connections + unread,
        counters: added(&former.counters.all(0)?),
    })
}
