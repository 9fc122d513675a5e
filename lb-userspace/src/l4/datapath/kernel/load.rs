//! Loading the program over the right maps, and attaching it.

use std::path::PathBuf;

use aya::{Ebpf, EbpfLoader, maps::MapInfo, programs::ProgramError};
use lb_common::{FlowKey, names};

use super::{
    Kernel, RecorderMaps, Rehearsal,
    acl::AclMaps,
    affinity::AffinityMaps,
    chain,
    events::{self, Events},
    former::{self, Former},
    hook::Hook,
    links::{self, Links, Wish},
    maps::{self, AddressMap, ArrivalMaps, CeilingMap, CookieMap, FilterMap, Maps, VlanMap},
    path_mtus::PathMtuMap,
    pins::{self, MapSet, Pins},
    processors, stages, takeover,
};
use crate::{
    l4::{AttachMode, L4Error, host},
    model::{DatapathMode, DatapathSpec},
};

/// The programs of XDP as the build has embedded them, with what else lb runs in the kernel.
#[cfg(bpf_object)]
pub(super) static OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(concat!(
    env!("OUT_DIR"),
    "/lb-xdp"
)));
#[cfg(not(bpf_object))]
pub(super) static OBJECT: Option<&[u8]> = None;

/// The same for traffic control.
#[cfg(bpf_object)]
pub(super) static OBJECT_TC: Option<&[u8]> = Some(aya::include_bytes_aligned!(concat!(
    env!("OUT_DIR"),
    "/lb-tc"
)));
#[cfg(not(bpf_object))]
pub(super) static OBJECT_TC: Option<&[u8]> = None;

/// Lines of the verifier's log in an error.
const VERIFIER_LINES: usize = 12;

/// A packet path that is open.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The program and its maps.
    pub(crate) kernel: Kernel,
    /// What packets can be tried on.
    pub(crate) rehearsal: Rehearsal,
    /// What packets are followed by.
    pub(crate) recorder: RecorderMaps,
    /// Why it is not attached as asked for; empty when it is.
    pub(crate) reason: String,
}

/// Opens the packet path and says why it is not attached as asked for, if it is not. `are_pairs` says whether all
/// interfaces are ends of veth pairs.
///
/// # Errors
/// When something that it needs is missing; nothing has been attached then.
pub(crate) fn open(spec: &DatapathSpec, are_pairs: bool) -> Result<Loaded, L4Error> {
    if spec.interfaces.is_empty() {
        return Err(L4Error::NoInterfaces);
    }
    host::check_rights()?;
    host::raise_memory_limit();
    host::prepare_pins(&spec.pin_path)?;
    let pins = Pins::new(&spec.pin_path);
    let lock = pins.lock()?;
    let sets = pins.map_sets()?;
    let running = running(&pins, &sets)?;
    let used = running.last();
    let fitting = |set: &&MapSet| set.abi == lb_common::ABI && maps::fits(&set.path, spec);
    // One from before the set in use knows nothing of what has happened since.
    let is_later = |set: &&MapSet| used.is_none_or(|used| *set >= used);
    let ours = used.filter(fitting);
    let ours = ours.or_else(|| sets.iter().rev().filter(is_later).find(fitting));
    let ours = ours.cloned();
    let is_new = ours.is_none();
    let ours = ours.unwrap_or_else(|| pins.next_set(lb_common::ABI, &sets));
    let former = running.iter().rev().find(|set| **set != ours).cloned();
    let former = former.or_else(|| left_behind(&sets, &ours));
    let former = former.and_then(|set| takeover::open(&set));
    let place = Place {
        spec,
        pins: &pins,
        ours: &ours,
        former: former.as_ref(),
        is_new,
        are_pairs,
    };
    let Built {
        hook,
        mut program,
        maps,
        links,
        stages,
    } = best(&place)?;
    let rehearsal = Rehearsal::of(&program, hook, spec, &pins, &ours)?;
    let ceilings = CeilingMap::take(&mut program)?;
    let acl = AclMaps::take(&mut program)?;
    let arrivals = ArrivalMaps::take(&mut program)?;
    let filter = FilterMap::take(&mut program)?;
    let affinity = AffinityMaps::take(&mut program, spec, &ours, former.as_ref())?;
    let cookies = CookieMap::take(&mut program, former.as_ref())?;
    let addresses = AddressMap::take(&mut program)?;
    let vlans = VlanMap::take(&mut program)?;
    let path_mtus = PathMtuMap::take(&mut program)?;
    let recorder = RecorderMaps::take(&mut program)?;
    let events = Events::of(&mut program, spec.log);
    super::forget_maps(&mut program);
    let reason = links.reasons.join("; ");
    let leftover = sets.into_iter().filter(|set| *set != ours).collect();
    let has_run = running.contains(&ours);
    let kernel = Kernel {
        program,
        hook,
        maps,
        ceilings,
        acl,
        arrivals,
        filter,
        affinity,
        cookies,
        addresses,
        vlans,
        path_mtus,
        links,
        events,
        ours: (ours, stages),
        former,
        rest: None,
        has_run,
        leftover,
        _lock: lock,
    };
    Ok(Loaded {
        kernel,
        rehearsal,
        recorder,
        reason,
    })
}

