//! Limits of live connections, with several processors at once.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use lb_common::{
    Counter, FORWARD_L2DSR, FORWARD_NAT, PROTOCOL_TCP, SELECT_HASH, SELECT_LEAST_CONNECTIONS,
    SELECT_TURN, Vip, VipKey, from_v4,
};

use super::{instance, packet, send, table, tables, vip};
use crate::{Tables, Verdict};

const VIP: [u8; 4] = [10, 1, 1, 1];
const SYN: u8 = 2;
const RST: u8 = 4;

#[test]
fn a_limit_holds_exactly_with_all_processors_at_once() {
    for (forward, select) in [
        (FORWARD_NAT, SELECT_HASH),
        (FORWARD_NAT, SELECT_LEAST_CONNECTIONS),
        (FORWARD_L2DSR, SELECT_TURN),
    ] {
        let tables = tables(1 << 16);
        tables.set_table(1, table(&[1, 2, 3]));
        let key = VipKey::new(from_v4(VIP), 80_u16.to_be_bytes(), PROTOCOL_TCP);
        tables.set_vip(
            key,
            Vip {
                table: 1,
                forward,
                select,
                ..vip(1)
            },
        );
        for index in 1..=3 {
            tables.set_instance(index, instance(from_v4([10, 0, 0, 10 + index as u8])));
        }
        tables.set_ceiling(1, Some(20));
        tables.set_ceiling(2, Some(0));
        let refused = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for processor in 0..4_u8 {
                let (tables, refused) = (&tables, &refused);
                scope.spawn(move || {
                    let client = from_v4([10, 2, 0, processor]);
                    for port in 1000..1200_u16 {
                        let target = (from_v4(VIP), 80);
                        let send_with = |flags| {
                            let mut frame = packet((client, port), target, PROTOCOL_TCP, flags);
                            send(tables, &mut frame)
                        };
                        match send_with(SYN) {
                            Verdict::Drop(reason) => {
                                assert_eq!(reason, Counter::DropConnectionLimit);
                                refused.fetch_add(1, Relaxed);
                            }
                            // Some end at once, and make room.
                            _ if port % 4 == 0 => drop(send_with(RST)),
                            _ => {}
                        }
                    }
                });
            }
        });
        // While it went on, a processor that was refused may have been counted for a moment.
        let live = [1, 2, 3].map(|index| tables.live(index));
        assert!(live[0] <= 20 && live[1] == 0, "{live:?}");
        let counters = tables.counters();
        let opened = counters.get(Counter::ConnectionsOpened);
        let closed = counters.get(Counter::ConnectionsClosed);
        assert_eq!(live.iter().sum::<u64>(), opened - closed);
        assert_eq!(opened + refused.load(Relaxed), 800);
        assert!(counters.adds_up());
        // The third has no limit, so nearly nobody is refused.
        assert!(refused.into_inner() < 8, "{forward} {select}");
        tables.set_ceiling(3, Some(0));
        let most = tables.live(1);
        for port in 2000..2100 {
            let mut frame = packet(
                (from_v4([10, 3, 0, 1]), port),
                (from_v4(VIP), 80),
                PROTOCOL_TCP,
                SYN,
            );
            send(&tables, &mut frame);
        }
        assert_eq!(tables.live(1), 20, "it had {most}");
        assert_eq!(tables.live(3), live[2]);
    }
}
