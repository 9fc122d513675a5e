//! The documentation and the code say the same.

use std::collections::BTreeSet;

use clap::Args as _;

use super::*;

const DOCS: &str = include_str!("../../../../docs/configuration.md");

/// The smallest configuration that has one of everything. All keys are written in full.
const BASE: [(&str, &str); 7] = [
    ("services.web.instances", "[\"10.0.0.1:80\"]"),
    (
        "routes",
        "[{ path = \"/*\", service = \"web\", rate_limit.requests = 9 }]",
    ),
    (
        "vips",
        "[{ address = \"10.0.0.9\", port = 80, service = \"web\" }]",
    ),
    ("datapath.interfaces", "[\"eth0\"]"),
    (
        "api.tokens",
        "[{ name = \"one\", role = \"read\", token = \"secret\" }]",
    ),
    ("gateway.rate_limit.requests", "9"),
    ("services.web.rate_limit.requests", "9"),
];

/// A row of a table of settings.
#[derive(Debug)]
struct Row {
    key: &'static str,
    default: &'static str,
    example: &'static str,
}

fn rows() -> Vec<Row> {
    let cell = |text: &'static str| text.trim().trim_matches('`');
    let cells = DOCS.lines().map(|line| line.split('|').collect::<Vec<_>>());
    cells
        .filter(|cells| cells.len() == 6 && cells[1].contains('`'))
        .map(|cells| Row {
            key: cell(cells[1]),
            default: cells[3].trim(),
            example: cell(cells[4]),
        })
        .collect()
}

fn toml(pairs: &[(&str, String)]) -> String {
    pairs
        .iter()
        .map(|(key, value)| format!("{key} = {value}\n"))
        .collect()
}

fn base() -> Vec<(&'static str, String)> {
    BASE.map(|(key, value)| (key, value.to_owned())).to_vec()
}

/// A setting's path as the documentation writes it.
fn generic(path: &KeyPath) -> String {
    let path = path.to_string().replace("services.web", "services.NAME");
    path.replace("[0]", "[]")
}

#[test]
fn every_setting_is_documented_and_every_documented_setting_exists() {
    let config = load_text(&toml(&base())).unwrap();
    let mut known: BTreeSet<String> = config.settings.iter().map(|s| generic(&s.path)).collect();
    // Lists of tables are documented as a whole too.
    known.insert("services.NAME.instances".to_owned());
    // These need files.
    known.extend(["name", "role"].map(|key| format!("api.tls.clients[].{key}")));
    let documented: BTreeSet<String> = rows().iter().map(|row| row.key.to_owned()).collect();
    assert_eq!(
        rows().len(),
        documented.len(),
        "a setting is documented twice"
    );
    assert_eq!(documented, known);
}

#[test]
fn documented_defaults_hold() {
    let base: Vec<_> = base()
        .into_iter()
        .filter(|(key, _)| *key != "vips")
        .collect();
    let base: Vec<_> = base
        .into_iter()
        .filter(|(key, _)| *key != "datapath.interfaces")
        .collect();
    let vip = load_text(&toml(&self::base())).unwrap();
    let config = load_text(&toml(&base)).unwrap();
    let settings = config.settings.iter().chain(&vip.settings);
    let mut compared = 0;
    for row in rows() {
        let setting = settings
            .clone()
            .find(|setting| generic(&setting.path) == row.key);
        match row.default {
            "required" => {
                assert!(
                    setting.is_none_or(|s| s.origin != Origin::Default),
                    "{}",
                    row.key
                );
            }
            "as in `defaults`" => assert!(row.key.starts_with("services.NAME.")),
            "one per CPU" => assert_eq!(row.key, "gateway.workers"),
            default => {
                let setting = setting.unwrap_or_else(|| panic!("no setting {}", row.key));
                assert_eq!(setting.origin, Origin::Default, "{}", row.key);
                assert_eq!(default.trim_matches('`'), setting.value, "{}", row.key);
                compared += 1;
            }
        }
    }
    assert!(compared > 40, "{compared} defaults compared");
}

#[test]
fn documented_examples_are_accepted() {
    for row in rows() {
        // The files are not there.
        if row.key.ends_with("_file") || row.key.starts_with("api.tls.") {
            continue;
        }
        let mut pairs = base();
        let (list, key) = row.key.rsplit_once("[].").unwrap_or(("", row.key));
        let key = key.replace("NAME", "web");
        let table = |fields: &[(&str, &str)]| {
            let others = fields.iter().filter(|(field, _)| *field != key);
            let others: String = others
                .map(|(field, value)| format!(", {field} = {value}"))
                .collect();
            format!("[{{ {key} = {}{others} }}]", row.example)
        };
        let service = ("service", "\"web\"");
        let (list, value) = match list {
            "routes" => {
                let rate = ("rate_limit.requests", "9");
                ("routes", table(&[("path", "\"/*\""), service, rate]))
            }
            "vips" => {
                let address = ("address", "\"10.0.0.9\"");
                ("vips", table(&[address, ("port", "80"), service]))
            }
            "api.tokens" => {
                let mut others = vec![("name", "\"one\""), ("role", "\"read\"")];
                // One form of the token, and no second one.
                others.extend((key != "token_sha256").then_some(("token", "\"secret\"")));
                ("api.tokens", table(&others))
            }
            "services.NAME.instances" => {
                let endpoint = ("endpoint", "\"10.0.0.1:80\"");
                ("services.web.instances", table(&[endpoint]))
            }
            _ => (key.as_str(), row.example.to_owned()),
        };
        if key == "services.web.fallback" {
            pairs.push(("services.sorry.instances", "[\"10.0.0.2:80\"]".to_owned()));
        }
        pairs.retain(|(key, _)| *key != list);
        pairs.push((list, value));
        let text = toml(&pairs);
        assert_eq!(faults(load_text(&text)), [""; 0], "{text}");
    }
}

#[test]
fn every_variable_and_every_flag_is_documented() {
    for (name, path, _) in super::super::environment::VARIABLES {
        let row = format!("| `{name}` | `{}`", path.join("."));
        assert!(DOCS.contains(&row), "{row}");
    }
    let command = Overrides::augment_args(clap::Command::new("lb"));
    let mut count = 0;
    for long in command.get_arguments().filter_map(clap::Arg::get_long) {
        assert!(DOCS.contains(&format!("| `--{long}` |")), "{long}");
        count += 1;
    }
    assert_eq!(DOCS.matches("| `--").count(), count);
}
