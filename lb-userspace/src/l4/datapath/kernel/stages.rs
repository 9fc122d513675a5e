//! The programs that the balancing program hands packets on to.
//!
//! They belong to one load of it: what is handed over lies in a map that only the programs of one
//! load share. So each load has a program array of its own, pinned beside the maps that outlive the
//! daemon under a name of its own, because the kernel empties a program array that no process and
//! no pin holds, and because the program of an earlier daemon needs its array until the last link
//! has moved.

use aya::{
    Ebpf,
    maps::{MapData, ProgramArray},
};
use lb_common::names;

use super::{
    chain,
    hook::{self, Hook},
    pins::MapSet,
};
use crate::l4::L4Error;

/// Loads the stages, enters them into the program array of `program`, and pins that in `set`. Returns
/// the name of its pin.
///
/// # Errors
/// When the kernel refuses any of it.
pub(super) fn load(program: &mut Ebpf, hook: Hook, set: &MapSet) -> Result<String, L4Error> {
    let stages = enter(program)?;
    let pin = format!("{}-{}", names::MAP_STAGES, hook.info(program)?.id());
    stages
        .pin(set.path.join(&pin))
        .map_err(|error| failed(&error))?;
    Ok(pin)
}

/// Loads the stages and enters them into the program array of `program`, which is empty as soon as
/// nobody holds it.
///
/// # Errors
/// When the kernel refuses any of it.
pub(super) fn enter(program: &mut Ebpf) -> Result<ProgramArray<MapData>, L4Error> {
    for name in names::STAGES {
        hook::load(program, name)?;
    }
    let map = program
        .take_map(names::MAP_STAGES)
        .ok_or_else(|| L4Error::Load {
            why: format!("the object holds no map named {}", names::MAP_STAGES),
        })?;
    let mut stages = ProgramArray::try_from(map).map_err(|error| failed(&error))?;
    for (place, name) in (0..).zip(names::STAGES) {
        hook::enter(program, name, &mut stages, place)?;
    }
    Ok(stages)
}

fn failed(error: &dyn std::error::Error) -> L4Error {
    L4Error::Load { why: chain(error) }
}
