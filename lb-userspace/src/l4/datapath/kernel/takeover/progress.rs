//! What the old program has done to a connection after it was copied.
//!
//! Between the copy and the move of the links the old program still writes its own table, and the new
//! one then goes by the copy. What it has missed is brought into its entry, bit by bit in the direction
//! that connections go: an end is never taken back, nor is what was heard of a client or an instance.
//! So what the new program has done itself since stays done.

use lb_common::{
    FLOW_FORWARD, FlowEntry, STATE_CLOSED, STATE_FIN_CLIENT, STATE_FIN_INSTANCE, STATE_OPENING,
    STATE_OPENING_AT, STATE_STAYS, Splice, translates,
};

/// Both have said that they will send no more.
const BOTH: u32 = STATE_FIN_CLIENT | STATE_FIN_INSTANCE;
/// What is seen of an end. [`lb_common::STATE_REMOVED`] is none: it is a processor's that is at it.
const ENDS: u32 = BOTH | STATE_CLOSED;

/// An entry that has to be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Brought {
    pub(super) entry: FlowEntry,
    /// Whether its connection is over by what the two programs have seen together, which neither has
    /// counted.
    pub(super) is_over: bool,
}

/// What has to become of the entry `new` that the new program has, given the one `old` of the same key
/// in the former table; `None` when nothing has.
///
/// What the new program forgets it takes out of the former table as well. So when that has another
/// connection under the key, it has begun after the copy, and the new program has what was before it.
pub(super) fn bring(new: &FlowEntry, old: &FlowEntry) -> Option<Brought> {
    let mut entry = *new;
    let mut is_over = false;
    if identity(new) != identity(old) {
        entry = *old;
    } else if is_spliced_reply(new) {
        bring_splice(&mut entry, old);
    } else {
        is_over = bring_state(&mut entry, old);
    }
    if entry == *new {
        return None;
    }
    entry.last_seen = new.last_seen.max(old.last_seen);
    Some(Brought { entry, is_over })
}

/// What stays the same for as long as a connection lasts: the place in the ring of those that have
/// begun, too.
fn identity(entry: &FlowEntry) -> FlowEntry {
    let state = if is_spliced_reply(entry) {
        0
    } else {
        entry.state & (STATE_STAYS | u32::MAX << STATE_OPENING_AT)
    };
    let mut same = *entry;
    if is_spliced_reply(entry) {
        // Its number and whether it waits.
        Splice::of(entry).answered(0).write(&mut same);
    }
    FlowEntry {
        last_seen: 0,
        state,
        ..same
    }
}

fn is_spliced_reply(entry: &FlowEntry) -> bool {
    entry.direction != FLOW_FORWARD && Splice::of(entry).is_spliced()
}

/// What the instance has answered, and which cookie it was asked by. An answer that the new program
/// knows is the same one, or a later one.
fn bring_splice(entry: &mut FlowEntry, old: &FlowEntry) {
    if Splice::of(entry).is_waiting() {
        Splice::of(old).write(entry);
    }
}

/// Whether the connection is over now, and nobody has counted that.
fn bring_state(entry: &mut FlowEntry, old: &FlowEntry) -> bool {
    if entry.direction != FLOW_FORWARD {
        // The state of a connection is in the other one of its entries.
        return false;
    }
    entry.state |= old.state & ENDS;
    if old.state & STATE_OPENING == 0 {
        entry.state &= !STATE_OPENING;
    }
    // One program has seen the one FIN, and the other the other.
    let is_over =
        translates(entry.forward) && entry.state & BOTH == BOTH && entry.state & STATE_CLOSED == 0;
    if is_over {
        entry.state |= STATE_CLOSED;
    }
    is_over
}

#[cfg(test)]
mod tests {
    use lb_common::{
        FLOW_REPLY, FORWARD_DNAT, FORWARD_L2DSR, FORWARD_NAT, FORWARD_SPLICED, FORWARD_WAITING,
        STATE_OPEN, STATE_REMOVED, from_v4,
    };

    use super::*;

    /// In the place 7 of its ring.
    const OPENING: u32 = STATE_OPENING | 7 << STATE_OPENING_AT;
    const HEARD: u32 = 7 << STATE_OPENING_AT;

    fn forward(state: u32) -> FlowEntry {
        FlowEntry {
            last_seen: 10,
            destination: from_v4([10, 0, 0, 1]),
            instance: 3,
            generation: 2,
            state,
            direction: FLOW_FORWARD,
            forward: FORWARD_NAT,
            ..FlowEntry::default()
        }
    }

