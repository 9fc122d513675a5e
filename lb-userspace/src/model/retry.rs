//! When a request is sent to an instance once more, and what is counted of that.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Retries of a service's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetrySpec {
    /// Retries of one request at most, 0 to [`RetrySpec::MOST`]; 0 is never.
    pub max: u8,
    /// The longest wait before the first retry that waits at all.
    pub backoff: Duration,
    /// By how much that grows from one retry to the next, in hundredths, at least 100.
    pub factor: u16,
    /// The longest wait before any.
    pub max_backoff: Duration,
    /// Whether the first retry goes to another instance at once when the one before could not be
    /// reached or did not answer. One that answered that it is overloaded always costs a wait.
    pub at_once: bool,
    /// Methods of requests that may be sent again after an instance may have acted upon them.
    pub methods: MethodSet,
    /// Statuses of instances that are worth a retry, in order.
    pub statuses: Vec<u16>,
    /// Retries in percent of the requests of a sliding window, 0 to 100.
    pub budget: u8,
    /// Retries in a window that need no requests: without them a service of little traffic would
    /// never have one.
    pub floor: u32,
    /// Bytes of a request's body that are kept to be sent again; a larger body is sent once.
    pub body_limit: usize,
    /// Whether a request that could not be sent at all goes to the same instance again, after a
    /// wait, when there is no other.
    pub same_instance: bool,
    /// The longest time that an instance's `Retry-After` keeps retries away from it.
    pub max_retry_after: Duration,
}

impl RetrySpec {
    /// Most retries of one request.
    pub const MOST: u8 = 4;
}

impl Default for RetrySpec {
    /// The integration guide's 2 retries, 100 ms and factor 2; a budget of 20 % (Finagle's and
    /// Envoy's); statuses that say that somebody else may do better.
    fn default() -> Self {
        Self {
            max: 2,
            backoff: Duration::from_millis(100),
            factor: 200,
            max_backoff: Duration::from_secs(2),
            at_once: true,
            methods: MethodSet::IDEMPOTENT,
            statuses: vec![502, 503, 504],
            budget: 20,
            floor: 30,
            body_limit: 64 * 1024,
            same_instance: false,
            max_retry_after: Duration::from_secs(10),
        }
    }
}

/// A set of HTTP methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodSet(u8);

impl MethodSet {
    /// The methods that a set can hold. `CONNECT` and `TRACE` are never forwarded.
    pub const NAMES: [&'static str; 7] =
        ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH"];

    /// No method.
    pub const NONE: Self = Self(0);

    /// Those that have the same effect however often they are sent (RFC 9110, 9.2.2).
    pub const IDEMPOTENT: Self = Self(0b1_1111);

    /// Those that have no effect to speak of (RFC 9110, 9.2.1).
    pub const SAFE: Self = Self(0b111);

    /// The set and one more; unchanged when the name is not one of [`MethodSet::NAMES`].
    #[must_use]
    pub fn with(self, name: &str) -> Self {
        Self(self.0 | Self::bit(name))
    }

    /// Whether `name` is in the set.
    #[must_use]
    pub fn contains(self, name: &str) -> bool {
        self.0 & Self::bit(name) != 0
    }

    /// The names in the set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .into_iter()
            .filter(move |name| self.contains(name))
    }

    fn bit(name: &str) -> u8 {
        match name {
            "GET" => 1,
            "HEAD" => 1 << 1,
            "OPTIONS" => 1 << 2,
            "PUT" => 1 << 3,
            "DELETE" => 1 << 4,
            "POST" => 1 << 5,
            "PATCH" => 1 << 6,
            _ => 0,
        }
    }
}

labelled! {
    /// Why a request is sent once more.
    RetryCause {
        /// No connection: refused, unreachable or reset while connecting.
        ConnectFailed: "connect_failed";
        /// No connection within the connect timeout.
        ConnectTimeout: "connect_timeout";
        /// A new connection ended before a byte of an answer.
        ConnectionLost: "connection_lost";
        /// A connection that was kept from an earlier request ended before a byte of an answer;
        /// the request goes to the same instance on a new one.
        KeptConnection: "kept_connection";
        /// The try took longer than a try may take.
        TryTimeout: "try_timeout";
        /// No connection to the instance came free in time.
        ConnectionLimit: "connection_limit";
        /// The instance took the request and did not begin to answer in time.
        ResponseTimeout: "response_timeout";
        /// The instance answered with a status that is worth a retry.
        Status: "status";
    }
}

