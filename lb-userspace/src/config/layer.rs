//! What was set at run time: a layer over file, environment and flags.
//!
//! A layer holds changes, not values: each says of one place what holds there instead of what lies
//! below. It is laid over whatever file, environment and flags say by then, so an edit of the file
//! takes effect wherever nobody has set something else at run time.
//!
//! A change is made by saying what the whole configuration should be ([`Layer::reach`]). What
//! differs from the present goes into the layer, each place with the revision that set it; what
//! is as below again leaves the layer.
//!
//! Things with a name of their own (services, instances, routes, VIPs) are there or not. One that
//! was made at run time stands on nothing: what a file says later of the same name does not mix
//! with it. And changes to one that the file does not have any more rest until it is back, because
//! half an instance would be a fault.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Notice, Origin,
    document::{Pointer, is_member, members_at, pointer_text, tree_value},
    tree::{self, Node, Table},
};

/// Who has set something at run time, and when.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    /// The revision of the configuration that this made.
    pub revision: u64,
    /// Who.
    pub who: String,
    /// When, as RFC 3339 in UTC.
    pub time: String,
}

/// The changes of run time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Who has set what is in the layer, by revision.
    stamps: BTreeMap<u64, Stamp>,
    /// The changes, as of a table.
    changes: BTreeMap<String, Patch>,
}

/// What holds in one place instead of what lies below.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Patch {
    /// Nothing, since that revision.
    Removed(u64),
    /// This value, since that revision.
    Set(u64, Value),
    /// What lies below, but for these places.
    Changed(BTreeMap<String, Self>),
    /// Made in that revision, out of these places alone.
    Made(u64, BTreeMap<String, Self>),
}

impl Layer {
    /// Whether nothing was set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Changes the layer so that over `base` it comes to `target`, where it comes to `now`. All
    /// three are keyed.
    pub fn reach(&mut self, base: &Value, now: &Value, target: &Value, stamp: Stamp) {
        let mut root = Some(Patch::Changed(std::mem::take(&mut self.changes)));
        let step = Step {
            revision: stamp.revision,
            at: Pointer::new(),
        };
        // The document itself is never set or removed as a whole.
        let object = |value: &Value| Value::Object(value.as_object().cloned().unwrap_or_default());
        let (base, now, target) = (object(base), object(now), object(target));
        step.reach(&mut root, Some(&base), Some(&now), Some(&target));
        if let Some(Patch::Changed(changes)) = root {
            self.changes = changes;
        }
        self.stamps.insert(stamp.revision, stamp);
        let mut used = Vec::new();
        self.changes
            .values()
            .for_each(|patch| patch.revisions(&mut used));
        self.stamps.retain(|revision, _| used.contains(revision));
    }

    /// Lays the changes over `root`; says which rest, because what they change is not there.
    pub(super) fn overlay(&self, root: &mut Table, notices: &mut Vec<Notice>) {
        let mut overlay = Overlay {
            layer: self,
            notices,
            at: Pointer::new(),
        };
        overlay.table(root, &self.changes, &Origin::Default);
    }

    /// Every place that was set: what it is set to, `None` when it was removed, and by whom.
    #[must_use]
    pub fn places(&self) -> Vec<(Pointer, Option<&Value>, &Stamp)> {
        let mut places = Vec::new();
        self.list(&self.changes, &mut Pointer::new(), &mut places);
        places
    }

    fn list<'l>(
        &'l self,
        changes: &'l BTreeMap<String, Patch>,
        at: &mut Pointer,
        places: &mut Vec<(Pointer, Option<&'l Value>, &'l Stamp)>,
    ) {
        for (key, patch) in changes {
            at.push(key.clone());
            match patch {
                Patch::Changed(changes) | Patch::Made(_, changes) => {
                    self.list(changes, at, places);
                }
                Patch::Removed(revision) => {
                    let stamp = self.stamps.get(revision);
                    places.extend(stamp.map(|stamp| (at.clone(), None, stamp)));
                }
                Patch::Set(revision, value) => {
                    let stamp = self.stamps.get(revision);
                    places.extend(stamp.map(|stamp| (at.clone(), Some(value), stamp)));
                }
            }
            at.pop();
        }
    }

    /// Whether every change has a revision of which somebody is known; a state file could say
    /// otherwise.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let mut used = Vec::new();
        self.changes
            .values()
            .for_each(|patch| patch.revisions(&mut used));
        let known = used
            .iter()
            .all(|revision| self.stamps.contains_key(revision));
        known
            && self
                .stamps
                .iter()
                .all(|(number, stamp)| *number == stamp.revision)
    }

    fn origin(&self, revision: u64) -> Origin {
        match self.stamps.get(&revision) {
            Some(stamp) => Origin::RunTime(Arc::new(stamp.clone())),
            None => Origin::Default,
        }
    }
}

impl Patch {
    fn revisions(&self, used: &mut Vec<u64>) {
        let (Self::Removed(revision) | Self::Set(revision, _) | Self::Made(revision, _)) = self
        else {
            return self.below().for_each(|patch| patch.revisions(used));
        };
        used.push(*revision);
        self.below().for_each(|patch| patch.revisions(used));
    }

    fn below(&self) -> impl Iterator<Item = &Self> {
        let members = match self {
            Self::Changed(members) | Self::Made(_, members) => Some(members),
            _ => None,
        };
        members.into_iter().flat_map(BTreeMap::values)
    }
}

/// A change on its way down the tree.
struct Step {
    revision: u64,
    at: Pointer,
}

impl Step {
    fn reach(
        mut self,
        root: &mut Option<Patch>,
        base: Option<&Value>,
        now: Option<&Value>,
        target: Option<&Value>,
    ) {
        self.place(root, base, now, target);
    }

