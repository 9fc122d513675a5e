use lb_common::{FORWARD_NAT, FORWARD_WAITING, FlowEntry};
use proptest::prelude::*;

use super::*;
use crate::parse::TCP_SYN;

/// What a connection by a cookie says at first.
fn waiting(cookie: u32) -> Splice {
    Splice::of(&FlowEntry {
        state: cookie,
        vip: 7,
        direction: FLOW_REPLY,
        forward: FORWARD_NAT | FORWARD_SPLICED | FORWARD_WAITING,
        ..FlowEntry::default()
    })
}

const PSH: u8 = 0x08;

#[test]
fn before_the_instance_answers_the_client_begins_again() {
    let splice = waiting(1000);
    for flags in [TCP_ACK, TCP_ACK | PSH, TCP_ACK | TCP_FIN, TCP_ACK | TCP_SYN] {
        assert_eq!(from_client(splice, flags), Turn::Again, "{flags:#x}");
    }
    for flags in [TCP_SYN, TCP_RST, TCP_RST | TCP_ACK] {
        assert_eq!(from_client(splice, flags), Turn::Nothing, "{flags:#x}");
    }
    // No handshake ends with these.
    for flags in [0, TCP_FIN, PSH] {
        assert_eq!(from_client(splice, flags), Turn::None, "{flags:#x}");
    }
}

#[test]
fn before_the_instance_answers_it_has_nothing_else_to_say() {
    let splice = waiting(1000);
    let of = |flags| from_instance(splice, flags, 40);
    for flags in [TCP_ACK, TCP_ACK | PSH, TCP_ACK | TCP_FIN] {
        assert_eq!(of(flags), (Turn::Reset, splice), "{flags:#x}");
    }
    for flags in [0, TCP_SYN, PSH] {
        assert_eq!(of(flags), (Turn::None, splice), "{flags:#x}");
    }
    // It refuses: the client takes a reset with the number that follows the cookie, and no other.
    for flags in [TCP_RST, TCP_RST | TCP_ACK, TCP_RST | TCP_ACK | TCP_SYN] {
        assert_eq!(of(flags), (Turn::Number(961), splice), "{flags:#x}");
    }
}

proptest! {
    #[test]
    fn numbers_are_the_clients_on_one_side_and_the_instances_on_the_other(
        cookie: u32,
        own: u32,
        sent in 0_u32..1 << 30,
        flags in prop::sample::select(vec![TCP_ACK, TCP_ACK | PSH, TCP_ACK | TCP_FIN, TCP_ACK | TCP_RST]),
    ) {
        let (turn, known) = from_instance(waiting(cookie), TCP_SYN | TCP_ACK, own);
        // The number before the one that the client expects.
        let Turn::Open(by) = turn else { panic!("{turn:?}") };
        prop_assert_eq!(own.wrapping_add(by), cookie);
        prop_assert!(!known.is_waiting() && known.is_spliced());
        prop_assert_eq!(known.0 >> 32 & 0xff_ffff, waiting(cookie).0 >> 32 & 0xff_ffff);
        // The answer once more changes nothing.
        prop_assert_eq!(from_instance(known, TCP_SYN | TCP_ACK, own), (turn, known));
        let (turn, after) = from_instance(known, flags, own.wrapping_add(sent));
        let Turn::Number(by) = turn else { panic!("{turn:?}") };
        let seen = own.wrapping_add(sent).wrapping_add(by);
        prop_assert_eq!(seen, cookie.wrapping_add(sent));
        prop_assert_eq!(after, known);
        let Turn::Acknowledged(by) = from_client(known, flags) else { panic!() };
        prop_assert_eq!(seen.wrapping_add(by), own.wrapping_add(sent));
        // What acknowledges nothing stays as it is.
        prop_assert_eq!(from_client(known, TCP_SYN), Turn::Nothing);
        prop_assert_eq!(from_client(known, TCP_RST), Turn::Nothing);
    }
}
