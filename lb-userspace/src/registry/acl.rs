//! How the source ACL changes.

use std::sync::Arc;

use super::change::Event;
use crate::model::{Acl, AclList, AclSpec};

/// Takes over a new specification. Lists that it names as well keep what they say; what others say
/// comes with their first reading.
pub(super) fn configure(acl: &mut Arc<Acl>, spec: AclSpec) -> Event {
    let known = spec.files.iter().filter_map(|file| {
        let mut lists = acl.lists.iter();
        lists.find(|list| *list.file == **file).cloned()
    });
    let known = known.collect();
    *acl = Arc::new(Acl::new(spec, known));
    Event::AclChanged(acl.rules.len())
}

/// Takes over what lists say, as far as the specification names them.
pub(super) fn take_lists(acl: &mut Arc<Acl>, mut lists: Vec<AclList>) -> Vec<Event> {
    let place = |list: &AclList| {
        let mut files = acl.spec.files.iter();
        files.position(|file| *list.file == **file)
    };
    lists.retain(|list| place(list).is_some());
    lists.sort_by_key(place);
    let mut events = Vec::new();
    for list in &lists {
        let mut before = acl.lists.iter();
        let before = before.find(|before| before.file == list.file);
        let before = before.map_or(&[][..], |before| &before.faults);
        if let Some(fault) = list.faults.first().filter(|_| before != list.faults) {
            let file = Arc::clone(&list.file);
            events.push(Event::AclListFaulty(file, fault.clone()));
        }
    }
    let next = Acl::new(acl.spec.clone(), lists);
    if next != **acl {
        events.push(Event::AclChanged(next.rules.len()));
        *acl = Arc::new(next);
    }
    events
}
