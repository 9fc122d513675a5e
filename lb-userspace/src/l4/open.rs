//! Opening, running, looking at and taking off the packet path.

use std::{collections::BTreeMap, future::Future, path::Path, sync::Arc};

use lb_common::{Counters, INSTANCE_ABSENT, INSTANCE_DOWN, InstanceEntry};

use super::{
    Attachment, Handle, L4Error,
    datapath::{Datapath, kernel},
    reconcile::{GRACE, Reconciler},
    report::{Report, Reporter},
    worker::{self, Worker},
};
use crate::{
    model::{Clock, DatapathMode, DatapathSpec, InstanceId},
    registry::{KnownId, Registry},
};

/// A packet path that is ready to run, or the reason why there is none.
#[derive(Debug)]
pub struct Opened {
    path: Result<Open, String>,
    /// Ids that the kernel's maps hold, for [`Registry::new`].
    pub known: Vec<KnownId>,
}

#[derive(Debug)]
struct Open {
    datapath: Box<dyn Datapath>,
    rehearsal: kernel::Rehearsal,
    state: Reconciler,
    spec: DatapathSpec,
    reason: String,
}

impl Opened {
    /// Why there is no packet path; `None` when there is one.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.path.as_ref().err().map(String::as_str)
    }

    fn off(reason: String) -> Self {
        Self {
            path: Err(reason),
            known: Vec::new(),
        }
    }
}

/// Opens the packet path: loads and attaches the program, or goes on with what an earlier daemon
/// has left. `wanted` says whether the configuration has VIPs.
///
/// In mode `auto` a packet path that cannot be had is no error: lb then serves HTTP and says what is
/// missing, loudly if VIPs go unserved.
///
/// # Errors
/// In modes `native` and `generic` when the packet path cannot be had as asked for; in mode `off`
/// when it is wanted.
pub fn open(spec: &DatapathSpec, wanted: bool) -> Result<Opened, L4Error> {
    match spec.mode {
        DatapathMode::Off if wanted => return Err(L4Error::Off),
        DatapathMode::Off => {
            // An operator who switches the packet path off does not want an old one to go on.
            if let Err(error) = detach(&spec.pin_path) {
                tracing::debug!(%error, "no old packet path was taken off");
            }
            return Ok(Opened::off("datapath.mode is off".to_owned()));
        }
        DatapathMode::Auto if spec.interfaces.is_empty() && !wanted => {
            return Ok(Opened::off("no interface is configured".to_owned()));
        }
        DatapathMode::Auto | DatapathMode::Native | DatapathMode::Generic => {}
    }
    match open_kernel(spec) {
        Ok(opened) => Ok(opened),
        Err(error) if spec.mode == DatapathMode::Auto => {
            if wanted {
                tracing::error!("VIPs are not served: {error}");
            } else {
                tracing::info!("no VIP can be served: {error}");
            }
            Ok(Opened::off(error.to_string()))
        }
        Err(error) => Err(error),
    }
}

fn open_kernel(spec: &DatapathSpec) -> Result<Opened, L4Error> {
    let (kernel, rehearsal, reason) = kernel::open(spec)?;
    let state = Reconciler::adopt(&kernel, GRACE)?;
    let known = known(state.instances());
    let vips = state.vips().len();
    if vips > 0 {
        tracing::info!(
            vips,
            instances = known.len(),
            "going on with what is in the kernel"
        );
    }
    Ok(Opened {
        path: Ok(Open {
            datapath: Box::new(kernel),
            rehearsal,
            state,
            spec: spec.clone(),
            reason,
        }),
        known,
    })
}

/// The ids in the maps, tombstones included.
pub(super) fn known(instances: &BTreeMap<u16, InstanceEntry>) -> Vec<KnownId> {
    instances
        .iter()
        .map(|(index, entry)| KnownId {
            id: InstanceId {
                index: *index,
                generation: entry.generation,
            },
            identity: if entry.state == INSTANCE_ABSENT {
                0
            } else {
                entry.identity
            },
            is_down: entry.state == INSTANCE_DOWN,
        })
        .collect()
}

/// Runs the packet path on the current tokio runtime until `shutdown`: follows the registry, sweeps
/// the connection table, reads figures. Afterwards the program goes on with what is in its maps.
///
/// Without a packet path it says, whenever a configuration has VIPs, that nobody serves them.
///
/// # Panics
/// When called outside of a tokio runtime.
#[must_use]
pub fn run(
    opened: Opened,
    registry: Arc<Registry>,
    clock: Clock,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Handle {
    match opened.path {
        Ok(Open {
            datapath,
            rehearsal,
            state,
            spec,
            reason,
        }) => {
            let worker = Worker::new(datapath, spec, reason, state, registry, clock);
            let handle = worker.reporter().handle().with(rehearsal);
            tokio::spawn(worker.run(shutdown));
            handle
        }
        Err(reason) => {
            let reporter = Reporter::new(Report {
                reason,
                ..Report::default()
            });
            let handle = reporter.handle();
            tokio::spawn(worker::mourn(registry, reporter, shutdown));
            handle
        }
    }
}

/// Takes the program off all interfaces and removes all maps that are pinned below `path`. VIPs are
/// no longer served afterwards. Nothing there is no error.
///
/// # Errors
/// When something below `path` cannot be read or removed.
pub fn detach(path: &Path) -> Result<Vec<Attachment>, L4Error> {
    let pins = kernel::pins::Pins::new(path);
    let links = pins.links()?;
    let attachments = links
        .iter()
        .map(|link| Attachment {
            interface: link.interface.clone(),
            mode: link.mode,
        })
        .collect();
    pins.remove_all()?;
    Ok(attachments)
}

/// What is pinned at a path: seen from outside, without a daemon.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PinnedStatus {
    /// Interfaces that the program is attached to.
    pub interfaces: Vec<Attachment>,
    /// What the maps hold; `None` when there are none, or none that this lb can read.
    pub maps: Option<PinnedMaps>,
    /// Version of the maps' layout when it is not this lb's.
    pub other_abi: Option<u32>,
}

/// What pinned maps hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PinnedMaps {
    /// VIPs.
    pub vips: usize,
    /// Instances that VIPs lead to.
    pub instances: usize,
    /// Entries of the connection table.
    pub connections: u64,
    /// Entries that fit.
    pub connections_max: u32,
    /// Tables that fit.
    pub tables_max: u32,
    /// Packets and events.
    pub counters: Counters,
}

/// What is pinned below `path`.
///
/// # Errors
/// When `path` cannot be read, or this process may not look at BPF objects.
pub fn status(path: &Path) -> Result<PinnedStatus, L4Error> {
    let (links, sets) = kernel::status(path)?;
    let set = sets.iter().find(|set| set.is_used).or(sets.last());
    let maps = set.and_then(|set| set.contents.as_ref()).map(|contents| {
        let instances = &contents.adopted.instances;
        PinnedMaps {
            vips: contents.adopted.vips.len(),
            instances: instances
                .iter()
                .filter(|(_, entry)| entry.state != INSTANCE_ABSENT)
                .count(),
            connections: contents.connections,
            connections_max: contents.limits.connections,
            tables_max: contents.limits.tables.saturating_sub(1),
            counters: contents.counters,
        }
    });
    Ok(PinnedStatus {
        interfaces: links
            .iter()
            .map(|link| Attachment {
                interface: link.interface.clone(),
                mode: link.mode,
            })
            .collect(),
        maps,
        other_abi: set
            .map(|set| set.set.abi)
            .filter(|abi| *abi != lb_common::ABI),
    })
}