    fn place(
        &mut self,
        slot: &mut Option<Patch>,
        base: Option<&Value>,
        now: Option<&Value>,
        target: Option<&Value>,
    ) {
        if now == target {
            return;
        }
        if target == base && !self.at.is_empty() {
            *slot = None;
            return;
        }
        let Some(target) = target else {
            *slot = Some(Patch::Removed(self.revision));
            return;
        };
        let Value::Object(wanted) = target else {
            *slot = Some(Patch::Set(self.revision, target.clone()));
            return;
        };
        let mut base = base.and_then(Value::as_object);
        let mut now = now.and_then(Value::as_object);
        if now.is_none() {
            if is_member(&self.at) {
                *slot = Some(Patch::Made(self.revision, self.all(wanted)));
                return;
            }
            // A section that something else was in the place of: it begins as it lies below.
            *slot = None;
            now = base;
        }
        let (made, mut members) = match slot.take() {
            Some(Patch::Made(revision, members)) => (Some(revision), members),
            Some(Patch::Changed(members)) => (None, members),
            _ => (None, BTreeMap::new()),
        };
        let below = base.is_some();
        if made.is_some() {
            base = None;
        }
        let none = Map::new();
        let had = now.unwrap_or(&none);
        let new = wanted.keys().filter(|key| !had.contains_key(*key));
        for key in had.keys().chain(new) {
            let mut patch = members.remove(key);
            self.at.push(key.clone());
            let base = base.and_then(|base| base.get(key));
            self.place(&mut patch, base, had.get(key), wanted.get(key));
            self.at.pop();
            members.extend(patch.map(|patch| (key.clone(), patch)));
        }
        *slot = match made {
            Some(revision) => Some(Patch::Made(revision, members)),
            None if members.is_empty() && below && !self.at.is_empty() => None,
            None => Some(Patch::Changed(members)),
        };
    }

    /// The changes that make `wanted` out of nothing.
    fn all(&mut self, wanted: &Map<String, Value>) -> BTreeMap<String, Patch> {
        let mut members = BTreeMap::new();
        for (key, value) in wanted {
            self.at.push(key.clone());
            let patch = match value {
                Value::Object(wanted) if is_member(&self.at) => {
                    Patch::Made(self.revision, self.all(wanted))
                }
                Value::Object(wanted) => Patch::Changed(self.all(wanted)),
                leaf => Patch::Set(self.revision, leaf.clone()),
            };
            self.at.pop();
            members.insert(key.clone(), patch);
        }
        members
    }
}

/// A layer on its way over a tree.
struct Overlay<'l, 'n> {
    layer: &'l Layer,
    notices: &'n mut Vec<Notice>,
    at: Pointer,
}

impl Overlay<'_, '_> {
    fn table(&mut self, table: &mut Table, changes: &BTreeMap<String, Patch>, around: &Origin) {
        for (key, patch) in changes {
            self.at.push(key.clone());
            match (patch, members_at(&self.at)) {
                (Patch::Changed(changes), Some(members)) => {
                    let list = table.entry(key.clone()).or_insert_with(|| {
                        Node::new(tree::Value::List(Vec::new()), around.clone())
                    });
                    // Something else than a list is a fault that reading finds.
                    if let tree::Value::List(items) = &mut list.value {
                        for (key, patch) in changes {
                            let place = |item: &Node| members.key_of(item).as_ref() == Some(key);
                            let place = items.iter().position(place);
                            self.at.push(key.clone());
                            let item = place.map(|place| items[place].clone());
                            let item = self.change(item, patch, around);
                            self.at.pop();
                            match (place, item) {
                                (Some(place), Some(item)) => items[place] = item,
                                (Some(place), None) => drop(items.remove(place)),
                                (None, item) => items.extend(item),
                            }
                        }
                    }
                }
                _ => {
                    let changed = self.change(table.remove(key), patch, around);
                    table.extend(changed.map(|node| (key.clone(), node)));
                }
            }
            self.at.pop();
        }
    }

    /// What becomes of `node`.
    fn change(&mut self, node: Option<Node>, patch: &Patch, around: &Origin) -> Option<Node> {
        match patch {
            Patch::Removed(_) => None,
            Patch::Set(revision, value) => {
                let origin = self.layer.origin(*revision);
                Some(Node::new(tree_value(value, &origin), origin))
            }
            Patch::Made(revision, changes) => {
                let origin = self.layer.origin(*revision);
                let mut table = Table::new();
                self.table(&mut table, changes, &origin);
                Some(Node::new(tree::Value::Table(table), origin))
            }
            Patch::Changed(changes) => {
                if node.is_none() && is_member(&self.at) {
                    self.rests(patch);
                    return None;
                }
                let mut node = node
                    .unwrap_or_else(|| Node::new(tree::Value::Table(Table::new()), around.clone()));
                let mut table = match node.value {
                    tree::Value::Table(table) => table,
                    // The short form of an instance.
                    tree::Value::Text(_) if is_member(&self.at) => {
                        let endpoint = node.clone();
                        Table::from([("endpoint".to_owned(), endpoint)])
                    }
                    _ => Table::new(),
                };
                self.table(&mut table, changes, &node.origin);
                node.value = tree::Value::Table(table);
                Some(node)
            }
        }
    }

    fn rests(&mut self, patch: &Patch) {
        let mut revisions = Vec::new();
        patch.revisions(&mut revisions);
        let origin = match revisions.iter().max() {
            Some(revision) => self.layer.origin(*revision),
            None => Origin::Default,
        };
        let text = format!(
            "what was set of {} at run time rests, because file, environment and flags do not \
             have it",
            pointer_text(&self.at)
        );
        self.notices.push(Notice::new(origin, text));
    }
}

#[cfg(test)]
mod tests;
