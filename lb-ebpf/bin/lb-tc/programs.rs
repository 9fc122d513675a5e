//! The entry points.

use aya_ebpf::{macros::classifier, programs::TcContext};
use lb_ebpf::{
    Stage,
    record::{Fate, PASS, TRANSMIT},
};

use crate::{
    decap::decap,
    hook::{Depth, Hook as _},
    reflect::reflect,
    stage,
};

/// The balancing program: the first stage.
#[classifier]
pub fn lb_tc(context: TcContext) -> i32 {
    stage::first(&context)
}

/// The programs of later stages.
macro_rules! stages {
    ($($name:ident: $stage:ident, $depth:ident;)+) => { $(
        #[doc = concat!("[`Stage::", stringify!($stage), "`].")]
        #[classifier]
        pub fn $name(context: TcContext) -> i32 {
            stage::later(&context, Stage::$stage, Depth::$depth)
        }
    )+ };
}

stages! {
    lb_encapsulate: Encapsulate, Ports;
    lb_too_big: TooBig, All;
    lb_icmp: Icmp, All;
    lb_finish: Finish, All;
    lb_fragment: Fragment, All;
    lb_refuse: Refuse, All;
    lb_admit: Admit, Ports;
    lb_cookie: Cookie, All;
    lb_splice: Splice, Ports;
}

/// Records a packet whose verdict is known, and carries that out.
#[classifier]
pub fn lb_record(context: TcContext) -> i32 {
    stage::record_and_act(&context)
}

/// Sends packets for one IPv4 address back out of their interface to one MAC address, and passes all
/// others: the floor of benchmarks on the wire.
#[classifier]
pub fn lb_reflect(context: TcContext) -> i32 {
    let decided = reflect(&mut context.packet(Depth::Ports));
    let action = decided.map_or(PASS, |()| TRANSMIT);
    context.carry_out(Fate {
        action,
        ..Fate::default()
    })
}

/// The far end of tunnels: unpacks what comes in by them.
#[classifier]
pub fn lb_decap(context: TcContext) -> i32 {
    decap(&context)
}
