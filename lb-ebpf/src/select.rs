//! Selecting an instance for a new connection.
//!
//! The daemon turns weights, health and algorithm into a table of slots; here a slot is chosen.
//! Between the moment an instance goes down and the moment its VIP's table is replaced, slots may
//! still name it. Such a slot is skipped for others that follow from the same hash, so that the
//! packets of one flow agree on the substitute even before it is remembered.
//!
//! An instance that has as many connections as it may have is passed over in the same way, and then by
//! chance: a place comes free any moment, and whoever was refused comes again with the same hash.

use lb_common::{
    FlowKey, HASH_SOURCE, InstanceEntry, SELECT_LEAST_CONNECTIONS, SELECT_TURN, SLOTS, Vip,
};

use crate::{Tables, hash};

/// Slots that are tried before a connection is refused for want of an instance. With half of all
/// slots naming dead instances, one connection in five hundred meets eight of them in a row.
pub const MAX_TRIES: u32 = 8;

/// Slots that are tried by chance once an instance was found to be full. With nine connections in ten
/// going to instances that are full, one in thirty is refused although there is room.
pub const MAX_CHANCES: u32 = 24;

/// Selects an instance that takes new connections and that `take` does not refuse as full: its index
/// and entry. Notes in `full` that one was refused.
#[inline(always)]
pub fn select<T: Tables>(
    tables: &T,
    vip: &Vip,
    key: &FlowKey,
    flow_hash: u64,
    take: impl Fn(u16) -> bool,
    full: &mut bool,
) -> Option<(u16, InstanceEntry)> {
    let seed = if vip.hash_of == HASH_SOURCE {
        hash::address(&key.source)
    } else {
        flow_hash
    };
    let first = if vip.select == SELECT_TURN {
        tables.turn(vip.id) % SLOTS as u32
    } else if vip.select == SELECT_LEAST_CONNECTIONS {
        less_loaded(tables, vip)
    } else {
        hash::slot(seed)
    };
    let mut slot = first;
    for attempt in 1..=MAX_TRIES + MAX_CHANCES {
        let index = tables.slot(vip.table, slot).index();
        if index != 0
            && let Some(instance) = tables.instance(index)
            && instance.takes_new()
        {
            if take(index) {
                return Some((index, instance));
            }
            *full = true;
        }
        slot = if attempt < MAX_TRIES {
            hash::slot(hash::finish(seed.wrapping_add(u64::from(attempt))))
        } else if *full {
            hash::slot(u64::from(tables.random()) << 32)
        } else {
            break;
        };
    }
    None
}

/// Of two random slots the one whose instance would have fewer connections by weight after taking
/// this one (two choices: Mitzenmacher, "The power of two choices in randomized load balancing",
/// 2001). Slots are shared out by weight, so the choice of the two is weighted as well.
#[inline(always)]
fn less_loaded<T: Tables>(tables: &T, vip: &Vip) -> u32 {
    let one = hash::slot(u64::from(tables.random()) << 32);
    let two = hash::slot(u64::from(tables.random()) << 32);
    let [a, b] = [one, two].map(|slot| tables.slot(vip.table, slot).index());
    if a == b || b == 0 {
        return one;
    }
    let (Some(first), Some(second)) = (tables.instance(a), tables.instance(b)) else {
        return one;
    };
    if !second.takes_new() {
        return one;
    }
    if !first.takes_new() {
        return two;
    }
    // (live + 1) / weight compared without a division; live connections are far below 2^47.
    let load_one = (tables.live(a) + 1).wrapping_mul(u64::from(second.weight).max(1));
    let load_two = (tables.live(b) + 1).wrapping_mul(u64::from(first.weight).max(1));
    if load_two < load_one { two } else { one }
}
