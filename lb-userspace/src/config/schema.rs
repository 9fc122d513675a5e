//! A JSON Schema of the configuration file, told by the code that reads it.
//!
//! The reader goes over an empty configuration and notes each key that it is asked for, with the
//! form of its value and what holds without it. So a setting cannot be read and missing in the
//! schema, or the other way round. What a key means stands in the documentation once, in the tables
//! of `docs/configuration.md`; a test sees to it that every key has its row.
//!
//! A schema knows less than the reader: not whether a host resolves, an address is free or two
//! settings contradict each other. What it refuses, the reader refuses too.

use std::{collections::HashMap, sync::OnceLock};

use serde_json::{Map, Value, json};

use super::{KeyPath, forms::Form};

/// The tables of settings.
const DOCS: &str = include_str!("../../../docs/configuration.md");

/// What a name that may be anything is called while the configuration is described.
pub(super) const ANY_NAME: &str = "NAME";

/// The whole schema, as JSON Schema 2020-12.
#[must_use]
pub fn schema() -> Value {
    let mut schema = super::describe().into_schema();
    if let Some(object) = schema.as_object_mut() {
        let head = [
            ("$schema", "https://json-schema.org/draft/2020-12/schema"),
            ("title", "Configuration of lb"),
            (
                "description",
                "One TOML file; `lb check` finds what a schema cannot know.",
            ),
        ];
        for (key, text) in head {
            object.insert(key.to_owned(), text.into());
        }
    }
    schema
}

/// A table under description.
#[derive(Clone, Debug, Default)]
pub(super) struct Shape {
    properties: Map<String, Value>,
    required: Vec<String>,
    /// Keys of which one must be there.
    alternatives: Vec<String>,
}

impl Shape {
    /// Notes a setting: its form, and what holds without it.
    pub(super) fn setting<F: Form>(
        &mut self,
        path: &KeyPath,
        key: &str,
        form: &F,
        otherwise: Option<&str>,
    ) {
        let value = with_notes(form.schema(), form, path, otherwise);
        self.add(key, value);
    }

    /// Notes a list of settings, which may also be a single one.
    pub(super) fn list<F: Form>(&mut self, path: &KeyPath, key: &str, form: &F, otherwise: &str) {
        let item = form.schema();
        let list = one_or_list(&item);
        self.add(key, with_notes(list, form, path, Some(otherwise)));
    }

    /// Notes a table whose keys and values are of one form each.
    pub(super) fn map<K: Form, V: Form>(
        &mut self,
        path: &KeyPath,
        key: &str,
        keys: &K,
        values: &V,
    ) {
        let mut map = json!({
            "type": "object",
            "propertyNames": {"description": format!("Expected: {}.", keys.expected())},
            "additionalProperties": values.schema(),
            "default": {},
        });
        if let Some(row) = row(path) {
            let (key, value) = (keys.expected(), values.expected());
            let expected = format!("a table whose keys are {key} and whose values are {value}");
            map["description"] = format!("{}\n\nExpected: {expected}.", row.meaning).into();
            map["examples"] = as_json(&row.example).into_iter().collect();
        }
        self.add(key, map);
    }

    /// Notes that one of `keys` must be there.
    pub(super) fn one_of(&mut self, keys: &[&str]) {
        self.alternatives = keys.iter().map(|key| (*key).to_owned()).collect();
    }

    pub(super) fn require(&mut self, key: &str) {
        self.required.push(key.to_owned());
    }

    /// Notes a table below.
    pub(super) fn table(&mut self, key: &str, below: Self) {
        self.add(key, below.into_schema());
    }

    /// Notes a table of tables with names of their own.
    pub(super) fn named(&mut self, key: &str, below: Self) {
        let tables = json!({
            "type": "object",
            "propertyNames": {"pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"},
            "additionalProperties": below.into_schema(),
        });
        self.add(key, tables);
    }

    /// Notes a list of tables; where `short` is given, the value of that key may stand for one.
    pub(super) fn tables(&mut self, key: &str, short: Option<&str>, below: Self) {
        let alone = short.and_then(|short| below.properties.get(short).cloned());
        let table = below.into_schema();
        let item = match alone {
            Some(alone) => json!({"anyOf": [alone, table]}),
            None => table,
        };
        self.add(key, json!({"type": "array", "items": item}));
    }

    /// Notes a table, or a list of such tables.
    pub(super) fn one_or_more(&mut self, key: &str, below: Self) {
        self.add(key, one_or_list(&below.into_schema()));
    }

