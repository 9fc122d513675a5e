//! The entry points that both hooks have, written once: programs of one kind, called with one kind of context.

/// Makes them. `$first` is the balancing program, the other names are those of
/// [`lb_common::names`].
macro_rules! entries {
    ($kind:meta, $first:ident, $context:ty, $action:ty) => {
        /// The balancing program: the first stage.
        #[$kind]
        pub fn $first(context: $context) -> $action {
            $crate::stage::first(&context)
        }

        entries! { @stages $kind, $context, $action,
            lb_encapsulate: Encapsulate, Ports;
            lb_too_big: TooBig, All;
            lb_icmp: Icmp, All;
            lb_finish: Finish, All;
            lb_fragment: Fragment, All;
            lb_refuse: Refuse, All;
            lb_admit: Admit, Ports;
            lb_cookie: Cookie, All;
            lb_splice: Splice, Ports;
            lb_path_mtu: PathMtu, All;
        }

        /// Records a packet whose verdict is known, and carries that out.
        #[$kind]
        pub fn lb_record(context: $context) -> $action {
            $crate::stage::record_and_act(&context)
        }

        /// Sends packets for one IPv4 address back out of their interface to one MAC address, and passes all
        /// others: the floor of benchmarks on the wire.
        #[$kind]
        pub fn lb_reflect(context: $context) -> $action {
            $crate::reflect::reflect(&context)
        }

        /// The far end of tunnels: unpacks what comes in by them.
        #[$kind]
        pub fn lb_decap(context: $context) -> $action {
            $crate::decap::decap(&context)
        }
    };
    (@stages $kind:meta, $context:ty, $action:ty, $($name:ident: $stage:ident, $depth:ident;)+) => { $(
        #[doc = concat!("[`lb_ebpf::Stage::", stringify!($stage), "`].")]
        #[$kind]
        pub fn $name(context: $context) -> $action {
            let (stage, depth) = (lb_ebpf::Stage::$stage, $crate::hook::Depth::$depth);
            $crate::stage::later(&context, stage, depth)
        }
    )+ };
}
pub(crate) use entries;
