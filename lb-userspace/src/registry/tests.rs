//! The registry as its callers see it.

use super::*;
use crate::model::{
    AdminState, Algorithm, Endpoint, GatewayVip, Health, HealthCheckSpec, InstanceId, InstanceSpec,
    Outcome, PathPattern, Ports, RateKey, RateLimitSpec, RouteSpec, ServiceName, ServiceSpec,
    SourceSpec,
};

fn spec(name: &str, endpoints: &[(&str, u16)]) -> ServiceSpec {
    ServiceSpec {
        health_check: Some(HealthCheckSpec::default()),
        instances: endpoints
            .iter()
            .map(|(endpoint, weight)| {
                InstanceSpec::new(Endpoint::parse(endpoint).unwrap(), *weight)
            })
            .collect(),
        ..ServiceSpec::new(ServiceName::new(name).unwrap())
    }
}

fn configure(registry: &Registry, services: Vec<ServiceSpec>) -> Result<Applied, RegistryError> {
    registry.apply(Change::Configure(Box::new(Desired {
        services,
        ..Desired::default()
    })))
}

const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.2:80";

fn ids(registry: &Registry) -> Vec<InstanceId> {
    registry.snapshot().services[0]
        .members
        .iter()
        .map(|m| m.instance.id)
        .collect()
}

#[test]
fn a_reload_keeps_ids_counters_admin_states_and_health() {
    let registry = Registry::new(1, []);
    configure(&registry, vec![spec("web", &[(A, 1), (B, 1)])]).unwrap();
    let before = registry.snapshot();
    let kept = Arc::clone(&before.services[0].members[1].instance);
    kept.begin(Algorithm::Adaptive, 0, &crate::model::Clock::real())
        .judge(Outcome::Success);
    let name = ServiceName::new("web").unwrap();
    registry
        .apply(Change::Admin {
            service: name,
            instance: B.to_owned(),
            state: AdminState::Draining,
        })
        .unwrap();
    configure(&registry, vec![spec("web", &[(B, 7)])]).unwrap();
    let after = registry.snapshot();
    let member = &after.services[0].members[0];
    assert!(Arc::ptr_eq(&member.instance, &kept));
    assert_eq!(member.instance.totals_of_all().successes, 1);
    assert_eq!(after.services[0].statuses[0].admin, AdminState::Draining);
    assert_eq!(after.services[0].statuses[0].weight, 7);
    assert_eq!(member.weight, 0);
}

#[test]
fn an_index_is_reused_last_and_with_another_generation() {
    let registry = Registry::new(1, []);
    configure(&registry, vec![spec("web", &[(A, 1), (B, 1)])]).unwrap();
    assert_eq!(
        ids(&registry).iter().map(|id| id.index).collect::<Vec<_>>(),
        [1, 2]
    );
    configure(&registry, vec![spec("web", &[(B, 1)])]).unwrap();
    configure(&registry, vec![spec("web", &[(B, 1), (A, 1)])]).unwrap();
    let after = ids(&registry);
    assert_eq!(
        after[0],
        InstanceId {
            index: 2,
            generation: 0
        }
    );
    assert_eq!(
        after[1],
        InstanceId {
            index: 3,
            generation: 0
        }
    );
}

#[test]
fn a_restarted_daemon_finds_its_ids_and_frees_the_rest() {
    let name = ServiceName::new("web").unwrap();
    let known = |index, endpoint: &str| KnownId {
        id: InstanceId {
            index,
            generation: 5,
        },
        identity: identity(&name, &Endpoint::parse(endpoint).unwrap()),
        is_down: false,
    };
    let registry = Registry::new(1, [known(9, B), known(1, "10.0.0.9:80")]);
    configure(&registry, vec![spec("web", &[(A, 1), (B, 1)])]).unwrap();
    assert_eq!(
        ids(&registry),
        [
            InstanceId {
                index: 2,
                generation: 0
            },
            InstanceId {
                index: 9,
                generation: 5
            }
        ]
    );
}

#[test]
fn a_restart_keeps_the_dead_away_and_stale_connections_stale() {
    let name = ServiceName::new("web").unwrap();
    let id = |index| InstanceId {
        index,
        generation: 5,
    };
    let dead = KnownId {
        id: id(2),
        identity: identity(&name, &Endpoint::parse(A).unwrap()),
        is_down: true,
    };
    let free = |index| KnownId {
        id: id(index),
        identity: 0,
        is_down: false,
    };
    let registry = Registry::new(1, [free(1), dead, free(3)]);
    configure(&registry, vec![spec("web", &[(A, 1), (B, 1)])]).unwrap();
    let snapshot = registry.snapshot();
    let statuses = &snapshot.services[0].statuses;
    assert_eq!(statuses[0].health, Health::Unhealthy);
    assert_eq!(statuses[1].health, Health::Unknown);
    let next = InstanceId {
        index: 1,
        generation: 6,
    };
    assert_eq!(ids(&registry), [id(2), next]);
    // Without checks nobody would ever say otherwise.
    let registry = Registry::new(1, [dead]);
    let unchecked = ServiceSpec {
        health_check: None,
        ..spec("web", &[(A, 1)])
    };
    configure(&registry, vec![unchecked]).unwrap();
    let health = registry.snapshot().services[0].statuses[0].health;
    assert_eq!(health, Health::Unknown);
}

