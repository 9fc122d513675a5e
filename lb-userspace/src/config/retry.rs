//! Retries of a service's requests, or of those of services without settings of their own.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{
    forms::{Form, Number, Period, Refused, Switch, between},
    origin::Sourced,
    reader::Section,
    tree::{Node, Value},
};
use crate::model::{MethodSet, RetrySpec};

const MAX: Number<u8> = Number {
    min: 0,
    max: RetrySpec::MOST,
    example: 2,
};

const WAIT: Period = Period {
    min: Duration::from_millis(1),
    max: Duration::from_secs(3600),
    example: "100ms",
};

const FLOOR: Number<u32> = Number {
    min: 0,
    max: 1_000_000,
    example: 30,
};

const BODY: Number<usize> = Number {
    min: 0,
    max: 16 * 1024 * 1024,
    example: 64 * 1024,
};

/// The settings of retries, each with its source.
#[derive(Clone, Debug)]
pub(super) struct RetrySettings {
    max: Sourced<u8>,
    backoff: Sourced<Duration>,
    factor: Sourced<u16>,
    max_backoff: Sourced<Duration>,
    at_once: Sourced<bool>,
    methods: Sourced<MethodSet>,
    statuses: Sourced<Vec<u16>>,
    budget: Sourced<u8>,
    floor: Sourced<u32>,
    body_limit: Sourced<usize>,
    same_instance: Sourced<bool>,
    max_retry_after: Sourced<Duration>,
}

impl RetrySettings {
    /// What holds when nobody says anything.
    pub(super) fn unset() -> Self {
        let model = RetrySpec::default();
        Self {
            max: Sourced::unset(model.max),
            backoff: Sourced::unset(model.backoff),
            factor: Sourced::unset(model.factor),
            max_backoff: Sourced::unset(model.max_backoff),
            at_once: Sourced::unset(model.at_once),
            methods: Sourced::unset(model.methods),
            statuses: Sourced::unset(model.statuses),
            budget: Sourced::unset(model.budget),
            floor: Sourced::unset(model.floor),
            body_limit: Sourced::unset(model.body_limit),
            same_instance: Sourced::unset(model.same_instance),
            max_retry_after: Sourced::unset(model.max_retry_after),
        }
    }

    /// Reads a table; `self` holds for what it does not say.
    pub(super) fn read(&self, t: &mut Section<'_, '_>) -> Self {
        Self {
            max: t.value("max", &MAX, &self.max),
            backoff: t.value("backoff", &WAIT, &self.backoff),
            factor: t.value("factor", &Factor, &self.factor),
            max_backoff: t.value("max_backoff", &WAIT, &self.max_backoff),
            at_once: t.value("at_once", &Switch, &self.at_once),
            methods: t.value("methods", &Methods, &self.methods),
            statuses: t.value("statuses", &Statuses, &self.statuses),
            budget: t.value("budget", &Part, &self.budget),
            floor: t.value("floor", &FLOOR, &self.floor),
            body_limit: t.value("body_limit", &BODY, &self.body_limit),
            same_instance: t.value("same_instance", &Switch, &self.same_instance),
            max_retry_after: t.value("max_retry_after", &WAIT, &self.max_retry_after),
        }
    }

    /// The retries.
    pub(super) fn build(&self) -> RetrySpec {
        RetrySpec {
            max: self.max.value,
            backoff: self.backoff.value,
            factor: self.factor.value,
            max_backoff: self.max_backoff.value,
            at_once: self.at_once.value,
            methods: self.methods.value,
            statuses: self.statuses.value.clone(),
            budget: self.budget.value,
            floor: self.floor.value,
            body_limit: self.body_limit.value,
            same_instance: self.same_instance.value,
            max_retry_after: self.max_retry_after.value,
        }
    }
}

/// A factor of 1 or more, held in hundredths.
struct Factor;

impl Form for Factor {
    type Value = u16;

    fn expected(&self) -> String {
        "a number from 1 to 10 in hundredths".to_owned()
    }

