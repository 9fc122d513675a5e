//! Why an instance is not a candidate for a request.
//!
//! One word for each cause, the same in picks, explanations, logs and the API. The order is the
//! order in which causes are named when several hold: what an operator asked for comes before what
//! was found out, and what was found out before what is true for a moment.

/// Why a member of a service gets no new traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exclusion {
    /// Its operator disabled it.
    Disabled,
    /// Its operator drains it.
    Draining,
    /// It is configured with a weight of 0.
    NoWeight,
    /// Its health checks fail.
    Unhealthy,
    /// It does worse than its peers and was ejected for a while.
    Ejected,
    /// It waits for its recovery to begin.
    Recovering,
    /// The control plane gives it no weight; its status says why.
    Weightless,
    /// Its circuit breaker is open.
    BreakerOpen,
    /// Its circuit breaker is half-open, and as many probes are under way as may be.
    ProbeBusy,
    /// It has as many requests in flight as it may have.
    Full,
    /// The proxy has as many connections to it, or to its service, as it may have, all in use.
    NoConnection,
    /// This request has been sent to it in vain, or to others, and it fails as well.
    Tried,
}

impl Exclusion {
    /// All of them, in their order.
    pub const ALL: [Self; 12] = [
        Self::Disabled,
        Self::Draining,
        Self::NoWeight,
        Self::Unhealthy,
        Self::Ejected,
        Self::Recovering,
        Self::Weightless,
        Self::BreakerOpen,
        Self::ProbeBusy,
        Self::Full,
        Self::NoConnection,
        Self::Tried,
    ];

    /// The stable name in API, logs and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Draining => "draining",
            Self::NoWeight => "no_weight",
            Self::Unhealthy => "unhealthy",
            Self::Ejected => "ejected",
            Self::Recovering => "recovering",
            Self::Weightless => "weightless",
            Self::BreakerOpen => "breaker_open",
            Self::ProbeBusy => "probe_busy",
            Self::Full => "full",
            Self::NoConnection => "no_connection",
            Self::Tried => "tried",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn labels_are_told_apart_and_the_order_is_the_one_of_the_list() {
        let labels: HashSet<&str> = Exclusion::ALL.iter().map(|why| why.label()).collect();
        assert_eq!(labels.len(), Exclusion::ALL.len());
        assert!(Exclusion::ALL.is_sorted());
    }
}
