//! The schema says what the reader does, as far as a schema can know.

use std::{path::Path, sync::LazyLock};

use serde_json::{Value, json};

use super::*;

static SCHEMA: LazyLock<Value> = LazyLock::new(schema);

static VALIDATOR: LazyLock<jsonschema::Validator> =
    LazyLock::new(|| jsonschema::draft202012::new(&SCHEMA).unwrap());

/// What the schema has against a text, one a line; `None` when it is no TOML.
fn refusals(text: &str) -> Option<Vec<String>> {
    let table: toml::Table = toml::from_str(text).ok()?;
    let json = serde_json::to_value(table).unwrap();
    let errors = VALIDATOR.iter_errors(&json);
    Some(
        errors
            .map(|e| format!("{}: {e}", e.instance_path()))
            .collect(),
    )
}

/// Whether a number is written as a fraction and is whole: to JSON, 2.0 and 0e05 are whole numbers.
fn is_whole_fraction(text: &str) -> bool {
    let text = text.replace('_', "");
    let is_whole = |number: f64| number.fract() == 0.0;
    text.parse().is_ok_and(is_whole) && text.parse::<i128>().is_err()
}

/// Whether a fault is one that a schema can know of.
fn can_know(fault: &Fault) -> bool {
    let expected = fault.expected.as_str();
    let number = expected.starts_with("a number from") && !expected.contains("hundredths");
    let whole = fault.found.as_deref().is_some_and(is_whole_fraction);
    // Of words, not of words or something else.
    let choice = expected.starts_with('"')
        && ["because", "NAME", ", or a "]
            .iter()
            .all(|more| !expected.contains(more));
    let kind = ["true or false", "a table", "a list"].contains(&expected);
    let key =
        expected.starts_with("one of the keys of") || expected.starts_with("one of the sections");
    let missing = fault.found.is_none();
    kind || key || missing || choice || (number && !whole)
}

/// Panics unless the schema accepts what the reader accepts and refuses what it can know to be
/// wrong.
pub(super) fn agrees(text: &str, result: &Result<Config, Faults>) {
    let Some(refusals) = refusals(text) else {
        return;
    };
    match result {
        Ok(_) => assert_eq!(refusals, [""; 0], "{text}"),
        Err(faults) => {
            let known = faults.list().iter().any(can_know);
            assert!(!known || !refusals.is_empty(), "{text}\n{faults}");
        }
    }
}

#[test]
fn fractions_that_are_whole_are_the_readers_alone_to_refuse() {
    for weight in ["2.0", "0e05", "1_0.0", "1e2"] {
        let text = format!(
            "[services.web]\ninstances = [{{ endpoint = \"10.0.0.1:80\", weight = {weight} }}]\n"
        );
        assert!(load_text(&text).is_err(), "{weight}");
        assert!(is_whole_fraction(weight), "{weight}");
    }
    assert!(!is_whole_fraction("2") && !is_whole_fraction("0.5"));
}

#[test]
fn examples_and_the_readme_fit_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(refusals(&text).unwrap(), [""; 0], "{}", path.display());
            count += 1;
        }
    }
    assert!(count >= 4, "{count} examples");
}

/// The property of a setting.
fn property(path: &str) -> &'static Value {
    let mut at = &*SCHEMA;
    for part in path.split('.') {
        let (key, is_item) = part
            .strip_suffix("[]")
            .map_or((part, false), |key| (key, true));
        if at["type"].is_null() && at["anyOf"].is_array() {
            at = &at["anyOf"][0];
        }
        at = match &at["properties"][key] {
            Value::Null => &at["additionalProperties"],
            found => found,
        };
        if is_item {
            at = &at["items"];
            if at["anyOf"].is_array() {
                at = &at["anyOf"][1];
            }
        }
    }
    at
}

#[test]
fn every_setting_has_its_form_and_its_meaning() {
    let text = "
        [services.web]
        instances = [\"10.0.0.1:80\"]
        rate_limit.requests = 9
        [gateway]
        rate_limit.requests = 9
        [datapath]
        interfaces = [\"eth0\"]
        [[routes]]
        path = \"/*\"
        service = \"web\"
        rate_limit.requests = 9
        [[vips]]
        address = \"10.0.0.9\"
        port = 80
        service = \"web\"
    ";
    let config = load_text(text).unwrap_or_else(|faults| panic!("{faults}"));
    for setting in &config.settings {
        let path = setting.path.to_string().replace("[0]", "[]");
        let property = property(&path);
        let formed = ["type", "enum", "anyOf"]
            .iter()
            .any(|key| property.get(key).is_some());
        assert!(formed, "{path}: {property}");
        let description = property["description"].as_str().unwrap_or_default();
        let (meaning, _) = description.split_once("\n\nExpected: ").unwrap_or_default();
        assert!(
            !meaning.is_empty() && meaning != "as in `defaults`",
            "{path}: {property}"
        );
        assert!(property["examples"].is_array(), "{path}: {property}");
    }
}

#[test]
fn bounds_defaults_and_examples_are_those_of_the_reader() {
    let fall = property("defaults.health_check.fall");
    assert_eq!(fall["type"], "integer");
    assert_eq!(
        (&fall["minimum"], &fall["maximum"]),
        (&json!(1), &json!(1000))
    );
    assert_eq!(fall["default"], 3);
    assert_eq!(
        property("services.web.health_check.fall").get("default"),
        None
    );
    let algorithm = property("services.web.algorithm");
    assert_eq!(algorithm["enum"].as_array().unwrap().len(), 7);
    let listen = property("gateway.listen");
    assert_eq!(listen["default"], json!(["0.0.0.0:8000"]));
    assert_eq!(property("gateway.workers").get("default"), None);
    assert_eq!(property("routes[]")["required"], json!(["path", "service"]));
}

#[test]
fn examples_in_the_schema_fit_it() {
    fn walk(value: &Value, path: &str, count: &mut usize) {
        let Value::Object(object) = value else {
            return;
        };
        if let Some(Value::Array(examples)) = object.get("examples") {
            let own = jsonschema::draft202012::new(value).unwrap();
            for example in examples.iter().chain(object.get("default")) {
                assert!(own.is_valid(example), "{path}: {example}");
                *count += 1;
            }
        }
        for (key, below) in object {
            walk(below, &format!("{path}.{key}"), count);
        }
    }
    let mut count = 0;
    walk(&SCHEMA, "", &mut count);
    assert!(count > 300, "{count} examples and defaults");
}

#[test]
fn what_no_reader_would_take_is_refused() {
    for text in [
        "gatway = {}",
        "gateway.workers = 0",
        "gateway.workers = \"4\"",
        "gateway.drain_timeout = 30",
        "gateway.drain_timeout = \"30\"",
        "gateway = 3",
        "log.format = \"yaml\"",
        "services.Web.instances = []",
        "services.web = {}",
        "services.web.instances = [{ weight = 3 }]",
        "services.web.instances = [{ endpoint = \"10.0.0.1:80\", wieght = 3 }]",
        "services.web.instances = [3]",
        "routes = [{ path = \"/\" }]",
        "defaults.retry.statuses = [200]",
        "defaults.discovery.dns = \"web:80\"",
    ] {
        assert_ne!(refusals(text).unwrap(), [""; 0], "{text}");
    }
}
