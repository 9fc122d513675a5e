//! The configuration as one JSON document: what file, environment, flags and run time come to.
//!
//! A document is what somebody has set, without defaults, in the form that a file would have. Two
//! of them can be compared, and one can be edited and laid over the rest again (see `layer.rs`).
//!
//! Inside of lb a document is **keyed**: where a file has a list of things that have a name of
//! their own (instances, routes, VIPs) a document has an object with these names as keys. So a
//! difference names the one instance that differs, and a change of one does not touch the others.
//! The order of such lists means nothing to lb. The API shows the **natural** form, with lists.

mod difference;
mod key;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
};

use serde_json::{Map, Value};

use super::{
    KeyPath,
    tree::{self, Node, Table},
};

pub use difference::{Difference, differences, undo, with_patch};
pub(super) use key::{is_member, members_at};
pub use key::{pointer_text, segments};

/// What stands in the place of a secret.
pub const HIDDEN: &str = "(secret)";

/// The way to a value of a keyed document.
pub type Pointer = Vec<String>;

/// A configuration as a keyed document.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// All of it, secrets included: not for showing.
    pub whole: Value,
    /// Where it has secrets.
    pub secrets: BTreeSet<Pointer>,
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Document").field(&self.shown()).finish()
    }
}

/// What reading a tree has found out about its values.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Values that were found as text because their source knows no types, as they would stand in
    /// a file.
    pub(super) typed: HashMap<KeyPath, String>,
    /// Values that are not to be shown.
    pub(super) hidden: HashSet<KeyPath>,
}

impl Document {
    /// The document of a tree.
    pub(super) fn of(root: &Table, found: &Found) -> Self {
        let mut writer = Writer {
            found,
            secrets: BTreeSet::new(),
        };
        let whole = writer.table(root, &KeyPath::default(), &mut Pointer::new());
        Self {
            whole: Value::Object(whole),
            secrets: writer.secrets,
        }
    }

    /// The same without secrets, keyed.
    #[must_use]
    pub fn shown(&self) -> Value {
        hide(&self.whole, &self.secrets)
    }

    /// What `at` leads to, secrets included.
    #[must_use]
    pub fn at<S: AsRef<str>>(&self, at: &[S]) -> Option<&Value> {
        get(&self.whole, at)
    }

    /// Puts the secrets of this document where `wanted` only says that there is one.
    pub fn keep_secrets(&self, wanted: &mut Value) {
        for pointer in &self.secrets {
            if let (Some(place), Some(secret)) = (get_mut(wanted, pointer), self.at(pointer))
                && place == HIDDEN
            {
                *place = secret.clone();
            }
        }
    }
}

/// `whole` with [`HIDDEN`] in the places of `secrets`.
#[must_use]
pub fn hide<'p>(whole: &Value, secrets: impl IntoIterator<Item = &'p Pointer>) -> Value {
    let mut shown = whole.clone();
    for pointer in secrets {
        if let Some(place) = get_mut(&mut shown, pointer) {
            *place = HIDDEN.into();
        }
    }
    shown
}

/// What `at` leads to in a keyed document.
#[must_use]
pub fn get<'v, S: AsRef<str>>(whole: &'v Value, at: &[S]) -> Option<&'v Value> {
    at.iter().try_fold(whole, |value, segment| match value {
        Value::Object(object) => object.get(segment.as_ref()),
        Value::Array(list) => list.get(segment.as_ref().parse::<usize>().ok()?),
        _ => None,
    })
}

fn get_mut<'v, S: AsRef<str>>(whole: &'v mut Value, at: &[S]) -> Option<&'v mut Value> {
    at.iter().try_fold(whole, |value, segment| match value {
        Value::Object(object) => object.get_mut(segment.as_ref()),
        Value::Array(list) => list.get_mut(segment.as_ref().parse::<usize>().ok()?),
        _ => None,
    })
}

/// Puts `value` at `at`, making objects on the way; `None` takes away what is there. Where
/// something else than an object is in the way it is replaced.
pub fn put<S: AsRef<str>>(whole: &mut Value, at: &[S], value: Option<Value>) {
    let Some((first, rest)) = at.split_first() else {
        *whole = value.unwrap_or_else(|| Value::Object(Map::new()));
        return;
    };
    if !whole.is_object() {
        if value.is_none() {
            return;
        }
        *whole = Value::Object(Map::new());
    }
    let Value::Object(object) = whole else {
        return;
    };
    match (rest.is_empty(), value) {
        (true, None) => drop(object.remove(first.as_ref())),
        (false, None) => {
            if let Some(next) = object.get_mut(first.as_ref()) {
                put(next, rest, None);
            }
        }
        (_, value) => {
            let next = object.entry(first.as_ref()).or_insert(Value::Null);
            put(next, rest, value);
        }
    }
}

/// The keyed form of `natural`, which stands at `at`. A member without a name, or with one that
/// another has, goes by its place: reading it finds what is wrong. A member of an object that is
/// null is one that is not there.
#[must_use]
pub fn keyed(natural: Value, at: &mut Pointer) -> Value {
    match natural {
        Value::Array(items) => match members_at(at) {
            Some(members) => {
                let mut object = Map::new();
                for (index, item) in items.into_iter().enumerate() {
                    let item = members.whole(item);
                    let key = members.key(&item).filter(|key| !object.contains_key(key));
                    let key = key.unwrap_or_else(|| format!("#{index}"));
                    at.push(key.clone());
                    let item = keyed(item, at);
                    at.pop();
                    object.insert(key, item);
                }
                Value::Object(object)
            }
            None => Value::Array(items),
        },
        Value::Object(object) => {
            let members = object.into_iter().filter(|(_, value)| !value.is_null());
            let members = members.map(|(key, value)| {
                at.push(key);
                let value = keyed(value, at);
                (at.pop().unwrap_or_default(), value)
            });
            Value::Object(members.collect())
        }
        other => other,
    }
}

