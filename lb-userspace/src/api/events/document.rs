//! Happenings as documents.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::{
    api::types,
    l4::PathMode,
    registry::{Entry, Event, FailOpen, Happening},
    resilience::Progress,
};

/// All types of events, in the order of the documentation.
pub(super) const TYPES: [&str; 29] = [
    "service_added",
    "service_removed",
    "service_changed",
    "instance_added",
    "instance_leaving",
    "instance_removed",
    "weight_changed",
    "admin_changed",
    "health_changed",
    "instance_ejected",
    "ejection_ended",
    "recovery_changed",
    "slow_start_changed",
    "breaker_changed",
    "service_breaker_changed",
    "fail_open_changed",
    "algorithm_changed",
    "keys_moved",
    "factors_changed",
    "routes_changed",
    "vips_changed",
    "listeners_changed",
    "integration_changed",
    "acl_changed",
    "acl_list_faulty",
    "reset",
    "reloaded",
    "reload_refused",
    "packet_path_changed",
];

/// What an event is about, and what it says beyond that.
struct About {
    kind: &'static str,
    service: Option<String>,
    instance: Option<String>,
    data: Value,
}

impl About {
    fn all(kind: &'static str) -> Self {
        Self {
            kind,
            service: None,
            instance: None,
            data: Value::Null,
        }
    }

    fn service(kind: &'static str, service: &impl ToString) -> Self {
        Self {
            service: Some(service.to_string()),
            ..Self::all(kind)
        }
    }

    fn instance(kind: &'static str, service: &impl ToString, instance: &str) -> Self {
        Self {
            instance: Some(instance.to_owned()),
            ..Self::service(kind, service)
        }
    }

    fn with(self, data: Value) -> Self {
        Self { data, ..self }
    }
}

/// The document of something that has happened.
pub(super) fn of(entry: &Entry) -> types::Event {
    let (revision, message, about) = match &entry.what {
        Happening::State { revision, event } => (Some(*revision), event.to_string(), about(event)),
        Happening::Reloaded {
            revision,
            changes,
            needs_restart,
        } => {
            let data = json!({"changes": changes, "needs_restart": needs_restart});
            let message = format!("configuration reloaded, changes: {changes}");
            (Some(*revision), message, About::all("reloaded").with(data))
        }
        Happening::ReloadRefused { why, faults } => {
            let data = json!({"reason": why, "faults": faults});
            let message = format!("configuration not reloaded: {why}");
            (None, message, About::all("reload_refused").with(data))
        }
        Happening::PacketPath {
            mode,
            reason,
            warnings,
            error,
        } => {
            let data = json!({
                "attached": mode.is_some_and(|mode| mode != PathMode::Relay.as_str()),
                "mode": mode,
                "reason": reason,
                "warnings": warnings,
                "error": error,
            });
            let message = match mode {
                Some(mode) if *mode == PathMode::Relay.as_str() => "VIPs are relayed".to_owned(),
                Some(mode) => format!("packet path attached, mode {mode}"),
                None => "packet path not attached".to_owned(),
            };
            (None, message, About::all("packet_path_changed").with(data))
        }
    };
    types::Event {
        sequence: entry.sequence,
        timestamp: humantime::format_rfc3339_millis(entry.at).to_string(),
        kind: about.kind.to_owned(),
        revision,
        service: about.service,
        instance: about.instance,
        message,
        data: match about.data {
            Value::Object(data) => data,
            _ => Map::new(),
        },
    }
}

