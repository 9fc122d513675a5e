//! What is pinned, seen from outside.

use std::path::Path;

use lb_common::Counters;

use super::{
    adopted, counters,
    load::in_use,
    maps::Maps,
    pins::{MapSet, PinnedLink, Pins},
    walk,
};
use crate::l4::{
    L4Error,
    datapath::{Adopted, DatapathError, Limits},
};

/// What is pinned at `path`, with or without a daemon.
///
/// # Errors
/// When `path` cannot be read.
pub(crate) fn status(path: &Path) -> Result<(Vec<PinnedLink>, Vec<SetStatus>), L4Error> {
    let pins = Pins::new(path);
    let sets = pins.map_sets()?;
    let in_use = in_use(&pins, &sets)?;
    let status = |set: MapSet| SetStatus {
        is_used: in_use.as_ref() == Some(&set),
        contents: (set.abi == lb_common::ABI)
            .then(|| Maps::open(&set.path).ok())
            .flatten()
            .and_then(|maps| contents(&maps).ok()),
        set,
    };
    Ok((pins.links()?, sets.into_iter().map(status).collect()))
}

/// What a pinned set of maps holds.
#[derive(Debug)]
pub(crate) struct SetStatus {
    /// Which.
    pub(crate) set: MapSet,
    /// Whether an attached program works on it.
    pub(crate) is_used: bool,
    /// What is in it; `None` when its layout is another daemon's.
    pub(crate) contents: Option<Contents>,
}

/// What maps hold.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) adopted: Adopted,
    pub(crate) limits: Limits,
    pub(crate) connections: u64,
    pub(crate) counters: Counters,
}

fn contents(maps: &Maps) -> Result<Contents, DatapathError> {
    let (mut connections, mut from, mut buffer) = (0, None, Vec::new());
    loop {
        buffer.clear();
        from = walk(maps, from, &mut buffer)?;
        connections += buffer.len() as u64;
        if from.is_none() {
            break;
        }
    }
    Ok(Contents {
        adopted: adopted(maps)?,
        limits: maps.limits(),
        connections,
        counters: counters(maps)?,
    })
}
