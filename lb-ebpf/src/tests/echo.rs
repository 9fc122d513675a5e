//! Echo requests for VIPs, by a clock that the test moves.

use lb_common::{Counter, PortRanges, Settings, from_v4};

use super::{packet, send, tables};
use crate::{Tables, Verdict};

const VIP: [u8; 4] = [10, 1, 1, 1];

/// An echo request; what is a source port elsewhere are type and code.
fn request() -> Vec<u8> {
    packet((from_v4([10, 0, 0, 9]), 0x0800), (from_v4(VIP), 0), 1, 0)
}

#[test]
fn each_second_has_so_many_answers() {
    let tables = tables(8);
    tables.set_vip_address(from_v4(VIP), PortRanges::default());
    let settings = tables.settings().unwrap();
    tables.set_settings(Settings {
        echo_rate: 2,
        // Errors have a budget of their own.
        icmp_rate: 0,
        ..settings
    });
    for second in [1, 2, 7] {
        tables.set_now(second * 1_000_000_000);
        let verdicts: Vec<Verdict> = (0..4).map(|_| send(&tables, &mut request())).collect();
        let answered = Verdict::Answer(Counter::AnsweredEcho);
        let silent = Verdict::Drop(Counter::DropEchoLimit);
        assert_eq!(verdicts, [answered, answered, silent, silent]);
    }
    assert!(tables.counters().adds_up());
    tables.remove_vip_address(&from_v4(VIP));
    assert_eq!(
        send(&tables, &mut request()),
        Verdict::Pass(Counter::PassedOtherProtocol)
    );
}