fn about(event: &Event) -> About {
    let share = |percent: u8| f64::from(percent) / 100.0;
    match event {
        Event::ServiceAdded(service) => About::service("service_added", service),
        Event::ServiceRemoved(service) => About::service("service_removed", service),
        Event::ServiceChanged(service) => About::service("service_changed", service),
        Event::InstanceAdded(service, i) => About::instance("instance_added", service, i),
        Event::InstanceLeaving(service, i) => About::instance("instance_leaving", service, i),
        Event::InstanceRemoved(service, i) => About::instance("instance_removed", service, i),
        Event::WeightChanged(service, i, weight) => {
            About::instance("weight_changed", service, i).with(json!({"weight": weight}))
        }
        Event::AdminChanged(service, i, admin) => {
            About::instance("admin_changed", service, i).with(json!({"admin": admin.as_str()}))
        }
        Event::HealthChanged(service, i, health, why) => {
            let data = json!({"health": health.as_str(), "reason": Arc::<str>::as_ref(why)});
            About::instance("health_changed", service, i).with(data)
        }
        Event::Ejected(service, i, ejection) => {
            let data = json!({
                "by": ejection.by.as_str(),
                "reason": Arc::<str>::as_ref(&ejection.detail),
                "seconds": (ejection.until - ejection.since).as_secs_f64(),
                "times": ejection.times,
            });
            About::instance("instance_ejected", service, i).with(data)
        }
        Event::EjectionEnded(service, i, why) => {
            About::instance("ejection_ended", service, i).with(json!({"reason": why.as_str()}))
        }
        Event::RecoveryChanged(service, i, progress) => {
            About::instance("recovery_changed", service, i).with(recovery(*progress))
        }
        Event::RampChanged(service, i, ramp) => {
            let percent = ramp.map_or(100, |ramp| ramp.share);
            About::instance("slow_start_changed", service, i).with(json!({"share": share(percent)}))
        }
        Event::BreakerChanged(service, i, state) => {
            About::instance("breaker_changed", service, i).with(json!({"state": state.as_str()}))
        }
        Event::ServiceBreakerChanged(service, state) => {
            About::service("service_breaker_changed", service)
                .with(json!({"state": state.as_str()}))
        }
        Event::FailOpenChanged(service, why) => About::service("fail_open_changed", service)
            .with(json!({"fail_open": why.map(FailOpen::as_str)})),
        Event::AlgorithmChanged(service, algorithm) => About::service("algorithm_changed", service)
            .with(json!({"algorithm": algorithm.as_str()})),
        Event::KeysMoved(service, moves) => About::service("keys_moved", service)
            .with(json!({"moved": moves.moved, "needed": moves.needed})),
        Event::FactorsChanged(service) => About::service("factors_changed", service),
        Event::RoutesChanged => About::all("routes_changed"),
        Event::VipsChanged => About::all("vips_changed"),
        Event::ListenersChanged => About::all("listeners_changed"),
        Event::IntegrationChanged => About::all("integration_changed"),
        Event::AclChanged(rules) => About::all("acl_changed").with(json!({"rules": rules})),
        Event::AclListFaulty(file, fault) => About::all("acl_list_faulty")
            .with(json!({"file": file.display().to_string(), "fault": fault})),
        Event::Reset => About::all("reset"),
    }
}

