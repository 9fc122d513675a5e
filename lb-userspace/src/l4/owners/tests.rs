use super::*;

const SILENCE: Duration = Duration::from_secs(3600);
const GRACE: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Timestamp {
    Timestamp(0) + Duration::from_secs(seconds)
}

/// A table with these instances in its first slots, 9 in all others.
fn table(first: &[u16]) -> Box<Table> {
    let mut table = empty_table();
    table.slots.fill(9);
    table.slots[..first.len()].copy_from_slice(first);
    table
}

fn fresh(table: &Table) -> Before<'_> {
    Before {
        table,
        since: None,
        memory: Memory::Unsettled,
    }
}

fn slots<const N: usize>(owners: &Owners) -> [Slot; N] {
    std::array::from_fn(|at| Slot(owners.table().slots[at]))
}

/// A walk that meets entries of flows: slot and instance.
fn walk(owners: &mut Owners, now: Timestamp, flows: &[(u32, u16)]) -> Vec<bool> {
    owners.begin_walk(now, GRACE);
    let met = flows.iter().map(|(slot, to)| owners.meet(*slot, Some(*to)));
    met.collect()
}

#[test]
fn a_slot_keeps_its_owner_until_its_flows_are_over() {
    let (before, wanted) = (table(&[1, 1, 2]), table(&[1, 2, 3]));
    let keeps = |index| index != 2;
    let owners = Owners::follow(fresh(&before), &wanted, Memory::Unsettled, keeps, at(10));
    // The second one's owner is there; the third one's is gone, and its flows may be anywhere.
    let first = [Slot::clear(1), Slot::unsettled(2), Slot::settled(3)];
    assert_eq!(slots(&owners), first);
    assert_eq!(owners.table().owners[..3], [0, 1, 0]);
    assert!(owners.owners().iter().eq(&[1, 3, 9]));

    // Changed again before it has settled: the owner stays, and the time runs on.
    let wanted = table(&[1, 3, 3]);
    let keeps = |_| true;
    let mut owners = Owners::follow(owners.before(), &wanted, Memory::Unsettled, keeps, at(20));
    assert_eq!(
        slots(&owners),
        [Slot::clear(1), Slot::unsettled(3), Slot::settled(3)]
    );
    assert_eq!(owners.table().owners[1], 1);
    assert_eq!(
        walk(&mut owners, at(3609), &[(1, 2), (2, 4)]),
        [false, false]
    );
    assert_eq!(owners.advance(SILENCE, at(3609)), None);
    let mut owners = owners.advance(SILENCE, at(3610)).unwrap();
    assert_eq!(
        slots(&owners),
        [Slot::clear(1), Slot::settled(3), Slot::settled(3)]
    );

    // Clear as soon as a walk has met nothing that is elsewhere. Packets may read the table before
    // for a moment, and insert what the walk has passed.
    assert!(walk(&mut owners, at(3610), &[]).is_empty());
    assert_eq!(owners.advance(SILENCE, at(3611)), None);
    assert_eq!(
        walk(&mut owners, at(3611), &[(1, 2), (2, 3)]),
        [false, true]
    );
    let mut owners = owners.advance(SILENCE, at(3612)).unwrap();
    assert_eq!(
        slots(&owners),
        [Slot::clear(1), Slot::settled(3), Slot::clear(3)]
    );
    assert!(!owners.is_clear());
    walk(&mut owners, at(3620), &[]);
    assert!(owners.advance(SILENCE, at(3621)).unwrap().is_clear());
}

#[test]
fn what_returns_to_its_owner_is_settled_but_has_flows_elsewhere() {
    let (one, two) = (table(&[1]), table(&[2]));
    let memory = Memory::Unsettled;
    let away = Owners::follow(fresh(&one), &two, memory, |_| true, at(1));
    let back = Owners::follow(away.before(), &one, memory, |_| true, at(2));
    assert_eq!(slots(&back), [Slot::settled(1)]);
}

#[test]
fn a_table_without_instances_keeps_the_flows_of_those_that_drain() {
    let before = table(&[1]);
    let memory = Memory::Unsettled;
    let empty = empty_table();
    let drained = Owners::follow(fresh(&before), &empty, memory, |_| true, at(1));
    assert_eq!(slots(&drained), [Slot::unsettled(0)]);
    assert_eq!(drained.table().owners[0], 1);
    let gone = Owners::follow(drained.before(), &empty, memory, |_| false, at(2));
    assert_eq!(slots(&gone), [Slot::settled(0)]);
    assert!(gone.owners().is_empty());
    let back = Owners::follow(gone.before(), &before, memory, |_| true, at(3));
    assert_eq!(slots(&back), [Slot::settled(1)]);
}

#[test]
fn flows_of_a_service_that_remembers_from_now_on_have_owners_for_a_while() {
    let (before, wanted) = (table(&[1]), table(&[1, 2]));
    let memory = Memory::AllFromNowOn;
    let mut owners = Owners::follow(fresh(&before), &wanted, memory, |_| true, at(1));
    assert_eq!(slots(&owners), [Slot::unsettled(1), Slot::unsettled(2)]);
    assert_eq!(owners.table().owners[..2], [1, 9]);
    // Another change meanwhile.
    let wanted = table(&[3, 3]);
    owners = Owners::follow(owners.before(), &wanted, memory, |index| index != 9, at(2));
    assert_eq!(slots(&owners), [Slot::unsettled(3), Slot::clear(3)]);
    assert!(owners.owners().iter().eq(&[1]));
    let after = owners.advance(SILENCE, at(3601)).unwrap();
    assert!(after.is_clear() && after.owners().is_empty());

    // And back: all flows are in the connection table.
    let all = Before {
        memory: Memory::All,
        ..fresh(&before)
    };
    let owners = Owners::follow(all, &wanted, Memory::Unsettled, |_| true, at(9));
    assert_eq!(
        slots(&owners),
        [Slot::settled(3), Slot::settled(3), Slot::settled(9)]
    );
}

#[test]
fn flows_that_could_not_be_remembered_are_waited_for() {
    let (before, wanted) = (table(&[1]), table(&[2]));
    let memory = Memory::Unsettled;
    let mut owners = Owners::follow(fresh(&before), &wanted, memory, |_| true, at(0));
    owners.prolong(at(100));
    assert_eq!(owners.advance(SILENCE, at(3699)), None);
    assert!(owners.advance(SILENCE, at(3700)).is_some());
    // A daemon that finds the table does not know since when, and waits in full.
    let found = fresh(owners.table());
    let found = Owners::follow(found, &wanted, memory, |_| true, at(50));
    assert_eq!(
        (found.table(), found.owners()),
        (owners.table(), owners.owners())
    );
    assert_eq!(found.advance(SILENCE, at(3649)), None);
}
