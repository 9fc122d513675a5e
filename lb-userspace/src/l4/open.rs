//! Opening, running, looking at and taking off the packet path.

use std::{collections::BTreeMap, future::Future, path::Path, sync::Arc};

use lb_common::{Counters, INSTANCE_ABSENT, InstanceEntry};

use super::{
    Attachment, Handle, L4Error, Relay,
    datapath::{Datapath, kernel},
    flows,
    link::Framed,
    reconcile::{GRACE, Reconciler},
    relay,
    report::{Report, Reporter},
    unserved,
    worker::Worker,
};
use crate::{
    model::{Clock, DatapathMode, DatapathSpec, InstanceId},
    registry::{KnownId, Registry},
};

/// A packet path that is ready to run, or the reason why there is none.
#[derive(Debug)]
pub struct Opened {
    by: By,
    /// Ids that the kernel's maps hold, for [`Registry::new`].
    pub known: Vec<KnownId>,
}

/// What serves VIPs.
#[derive(Debug)]
enum By {
    /// The program.
    Kernel(Box<Open>),
    /// The daemon's own sockets, and why; nothing when they were asked for.
    Relay(DatapathSpec, String),
    /// Nothing, and why.
    Nobody(String),
}

#[derive(Debug)]
struct Open {
    datapath: Box<dyn Datapath>,
    rehearsal: kernel::Rehearsal,
    recorder: kernel::RecorderMaps,
    state: Reconciler,
    spec: DatapathSpec,
    reason: String,
}

impl Opened {
    /// Why VIPs are not served in the kernel; `None` when they are.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match &self.by {
            By::Kernel(_) => None,
            By::Relay(_, reason) | By::Nobody(reason) => Some(reason),
        }
    }

    /// Whether TCP VIPs are relayed.
    #[must_use]
    pub const fn relays(&self) -> bool {
        matches!(self.by, By::Relay(..))
    }

    const fn without_kernel(by: By) -> Self {
        Self {
            by,
            known: Vec::new(),
        }
    }

    const fn off(reason: String) -> Self {
        Self::without_kernel(By::Nobody(reason))
    }
}

/// Opens the packet path: loads and attaches the program, or goes on with what an earlier daemon
/// has left. `wanted` says whether the configuration has VIPs.
///
/// In mode `auto` a packet path that cannot be had is no error: lb then relays TCP VIPs, and says what
/// is missing, loudly if there are VIPs. Unless another lb serves them: then this one does not.
///
/// # Errors
/// In modes `native`, `tc` and `generic` when the packet path cannot be had as asked for; in mode `off`
/// when it is wanted.
pub fn open(spec: &DatapathSpec, wanted: bool) -> Result<Opened, L4Error> {
    match spec.mode {
        DatapathMode::Off if wanted => return Err(L4Error::Off),
        DatapathMode::Off => {
            take_off(spec);
            return Ok(Opened::off("datapath.mode is off".to_owned()));
        }
        DatapathMode::Relay => {
            take_off(spec);
            let by = By::Relay(spec.clone(), String::new());
            return Ok(Opened::without_kernel(by));
        }
        DatapathMode::Auto if spec.interfaces.is_empty() && !wanted => {
            return Ok(Opened::off("no interface is configured".to_owned()));
        }
        DatapathMode::Auto | DatapathMode::Native | DatapathMode::Tc | DatapathMode::Generic => {}
    }
    match open_kernel(spec) {
        Ok(opened) => Ok(opened),
        Err(error) if spec.mode == DatapathMode::Auto => Ok(without(spec, wanted, &error)),
        Err(error) => Err(error),
    }
}

/// An operator who wants no packet path does not want an old one to go on: its program would have the
/// packets before any socket.
fn take_off(spec: &DatapathSpec) {
    if let Err(error) = detach(&spec.pin_path) {
        tracing::debug!(%error, "no old packet path was taken off");
    }
}

/// What is left without the kernel.
fn without(spec: &DatapathSpec, wanted: bool, error: &L4Error) -> Opened {
    if matches!(error, L4Error::Busy { .. }) {
        if wanted {
            tracing::error!("VIPs are not served: {error}");
        }
        return Opened::off(error.to_string());
    }
    if wanted {
        tracing::error!(
            "VIPs are not served in the kernel: {error}. lb relays those of TCP instead, at a \
             multiple of the cost"
        );
    } else {
        tracing::info!("VIPs would be relayed, not served in the kernel: {error}");
    }
    Opened::without_kernel(By::Relay(spec.clone(), error.to_string()))
}

