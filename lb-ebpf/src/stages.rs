//! The stages, counted and strung together.

use lb_common::Counter;

use crate::{
    Packet, Scratch, Stage, Step, Tables, Verdict, admit, encapsulate, finish, fragment, handshake,
    icmp, path_mtu, process::decide, refuse, splice, too_big,
};

/// The first stage: what every packet goes through, and most go no further. Counts the packet under
/// [`Counter::Received`], and under its verdict's counter if it has one then.
///
/// `interface` is the index of the interface that the packet came in by; what is in `scratch` does
/// not matter.
#[inline(always)]
pub fn enter<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    interface: u32,
) -> Step {
    tables.count(Counter::Received);
    counted(tables, decide(packet, tables, scratch, interface))
}

/// A later stage, for a packet that was handed on to it with what is in `scratch`.
#[inline(always)]
pub fn resume<P: Packet, T: Tables>(
    stage: Stage,
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    interface: u32,
) -> Step {
    let step = match stage {
        Stage::Encapsulate => encapsulate::encapsulate(packet, tables, scratch, interface),
        Stage::Fragment => fragment::forward(packet, tables, scratch, interface),
        Stage::Admit => admit::admit(packet, tables, scratch, interface),
        Stage::Cookie => handshake::answer_or_check(packet, tables, scratch),
        Stage::Splice => splice::forward(packet, tables, scratch, interface),
        Stage::Icmp => icmp::forward(packet, tables, scratch, interface),
        Stage::Finish => Step::Done(finish::finish(packet, tables, scratch, interface)),
        Stage::Refuse => Step::Done(refuse::refuse(packet, tables, scratch)),
        Stage::PathMtu => Step::Done(path_mtu::learn(packet, tables, scratch)),
        Stage::TooBig => Step::Done(too_big::answer(packet, tables, scratch)),
    };
    counted(tables, step)
}

/// All stages: decides over a packet, rewrites it where it is to be forwarded, and counts it once
/// under [`Counter::Received`] and once under the verdict's counter.
pub fn process<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    interface: u32,
) -> Verdict {
    let mut step = enter(packet, tables, scratch, interface);
    loop {
        match step {
            Step::Done(verdict) => return verdict,
            // `Admit`, `Fragment` and `Icmp` hand on to `Encapsulate`, that to `TooBig`, and that to
            // nobody, nor do `Finish`, `Refuse` and `PathMtu`, to which `Icmp` hands on too. `Cookie` gives
            // back to `Admit` or `Splice` what it never gets a second time: a packet that was found to show
            // nothing, or a SYN. This ends.
            Step::Next(stage) => step = resume(stage, packet, tables, scratch, interface),
        }
    }
}

#[inline(always)]
fn counted<T: Tables>(tables: &T, step: Step) -> Step {
    if let Step::Done(verdict) = step {
        tables.count(verdict.counter());
    }
    step
}