#[test]
fn a_reload_and_a_drain_tell_how_many_keys_they_move() {
    let registry = Registry::new(1, []);
    let hashed = |endpoints: &[(&str, u16)]| ServiceSpec {
        algorithm: Algorithm::ConsistentHash,
        health_check: None,
        ..spec("web", endpoints)
    };
    let moved = |applied: &Applied| {
        let events = applied.events.iter();
        let moves = events.filter_map(|event| match event {
            Event::KeysMoved(_, moves) => Some(*moves),
            _ => None,
        });
        moves.collect::<Vec<_>>()
    };
    let ten: Vec<String> = (1..=10).map(|host| format!("10.0.0.{host}:80")).collect();
    let ten: Vec<(&str, u16)> = ten.iter().map(|endpoint| (endpoint.as_str(), 1)).collect();
    let first = configure(&registry, vec![hashed(&ten)]).unwrap();
    assert_eq!(moved(&first), []);
    let change = Change::Admin {
        service: ServiceName::new("web").unwrap(),
        instance: ten[0].0.to_owned(),
        state: AdminState::Draining,
    };
    let drained = moved(&registry.apply(change).unwrap());
    assert!(
        (drained[0].needed - 0.1).abs() < 0.001 && drained[0].moved < 0.11,
        "{drained:?}"
    );
    // Who has no keys left moves none by going.
    let gone = configure(&registry, vec![hashed(&ten[1..])]).unwrap();
    assert_eq!(moved(&gone), []);
    let less = moved(&configure(&registry, vec![hashed(&ten[2..])]).unwrap());
    assert!((less[0].needed - 1.0 / 9.0).abs() < 0.001, "{less:?}");
}

#[test]
fn a_bad_configuration_changes_nothing() {
    let registry = Registry::new(1, []);
    configure(&registry, vec![spec("web", &[(A, 1)])]).unwrap();
    let revision = registry.snapshot().revision;
    let twice = vec![spec("web", &[(A, 1)]), spec("web", &[(B, 1)])];
    assert!(matches!(
        configure(&registry, twice),
        Err(RegistryError::Twice { .. })
    ));
    let dangling = Desired {
        routes: vec![RouteSpec::new(
            PathPattern::Prefix("/".to_owned()),
            ServiceName::new("gone").unwrap(),
        )],
        ..Desired::default()
    };
    let error = registry
        .apply(Change::Configure(Box::new(dangling)))
        .unwrap_err();
    assert!(matches!(error, RegistryError::Dangling { .. }), "{error}");
    let after = registry.snapshot();
    assert_eq!((after.revision, after.services.len()), (revision, 1));
}

#[test]
fn routes_that_differ_in_their_destination_have_budgets_of_their_own() {
    let registry = Registry::new(1, []);
    let route = |ports| RouteSpec {
        destination: Some(GatewayVip {
            prefix: "10.0.0.7".parse().unwrap(),
            ports,
        }),
        rate_limits: vec![RateLimitSpec {
            requests: 5,
            per: std::time::Duration::from_secs(1),
            burst: 5,
            key: RateKey::All,
            max_keys: 1024,
        }],
        ..RouteSpec::new(
            PathPattern::Prefix("/".to_owned()),
            ServiceName::new("web").unwrap(),
        )
    };
    let configure = |ports: &[Ports]| {
        registry.apply(Change::Configure(Box::new(Desired {
            services: vec![spec("web", &[(A, 1)])],
            routes: ports.iter().map(|ports| route(*ports)).collect(),
            ..Desired::default()
        })))
    };
    let limits = || Arc::clone(&registry.snapshot().rate_limits);
    let both = [Ports::One(80), Ports::Any];
    configure(&both).unwrap();
    let before = limits();
    let names = before.all().map(|limit| limit.name.clone());
    let names: Vec<String> = names.collect();
    assert_eq!(names, ["10.0.0.7:80 /*", "10.0.0.7:any /*"]);
    // A reload in another order finds each its own again.
    configure(&[Ports::Any, Ports::One(80)]).unwrap();
    let after = limits();
    assert!(Arc::ptr_eq(&before.routes[0][0], &after.routes[1][0]));
    assert!(Arc::ptr_eq(&before.routes[1][0], &after.routes[0][0]));
    let twice = configure(&[Ports::Any, Ports::Any]);
    assert!(matches!(twice, Err(RegistryError::Twice { .. })));
}

#[test]
fn what_changes_nothing_publishes_nothing() {
    let registry = Registry::new(1, []);
    configure(&registry, vec![spec("web", &[(A, 1)])]).unwrap();
    let mut seen = registry.subscribe();
    seen.mark_unchanged();
    let again = configure(&registry, vec![spec("web", &[(A, 1)])]).unwrap();
    assert!(again.events.is_empty());
    assert!(!seen.has_changed().unwrap());
}

