//! Whatever the input is, loading ends with a configuration that the registry takes, or with
//! faults.

use proptest::prelude::*;

use super::*;
use crate::registry::{Change, Registry};

fn holds(text: &str, env: &[(&str, &str)]) -> Result<(), TestCaseError> {
    match load_all(text, env, &Overrides::default()) {
        Err(faults) => {
            prop_assert!(!faults.list().is_empty());
            for fault in faults.list() {
                prop_assert!(!fault.expected.is_empty());
                prop_assert!(fault.to_string().chars().count() < 2000, "{fault}");
            }
        }
        Ok(config) => {
            let registry = Registry::new(1, []);
            let applied = registry.apply(Change::Configure(Box::new(config.desired.clone())));
            prop_assert!(applied.is_ok(), "{applied:?} for {text}");
            let _ = (config.summary().to_string(), config.effective().to_string());
        }
    }
    Ok(())
}

/// Every example, as a start for mutations.
const EXAMPLES: [&str; 3] = [
    include_str!("../../../../examples/lb.toml"),
    include_str!("../../../../examples/openpenpal.toml"),
    include_str!("../../../../examples/l4.toml"),
];

/// Values of every kind, right and wrong.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("true".to_owned()),
        Just("1979-05-27T07:32:00Z".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("nan".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        (0..100_000_u32).prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| format!("{number:e}")),
        "[0-9]{1,3}(ms|s|m|h)".prop_map(|text| format!("{text:?}")),
        "[0-9]{1,5}-[0-9]{1,5}".prop_map(|text| format!("{text:?}")),
        "(/[a-z*]{0,3}){0,3}".prop_map(|text| format!("{text:?}")),
        "(10.0.0.[0-9]|\\[fd00::[0-9]\\]|localhost)(:[0-9]{1,5})?".prop_map(|t| format!("{t:?}")),
        "(tcp|udp|http|nat|l2dsr|off|auto|adaptive|round_robin|source|web|api)"
            .prop_map(|text| format!("{text:?}")),
        "\\PC{0,20}".prop_map(|text| format!("{text:?}")),
    ]
}

/// Lines `key = value` below random headers, all keys known.
fn document() -> impl Strategy<Value = String> {
    let header = prop::sample::select(vec![
        "[gateway]",
        "[api]",
        "[log]",
        "[datapath]",
        "[defaults]",
        "[services.web]",
        "[services.api]",
        "[services.web.health_check]",
        "[services.api.timeouts]",
        "[[routes]]",
        "[[routes]]",
        "[[vips]]",
        "[[vips]]",
        "[services]",
    ]);
    let key = prop::sample::select(vec![
        "listen",
        "workers",
        "on_gateway",
        "token",
        "level",
        "format",
        "mode",
        "interfaces",
        "nat_sources",
        "nat_ports",
        "max_tables",
        "algorithm",
        "hash_key",
        "hash_bound",
        "forwarding",
        "instances",
        "enabled",
        "type",
        "path",
        "status",
        "host",
        "interval",
        "timeout",
        "rise",
        "port",
        "connect",
        "service",
        "address",
        "protocol",
        "pin_path",
        "max_connections",
        "max_affinity_clients",
    ]);
    let line = (key, value()).prop_map(|(key, value)| format!("{key} = {value}\n"));
    let lines = prop::collection::vec(line, 0..5).prop_map(|lines| lines.concat());
    let section = (header, lines).prop_map(|(header, lines)| format!("{header}\n{lines}"));
    prop::collection::vec(section, 0..8).prop_map(|sections| sections.concat())
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        holds(&String::from_utf8_lossy(&bytes), &[])?;
    }

    #[test]
    fn any_values(text in document()) {
        holds(&text, &[])?;
    }

    #[test]
    fn mutated_examples(
        which in 0..EXAMPLES.len(),
        at in any::<prop::sample::Index>(),
        cut in 0_usize..12,
        with in prop_oneof![value(), "[\\[\\]{}=\"',.#\n ]{0,3}", "\\PC{0,4}"],
    ) {
        let characters: Vec<char> = EXAMPLES[which].chars().collect();
        let at = at.index(characters.len());
        let end = (at + cut).min(characters.len());
        let mut text: String = characters[..at].iter().collect();
        text += &with;
        text.extend(&characters[end..]);
        holds(&text, &[])?;
    }

    #[test]
    fn any_variables(
        values in prop::collection::vec("\\PC{0,30}|http://10.0.0.1:[0-9]{1,5}(,http://\\[::1\\])?", 6),
    ) {
        let names = [
            "PORT", "MAIN_BACKEND_HOSTS", "OTHER_HOSTS", "MAIN_BACKEND_WEIGHT", "LOG_LEVEL",
            "LB_HEALTH_CHECK_ENABLED",
        ];
        let env: Vec<_> = names.into_iter().zip(values.iter().map(String::as_str)).collect();
        holds("", &env)?;
    }
}
