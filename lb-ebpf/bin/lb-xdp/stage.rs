//! What all entry points do, whatever they are called with.

use lb_common::{Counter, names};
use lb_ebpf::{Scratch, Stage, Step, Tables as _, Verdict, enter, record::Fate, resume};

use crate::{
    diagnostics,
    hook::{Depth, Hook},
    maps::STAGES,
    record,
    tables::Maps,
};

/// The first stage.
#[inline(always)]
pub(crate) fn first<H: Hook>(context: &H) -> H::Action {
    run(context, None, Depth::Ports)
}

/// A later stage, which reads so much of the packet.
#[inline(always)]
pub(crate) fn later<H: Hook>(context: &H, stage: Stage, depth: Depth) -> H::Action {
    run(context, Some(stage), depth)
}

/// The first stage or this one.
#[inline(always)]
fn run<H: Hook>(context: &H, stage: Option<Stage>, depth: Depth) -> H::Action {
    // A map without its one element is a kernel without memory for it at load time, which fails
    // the load; the verifier wants the branch all the same.
    let Some(maps) = Maps::new(context) else {
        return H::PASS;
    };
    let interface = context.interface();
    // SAFETY: this processor's memory, which nothing else uses while the program runs, and the only
    // reference to it.
    let scratch = unsafe { &mut *maps.scratch() };
    let packet = &mut context.packet(depth);
    let step = match stage {
        None => {
            maps.forget_whose();
            enter(packet, &maps, scratch, interface)
        }
        Some(stage) => resume(stage, packet, &maps, scratch, interface),
    };
    match step {
        Step::Done(verdict) => act(context, scratch, verdict, interface),
        Step::Next(stage) => {
            // SAFETY: the program array is the one of this program. The call returns only when it
            // fails, and then has changed nothing.
            let _ = unsafe { STAGES.tail_call(context, stage as u32) };
            maps.count(Counter::DropNoStage);
            let verdict = Verdict::Drop(Counter::DropNoStage);
            act(context, scratch, verdict, interface)
        }
    }
}

#[inline(always)]
fn act<H: Hook>(context: &H, scratch: &mut Scratch, verdict: Verdict, interface: u32) -> H::Action {
    if let Verdict::Drop(reason) = verdict {
        diagnostics::dropped(context, reason);
    }
    let fate = Fate::of(verdict, interface);
    if record::is_on() {
        scratch.fate = fate;
        // SAFETY: as above. Where it fails nobody sees the packet, which goes its way.
        let _ = unsafe { STAGES.tail_call(context, names::STAGE_RECORD) };
    }
    context.carry_out(fate)
}

/// Records a packet whose verdict is known, and carries that out.
#[inline(always)]
pub(crate) fn record_and_act<H: Hook>(context: &H) -> H::Action {
    let Some(maps) = Maps::new(context) else {
        return H::PASS;
    };
    // SAFETY: this processor's memory, which nothing else uses while the program runs, and the only
    // reference to it.
    let scratch = unsafe { &mut *maps.scratch() };
    record::record(context, &maps, scratch);
    context.carry_out(scratch.fate)
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never linked in: the library has no panicking operations, and the verifier refuses an
    // endless loop.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
