//! Forms of values: what is accepted, how it is said, how it is shown.

use std::{fmt::Display, time::Duration};

use serde_json::{Value as Json, json};

use super::{
    document::HIDDEN,
    tree::{Node, Value},
};

/// The form of a setting.
pub(super) trait Form {
    type Value: Clone;

    /// What completes "expected …".
    fn expected(&self) -> String;

    /// A value that would do, as in the file.
    fn example(&self) -> String;

    /// The value of a node.
    fn parse(&self, node: &Node) -> Result<Self::Value, Refused>;

    /// A value as it would be written in the file.
    fn show(&self, value: &Self::Value) -> String;

    /// What a JSON Schema can say of the values in the file. It may allow more than
    /// [`Form::parse`], never less.
    fn schema(&self) -> Json;

    /// A node that was refused, for a message.
    fn show_found(&self, node: &Node) -> String {
        node.show()
    }

    /// Whether nobody may see the value.
    fn is_secret(&self) -> bool {
        false
    }
}

/// A refusal, and what is worth saying beyond what was expected.
#[derive(Debug, Default)]
pub(super) struct Refused(pub(super) Option<String>);

impl Refused {
    pub(super) fn because(note: impl Into<String>) -> Self {
        Self(Some(note.into()))
    }
}

/// A whole number in a range.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number<T> {
    pub(super) min: T,
    pub(super) max: T,
    pub(super) example: T,
}

impl<T> Form for Number<T>
where
    T: Copy + Display + PartialOrd + TryFrom<i64>,
{
    type Value = T;

    fn expected(&self) -> String {
        format!("a number from {} to {}", self.min, self.max)
    }

    fn example(&self) -> String {
        self.example.to_string()
    }

    fn parse(&self, node: &Node) -> Result<T, Refused> {
        node.as_integer()
            .and_then(|number| T::try_from(number).ok())
            .filter(|number| (self.min..=self.max).contains(number))
            .ok_or_else(Refused::default)
    }

    fn show(&self, value: &T) -> String {
        value.to_string()
    }

    fn schema(&self) -> Json {
        let number = |value: T| value.to_string().parse::<serde_json::Number>().ok();
        json!({"type": "integer", "minimum": number(self.min), "maximum": number(self.max)})
    }
}

/// A part of a whole, held in percent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fraction {
    pub(super) example: &'static str,
}

impl Form for Fraction {
    type Value = u8;

    fn expected(&self) -> String {
        "a fraction from 0.01 to 1 in hundredths".to_owned()
    }

    fn example(&self) -> String {
        self.example.to_owned()
    }

    fn parse(&self, node: &Node) -> Result<u8, Refused> {
        let fraction = node.as_number().ok_or_else(Refused::default)?;
        let percent = (fraction * 100.0).round();
        let exact = (fraction * 100.0 - percent).abs() < 1e-6;
        if exact && (1.0..=100.0).contains(&percent) {
            Ok(percent as u8)
        } else {
            Err(Refused::default())
        }
    }

    fn show(&self, value: &u8) -> String {
        (f64::from(*value) / 100.0).to_string()
    }

    fn schema(&self) -> Json {
        between(0.01, 1.0)
    }
}

/// Numbers of any kind in a range.
pub(super) fn between(min: f64, max: f64) -> Json {
    json!({"type": "number", "minimum": min, "maximum": max})
}

/// A length of time in a range.
#[derive(Clone, Copy, Debug)]
pub(super) struct Period {
    pub(super) min: Duration,
    pub(super) max: Duration,
    pub(super) example: &'static str,
}

impl Form for Period {
    type Value = Duration;

    fn expected(&self) -> String {
        let (min, max) = (show_duration(self.min), show_duration(self.max));
        format!("a duration from {min} to {max}")
    }

    fn example(&self) -> String {
        format!("{:?}", self.example)
    }

