//! Limits of the rate of requests: of the gateway, a service or a route.

use std::time::Duration;

use super::{
    forms::{Number, Period},
    origin::Sourced,
    reader::Section,
    values::RATE_KEY,
};
use crate::model::{RateKey, RateLimitSpec};

const REQUESTS: Number<u32> = Number {
    min: 1,
    max: 1_000_000,
    example: 100,
};

const PER: Period = Period {
    min: Duration::from_millis(1),
    max: Duration::from_secs(24 * 3600),
    example: "1s",
};

const KEYS: Number<u32> = Number {
    min: 1024,
    max: 10_000_000,
    example: 100_000,
};

/// Clients, or other keys, that are told apart when nobody says anything.
const DEFAULT_KEYS: u32 = 100_000;

/// Reads `rate_limit`: one table or a list of them.
pub(super) fn read(t: &mut Section<'_, '_>) -> Vec<RateLimitSpec> {
    let mut seen: Vec<RateLimitSpec> = Vec::new();
    t.one_or_more("rate_limit", |t| {
        let requests = t.required("requests", &REQUESTS);
        let per = t.value("per", &PER, &Sourced::unset(Duration::from_secs(1)));
        let none = Sourced::unset(None);
        let burst = t.optional("burst", &REQUESTS, &none, "as requests");
        let key = t.value("key", &RATE_KEY, &Sourced::unset(RateKey::All));
        let max_keys = t.value("max_keys", &KEYS, &Sourced::unset(DEFAULT_KEYS));
        let requests = requests?;
        let spec = RateLimitSpec {
            requests: requests.value,
            per: per.value,
            burst: burst.value.unwrap_or(requests.value),
            key: key.value,
            max_keys: max_keys.value,
        };
        // They would be told apart nowhere.
        let same = |other: &RateLimitSpec| {
            (other.requests, other.per, &other.key) == (spec.requests, spec.per, &spec.key)
        };
        if seen.iter().any(same) {
            let found = "the same one twice";
            t.reader().contradiction(
                &requests,
                found,
                "limits that differ in requests, per or key",
            );
        } else {
            seen.push(spec);
        }
        Some(())
    });
    seen
}