fn open_kernel(spec: &DatapathSpec) -> Result<Opened, L4Error> {
    let Chosen {
        spec,
        are_pairs,
        mut reasons,
    } = with_frames(spec)?;
    let kernel::Loaded {
        kernel,
        rehearsal,
        recorder,
        reason,
    } = kernel::open(&spec, are_pairs)?;
    if !reason.is_empty() {
        reasons.push(reason);
    }
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
        by: By::Kernel(Box::new(Open {
            datapath: Box::new(kernel),
            rehearsal,
            recorder,
            state,
            spec,
            reason: reasons.join("; "),
        })),
        known,
    })
}

/// A packet path on interfaces whose frames the programs can read.
struct Chosen {
    spec: DatapathSpec,
    /// Whether each of them is one end of a veth pair.
    are_pairs: bool,
    /// What is to be said of the others.
    reasons: Vec<String>,
}

/// Leaves interfaces out whose frames the programs cannot read. Whoever has asked for a mode has asked for it
/// everywhere.
fn with_frames(spec: &DatapathSpec) -> Result<Chosen, L4Error> {
    let (mut interfaces, mut bare) = (Vec::new(), Vec::new());
    let mut are_pairs = true;
    for name in &spec.interfaces {
        match Framed::named(name) {
            Ok(framed) => {
                interfaces.push(name.clone());
                are_pairs &= framed.is_pair;
            }
            Err(error @ L4Error::NoFrames { .. }) if spec.mode == DatapathMode::Auto => {
                bare.push(error);
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(error) = bare.pop_if(|_| interfaces.is_empty()) {
        return Err(error);
    }
    let said = bare.iter().map(|error| {
        tracing::warn!("nothing that comes in there is seen: {error}");
        error.to_string()
    });
    let reasons = said.collect();
    let spec = spec.clone();
    Ok(Chosen {
        spec: DatapathSpec { interfaces, ..spec },
        are_pairs,
        reasons,
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
            is_down: entry.is_down(),
        })
        .collect()
}

/// A packet path at work.
#[derive(Debug)]
pub struct Running {
    /// A view of it.
    pub handle: Handle,
    /// The relay, where it is one: it has to be shut down before the daemon ends.
    pub relay: Option<Relay>,
}

/// Runs the packet path on the current tokio runtime until `shutdown`: follows the registry, sweeps
/// the connection table, reads figures. Afterwards the program goes on with what is in its maps. A relay
/// has `workers` threads and ends when it is shut down or dropped.
///
/// Without a packet path it says, whenever a configuration has VIPs, that nobody serves them.
///
/// # Errors
/// When a relay's threads cannot be made.
///
/// # Panics
/// When called outside of a tokio runtime.
pub fn run(
    opened: Opened,
    registry: Arc<Registry>,
    clock: Clock,
    workers: usize,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Running, L4Error> {
    let handle = match opened.by {
        By::Kernel(open) => {
            let Open {
                datapath,
                rehearsal,
                recorder,
                state,
                spec,
                reason,
            } = *open;
            let worker = Worker::new(datapath, spec, reason, state, registry, clock);
            let handle = worker.reporter().handle();
            let flows = flows::start(Box::new(recorder), handle.subscribe());
            let flows = flows.map_err(|error| L4Error::Load {
                why: format!("the ring of flow events cannot be read: {error}"),
            })?;
            let handle = handle.with(rehearsal, flows);
            tokio::spawn(worker.run(shutdown));
            handle
        }
        By::Relay(spec, reason) => {
            let started = relay::start((spec, reason), registry, clock, workers, shutdown);
            let (handle, relay) = started.map_err(|error| L4Error::Relay {
                why: error.to_string(),
            })?;
            return Ok(Running {
                handle,
                relay: Some(relay),
            });
        }
        By::Nobody(reason) => {
            let reporter = Reporter::new(Report {
                reason,
                ..Report::default()
            });
            let handle = reporter.handle();
            tokio::spawn(unserved::mourn(registry, reporter, shutdown));
            handle
        }
    };
    Ok(Running {
        handle,
        relay: None,
    })
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
    /// What the maps hold; `None` when there are none.
    pub maps: Option<PinnedMaps>,
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
/// When `path` cannot be read, this process may not look at BPF objects, or the maps are such as this lb
/// cannot read.
pub fn status(path: &Path) -> Result<PinnedStatus, L4Error> {
    let (links, sets) = kernel::status(path)?;
    let set = sets.iter().find(|set| set.is_used).or(sets.last());
    let contents = set.map(|set| set.contents.as_ref()).transpose();
    let contents = contents.map_err(|error| L4Error::Unreadable {
        path: path.to_owned(),
        why: error.to_string(),
    })?;
    let maps = contents.map(|contents| {
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
    })
}