    fn parse(&self, node: &Node) -> Result<Duration, Refused> {
        let Some(text) = node.as_text() else {
            return Err(match node.value {
                Value::Integer(_) | Value::Other(_) => Refused::because("the unit is missing"),
                _ => Refused::default(),
            });
        };
        match humantime::parse_duration(text) {
            Ok(duration) if (self.min..=self.max).contains(&duration) => Ok(duration),
            Ok(_) => Err(Refused::default()),
            Err(_) if text.trim().parse::<f64>().is_ok() => {
                Err(Refused::because("the unit is missing"))
            }
            Err(error) => Err(Refused::because(error.to_string())),
        }
    }

    fn show(&self, value: &Duration) -> String {
        format!("{:?}", show_duration(*value))
    }

    fn schema(&self) -> Json {
        json!({"type": "string", "pattern": DURATION})
    }
}

/// What a duration looks like: numbers with units.
const DURATION: &str = "^\\s*([0-9]+(\\.[0-9]+)?\\s*[a-zA-Zµμ]+\\s*)+$";

/// `1m30s`.
pub(super) fn show_duration(duration: Duration) -> String {
    let text = humantime::format_duration(duration).to_string();
    text.replace(' ', "")
}

/// A share from 0 to 1, in millionths.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share;

impl Form for Share {
    type Value = u32;

    fn expected(&self) -> String {
        "a share from 0 to 1".to_owned()
    }

    fn example(&self) -> String {
        "0.1".to_owned()
    }

    fn parse(&self, node: &Node) -> Result<u32, Refused> {
        let share = match &node.value {
            Value::Integer(number) => Some(*number as f64),
            Value::Other(text) => text.parse().ok(),
            Value::Text(text) if node.origin.is_untyped() => text.trim().parse().ok(),
            _ => None,
        };
        share
            .filter(|share: &f64| (0.0..=1.0).contains(share))
            .map(|share| (share * 1e6).round() as u32)
            .ok_or_else(Refused::default)
    }

    fn show(&self, value: &u32) -> String {
        (f64::from(*value) / 1e6).to_string()
    }

    fn schema(&self) -> Json {
        between(0.0, 1.0)
    }
}

/// A number in a range, held in hundredths like its bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decimal {
    pub(super) min: u32,
    pub(super) max: u32,
    pub(super) example: &'static str,
}

impl Form for Decimal {
    type Value = u32;

    fn expected(&self) -> String {
        let (min, max) = (self.show(&self.min), self.show(&self.max));
        format!("a number from {min} to {max} in hundredths")
    }

    fn example(&self) -> String {
        self.example.to_owned()
    }

    fn parse(&self, node: &Node) -> Result<u32, Refused> {
        let number = node.as_number().ok_or_else(Refused::default)?;
        let hundredths = (number * 100.0).round();
        let exact = (number * 100.0 - hundredths).abs() < 1e-6;
        if exact && (f64::from(self.min)..=f64::from(self.max)).contains(&hundredths) {
            Ok(hundredths as u32)
        } else {
            Err(Refused::default())
        }
    }

    fn show(&self, value: &u32) -> String {
        (f64::from(*value) / 100.0).to_string()
    }

    fn schema(&self) -> Json {
        between(f64::from(self.min) / 100.0, f64::from(self.max) / 100.0)
    }
}

/// A length of time in whole seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct WholeSeconds {
    pub(super) min: u64,
    pub(super) max: u64,
    pub(super) example: &'static str,
}

impl WholeSeconds {
    const fn period(self) -> Period {
        Period {
            min: Duration::from_secs(self.min),
            max: Duration::from_secs(self.max),
            example: self.example,
        }
    }
}

impl Form for WholeSeconds {
    type Value = Duration;

    fn expected(&self) -> String {
        self.period().expected() + " in whole seconds"
    }

    fn example(&self) -> String {
        self.period().example()
    }

    fn parse(&self, node: &Node) -> Result<Duration, Refused> {
        let duration = self.period().parse(node)?;
        match duration.subsec_nanos() {
            0 => Ok(duration),
            _ => Err(Refused::default()),
        }
    }