/// The natural form of `keyed`, which stands at `at`.
#[must_use]
pub fn natural(keyed: &Value, at: &mut Pointer) -> Value {
    let Value::Object(object) = keyed else {
        return keyed.clone();
    };
    let list = members_at(at).is_some();
    let members = object.iter().map(|(key, value)| {
        at.push(key.clone());
        let value = natural(value, at);
        (at.pop().unwrap_or_default(), value)
    });
    if list {
        Value::Array(members.map(|(_, value)| value).collect())
    } else {
        Value::Object(members.collect())
    }
}

/// `path` with the names of members of lists instead of their places in `root`.
pub(super) fn named(path: &KeyPath, root: &Table) -> KeyPath {
    path.named(|at, index| {
        let members = members_at(at)?;
        let mut table = root;
        let (list, tables) = at.split_last()?;
        for key in tables {
            match &table.get(key)?.value {
                tree::Value::Table(next) => table = next,
                _ => return None,
            }
        }
        match &table.get(list)?.value {
            tree::Value::List(items) => members.key_of(items.get(index)?),
            _ => None,
        }
    })
}

/// Where in the natural `body`, which stands at `around`, the keyed `at` (from there on) is.
#[must_use]
pub fn place_in(body: &Value, around: &[String], at: &[String]) -> Pointer {
    let mut way = around.to_vec();
    let mut value = Some(body);
    let mut place = Pointer::new();
    for segment in at {
        let list = value.and_then(Value::as_array).zip(members_at(&way));
        let index = list.and_then(|(items, members)| {
            let keys = items.iter().enumerate().map(|(index, item)| {
                let key = members.key(&members.whole(item.clone()));
                key.unwrap_or_else(|| format!("#{index}"))
            });
            let mut keys = keys;
            keys.position(|key| key == *segment)
        });
        let step = index.map_or_else(|| segment.clone(), |index| index.to_string());
        value = value.and_then(|value| get(value, &[&step]));
        way.push(segment.clone());
        place.push(step);
    }
    place
}

/// The name of what `body` describes, as a member of what stands at `list`; `None` when it lacks
/// what it would be named by.
#[must_use]
pub fn name_in(list: &[String], body: &Value) -> Option<String> {
    members_at(list)?.key(body)
}

/// What is missing in `body` of the name that it has as a member of what stands at `list`.
pub fn complete(list: &[String], name: &str, body: &mut Map<String, Value>) {
    let Some(members) = members_at(list) else {
        return;
    };
    for (field, value) in members.fields(name) {
        body.entry(field).or_insert(value);
    }
}

/// Turns trees into documents.
struct Writer<'f> {
    found: &'f Found,
    secrets: BTreeSet<Pointer>,
}

impl Writer<'_> {
    fn table(&mut self, table: &Table, path: &KeyPath, at: &mut Pointer) -> Map<String, Value> {
        let mut object = Map::new();
        for (key, node) in table {
            at.push(key.clone());
            let value = self.node(node, &path.key(key), at);
            at.pop();
            object.insert(key.clone(), value);
        }
        object
    }

    fn node(&mut self, node: &Node, path: &KeyPath, at: &mut Pointer) -> Value {
        if self.found.hidden.contains(path) {
            self.secrets.insert(at.clone());
        }
        match &node.value {
            tree::Value::Text(text) => {
                let typed = self.found.typed.get(path).map(String::as_str);
                let typed = typed.and_then(|typed| serde_json::from_str(typed).ok());
                typed.unwrap_or_else(|| text.as_str().into())
            }
            tree::Value::Integer(number) => (*number).into(),
            tree::Value::Boolean(boolean) => (*boolean).into(),
            tree::Value::Other(text) => match text.trim().parse::<f64>() {
                Ok(number) if number.is_finite() => number.into(),
                _ => text.as_str().into(),
            },
            tree::Value::Table(table) => Value::Object(self.table(table, path, at)),
            tree::Value::List(items) => match members_at(at) {
                Some(members) => {
                    let mut object = Map::new();
                    for (index, item) in items.iter().enumerate() {
                        let key = members.key_of(item).filter(|key| !object.contains_key(key));
                        at.push(key.unwrap_or_else(|| format!("#{index}")));
                        let value = self.node(item, &path.index(index), at);
                        let key = at.pop().unwrap_or_default();
                        object.insert(key, members.whole(value));
                    }
                    Value::Object(object)
                }
                None => {
                    let items = items.iter().enumerate().map(|(index, item)| {
                        at.push(index.to_string());
                        let value = self.node(item, &path.index(index), at);
                        at.pop();
                        value
                    });
                    Value::Array(items.collect())
                }
            },
        }
    }
}

/// The value of a document as it stands in a tree.
pub(super) fn tree_value(value: &Value, origin: &super::Origin) -> tree::Value {
    let node = |value| Node::new(tree_value(value, origin), origin.clone());
    match value {
        Value::Null => tree::Value::Other("null".to_owned()),
        Value::Bool(boolean) => tree::Value::Boolean(*boolean),
        Value::Number(number) => match number.as_i64() {
            Some(number) => tree::Value::Integer(number),
            None => tree::Value::Other(number.to_string()),
        },
        Value::String(text) => tree::Value::Text(text.clone()),
        Value::Array(items) => tree::Value::List(items.iter().map(node).collect()),
        Value::Object(object) => {
            let members = object.iter();
            tree::Value::Table(members.map(|(k, v)| (k.clone(), node(v))).collect())
        }
    }
}
