//! Instance names in URLs.
//!
//! An instance is named by its URL, so the path of an instance holds another URL:
//! `…/instances/main-backend/http://localhost:8081/drain`. Clients and proxies on the way may
//! percent-encode it, fold `//` into `/`, or add a slash. So the path is read from both ends: the
//! service is the first segment, a verb is the last one, and what is left in between is the name,
//! which [`crate::model::Endpoint::matches`] compares in all its forms. No instance is called like
//! a verb: a name has a port.

use crate::{
    model::{AdminState, ServiceName},
    registry::Change,
    resilience::Hold,
};

/// What is asked of an instance by the last segment of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Drain,
    Enable,
    Disable,
    Uneject,
}

impl Verb {
    fn parse(segment: &str) -> Option<Self> {
        match segment {
            "drain" => Some(Self::Drain),
            "enable" => Some(Self::Enable),
            "disable" => Some(Self::Disable),
            "uneject" => Some(Self::Uneject),
            _ => None,
        }
    }

    /// The change that the verb asks for.
    pub(super) fn change(self, service: ServiceName, instance: String) -> Change {
        let state = match self {
            Self::Drain => AdminState::Draining,
            Self::Enable => AdminState::Enabled,
            Self::Disable => AdminState::Disabled,
            Self::Uneject => return Change::Uneject { service, instance },
        };
        Change::Admin {
            service,
            instance,
            state,
        }
    }
}

/// A path below `/instances/`, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InstancePath<'a> {
    pub(super) service: &'a str,
    pub(super) instance: Option<&'a str>,
    pub(super) verb: Option<Verb>,
}

/// Takes the decoded rest of a path apart.
pub(super) fn parse(rest: &str) -> InstancePath<'_> {
    let rest = rest.trim_end_matches('/');
    let Some((service, rest)) = rest.split_once('/') else {
        return InstancePath {
            service: rest,
            instance: None,
            verb: None,
        };
    };
    let (instance, verb) = match rest.rsplit_once('/') {
        Some((instance, last)) => match Verb::parse(last) {
            Some(verb) => (instance, Some(verb)),
            None => (rest, None),
        },
        None => (rest, None),
    };
    InstancePath {
        service,
        instance: Some(instance),
        verb,
    }
}

/// Takes the decoded rest of a path below `/recovery/` apart: service and instance of a `force`;
/// `None` when it is something else.
pub(super) fn forced(rest: &str) -> Option<(&str, &str)> {
    let (service, rest) = rest.trim_end_matches('/').split_once('/')?;
    let (instance, last) = rest.rsplit_once('/')?;
    (last == "force").then_some((service, instance))
}

/// What is asked of a circuit breaker by the last segment of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BreakerVerb {
    Hold(Hold),
    Advise,
}

/// A path below `/breakers/`, taken apart: an order is to the breaker of an instance, or to that of
/// the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BreakerPath<'a> {
    pub(super) service: &'a str,
    pub(super) order: Option<(Option<&'a str>, BreakerVerb)>,
}

/// Takes the decoded rest of a path below `/breakers/` apart; `None` when it is something else.
pub(super) fn breaker(rest: &str) -> Option<BreakerPath<'_>> {
    let rest = rest.trim_end_matches('/');
    let Some((service, rest)) = rest.split_once('/') else {
        return Some(BreakerPath {
            service: rest,
            order: None,
        });
    };
    let (instance, last) = match rest.rsplit_once('/') {
        Some((instance, last)) => (Some(instance), last),
        None => (None, rest),
    };
    let verb = match last {
        "open" => BreakerVerb::Hold(Hold::Open),
        "close" => BreakerVerb::Hold(Hold::Closed),
        "reset" => BreakerVerb::Hold(Hold::Release),
        "advise" if instance.is_none() => BreakerVerb::Advise,
        _ => return None,
    };
    Some(BreakerPath {
        service,
        order: Some((instance, verb)),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn service_comes_first_and_verb_last() {
        for (rest, instance, verb) in [
            ("s", None, None),
            ("s/", None, None),
            ("s/http://h:1", Some("http://h:1"), None),
            ("s/http://h:1/", Some("http://h:1"), None),
            ("s/http:/h:1/drain", Some("http:/h:1"), Some(Verb::Drain)),
            ("s/http://h:1/drain/", Some("http://h:1"), Some(Verb::Drain)),
            (
                "s/http://h:1//enable",
                Some("http://h:1/"),
                Some(Verb::Enable),
            ),
            ("s/h:1/disable", Some("h:1"), Some(Verb::Disable)),
            ("s/h:1/uneject", Some("h:1"), Some(Verb::Uneject)),
            (
                "s/[fd00::2]:53/drain",
                Some("[fd00::2]:53"),
                Some(Verb::Drain),
            ),
            ("s/h:1/dance", Some("h:1/dance"), None),
            ("s/drain", Some("drain"), None),
        ] {
            let service = "s";
            let expected = InstancePath {
                service,
                instance,
                verb,
            };
            assert_eq!(parse(rest), expected, "{rest}");
        }
    }

    #[test]
    fn force_is_the_last_segment_of_three_at_least() {
        for (rest, expected) in [
            ("s/http://h:1/force", Some(("s", "http://h:1"))),
            ("s/h:1/force/", Some(("s", "h:1"))),
            ("s/http:/h:1/force", Some(("s", "http:/h:1"))),
            ("s/force", None),
            ("s/h:1", None),
            ("s", None),
            ("s/h:1/drain", None),
        ] {
            assert_eq!(forced(rest), expected, "{rest}");
        }
    }

    #[test]
    fn orders_to_breakers_are_to_an_instance_or_to_the_service() {
        let service = "s";
        let order = |instance, hold| Some((instance, BreakerVerb::Hold(hold)));
        for (rest, expected) in [
            ("s", Some(None)),
            ("s/", Some(None)),
            ("s/open", Some(order(None, Hold::Open))),
            ("s/reset/", Some(order(None, Hold::Release))),
            ("s/h:1/close", Some(order(Some("h:1"), Hold::Closed))),
            (
                "s/http://h:1/open",
                Some(order(Some("http://h:1"), Hold::Open)),
            ),
            ("s/advise", Some(Some((None, BreakerVerb::Advise)))),
            ("s/h:1/advise", None),
            ("s/h:1", None),
            ("s/shut", None),
        ] {
            let expected = expected.map(|order| BreakerPath { service, order });
            assert_eq!(breaker(rest), expected, "{rest}");
        }
    }

    proptest! {
        #[test]
        fn what_is_put_together_comes_apart_again(
            service in "[a-z0-9-]{1,12}",
            scheme in prop::sample::select(vec!["", "http://", "http:/"]),
            host in prop::sample::select(vec!["localhost", "10.0.0.1", "[fd00::2]", "drain"]),
            port in 1u16..,
            verb in prop::option::of(prop::sample::select(vec!["drain", "enable", "disable", "uneject"])),
            slash in prop::sample::select(vec!["", "/"]),
        ) {
            let instance = format!("{scheme}{host}:{port}");
            let rest = match verb {
                Some(verb) => format!("{service}/{instance}/{verb}{slash}"),
                None => format!("{service}/{instance}{slash}"),
            };
            let path = parse(&rest);
            prop_assert_eq!(path.service, service);
            prop_assert_eq!(path.instance, Some(&*instance));
            prop_assert_eq!(path.verb, verb.and_then(Verb::parse));
        }

        #[test]
        fn nothing_is_too_odd_to_take_apart(rest in ".*") {
            let path = parse(&rest);
            prop_assert!(rest.starts_with(path.service));
        }
    }
}