    fn show(&self, value: &Duration) -> String {
        self.period().show(value)
    }

    fn schema(&self) -> Json {
        self.period().schema()
    }
}

/// `true` or `false`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Switch;

impl Form for Switch {
    type Value = bool;

    fn expected(&self) -> String {
        "true or false".to_owned()
    }

    fn example(&self) -> String {
        "true".to_owned()
    }

    fn parse(&self, node: &Node) -> Result<bool, Refused> {
        node.as_boolean().ok_or_else(Refused::default)
    }

    fn show(&self, value: &bool) -> String {
        value.to_string()
    }

    fn schema(&self) -> Json {
        json!({"type": "boolean"})
    }
}

/// One of a few names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice<T: 'static> {
    pub(super) choices: &'static [T],
    pub(super) name: fn(T) -> &'static str,
}

impl<T: Copy + PartialEq> Form for Choice<T> {
    type Value = T;

    fn expected(&self) -> String {
        let names: Vec<_> = self.names().map(|name| format!("{name:?}")).collect();
        match names.as_slice() {
            [most @ .., last] if !most.is_empty() => format!("{} or {last}", most.join(", ")),
            _ => names.concat(),
        }
    }

    fn example(&self) -> String {
        self.names()
            .next()
            .map_or_else(String::new, |n| format!("{n:?}"))
    }

    fn parse(&self, node: &Node) -> Result<T, Refused> {
        let Some(text) = node.as_text() else {
            return Err(Refused::default());
        };
        let text = text.trim();
        if let Some(choice) = self
            .choices
            .iter()
            .find(|choice| (self.name)(**choice) == text)
        {
            return Ok(*choice);
        }
        let names: Vec<_> = self.names().collect();
        let closest = super::reader::closest(text, &names);
        Err(Refused(
            closest.map(|name| format!("did you mean {name:?}?")),
        ))
    }

    fn show(&self, value: &T) -> String {
        format!("{:?}", (self.name)(*value))
    }

    fn schema(&self) -> Json {
        json!({"type": "string", "enum": self.names().collect::<Vec<_>>()})
    }
}

impl<T: Copy> Choice<T> {
    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.choices.iter().map(|choice| (self.name)(*choice))
    }
}

/// A text with a grammar of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pattern<T> {
    /// What completes "expected …".
    pub(super) expected: &'static str,
    /// A text that would do.
    pub(super) example: &'static str,
    /// Whether a bare number does as well.
    pub(super) numbers: bool,
    /// Whether messages and lists must not show it.
    pub(super) secret: bool,
    /// The value of a text, or what is wrong with it beyond not being what was expected.
    pub(super) parse: fn(&str) -> Result<T, Refused>,
    /// The text of a value.
    pub(super) show: fn(&T) -> String,
}

impl<T: Clone> Form for Pattern<T> {
    type Value = T;

    fn expected(&self) -> String {
        self.expected.to_owned()
    }

    fn example(&self) -> String {
        format!("{:?}", self.example)
    }

    fn parse(&self, node: &Node) -> Result<T, Refused> {
        match &node.value {
            Value::Text(text) => (self.parse)(text),
            Value::Integer(number) if self.numbers => (self.parse)(&number.to_string()),
            _ => Err(Refused::default()),
        }
    }

    fn show(&self, value: &T) -> String {
        if self.secret {
            HIDDEN.to_owned()
        } else {
            format!("{:?}", (self.show)(value))
        }
    }

    fn schema(&self) -> Json {
        if self.numbers {
            json!({"type": ["string", "integer"]})
        } else {
            json!({"type": "string"})
        }
    }

    fn show_found(&self, node: &Node) -> String {
        if self.secret {
            "another value".to_owned()
        } else {
            node.show()
        }
    }

    fn is_secret(&self) -> bool {
        self.secret
    }
}