    fn spliced(state: u32, more: u8) -> FlowEntry {
        FlowEntry {
            direction: FLOW_REPLY,
            forward: FORWARD_DNAT | FORWARD_SPLICED | more,
            ..forward(state)
        }
    }

    /// The state that an entry gets, and whether the connection is over by that.
    fn brought(new: u32, old: u32) -> Option<(u32, bool)> {
        let brought = bring(&forward(new), &forward(old))?;
        assert_eq!(brought.entry, forward(brought.entry.state));
        Some((brought.entry.state, brought.is_over))
    }

    #[test]
    fn what_was_heard_and_what_has_ended_is_brought_and_nothing_taken_back() {
        const CLOSED: u32 = STATE_CLOSED | STATE_FIN_CLIENT;
        for (new, old, expected) in [
            (HEARD, HEARD, None),
            (OPENING, OPENING, None),
            (OPENING, HEARD, Some(HEARD)),
            (HEARD, OPENING, None),
            (
                HEARD,
                HEARD | STATE_FIN_CLIENT,
                Some(HEARD | STATE_FIN_CLIENT),
            ),
            (HEARD | STATE_FIN_CLIENT, HEARD, None),
            (OPENING, HEARD | CLOSED, Some(HEARD | CLOSED)),
            (HEARD | CLOSED, OPENING, None),
            (HEARD | CLOSED, HEARD | STATE_FIN_CLIENT, None),
            // Whoever is at it, is done.
            (HEARD, HEARD | CLOSED | STATE_REMOVED, Some(HEARD | CLOSED)),
        ] {
            let expected = expected.map(|state| (state, false));
            assert_eq!(brought(new, old), expected, "{new:#x} {old:#x}");
        }
    }

    #[test]
    fn two_halves_of_an_end_are_an_end_that_is_to_be_counted() {
        let (client, instance) = (STATE_FIN_CLIENT, STATE_FIN_INSTANCE);
        let over = Some((BOTH | STATE_CLOSED, true));
        assert_eq!(brought(client, instance), over);
        assert_eq!(brought(instance, client), over);
        // The old program has counted it.
        let counted = Some((BOTH | STATE_CLOSED, false));
        assert_eq!(brought(client, BOTH | STATE_CLOSED), counted);
        // Of replies that go another way nothing is seen.
        let direct = |state| FlowEntry {
            forward: FORWARD_L2DSR,
            ..forward(state)
        };
        let closed = STATE_FIN_CLIENT | STATE_CLOSED;
        let found = bring(&direct(STATE_OPEN), &direct(closed)).unwrap();
        assert_eq!((found.entry, found.is_over), (direct(closed), false));
    }

    #[test]
    fn who_was_answered_waits_no_more() {
        let waits = spliced(0x1000, FORWARD_WAITING);
        let answered = spliced(0x0234, 0);
        let found = bring(&waits, &answered).unwrap();
        assert_eq!((found.entry, found.is_over), (answered, false));
        assert_eq!(bring(&answered, &waits), None);
        assert_eq!(bring(&answered, &spliced(0x0999, 0)), None);
        assert_eq!(bring(&waits, &waits), None);
        // The client has begun anew, by another cookie.
        let again = spliced(0x2000, FORWARD_WAITING);
        assert_eq!(bring(&waits, &again).unwrap().entry, again);
    }

    #[test]
    fn a_connection_that_has_begun_since_takes_the_place_of_the_one_before() {
        let before = forward(HEARD | STATE_FIN_CLIENT | STATE_CLOSED);
        let begun = FlowEntry {
            last_seen: 20,
            ..forward(STATE_OPENING | 8 << STATE_OPENING_AT)
        };
        let elsewhere = FlowEntry {
            instance: 4,
            ..begun
        };
        for old in [begun, elsewhere] {
            let found = bring(&before, &old).unwrap();
            assert_eq!((found.entry, found.is_over), (old, false));
        }
    }

    #[test]
    fn what_was_seen_last_was_seen_last() {
        let late = FlowEntry {
            last_seen: 30,
            ..forward(OPENING)
        };
        let found = bring(&late, &forward(HEARD)).unwrap();
        assert_eq!((found.entry.last_seen, found.entry.state), (30, HEARD));
        // Nothing is written for that alone.
        assert_eq!(
            bring(
                &forward(HEARD),
                &FlowEntry {
                    state: HEARD,
                    ..late
                }
            ),
            None
        );
    }
}
