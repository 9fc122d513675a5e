//! How many requests a caller may make, and how often somebody may guess.
//!
//! Each caller has a budget of its own; those that nobody knows have one by their address. Tokens
//! that nobody has take from a second budget, which goes by address alone and is much smaller: while
//! it is used up, no token from there is even looked at, so that guessing is no faster than the
//! budget allows however many connections it takes. Those who are let in for being near guess
//! nothing.

use std::{hash::Hash, net::IpAddr, time::Duration};

use axum::http::{HeaderMap, HeaderValue};

use super::{Caller, Peer};
use crate::{
    api::ApiError,
    model::{ApiRates, RateKey, RateLimitSpec, RateScope, Timestamp},
    resilience::RateLimiter,
};

/// Callers, and addresses, that are told apart at one time: 64 KB for all of them.
const KEYS: u32 = 1024;

/// The time that failures are counted in.
const FAILURES_PER: Duration = Duration::from_secs(60);

/// The budgets of all callers.
#[derive(Debug)]
pub(super) struct Budgets {
    rates: ApiRates,
    requests: RateLimiter,
    failures: RateLimiter,
}

/// What a budget is found by.
#[derive(Hash)]
enum Key<'a> {
    Caller(super::Means, &'a str),
    V4(u32),
    /// A subscriber has 2^64 addresses.
    V6(u64),
    User(u32),
    Unknown,
}

impl Budgets {
    pub(super) fn new(rates: ApiRates) -> Self {
        let limiter = |requests, per, burst, name: &str| {
            let spec = RateLimitSpec {
                requests,
                per,
                burst,
                key: RateKey::Client,
                max_keys: KEYS,
            };
            RateLimiter::new(spec, RateScope::Api, name.to_owned())
        };
        let second = Duration::from_secs(1);
        Self {
            rates,
            requests: limiter(rates.requests, second, rates.burst, "requests"),
            failures: limiter(rates.failures, FAILURES_PER, rates.failures, "failures"),
        }
    }

    pub(super) const fn rates(&self) -> ApiRates {
        self.rates
    }

    /// Takes a request from the budget of whoever asks.
    pub(super) fn take(
        &self,
        now: Timestamp,
        caller: Option<&Caller>,
        peer: &Peer,
    ) -> Result<(), ApiError> {
        let key = || match caller {
            Some(caller) => Key::Caller(caller.means, &caller.name),
            None => key(peer),
        };
        let taken = self.requests.take(now, key);
        taken.map_err(|wait| refuse(&self.requests, wait))
    }

    /// Whether a token from there may be looked at.
    pub(super) fn may_try(&self, now: Timestamp, peer: &Peer) -> Result<(), ApiError> {
        let left = self.failures.look(now, || key(peer));
        left.map_err(|wait| refuse(&self.failures, wait))
    }

    /// Notes that a token from there was wrong.
    pub(super) fn failed(&self, now: Timestamp, peer: &Peer) {
        // One more than there may be is refused by what comes next.
        let _ = self.failures.take(now, || key(peer));
    }
}

fn key(peer: &Peer) -> Key<'_> {
    match peer {
        Peer::Address(address) => match address.ip().to_canonical() {
            IpAddr::V4(address) => Key::V4(address.to_bits()),
            IpAddr::V6(address) => Key::V6((address.to_bits() >> 64) as u64),
        },
        Peer::Unix(peer) => Key::User(peer.uid),
        Peer::Unknown => Key::Unknown,
    }
}

fn refuse(limiter: &RateLimiter, wait: Duration) -> ApiError {
    ApiError::TooMany {
        what: if limiter.name == "failures" {
            "wrong tokens"
        } else {
            "requests"
        },
        wait,
        fields: limiter.fields(wait),
    }
}

/// Adds what a refusal by a budget says in fields.
pub(in crate::api) fn tell(headers: &mut HeaderMap, fields: &[(&'static str, String)]) {
    for (name, value) in fields {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(*name, value);
        }
    }
}
