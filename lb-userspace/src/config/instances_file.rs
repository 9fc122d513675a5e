//! A list of instances in a file of its own, for discovery.
//!
//! It is read with the same forms as `instances` of a service, so the same values are accepted and
//! a fault says the same. JSON is turned into the same tree as TOML.

use std::{path::Path, sync::Arc};

use super::{
    Fault, Faults, KeyPath, Origin, RESOLVE_DEADLINE,
    file::{self, Parsed},
    reader::Reader,
    resolve::{Resolve, Resolved},
    services::read_instances,
    tree::{Node, Table, Value},
};
use crate::model::{Endpoint, InstanceSpec};

/// The one key of the file.
const KEY: &str = "instances";

/// Reads the instances that the file `path` lists: the key `instances` in TOML, or, when the name
/// ends in `.json`, in JSON, where the list may also stand alone. `weight` is that of instances
/// without one. Blocks on the file, and on the resolver for host names.
///
/// # Errors
/// Every fault that was found, at once.
pub fn instances_in(path: &Path, weight: u16) -> Result<Vec<InstanceSpec>, Faults> {
    let is_json = path.extension().is_some_and(|ending| ending == "json");
    let parsed = if is_json {
        let text = file::read_text(path);
        let text = text.map_err(|fault| Faults::check(vec![fault]));
        match text {
            Ok(text) => parse_json(&text, path),
            Err(faults) => return faults.map(|()| Vec::new()),
        }
    } else {
        file::read(path)
    };
    interpret(parsed, weight, &(Arc::new(Endpoint::parse) as Resolve))
}

fn interpret(parsed: Parsed, weight: u16, resolve: &Resolve) -> Result<Vec<InstanceSpec>, Faults> {
    let Parsed {
        table,
        mut faults,
        sound,
    } = parsed;
    let mut instances = Vec::new();
    if sound {
        let resolved = Resolved::new(&in_a_service(&table), RESOLVE_DEADLINE, resolve);
        let mut reader = Reader::default();
        instances = reader.root(&table, |t| read_instances(t, &resolved, weight, false));
        faults.extend(reader.faults);
    }
    Faults::check(faults)?;
    Ok(instances
        .iter()
        .map(super::services::ReadInstance::spec)
        .collect())
}

/// The table where the resolver looks for endpoints.
fn in_a_service(table: &Table) -> Table {
    let below = |key: &str, table: Table| {
        let node = Node::new(Value::Table(table), Origin::Default);
        Table::from([(key.to_owned(), node)])
    };
    below("services", below("file", table.clone()))
}

/// Parses JSON. What has no TOML is kept as text that no form accepts.
fn parse_json(text: &str, path: &Path) -> Parsed {
    let origin = |at| Origin::File {
        file: path.into(),
        at,
    };
    let fault = |expected: &str, at, found: Option<String>, note| Parsed {
        table: Table::new(),
        faults: vec![Fault {
            path: KeyPath::default(),
            origin: origin(at),
            expected: expected.to_owned(),
            example: None,
            found,
            note,
        }],
        sound: false,
    };
    let value: serde_json::Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => {
            let at = Some((error.line().max(1), error.column().max(1)));
            let line = text.lines().nth(error.line().saturating_sub(1));
            let found = line.map(|line| Node::text(line.trim(), Origin::Default).show());
            return fault("valid JSON", at, found, Some(error.to_string()));
        }
    };
    let whole = origin(None);
    let table = match node(value, &whole).value {
        Value::Table(table) => table,
        list @ Value::List(_) => Table::from([(KEY.to_owned(), Node::new(list, whole))]),
        other => {
            let found = Node::new(other, whole).show();
            return fault("an object or a list", None, Some(found), None);
        }
    };
    Parsed {
        table,
        faults: Vec::new(),
        sound: true,
    }
}

fn node(value: serde_json::Value, origin: &Origin) -> Node {
    use serde_json::Value as Json;
    let value = match value {
        Json::Null => Value::Other("null".to_owned()),
        Json::Bool(boolean) => Value::Boolean(boolean),
        Json::Number(number) => number
            .as_i64()
            .map_or_else(|| Value::Other(number.to_string()), Value::Integer),
        Json::String(text) => Value::Text(text),
        Json::Array(items) => {
            Value::List(items.into_iter().map(|item| node(item, origin)).collect())
        }
        Json::Object(fields) => {
            let fields = fields.into_iter();
            Value::Table(
                fields
                    .map(|(key, value)| (key, node(value, origin)))
                    .collect(),
            )
        }
    };
    Node::new(value, origin.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Vec<String>, String> {
        let path = Path::new(name);
        let parsed = match path.extension() {
            Some(ending) if ending == "json" => parse_json(text, path),
            _ => file::parse(text, path),
        };
        let read = interpret(parsed, 3, &(Arc::new(Endpoint::parse) as Resolve));
        let show = |spec: &InstanceSpec| {
            let limit = spec.max_requests.map(|most| format!(" {most}"));
            format!(
                "{} {}{}",
                spec.endpoint,
                spec.weight,
                limit.unwrap_or_default()
            )
        };
        read.map(|specs| specs.iter().map(show).collect())
            .map_err(|faults| faults.to_string())
    }

    #[test]
    fn toml_and_json_say_the_same() {
        let expected = ["10.0.0.1:80 3", "http://10.0.0.2 7 5"];
        for (name, text) in [
            (
                "a.toml",
                "instances = [\"10.0.0.1:80\", \
                 { endpoint = \"http://10.0.0.2\", weight = 7, max_requests = 5 }]",
            ),
            (
                "a.json",
                r#"{"instances": ["10.0.0.1:80",
                    {"endpoint": "http://10.0.0.2", "weight": 7, "max_requests": 5}]}"#,
            ),
            (
                "a.json",
                r#"["10.0.0.1:80", {"endpoint": "http://10.0.0.2", "weight": 7, "max_requests": 5}]"#,
            ),
        ] {
            assert_eq!(read(name, text).unwrap(), expected, "{text}");
        }
        assert_eq!(read("a.json", "[]").unwrap(), [""; 0]);
    }

    #[test]
    fn faults_say_what_where() {
        for (name, text, expected) in [
            (
                "a.json",
                "[\"10.0.0.1:80\"",
                "a.json:1:14: expected valid JSON",
            ),
            (
                "a.json",
                "3",
                "a.json: expected an object or a list; found 3",
            ),
            ("a.json", "{}", "instances: expected a list of instances"),
            (
                "a.json",
                "[null]",
                "instances[0].endpoint: expected an endpoint",
            ),
            (
                "a.json",
                "{\"instance\": []}",
                "did you mean \"instances\"?",
            ),
            (
                "a.toml",
                "instances = [\"10.0.0.1\"]",
                "a.toml:1:14: instances[0].endpoint",
            ),
            (
                "a.toml",
                "instances = [",
                "a.toml:1:14: expected valid TOML",
            ),
            (
                "a.toml",
                "instances = [\"10.0.0.1:80\", \"http://10.0.0.1\"]",
                "expected every address once in a service",
            ),
        ] {
            let found = read(name, text).unwrap_err();
            assert!(found.contains(expected), "{text}\n{found}");
        }
    }
}
