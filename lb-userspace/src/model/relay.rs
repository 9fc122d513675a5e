//! What a relay tells apart, and what it cannot do.

use super::{AclAction, AclSpec, ArrivalsSpec, Forwarding};

labelled! {
    /// Why a relay has reset a client's connection instead of passing it on.
    RelayRefusal {
        /// No instance takes connections.
        NoInstance: "no_instance";
        /// Instances, or the service, have as many as they may have.
        Limit: "limit";
        /// No instance that was tried has accepted the connection.
        ConnectFailed: "connect_failed";
        /// The relay has as many connections as it may have.
        MaxConnections: "max_connections";
        /// The source ACL denies the client.
        SourceDenied: "source_denied";
    }
}

/// What becomes of a source ACL in a relay.
pub const RELAYED_ACL: &str = "the source ACL is asked when a connection begins, so connections of \
                               sources that it denies later go on";

/// Whether `acl` has anything that a relay does not do as the kernel does.
#[must_use]
pub fn loses_acl(acl: &AclSpec) -> bool {
    let mut actions = acl.rules.values();
    !acl.files.is_empty() || actions.any(|action| *action == AclAction::Deny)
}

/// What instances get from a relay in the place of what `forwarding` would bring them; `None` when that
/// is the same.
#[must_use]
pub fn lost_forwarding(forwarding: Forwarding) -> Option<String> {
    (forwarding != Forwarding::Nat).then(|| {
        format!(
            "get connections to their own addresses from lb's, not what {} would bring them",
            forwarding.as_str()
        )
    })
}

/// Which limits of new connections do not hold in a relay, for a service with this forwarding, and why.
#[must_use]
pub fn lost_limits(limits: &ArrivalsSpec, forwarding: Forwarding) -> Vec<String> {
    let rates = [
        ("limits.new_connections", limits.service),
        ("limits.source_new_connections", limits.source),
    ];
    let rates = rates
        .into_iter()
        .filter_map(|(key, rate)| rate.and(Some(key)));
    let mut lost: Vec<String> = rates
        .map(|key| format!("{key} does not hold, for sockets cannot limit how fast they begin"))
        .collect();
    // Where answers do not come back through lb there would be no cookies in the kernel either.
    if limits.cookies_above.is_some() && forwarding.translates() {
        lost.push(
            "limits.syn_cookies_above has no effect, for this host's kernel answers SYNs, and makes \
             cookies by its own rules (net.ipv4.tcp_syncookies)"
                .to_owned(),
        );
    }
    lost
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::model::ArrivalRate;

    fn rate() -> Option<ArrivalRate> {
        let per_second = NonZeroU32::new(9)?;
        Some(ArrivalRate {
            per_second,
            burst: per_second,
        })
    }

    #[test]
    fn limits_that_nobody_has_asked_for_are_not_lost() {
        let none = ArrivalsSpec::default();
        assert_eq!(lost_limits(&none, Forwarding::Nat), [""; 0]);
        let all = ArrivalsSpec {
            service: rate(),
            source: rate(),
            cookies_above: Some(0),
            ..none
        };
        let lost = lost_limits(&all, Forwarding::Dnat);
        let named = [
            "limits.new_connections ",
            "limits.source_new_connections ",
            "limits.syn_cookies_above ",
        ];
        assert_eq!(lost.len(), 3, "{lost:?}");
        for (lost, named) in lost.iter().zip(named) {
            assert!(lost.starts_with(named), "{lost}");
        }
        // As a default cookies are set for services that cannot have any, too.
        assert_eq!(lost_limits(&all, Forwarding::Gue).len(), 2);
    }

    #[test]
    fn what_nat_brings_instances_a_relay_brings_them_too() {
        assert_eq!(lost_forwarding(Forwarding::Nat), None);
        let lost = lost_forwarding(Forwarding::L2Dsr).unwrap();
        assert!(lost.contains("not what l2dsr would bring"), "{lost}");
    }

    #[test]
    fn an_acl_that_denies_nobody_loses_nothing() {
        let acl = |action| AclSpec {
            rules: [("192.0.2.0/24".parse().unwrap(), action)].into(),
            files: Vec::new(),
        };
        assert!(!loses_acl(&AclSpec::default()));
        assert!(!loses_acl(&acl(AclAction::Allow)));
        assert!(loses_acl(&acl(AclAction::Deny)));
    }
}