/// What the programs are loaded over.
struct Place<'a> {
    spec: &'a DatapathSpec,
    pins: &'a Pins,
    ours: &'a MapSet,
    former: Option<&'a Former>,
    is_new: bool,
    /// Whether all interfaces are ends of veth pairs.
    are_pairs: bool,
}

/// Programs that are attached.
struct Built {
    hook: Hook,
    program: Ebpf,
    maps: Maps,
    links: Links,
    stages: String,
}

/// Attaches the programs at the best hook that can be had of those that were asked for.
///
/// Where nothing else is asked for that is XDP if at least one driver takes it. If none does, traffic control comes
/// before XDP's own substitute, which makes a packet of each socket buffer, and that by copying most. On veth
/// pairs it comes before XDP: their driver copies as well, and loses what is sent back to an end without a
/// program. What an earlier daemon has chosen stays.
fn best(place: &Place<'_>) -> Result<Built, L4Error> {
    let spec = place.spec;
    let attempts: &[(Hook, bool)] = match spec.mode {
        DatapathMode::Tc => &[(Hook::Tc, false)],
        DatapathMode::Auto => match links::hook_in_use(place.pins, &spec.interfaces)? {
            Some(Hook::Xdp) => &[(Hook::Xdp, false)],
            Some(Hook::Tc) => &[(Hook::Tc, false)],
            None if place.are_pairs => &[(Hook::Tc, true), (Hook::Xdp, false)],
            None => &[(Hook::Xdp, true), (Hook::Tc, true), (Hook::Xdp, false)],
        },
        _ => &[(Hook::Xdp, false)],
    };
    let mut refused: Option<L4Error> = None;
    for (hook, may_fail) in attempts.iter().copied() {
        place.pins.make(place.ours)?;
        let built = build(place, hook, may_fail);
        if built.is_err() && place.is_new {
            place.ours.remove()?;
        }
        match built {
            // Kernels that are too old for traffic control as it is needed here may not even load it.
            Err(error @ (L4Error::Attach { .. } | L4Error::Load { .. })) if may_fail => {
                tracing::debug!(%error, ?hook, "trying another way");
                refused.get_or_insert(error);
            }
            Err(error) => return Err(error),
            Ok(mut built) => {
                let taken = match hook {
                    Hook::Tc => Some("traffic control is used instead of XDP"),
                    Hook::Xdp if place.are_pairs => Some("XDP is used instead of traffic control"),
                    // The links say why it is not the best of XDP.
                    Hook::Xdp => None,
                };
                if let (Some(taken), Some(error)) = (taken, refused) {
                    let reason = format!("{taken}: {error}");
                    tracing::info!("{reason}");
                    built.links.reasons.push(reason);
                }
                return Ok(built);
            }
        }
    }
    // The last attempt may not fail.
    Err(refused.unwrap_or(L4Error::NoProgram))
}