    fn add(&mut self, key: &str, value: Value) {
        self.properties.insert(key.to_owned(), value);
    }

    fn into_schema(self) -> Value {
        let mut schema = json!({
            "type": "object",
            "properties": self.properties,
            "additionalProperties": false,
        });
        if !self.required.is_empty() {
            schema["required"] = self.required.into();
        }
        if !self.alternatives.is_empty() {
            let required = self
                .alternatives
                .iter()
                .map(|key| json!({"required": [key]}));
            schema["anyOf"] = required.collect();
        }
        schema
    }
}

fn one_or_list(item: &Value) -> Value {
    let list = json!({"type": "array", "items": item});
    json!({"anyOf": [item, list]})
}

/// Adds what people want to read to a form's schema.
fn with_notes<F: Form>(
    mut schema: Value,
    form: &F,
    path: &KeyPath,
    otherwise: Option<&str>,
) -> Value {
    let row = row(path);
    let Some(object) = schema.as_object_mut() else {
        return schema;
    };
    let expected = form.expected();
    let description = match row.map(|row| row.meaning.as_str()) {
        Some(meaning) => format!("{meaning}\n\nExpected: {expected}."),
        None => format!("Expected: {expected}."),
    };
    object.insert("description".to_owned(), description.into());
    // What depends on the machine, on other settings or on the service stands in words there.
    let literal = row.is_some_and(|row| row.literal_default);
    if let Some(default) = otherwise.filter(|_| literal).and_then(as_json) {
        object.insert("default".to_owned(), default);
    }
    let examples = [Some(form.example()), row.map(|row| row.example.clone())];
    let examples = examples.into_iter().flatten();
    let mut examples: Vec<Value> = examples.filter_map(|text| as_json(&text)).collect();
    examples.dedup();
    if !examples.is_empty() {
        object.insert("examples".to_owned(), examples.into());
    }
    schema
}

/// A value as it is written in TOML, in JSON.
fn as_json(text: &str) -> Option<Value> {
    let table: toml::Table = toml::from_str(&format!("value = {text}")).ok()?;
    serde_json::to_value(table.get("value")?).ok()
}

/// What the documentation says of a setting.
#[derive(Debug)]
struct Row {
    meaning: String,
    /// Whether the default is a value and not a phrase.
    literal_default: bool,
    example: String,
}

/// The row of a setting. Services have the meanings of `[defaults]`.
fn row(path: &KeyPath) -> Option<&'static Row> {
    static ROWS: OnceLock<HashMap<&'static str, Row>> = OnceLock::new();
    ROWS.get_or_init(rows)
        .get(path.to_string().replace("[0]", "[]").as_str())
}

fn rows() -> HashMap<&'static str, Row> {
    let cells = DOCS
        .lines()
        .map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let cells = cells.filter(|cells| cells.len() == 6 && cells[1].starts_with('`'));
    let meanings: HashMap<&str, &str> = cells
        .clone()
        .map(|cells| (cells[1].trim_matches('`'), cells[2]))
        .collect();
    let rows = cells.map(|cells| {
        let key = cells[1].trim_matches('`');
        let general = key.replace("services.NAME.", "defaults.");
        let own = cells[2];
        let meaning = match own {
            "as in `defaults`" => meanings.get(general.as_str()).copied().unwrap_or(own),
            own => own,
        };
        let row = Row {
            meaning: without_links(meaning),
            literal_default: cells[3].starts_with('`'),
            example: cells[4].trim_matches('`').to_owned(),
        };
        (key, row)
    });
    rows.collect()
}

/// `[text](target)` without the target, which means nothing outside of the documentation.
fn without_links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once('[') {
        plain += before;
        let Some((words, after)) = link.split_once("](") else {
            plain.push('[');
            rest = link;
            continue;
        };
        plain += words;
        rest = after.split_once(')').map_or("", |(_, after)| after);
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_go_without_links() {
        assert_eq!(without_links("a [b](#c) d [e](f.md)"), "a b d e");
        assert_eq!(without_links("`[]` for none"), "`[]` for none");
    }

    #[test]
    fn values_are_those_of_toml() {
        assert_eq!(as_json("\"1m\""), Some("1m".into()));
        assert_eq!(as_json("[1, true]"), Some(json!([1, true])));
        assert_eq!(as_json("none"), None);
    }
}
