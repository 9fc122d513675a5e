//! What is told of a connection is what becomes of it.

use std::{collections::BTreeSet, num::NonZeroU32};

use super::*;
use crate::{
    balance::Random,
    l4::relay::{Relayed, explain},
    model::{AclAction, AclSpec, AffinitySpec, HashKey, RelayRefusal, SessionSource, Timestamp},
    registry::{Change, Desired},
};

fn told(stage: &Stage, client: SocketAddr, vip: SocketAddr) -> Option<Relayed> {
    let snapshot = stage.world.snapshot();
    let is_full = {
        let connections = stage.handle.report().connections;
        connections.entries >= connections.max.into()
    };
    let sessions = stage.world.0.sessions();
    let around = (Timestamp::default(), &Random::new(1));
    explain(&snapshot, sessions, (client, vip), is_full, around)
}

/// The letter of the instance that is certain to have it.
fn certain(told: &Relayed, echoes: &[Echo; 2]) -> Option<u8> {
    let at = told.candidates.iter().position(|one| one.chance == 1.0)?;
    let address = told.service.members[at].instance.endpoint.address();
    let echo = echoes.iter().position(|echo| echo.address == address)?;
    Some(b"ab"[echo])
}

fn echoes() -> [Echo; 2] {
    [Echo::start(b'a'), Echo::start(b'b')]
}

#[test]
fn a_hash_leads_where_it_is_said_to_lead() {
    // All clients have one address; each has a port of its own.
    for (hash_key, kinds) in [(HashKey::Source, 1), (HashKey::Flow, 2)] {
        let (echoes, at) = (echoes(), unused_address());
        let web = ServiceSpec {
            algorithm: Algorithm::ConsistentHash,
            hash_key,
            ..web(&[&echoes[0], &echoes[1]])
        };
        let stage = Stage::new(vec![web], vec![tcp(at, "web")]);
        let mut seen = BTreeSet::new();
        for _ in 0..32 {
            let mut client = Client::connect(at);
            let told = told(&stage, client.0.local_addr().unwrap(), at).unwrap();
            assert_eq!(told.refused, None);
            let letter = certain(&told, &echoes).unwrap();
            assert_eq!(client.letter(), Ok(letter));
            seen.insert(letter);
        }
        assert_eq!(seen.len(), kinds);
    }
}

#[test]
fn chances_are_those_of_the_algorithm_and_of_who_takes_part() {
    let (echoes, at) = (echoes(), unused_address());
    let stage = Stage::new(vec![web(&[&echoes[0], &echoes[1]])], vec![tcp(at, "web")]);
    let client = "198.51.100.7:4000".parse().unwrap();
    let chances = || -> Vec<f64> {
        let told = told(&stage, client, at).unwrap();
        told.candidates.iter().map(|one| one.chance).collect()
    };
    assert_eq!(chances(), [0.5, 0.5]);
    let draining = crate::model::AdminState::Draining;
    stage.world.admin("web", &echoes[0].name(), draining);
    assert_eq!(chances(), [0.0, 1.0]);
    stage.world.admin("web", &echoes[1].name(), draining);
    let nobody = told(&stage, client, at).unwrap();
    assert_eq!(nobody.refused, Some(RelayRefusal::NoInstance));
    let other = unused_address();
    assert!(told(&stage, client, other).is_none(), "it is no VIP");
}

#[test]
fn a_client_that_is_remembered_stays_and_telling_of_it_prolongs_nothing() {
    let (echoes, at) = (echoes(), unused_address());
    let mut web = web(&[&echoes[0], &echoes[1]]);
    web.affinity = AffinitySpec {
        enabled: true,
        sources: vec![SessionSource::Address],
        ..AffinitySpec::default()
    };
    let stage = Stage::new(vec![web], vec![tcp(at, "web")]);
    let stranger = told(&stage, "127.0.0.9:4000".parse().unwrap(), at).unwrap();
    assert_eq!((stranger.pinned, stranger.refused), (None, None));
    let mut client = Client::connect(at);
    let letter = client.letter().unwrap();
    let client = client.0.local_addr().unwrap();
    let expires = || {
        let session = crate::affinity::SessionId::of_address(client.ip());
        let found = stage.world.0.sessions().find(session, Timestamp::default());
        found[0].expires
    };
    let before = expires();
    let told = told(&stage, client, at).unwrap();
    assert!(told.pinned.is_some());
    assert_eq!(certain(&told, &echoes), Some(letter));
    assert_eq!(expires(), before);
}

#[test]
fn refusals_are_foretold() {
    let (echoes, at) = (echoes(), unused_address());
    let mut limited = web(&[&echoes[0]]);
    limited.limits.connections = NonZeroU32::new(1);
    let spec = DatapathSpec {
        max_connections: 2,
        ..DatapathSpec::default()
    };
    let stage = Stage::with(spec, vec![limited], vec![tcp(at, "web")]);
    let client: SocketAddr = "198.51.100.7:4000".parse().unwrap();
    let refused = || told(&stage, client, at).unwrap().refused;
    assert_eq!(refused(), None);
    let mut held = Client::connect(at);
    held.letter().unwrap();
    assert_eq!(refused(), Some(RelayRefusal::Limit));
    // It waits for the first one to end.
    let _waiting = Client::connect(at);
    stage.report_when("two connections", |report| report.connections.entries == 2);
    assert_eq!(refused(), Some(RelayRefusal::MaxConnections));
    let snapshot = stage.world.snapshot();
    let rule = ("198.51.100.0/24".parse().unwrap(), AclAction::Deny);
    let desired = Desired {
        services: snapshot
            .services
            .iter()
            .map(|one| (*one.spec).clone())
            .collect(),
        vips: snapshot.vips.to_vec(),
        acl: AclSpec {
            rules: [rule].into_iter().collect(),
            ..AclSpec::default()
        },
        ..Desired::default()
    };
    stage.world.apply(Change::Configure(Box::new(desired)));
    assert_eq!(refused(), Some(RelayRefusal::SourceDenied));
}
