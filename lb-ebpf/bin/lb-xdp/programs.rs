//! The entry points.

use aya_ebpf::{bindings::xdp_action, helpers::bpf_redirect, macros::xdp, programs::XdpContext};
use lb_common::{Counter, names};
use lb_ebpf::{
    Scratch, Stage, Step, Tables as _, Verdict, enter,
    record::{DROP, Fate, REDIRECT, TRANSMIT},
    resume,
};

use crate::{diagnostics, maps::STAGES, packet::XdpPacket, record, tables::Maps};

/// The balancing program: the first stage.
#[xdp]
pub fn lb_xdp(context: XdpContext) -> u32 {
    run(&context, |packet, maps, scratch, interface| {
        maps.forget_whose();
        enter(packet, maps, scratch, interface)
    })
}

/// [`Stage::Encapsulate`].
#[xdp]
pub fn lb_encapsulate(context: XdpContext) -> u32 {
    run(&context, |packet, maps, scratch, interface| {
        resume(Stage::Encapsulate, packet, maps, scratch, interface)
    })
}

/// [`Stage::TooBig`].
#[xdp]
pub fn lb_too_big(context: XdpContext) -> u32 {
    run(&context, |packet, maps, scratch, interface| {
        resume(Stage::TooBig, packet, maps, scratch, interface)
    })
}

/// [`Stage::Icmp`].
#[xdp]
pub fn lb_icmp(context: XdpContext) -> u32 {
    run(&context, |packet, maps, scratch, interface| {
        resume(Stage::Icmp, packet, maps, scratch, interface)
    })
}

/// [`Stage::Finish`].
#[xdp]
pub fn lb_finish(context: XdpContext) -> u32 {
    run(&context, |packet, maps, scratch, interface| {
        resume(Stage::Finish, packet, maps, scratch, interface)
    })
}

/// [`Stage::Refuse`].
#[xdp]
pub fn lb_refuse(context: XdpContext) -> u32 {
    run(&context, |packet, maps, scratch, interface| {
        resume(Stage::Refuse, packet, maps, scratch, interface)
    })
}

/// [`Stage::Admit`].
#[xdp]
pub fn lb_admit(context: XdpContext) -> u32 {
    run(&context, |packet, maps, scratch, interface| {
        resume(Stage::Admit, packet, maps, scratch, interface)
    })
}

/// [`Stage::Cookie`].
#[xdp]
pub fn lb_cookie(context: XdpContext) -> u32 {
    run(&context, |packet, maps, scratch, interface| {
        resume(Stage::Cookie, packet, maps, scratch, interface)
    })
}

/// [`Stage::Splice`].
#[xdp]
pub fn lb_splice(context: XdpContext) -> u32 {
    run(&context, |packet, maps, scratch, interface| {
        resume(Stage::Splice, packet, maps, scratch, interface)
    })
}

/// [`Stage::Fragment`].
#[xdp]
pub fn lb_fragment(context: XdpContext) -> u32 {
    run(&context, |packet, maps, scratch, interface| {
        resume(Stage::Fragment, packet, maps, scratch, interface)
    })
}

#[inline(always)]
fn run(
    context: &XdpContext,
    stage: impl FnOnce(&mut XdpPacket, &Maps<'_>, &mut Scratch, u32) -> Step,
) -> u32 {
    // A map without its one element is a kernel without memory for it at load time, which fails
    // the load; the verifier wants the branch all the same.
    let Some(maps) = Maps::new(context) else {
        return xdp_action::XDP_PASS;
    };
    let interface = context.ingress_ifindex() as u32;
    // SAFETY: this processor's memory, which nothing else uses while the program runs, and the only
    // reference to it.
    let scratch = unsafe { &mut *maps.scratch() };
    match stage(&mut XdpPacket::new(context), &maps, scratch, interface) {
        Step::Done(verdict) => act(context, scratch, verdict, interface),
        Step::Next(stage) => {
            // SAFETY: the program array is the one of this program. The call returns only when it
            // fails, and then has changed nothing.
            let _ = unsafe { STAGES.tail_call(context, stage as u32) };
            maps.count(Counter::DropNoStage);
            act(
                context,
                scratch,
                Verdict::Drop(Counter::DropNoStage),
                interface,
            )
        }
    }
}

#[inline(always)]
fn act(context: &XdpContext, scratch: &mut Scratch, verdict: Verdict, interface: u32) -> u32 {
    if let Verdict::Drop(reason) = verdict {
        diagnostics::dropped(context, reason);
    }
    let fate = Fate::of(verdict, interface);
    if record::is_on() {
        scratch.fate = fate;
        // SAFETY: as above. Where it fails nobody sees the packet, which goes its way.
        let _ = unsafe { STAGES.tail_call(context, names::STAGE_RECORD) };
    }
    carry_out(fate)
}

/// Records a packet whose verdict is known, and carries that out.
#[xdp]
pub fn lb_record(context: XdpContext) -> u32 {
    let Some(maps) = Maps::new(&context) else {
        return xdp_action::XDP_PASS;
    };
    // SAFETY: this processor's memory, which nothing else uses while the program runs, and the only
    // reference to it.
    let scratch = unsafe { &mut *maps.scratch() };
    record::record(&context, &maps, scratch);
    carry_out(scratch.fate)
}

#[inline(always)]
fn carry_out(fate: Fate) -> u32 {
    match fate.action {
        DROP => xdp_action::XDP_DROP,
        TRANSMIT => xdp_action::XDP_TX,
        // SAFETY: a helper without pointers.
        REDIRECT => unsafe { bpf_redirect(fate.out, 0) as u32 },
        _ => xdp_action::XDP_PASS,
    }
}

/// Passes every packet: the floor of benchmarks, and what the peer of a veth needs so that packets
/// that were transmitted by XDP reach it.
#[xdp]
pub fn lb_pass(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
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
