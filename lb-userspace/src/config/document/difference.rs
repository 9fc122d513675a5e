//! How two documents differ, and what turns one into the other (RFC 7396).

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{Pointer, is_member, keyed, members_at, natural};

/// One place in which two documents differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub at: Pointer,
    /// What was there, in the natural form; `None` for nothing.
    pub before: Option<Value>,
    /// What is there.
    pub after: Option<Value>,
}

/// How two keyed documents differ. A thing that is new or gone is one difference, settings are one
/// each.
#[must_use]
pub fn differences(before: &Value, after: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(Some(before), Some(after), &mut Pointer::new(), &mut found);
    found
}

fn compare(
    before: Option<&Value>,
    after: Option<&Value>,
    at: &mut Pointer,
    found: &mut Vec<Difference>,
) {
    if before == after {
        return;
    }
    let object = |value: Option<&Value>| value.and_then(Value::as_object).cloned();
    let (old, new) = (object(before), object(after));
    let comes_or_goes = before.is_none() || after.is_none();
    let descends = match (&old, &new) {
        (Some(_), Some(_)) => true,
        (Some(one), None) | (None, Some(one)) => comes_or_goes && !is_member(at) && !one.is_empty(),
        (None, None) => false,
    };
    if !descends {
        let shown = |value: Option<&Value>| value.map(|value| natural(value, &mut at.clone()));
        found.push(Difference {
            at: at.clone(),
            before: shown(before),
            after: shown(after),
        });
        return;
    }
    let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
    for key in keys(&old, &new) {
        at.push(key.clone());
        compare(old.get(key), new.get(key), at, found);
        at.pop();
    }
}

fn keys<'m>(one: &'m Map<String, Value>, other: &'m Map<String, Value>) -> BTreeSet<&'m String> {
    one.keys().chain(other.keys()).collect()
}

/// The merge patch that turns `from` into `to`, which hold no null; `None` when they are the same.
#[must_use]
pub fn undo(from: &Value, to: &Value) -> Option<Value> {
    if from == to {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (from, to) else {
        return Some(to.clone());
    };
    let mut patch = Map::new();
    for key in keys(old, new) {
        match (old.get(key), new.get(key)) {
            (Some(old), Some(new)) => {
                // An object in the place of something else is all in the patch.
                let step = undo(old, new);
                patch.extend(step.map(|step| (key.clone(), step)));
            }
            (None, Some(new)) => drop(patch.insert(key.clone(), new.clone())),
            _ => drop(patch.insert(key.clone(), Value::Null)),
        }
    }
    Some(Value::Object(patch))
}

/// Applies a merge patch to the keyed `target`, which stands at `at`. A list in the patch replaces
/// all members of a list that has named ones; an object changes those that it names.
pub fn with_patch(target: &mut Value, patch: Value, at: &mut Pointer) {
    let list = patch.is_array() && members_at(at).is_some();
    let changes = match patch {
        Value::Object(changes) => changes,
        patch if list => {
            *target = keyed(patch, at);
            return;
        }
        leaf => {
            *target = leaf;
            return;
        }
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(object) = target else {
        return;
    };
    for (key, change) in changes {
        if change.is_null() {
            object.remove(&key);
            continue;
        }
        let mut value = object.remove(&key).unwrap_or(Value::Null);
        at.push(key);
        with_patch(&mut value, change, at);
        object.insert(at.pop().unwrap_or_default(), value);
    }
}
