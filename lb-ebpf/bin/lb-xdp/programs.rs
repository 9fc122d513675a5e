//! The entry points.

use aya_ebpf::{bindings::xdp_action, helpers::bpf_redirect, macros::xdp, programs::XdpContext};
use lb_common::Counter;
use lb_ebpf::{Scratch, Stage, Step, Tables as _, Verdict, enter, resume};

use crate::{diagnostics, maps::STAGES, packet::XdpPacket, tables::Maps};

/// The balancing program: the first stage.
#[xdp]
pub fn lb_xdp(context: XdpContext) -> u32 {
    run(&context, |packet, maps, scratch, interface| {
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
        Step::Done(verdict) => act(context, verdict),
        Step::Next(stage) => {
            // SAFETY: the program array is the one of this program. The call returns only when it
            // fails, and then has changed nothing.
            let _ = unsafe { STAGES.tail_call(context, stage as u32) };
            maps.count(Counter::DropNoStage);
            act(context, Verdict::Drop(Counter::DropNoStage))
        }
    }
}

#[inline(always)]
fn act(context: &XdpContext, verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass(_) => xdp_action::XDP_PASS,
        Verdict::Drop(reason) => {
            diagnostics::dropped(context, reason);
            xdp_action::XDP_DROP
        }
        Verdict::Transmit | Verdict::Answer(_) => xdp_action::XDP_TX,
        // SAFETY: a helper without pointers.
        Verdict::Redirect(interface) => unsafe { bpf_redirect(interface, 0) as u32 },
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