fn build(place: &Place<'_>, hook: Hook, may_fail: bool) -> Result<Built, L4Error> {
    let Place {
        spec,
        pins,
        ours,
        former,
        is_new,
        ..
    } = *place;
    let object = hook.object()?;
    let refused = |error: &dyn std::error::Error| L4Error::Load { why: chain(error) };
    let mut loader = EbpfLoader::new();
    for name in names::PINNED_MAPS {
        loader.map_pin_path(name, ours.path.join(name));
    }
    let keys = names::MAP_COOKIE_KEYS;
    loader.map_pin_path(keys, ours.path.join(keys));
    events::set_level(&mut loader, spec.log);
    loader.map_max_entries(names::MAP_CONNECTIONS, spec.max_connections);
    loader.map_max_entries(names::MAP_TABLES, maps::tables(spec));
    let openings = openings(spec, processors::online());
    loader.map_max_entries(names::MAP_OPENINGS, openings);
    loader.map_pin_path(names::MAP_OPENINGS, pin_of_openings(ours, openings)?);
    loader.map_max_entries(names::MAP_FRAGMENTS, fragments());
    if let Some(former) = former {
        takeover::announce(&mut loader, former);
    }
    if is_new && spec.preallocate {
        maps::preallocate(&ours.path, spec)?;
    }
    let mut program = loader.load(object).map_err(|error| refused(&error))?;
    let mut maps = Maps::take(&mut program, spec, &ours.path)?;
    if is_new && let Some(former) = former {
        takeover::state(former, &mut maps)?;
        former.pin_beside(ours)?;
    }
    // A set without it is none, so whoever dies before this point leaves nothing that looks whole.
    former::describe(&ours.path)?;
    hook.load(&mut program)?;
    let stages = stages::load(&mut program, hook, ours)?;
    let wish = Wish {
        hook,
        interfaces: &spec.interfaces,
        mode: spec.mode,
        best: if place.are_pairs {
            AttachMode::Tc
        } else {
            AttachMode::Native
        },
        may_fail,
    };
    let links = links::attach(&mut program, pins, &wish);
    if links.is_err() {
        // Of programs that nothing runs nobody is to think that they do.
        ours.remove_stages(&stages)?;
    }
    Ok(Built {
        hook,
        maps,
        links: links?,
        stages,
        program,
    })
}

/// Places of each of so many processors for connections that have hardly begun.
///
/// Those that are online share them, because a ring that is shared with hundreds that are not there goes
/// round before anybody's round trip is over. One that comes online later brings a ring of its own: all
/// together may then keep more, by that one's share and no more.
fn openings(spec: &DatapathSpec, online: usize) -> u32 {
    let (first, last) = spec.nat_ports;
    let ports = u32::from(last - first) + 1;
    (lb_common::most_opening(spec.max_connections, ports) / online as u32).max(1)
}

/// Where the connections are pinned that have hardly begun: those of the program before, if it has as many places
/// for them. Else they are its own, and what is there when this one begins waits for its time to be over; it is
/// not worth a set of maps of its own.
fn pin_of_openings(ours: &MapSet, places: u32) -> Result<PathBuf, L4Error> {
    let pin = ours.path.join(names::MAP_OPENINGS);
    let shape = maps::shape::<u32, FlowKey>(places);
    if MapInfo::from_pin(&pin).is_ok_and(|info| maps::found(&info) != shape) {
        pins::remove_file(&pin)?;
    }
    Ok(pin)
}

/// Datagrams in fragments that are remembered.
fn fragments() -> u32 {
    let processors = processors::possible().unwrap_or(1) as u32;
    // The kernel hands free entries to processors by the hundred.
    (processors * 256).max(1024)
}

/// Why the kernel refused the program. The verifier's log can have thousands of lines, of which the
/// last say what it did not like.
pub(super) fn refusal(error: &ProgramError) -> String {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return chain(error);
    };
    let log = verifier_log.to_string();
    tracing::debug!("the verifier's log:\n{log}");
    let lines: Vec<&str> = log.lines().collect();
    let end = lines.get(lines.len().saturating_sub(VERIFIER_LINES)..);
    let end = end.unwrap_or_default().join("\n");
    format!("{io_error}; the end of the verifier's log is\n{end}")
}

/// The set of maps that links have been moved from to `ours`, by a daemon that has died before it had copied the
/// rest of it.
fn left_behind(sets: &[MapSet], ours: &MapSet) -> Option<MapSet> {
    let number = ours.follows().ok()??;
    let is_it = |set: &&MapSet| set.abi == ours.abi && set.number == number;
    sets.iter().find(is_it).cloned()
}

/// The sets of maps that programs on pinned links work on, the latest last: more than one where a daemon has
/// died while it moved links.
pub(super) fn running(pins: &Pins, sets: &[MapSet]) -> Result<Vec<MapSet>, L4Error> {
    let programs: Vec<u32> = pins
        .links()?
        .iter()
        .filter_map(|link| links::program_id(link).ok())
        .collect();
    // The maps of a program are told to CAP_SYS_ADMIN only; the pins tell everybody.
    let mut running = Vec::new();
    for set in sets {
        if set.programs()?.iter().any(|id| programs.contains(id)) {
            running.push(set.clone());
        }
    }
    Ok(running)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_online_shares_the_places_of_connections_that_have_hardly_begun() {
        let spec = DatapathSpec::default();
        let most = openings(&spec, 1);
        assert_eq!(most, 22_528 / 2);
        assert_eq!(openings(&spec, 8) * 8, most);
        assert_eq!(openings(&spec, 1 << 20), 1);
    }
}
