//! The queue before a service whose instances are full.

use std::time::Duration;

use super::{
    forms::{Number, Period},
    origin::Sourced,
    reader::Section,
    values::FIELD,
};
use crate::model::{Priority, QueueSpec};

/// Requests that may wait; 0 is none.
const SIZE: Number<u32> = Number {
    min: 0,
    max: 1_000_000,
    example: 1000,
};

const TIMEOUT: Period = Period {
    min: Duration::from_millis(1),
    max: Duration::from_secs(3600),
    example: "500ms",
};

const PRIORITY: Number<u8> = Number {
    min: 0,
    max: 7,
    example: 1,
};

/// The settings of a queue, each with its source.
#[derive(Clone, Debug)]
pub(super) struct QueueSettings {
    size: Sourced<u32>,
    timeout: Sourced<Duration>,
    target: Sourced<Duration>,
    interval: Sourced<Duration>,
    priority_header: Sourced<Option<String>>,
}

impl QueueSettings {
    /// What holds when nobody says anything: no queue. Where there is one, a wait of 20 ms is
    /// acceptable (DAGOR's measure of overload), looked at by CoDel's interval of 100 ms.
    pub(super) fn unset() -> Self {
        Self {
            size: Sourced::unset(0),
            timeout: Sourced::unset(Duration::from_secs(1)),
            target: Sourced::unset(Duration::from_millis(20)),
            interval: Sourced::unset(Duration::from_millis(100)),
            priority_header: Sourced::unset(None),
        }
    }

    /// Reads a table; `self` holds for what it does not say.
    pub(super) fn read(&self, t: &mut Section<'_, '_>) -> Self {
        Self {
            size: t.value("size", &SIZE, &self.size),
            timeout: t.value("timeout", &TIMEOUT, &self.timeout),
            target: t.value("target", &TIMEOUT, &self.target),
            interval: t.value("interval", &TIMEOUT, &self.interval),
            priority_header: t.optional("priority_header", &FIELD, &self.priority_header, "none"),
        }
    }

    /// The queue, or `None` when nobody may wait.
    pub(super) fn build(&self) -> Option<QueueSpec> {
        (self.size.value > 0).then(|| QueueSpec {
            size: self.size.value,
            timeout: self.timeout.value,
            target: self.target.value,
            interval: self.interval.value,
            priority_header: self.priority_header.value.clone(),
        })
    }
}

/// How urgent the requests of a route are.
pub(super) fn read_priority(t: &mut Section<'_, '_>) -> Priority {
    let unset = Sourced::unset(Priority::DEFAULT.number());
    let number = t.value("priority", &PRIORITY, &unset);
    Priority::new(number.value).unwrap_or_default()
}