fn recovery(progress: Option<Progress>) -> Value {
    match progress {
        None => json!({"state": "recovered", "share": 1.0}),
        Some(Progress {
            share: 0, relapses, ..
        }) => json!({"state": "waiting", "share": 0.0, "relapses": relapses}),
        Some(Progress {
            share, relapses, ..
        }) => {
            let share = f64::from(share) / 100.0;
            json!({"state": "climbing", "share": share, "relapses": relapses})
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::SystemTime};

    use super::*;
    use crate::{
        balance::Moves,
        model::{AdminState, Algorithm, BreakerState, Detector, Health, ServiceName, Timestamp},
        registry::EjectionEnd,
        resilience::{Ejection, Ramp},
    };

    fn samples() -> Vec<Event> {
        let s = || ServiceName::new("web").unwrap();
        let i = || "http://10.0.0.1:80".to_owned();
        let ejection = Ejection {
            by: Detector::Latency,
            detail: "slow".into(),
            since: Timestamp(0),
            until: Timestamp(1_500_000),
            times: 2,
        };
        vec![
            Event::ServiceAdded(s()),
            Event::ServiceRemoved(s()),
            Event::ServiceChanged(s()),
            Event::InstanceAdded(s(), i()),
            Event::InstanceLeaving(s(), i()),
            Event::InstanceRemoved(s(), i()),
            Event::WeightChanged(s(), i(), 7),
            Event::AdminChanged(s(), i(), AdminState::Draining),
            Event::HealthChanged(s(), i(), Health::Healthy, "200".into()),
            Event::AlgorithmChanged(s(), Algorithm::Adaptive),
            Event::RoutesChanged,
            Event::VipsChanged,
            Event::ListenersChanged,
            Event::RecoveryChanged(s(), i(), None),
            Event::BreakerChanged(s(), i(), BreakerState::default()),
            Event::ServiceBreakerChanged(s(), BreakerState::default()),
            Event::Ejected(s(), i(), ejection),
            Event::EjectionEnded(s(), i(), EjectionEnd::Served),
            Event::RampChanged(
                s(),
                i(),
                Some(Ramp {
                    share: 40,
                    ends: None,
                }),
            ),
            Event::FailOpenChanged(s(), Some(FailOpen::TooFew)),
            Event::Reset,
            Event::KeysMoved(
                s(),
                Moves {
                    moved: 0.5,
                    needed: 0.25,
                },
            ),
            Event::FactorsChanged(s()),
            Event::IntegrationChanged,
            Event::AclChanged(3),
            Event::AclListFaulty(
                std::path::Path::new("/etc/lb/deny.txt").into(),
                "what".to_owned(),
            ),
        ]
    }

    #[test]
    fn every_event_has_a_type_that_is_listed_and_every_type_has_an_event() {
        let state = samples()
            .into_iter()
            .map(|event| Happening::State { revision: 3, event });
        let others = [
            Happening::Reloaded {
                revision: 3,
                changes: 1,
                needs_restart: vec!["log.format".to_owned()],
            },
            Happening::ReloadRefused {
                why: "a fault".to_owned(),
                faults: 1,
            },
            Happening::PacketPath {
                mode: Some("native"),
                reason: String::new(),
                warnings: Vec::new(),
                error: None,
            },
        ];
        let mut found = BTreeSet::new();
        for what in state.chain(others) {
            let entry = Entry {
                sequence: 9,
                at: SystemTime::now(),
                what,
            };
            let document = of(&entry);
            assert!(!document.message.is_empty());
            if document.kind.starts_with("instance") || document.kind.starts_with("service") {
                assert_eq!(document.service.as_deref(), Some("web"));
            }
            found.insert(document.kind);
        }
        assert_eq!(found, TYPES.map(str::to_owned).into());
    }

    #[test]
    fn particulars_are_numbers_and_names() {
        let data = |event: &Event| about(event).data;
        let s = || ServiceName::new("web").unwrap();
        let progress = |share| {
            Some(Progress {
                share,
                relapses: 1,
                due: Timestamp(0),
            })
        };
        for (event, expected) in [
            (
                Event::RecoveryChanged(s(), "a:1".to_owned(), progress(0)),
                json!({"state": "waiting", "share": 0.0, "relapses": 1}),
            ),
            (
                Event::RecoveryChanged(s(), "a:1".to_owned(), progress(40)),
                json!({"state": "climbing", "share": 0.4, "relapses": 1}),
            ),
            (
                Event::FailOpenChanged(s(), None),
                json!({"fail_open": null}),
            ),
            (
                samples()
                    .into_iter()
                    .find(|event| matches!(event, Event::Ejected(..)))
                    .unwrap(),
                json!({"by": "latency", "reason": "slow", "seconds": 1.5, "times": 2}),
            ),
        ] {
            assert_eq!(data(&event), expected);
        }
    }
}
