//! The metrics backend.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use serde_json::Value;

use super::{
    peer::{Manner, Peer},
    *,
};

const TAKES: Manner = Manner::Says(204, "");

/// Two metrics, one of which counts how often they were collected.
pub(super) fn source(include: &dyn Fn(&str) -> bool) -> Vec<Sample> {
    static COLLECTED: AtomicU64 = AtomicU64::new(0);
    let sample = |name: &str, value| Sample {
        name: name.to_owned(),
        kind: SampleKind::Counter,
        value,
        tags: BTreeMap::from([("service".to_owned(), "web".to_owned())]),
    };
    let count = COLLECTED.fetch_add(1, Ordering::Relaxed);
    let all = [
        sample("gateway_load_balancer_request_total", count as f64),
        sample("lb_revision", 1.0),
    ];
    all.into_iter().filter(|s| include(&s.name)).collect()
}

fn world(peer: &Peer) -> World {
    World::new(IntegrationSpec {
        metrics: Some(pushes(peer)),
        ..IntegrationSpec::default()
    })
}

#[tokio::test]
async fn metrics_are_pushed_once_an_interval() {
    let peer = Peer::new(TAKES);
    let world = world(&peer);
    let report = &world.integrations.metrics;
    eventually("three batches are taken", || report.delivered() >= 3).await;
    let got = peer.got();
    assert_eq!(got[0].line, "POST /monitoring/metrics HTTP/1.1");
    let batch: Value = serde_json::from_str(&got[0].body).unwrap();
    assert_eq!(batch.as_array().unwrap().len(), 1, "{batch}");
    assert_eq!(batch[0]["name"], "gateway_load_balancer_request_total");
    assert_eq!(batch[0]["type"], "counter");
    assert_eq!(batch[0]["tags"]["service"], "web");
    assert_eq!(peer.connections(), 1);
    assert_eq!(report.dropped(), 0);
}

#[tokio::test]
async fn a_backend_that_is_gone_finds_the_newest_when_it_is_back() {
    let peer = Peer::new(Manner::Silent);
    let world = world(&peer);
    let report = &world.integrations.metrics;
    // Three wait at most; the others are given up and counted.
    eventually("some are given up", || report.dropped() >= 3).await;
    assert!(report.waiting() <= 3);
    eventually("it is found to be silent", || report.last().failing).await;
    peer.goes();
    let failed = report.failed();
    eventually("it is tried again", || report.failed() > failed).await;
    peer.comes_back();
    peer.now(TAKES);
    eventually("it is told", || report.delivered() >= 3).await;
    eventually("it works", || !report.last().failing).await;
    assert!(report.waiting() <= 3);
}

#[tokio::test]
async fn a_batch_that_is_refused_for_good_is_given_up_at_once() {
    let peer = Peer::new(Manner::Says(400, "what is this?"));
    let world = world(&peer);
    let report = &world.integrations.metrics;
    eventually("refused ones are given up", || report.dropped() >= 3).await;
    assert_eq!(report.delivered(), 0);
    let (_, error) = report.last().failure.unwrap();
    assert!(error.contains("found status 400"), "{error}");
}

#[tokio::test]
async fn a_reload_begins_and_ends_it_in_place_and_the_end_sends_the_rest() {
    let peer = Peer::new(TAKES);
    let mut world = world(&peer);
    let report = Arc::clone(&world.integrations);
    let report = &report.metrics;
    eventually("one is taken", || report.delivered() > 0).await;
    world.reload(|desired| desired.integration.metrics = None);
    eventually("it is off", || report.last().url.is_none()).await;
    let delivered = report.delivered();
    world.reload(|desired| {
        desired.integration.metrics = Some(MetricsBackendSpec {
            // Not again in this test.
            interval: Duration::from_secs(3600),
            path: "/elsewhere".to_owned(),
            ..pushes(&peer)
        });
    });
    eventually("it is on", || report.last().url.is_some()).await;
    world.end().await;
    assert_eq!(report.delivered(), delivered + 1);
    assert_eq!(peer.got().pop().unwrap().line, "POST /elsewhere HTTP/1.1");
}