#[test]
fn a_run_time_algorithm_outlives_reloads_until_the_file_changes_its_mind() {
    let registry = Registry::new(1, []);
    let name = ServiceName::new("web").unwrap();
    let algorithm = |r: &Registry| r.snapshot().services[0].spec.algorithm;
    configure(&registry, vec![spec("web", &[(A, 1)])]).unwrap();
    let change = Change::Algorithm {
        service: name,
        algorithm: Algorithm::LeastConnections,
    };
    registry.apply(change).unwrap();
    configure(&registry, vec![spec("web", &[(A, 1), (B, 1)])]).unwrap();
    assert_eq!(algorithm(&registry), Algorithm::LeastConnections);
    let changed = ServiceSpec {
        algorithm: Algorithm::Adaptive,
        ..spec("web", &[(A, 1)])
    };
    configure(&registry, vec![changed]).unwrap();
    assert_eq!(algorithm(&registry), Algorithm::Adaptive);
}

#[test]
fn unhealthy_instances_weigh_nothing_and_untouched_services_are_shared() {
    let registry = Registry::new(1, []);
    configure(&registry, vec![spec("a", &[(A, 1)]), spec("b", &[(A, 1)])]).unwrap();
    let before = registry.snapshot();
    let id = before.services[0].members[0].instance.id;
    let detail = "refused".into();
    registry
        .apply(Change::Health {
            id,
            health: Health::Unhealthy,
            detail,
        })
        .unwrap();
    let after = registry.snapshot();
    assert_eq!(after.services[0].members[0].weight, 0);
    assert!(Arc::ptr_eq(&before.services[1], &after.services[1]));
    assert_eq!(before.configured, after.configured);
}

#[test]
fn errors_name_what_exists() {
    let registry = Registry::new(1, []);
    configure(&registry, vec![spec("web", &[(A, 1)])]).unwrap();
    let admin = |service: &str, instance: &str| {
        registry
            .apply(Change::Admin {
                service: ServiceName::new(service).unwrap(),
                instance: instance.to_owned(),
                state: AdminState::Disabled,
            })
            .unwrap_err()
            .to_string()
    };
    assert!(admin("wob", A).contains("services are: web"));
    assert!(admin("web", B).contains(A));
}

#[test]
fn what_was_found_lies_beneath_the_configuration_and_outlives_it() {
    let registry = Registry::new(1, []);
    let found = |endpoints: &[(&str, u16)]| Change::Discovered {
        service: ServiceName::new("a").unwrap(),
        instances: spec("a", endpoints).instances,
    };
    let configured = |services| {
        let desired = Desired {
            services,
            ..Desired::default()
        };
        Change::Configure(Box::new(desired))
    };
    let source = SourceSpec::Srv { name: "a".into() };
    let looked_for = |endpoints: &[(&str, u16)]| {
        let mut spec = spec("a", endpoints);
        spec.discovery.sources = vec![source.clone()];
        configured(vec![spec])
    };
    let shown = |registry: &Registry| -> Vec<(String, u16)> {
        let snapshot = registry.snapshot();
        let instances = snapshot.services[0].spec.instances.iter();
        instances
            .map(|i| (i.endpoint.name().to_owned(), i.weight))
            .collect()
    };
    let list = |all: &[(&str, u16)]| -> Vec<(String, u16)> {
        all.iter()
            .map(|(name, weight)| ((*name).to_owned(), *weight))
            .collect()
    };
    let (one, two, three) = ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3");

    registry.apply(looked_for(&[(one, 5)])).unwrap();
    let before = registry.snapshot();
    registry.apply(found(&[(one, 9), (two, 2)])).unwrap();
    assert_eq!(shown(&registry), list(&[(one, 5), (two, 2)]));
    // Services stay where they are: nothing was configured.
    let after = registry.snapshot();
    assert_eq!(before.configured, after.configured);
    let same = |position: usize| {
        let (before, after) = (&before.services[0].members, &after.services[0].members);
        Arc::ptr_eq(&before[position].instance, &after[position].instance)
    };
    assert!(same(0));
    // The same once more is no change.
    let again = registry.apply(found(&[(one, 9), (two, 2)])).unwrap();
    assert_eq!(again.revision, after.revision);

    // A configuration keeps what was found, and has the last word.
    registry.apply(looked_for(&[(two, 7), (three, 3)])).unwrap();
    assert_eq!(shown(&registry), list(&[(two, 7), (three, 3), (one, 9)]));
    // What is not looked for any more is gone; who reports it late is ignored.
    registry
        .apply(configured(vec![spec("a", &[(three, 3)])]))
        .unwrap();
    assert_eq!(shown(&registry), list(&[(three, 3)]));
    registry.apply(found(&[(one, 1)])).unwrap();
    assert_eq!(shown(&registry), list(&[(three, 3)]));
    // Until a source says something, a service that has nothing else keeps what it has.
    registry.apply(looked_for(&[])).unwrap();
    assert_eq!(shown(&registry), list(&[(three, 3)]));
    registry.apply(found(&[(two, 2)])).unwrap();
    assert_eq!(shown(&registry), list(&[(two, 2)]));
    registry.apply(found(&[])).unwrap();
    assert_eq!(shown(&registry), list(&[]));
}