    fn example(&self) -> String {
        "2.0".to_owned()
    }

    fn parse(&self, node: &Node) -> Result<u16, Refused> {
        let hundredths = node.as_number().ok_or_else(Refused::default)? * 100.0;
        let whole = hundredths.round();
        if (hundredths - whole).abs() < 1e-6 && (100.0..=1000.0).contains(&whole) {
            Ok(whole as u16)
        } else {
            Err(Refused::default())
        }
    }

    fn show(&self, value: &u16) -> String {
        (f64::from(*value) / 100.0).to_string()
    }

    fn schema(&self) -> Json {
        between(1.0, 10.0)
    }
}

/// A part of a whole, held in percent; none at all, too.
struct Part;

impl Form for Part {
    type Value = u8;

    fn expected(&self) -> String {
        "a fraction from 0 to 1 in hundredths".to_owned()
    }

    fn example(&self) -> String {
        "0.2".to_owned()
    }

    fn parse(&self, node: &Node) -> Result<u8, Refused> {
        let percent = node.as_number().ok_or_else(Refused::default)? * 100.0;
        let whole = percent.round();
        if (percent - whole).abs() < 1e-6 && (0.0..=100.0).contains(&whole) {
            Ok(whole as u8)
        } else {
            Err(Refused::default())
        }
    }

    fn show(&self, value: &u8) -> String {
        (f64::from(*value) / 100.0).to_string()
    }

    fn schema(&self) -> Json {
        between(0.0, 1.0)
    }
}

/// The items of a list, or the one value that stands for it.
fn items(node: &Node) -> &[Node] {
    match &node.value {
        Value::List(items) => items,
        _ => std::slice::from_ref(node),
    }
}

/// A list of HTTP methods.
struct Methods;

impl Form for Methods {
    type Value = MethodSet;

    fn expected(&self) -> String {
        format!("a list of {}", MethodSet::NAMES.join(", "))
    }

    fn example(&self) -> String {
        r#"["GET", "HEAD"]"#.to_owned()
    }

    fn parse(&self, node: &Node) -> Result<MethodSet, Refused> {
        let mut set = MethodSet::NONE;
        for item in items(node) {
            let name = item.as_text().ok_or_else(Refused::default)?.trim();
            if !MethodSet::NAMES.contains(&name) {
                return Err(Refused::because(format!("{name:?} is none of them")));
            }
            set = set.with(name);
        }
        Ok(set)
    }

    fn show(&self, value: &MethodSet) -> String {
        let names: Vec<_> = value.names().map(|name| format!("{name:?}")).collect();
        format!("[{}]", names.join(", "))
    }

    fn schema(&self) -> Json {
        list_of(&json!({"enum": MethodSet::NAMES}))
    }
}

/// A list of statuses that tell of a failure.
struct Statuses;

impl Form for Statuses {
    type Value = Vec<u16>;

    fn expected(&self) -> String {
        "a list of statuses from 400 to 599".to_owned()
    }

    fn example(&self) -> String {
        "[502, 503, 504]".to_owned()
    }

    fn parse(&self, node: &Node) -> Result<Vec<u16>, Refused> {
        let mut statuses = Vec::new();
        for item in items(node) {
            let status = item
                .as_integer()
                .and_then(|status| u16::try_from(status).ok());
            let status = status.filter(|status| (400..=599).contains(status));
            statuses.push(status.ok_or_else(Refused::default)?);
        }
        statuses.sort_unstable();
        statuses.dedup();
        Ok(statuses)
    }

    fn show(&self, value: &Vec<u16>) -> String {
        let statuses: Vec<_> = value.iter().map(u16::to_string).collect();
        format!("[{}]", statuses.join(", "))
    }

    fn schema(&self) -> Json {
        list_of(&json!({"type": "integer", "minimum": 400, "maximum": 599}))
    }
}

/// A list of `item`, or the one that stands for it.
fn list_of(item: &Json) -> Json {
    json!({"anyOf": [item, {"type": "array", "items": item}]})
}
