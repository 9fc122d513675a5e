//! Why lb itself answered: one reason an answer, the same in status, header, log and metric.

use std::sync::atomic::{AtomicU64, Ordering};

use super::RetryStats;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident: $status:literal, $label:literal, $error:literal;)+) => {
        /// Why lb answered a request itself instead of passing on an instance's answer.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The HTTP status of the answer.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)+ }
            }

            /// The stable name in metrics, logs and the API.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// The `error` of the `Proxy-Status` field (RFC 9209, 2.3).
            #[must_use]
            pub const fn proxy_status(self) -> &'static str {
                match self { $(Self::$name => $error,)+ }
            }
        }
    };
}

reasons! {
    /// No route matches destination, host and path.
    NoRoute: 404, "no_route", "destination_not_found";
    /// The request breaks a rule of HTTP that lb enforces.
    BadRequest: 400, "bad_request", "http_request_error";
    /// The request asks for something of HTTP that lb does not do, such as `CONNECT`.
    Unsupported: 501, "unsupported", "http_request_error";
    /// The request came before its budget of requests allows one more.
    RateLimited: 429, "rate_limited", "http_request_denied";
    /// The client stopped sending the body of its request.
    ClientTimeout: 408, "client_timeout", "http_request_error";
    /// The rest of a request's head did not come in time.
    HeaderTimeout: 408, "header_timeout", "http_request_error";
    /// The service has no instance that may be chosen.
    NoInstance: 503, "no_instance", "destination_unavailable";
    /// The circuit breaker of every instance that may be chosen is open.
    BreakerOpen: 503, "breaker_open", "destination_unavailable";
    /// Every instance that may be chosen, or the service as a whole, has as many requests in flight
    /// as it may have, and nothing may wait.
    AtCapacity: 503, "at_capacity", "connection_limit_reached";
    /// To every instance that may be chosen, or to the service as a whole, there are as many
    /// connections as there may be, all of them in use, and nothing may wait.
    ConnectionLimit: 503, "connection_limit", "connection_limit_reached";
    /// The service has as many requests in flight as it can do at once, and nothing may wait.
    Overloaded: 503, "overloaded", "connection_limit_reached";
    /// As many requests wait for a place as may, none of them less urgent.
    QueueFull: 503, "queue_full", "connection_limit_reached";
    /// The request has waited for a place as long as it may.
    QueueTimeout: 503, "queue_timeout", "connection_limit_reached";
    /// The request has waited for a place while everybody had to wait, and gave way.
    QueueShed: 503, "queue_shed", "connection_limit_reached";
    /// The circuit breaker of the service is open.
    ServiceBreakerOpen: 503, "service_breaker_open", "destination_unavailable";
    /// The circuit-breaker backend says that the service is not to be asked.
    BreakerBackendOpen: 503, "breaker_backend_open", "destination_unavailable";
    /// No connection: refused, unreachable or reset while connecting.
    ConnectFailed: 502, "connect_failed", "connection_refused";
    /// No connection within the connect timeout.
    ConnectTimeout: 504, "connect_timeout", "connection_timeout";
    /// The connection ended before the answer's head was complete.
    ConnectionLost: 502, "connection_lost", "connection_terminated";
    /// The instance's answer breaks a rule of HTTP.
    BadAnswer: 502, "bad_answer", "http_protocol_error";
    /// The head of the answer did not come within the request timeout.
    RequestTimeout: 504, "request_timeout", "http_response_timeout";
    /// The try took longer than a try may take.
    TryTimeout: 504, "try_timeout", "http_response_timeout";
    /// The instance has the request and did not begin to answer in time.
    ResponseTimeout: 504, "response_timeout", "http_response_timeout";
    /// The whole exchange took longer than it may.
    TotalTimeout: 504, "total_timeout", "http_response_timeout";
    /// lb is shutting down.
    ShuttingDown: 503, "shutting_down", "destination_unavailable";
}

/// Counters of a service that belong to no instance.
#[derive(Debug, Default)]
pub struct ServiceStats {
    answers: [AtomicU64; Reason::ALL.len()],
    /// Retries.
    pub retries: RetryStats,
}

impl ServiceStats {
    /// Counts an answer that lb made.
    pub fn answered(&self, reason: Reason) {
        self.answers[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Forgets everything.
    pub fn reset(&self) {
        for counter in &self.answers {
            counter.store(0, Ordering::Relaxed);
        }
        self.retries.reset();
    }

    /// Answers that lb made for `reason`.
    #[must_use]
    pub fn answers(&self, reason: Reason) -> u64 {
        self.answers[reason as usize].load(Ordering::Relaxed)
    }
}
