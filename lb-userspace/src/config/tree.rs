//! The configuration as a tree whose every value knows where it was found.
//!
//! File, environment and flags are each turned into this form and laid over each other before
//! anything is interpreted. So there is one set of rules for a value whatever its source, and a
//! fault names the source that won.

use std::collections::BTreeMap;

use super::Origin;

/// Keys and values.
pub(super) type Table = BTreeMap<String, Node>;

/// What a key of an absent table is looked up in.
pub(super) static EMPTY: Table = Table::new();

/// A value and where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) value: Value,
    /// Of the value.
    pub(super) origin: Origin,
    /// Of the key that it belongs to; the value's own in a list.
    pub(super) key: Origin,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Node>),
    Table(Table),
    /// A value of another kind (a fraction, a date, a number beyond 64 bits), as written.
    Other(String),
}

/// Longest value that a message repeats, in characters.
const SHOWN: usize = 80;

impl Node {
    pub(super) fn new(value: Value, origin: Origin) -> Self {
        Self {
            value,
            key: origin.clone(),
            origin,
        }
    }

    pub(super) fn text(text: impl Into<String>, origin: Origin) -> Self {
        Self::new(Value::Text(text.into()), origin)
    }

    /// A list of the parts between commas; empty parts do not count.
    pub(super) fn comma_list(text: &str, origin: &Origin) -> Self {
        let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
        let parts = parts.map(|part| Self::text(part, origin.clone())).collect();
        Self::new(Value::List(parts), origin.clone())
    }

    /// The value as it would be written, cut when it is long.
    pub(super) fn show(&self) -> String {
        match &self.value {
            Value::Text(text) => {
                let mut short: String = text.chars().take(SHOWN).collect();
                if short.len() < text.len() {
                    short.push('…');
                }
                format!("{short:?}")
            }
            Value::Integer(number) => number.to_string(),
            Value::Boolean(boolean) => boolean.to_string(),
            Value::List(_) => "a list".to_owned(),
            Value::Table(_) => "a table".to_owned(),
            Value::Other(text) => text.chars().take(SHOWN).collect(),
        }
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn as_integer(&self) -> Option<i64> {
        match &self.value {
            Value::Integer(number) => Some(*number),
            Value::Text(text) if self.origin.is_untyped() => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// A number of any kind.
    pub(super) fn as_number(&self) -> Option<f64> {
        match &self.value {
            Value::Integer(number) => Some(*number as f64),
            Value::Other(text) => text.trim().parse().ok(),
            Value::Text(text) if self.origin.is_untyped() => text.trim().parse().ok(),
            _ => None,
        }
    }

    pub(super) fn as_boolean(&self) -> Option<bool> {
        match &self.value {
            Value::Boolean(boolean) => Some(*boolean),
            Value::Text(text) if self.origin.is_untyped() => {
                match text.trim().to_ascii_lowercase().as_str() {
                    "true" | "1" | "yes" | "on" => Some(true),
                    "false" | "0" | "no" | "off" => Some(false),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// Puts `node` at `path`, in the place of what is there. Tables on the way are made when they are
/// missing; where something else than a table is in the way the tree stays as it is, because
/// reading it will find that fault.
pub(super) fn set(table: &mut Table, path: &[&str], node: Node) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    if rest.is_empty() {
        table.insert((*first).to_owned(), node);
        return;
    }
    let origin = node.origin.clone();
    let next = table
        .entry((*first).to_owned())
        .or_insert_with(|| Node::new(Value::Table(Table::new()), origin));
    if let Value::Table(next) = &mut next.value {
        set(next, rest, node);
    }
}

/// The table at `path`, if there is one.
pub(super) fn table_at<'t>(mut table: &'t mut Table, path: &[&str]) -> Option<&'t mut Table> {
    for key in path {
        match &mut table.get_mut(*key)?.value {
            Value::Table(next) => table = next,
            _ => return None,
        }
    }
    Some(table)
}