impl RetryCause {
    /// Whether the instance can not have seen the request.
    #[must_use]
    pub const fn nothing_sent(self) -> bool {
        matches!(
            self,
            Self::ConnectFailed | Self::ConnectTimeout | Self::ConnectionLimit
        )
    }
}

labelled! {
    /// Why a request that failed is not sent once more, although the service retries.
    RetryRefusal {
        /// It has been sent as often as it may be.
        Exhausted: "exhausted";
        /// An instance may have acted upon it, and its method is none to be repeated.
        Unsafe: "unsafe";
        /// Its body was larger than what is kept, or no memory was left for it.
        Body: "body";
        /// Every instance that could be picked was tried, or asked to be left alone.
        NoInstance: "no_instance";
        /// The wait would have outlasted the time that the request has.
        Deadline: "deadline";
        /// The budget is used up.
        Budget: "budget";
    }
}

/// Hedging: a second instance for requests whose answer takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HedgeSpec {
    /// When.
    pub after: HedgeAfter,
    /// Hedges in percent of the requests of a sliding window, 1 to 100.
    pub max_extra: u8,
}

impl Default for HedgeSpec {
    /// After the 95th percentile, for 2 % more requests at most.
    fn default() -> Self {
        Self {
            after: HedgeAfter::Quantile(95),
            max_extra: 2,
        }
    }
}

/// When a request is worth a second instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeAfter {
    /// When its answer takes longer than so many percent of the service's answers, 50 to 99.
    Quantile(u8),
    /// After this time.
    Time(Duration),
}

labelled! {
    /// What became of a request that was slow enough to be hedged.
    HedgeEnd {
        /// The second instance answered first.
        Won: "won";
        /// The first one did, or neither answered well.
        Lost: "lost";
        /// The budget had nothing left for it.
        Refused: "refused";
        /// There was no second instance.
        NoInstance: "no_instance";
    }
}

/// What is counted of a service's retries.
#[derive(Debug, Default)]
pub struct RetryStats {
    made: [AtomicU64; RetryCause::ALL.len()],
    refused: [AtomicU64; RetryRefusal::ALL.len()],
    hedged: [AtomicU64; HedgeEnd::ALL.len()],
}

impl RetryStats {
    /// Counts a retry.
    pub fn made(&self, cause: RetryCause) {
        self.made[cause as usize].fetch_add(1, Relaxed);
    }

    /// Counts a request that was not retried.
    pub fn refused(&self, refusal: RetryRefusal) {
        self.refused[refusal as usize].fetch_add(1, Relaxed);
    }

    /// Counts a request that was slow enough to be hedged.
    pub fn hedged(&self, end: HedgeEnd) {
        self.hedged[end as usize].fetch_add(1, Relaxed);
    }

    /// Requests that were slow enough to be hedged and ended like this.
    #[must_use]
    pub fn hedges(&self, end: HedgeEnd) -> u64 {
        self.hedged[end as usize].load(Relaxed)
    }

    /// Retries for `cause`.
    #[must_use]
    pub fn count(&self, cause: RetryCause) -> u64 {
        self.made[cause as usize].load(Relaxed)
    }

    /// Requests that were not retried for this reason.
    #[must_use]
    pub fn refusals(&self, refusal: RetryRefusal) -> u64 {
        self.refused[refusal as usize].load(Relaxed)
    }

    /// All retries.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.made.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// Forgets everything.
    pub fn reset(&self) {
        for counter in self.made.iter().chain(&self.refused).chain(&self.hedged) {
            counter.store(0, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_the_methods_that_they_are_named_after() {
        let idempotent: Vec<_> = MethodSet::IDEMPOTENT.names().collect();
        assert_eq!(idempotent, ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]);
        let safe: Vec<_> = MethodSet::SAFE.names().collect();
        assert_eq!(safe, ["GET", "HEAD", "OPTIONS"]);
        let some = MethodSet::NONE.with("POST").with("BREW");
        assert!(some.contains("POST") && !some.contains("BREW") && !some.contains("GET"));
        let all = MethodSet::NAMES
            .into_iter()
            .fold(MethodSet::NONE, MethodSet::with);
        assert_eq!(all.names().collect::<Vec<_>>(), MethodSet::NAMES);
    }
}
