//! The metrics backend: what a scrape would see, pushed once an interval.
//!
//! A collection becomes batches of JSON at once, so that what waits for a slow backend is a number
//! of bytes and shows the moment at which it was collected. Counters are sent as they stand, as in a
//! scrape: a batch that is lost costs resolution, not counts.
//!
//! A histogram is sent as in Prometheus' text: for each series `…_bucket` with a tag `le`, `…_sum`
//! and `…_count`. So every value is a number.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    Source, changed,
    delivery::{Batch, Outlet, Queue},
    http::{Answer, Client},
    report::Integrations,
};
use crate::{model::MetricsBackendSpec, registry::Registry};

/// Most samples of a batch.
const MOST_SAMPLES: usize = 5000;

/// How long the last batches may take when lb ends.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A value of a metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Name of the metric, with what a histogram's parts have behind it.
    pub name: String,
    /// What it is.
    pub kind: SampleKind,
    /// The value; what JSON has no number for is not sent.
    pub value: f64,
    /// Labels.
    pub tags: BTreeMap<String, String>,
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SampleKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A part of a histogram.
    Histogram,
}

/// A sample as the backend reads it.
#[derive(Debug, Serialize)]
struct Sent<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    kind: SampleKind,
    value: f64,
    timestamp: u64,
    tags: &'a BTreeMap<String, String>,
}

/// Follows the configuration, until `stopped`.
pub(super) async fn follow(
    registry: Arc<Registry>,
    source: Source,
    integrations: Arc<Integrations>,
    mut stopped: watch::Receiver<bool>,
) {
    let (queue, report) = (Queue::default(), &integrations.metrics);
    loop {
        let spec = registry.snapshot().integration.metrics.clone();
        report.set_url(spec.as_ref().map(|spec| spec.url.to_string()));
        let changed = changed(&registry, &spec, |all| &all.metrics, &mut stopped);
        let Some(spec) = spec.as_ref() else {
            queue.clear(report);
            if changed.await {
                continue;
            }
            return;
        };
        let outlet = Outlet {
            client: Client::new(&spec.url, spec.timeout),
            path: &spec.path,
            report,
            interval: spec.interval,
            refused: nothing,
        };
        let again = tokio::select! {
            again = changed => again,
            () = collect(&queue, &source, spec, &integrations) => false,
            () = queue.deliver(&outlet) => false,
        };
        if !again {
            add(&queue, &source, spec, &integrations);
            let _ = timeout(LAST_WORDS, queue.deliver_rest(&outlet)).await;
            return;
        }
    }
}

/// A success is a success.
const fn nothing(_: &Answer) -> u64 {
    0
}

async fn collect(
    queue: &Queue,
    source: &Source,
    spec: &MetricsBackendSpec,
    integrations: &Integrations,
) {
    let mut ticks = interval(spec.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is at once, when there is nothing to tell.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        add(queue, source, spec, integrations);
    }
}

/// Collects what there is now and has it wait to be sent.
fn add(queue: &Queue, source: &Source, spec: &MetricsBackendSpec, integrations: &Integrations) {
    let samples = source(&|name| spec.includes(name));
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    for batch in batches(&samples, now.unwrap_or_default().as_secs()) {
        queue.push(batch, spec.queue, &integrations.metrics);
    }
}

fn batches(samples: &[Sample], timestamp: u64) -> Vec<Batch> {
    let sent: Vec<Sent<'_>> = samples
        .iter()
        .filter(|sample| sample.value.is_finite())
        .map(|sample| Sent {
            name: &sample.name,
            kind: sample.kind,
            value: sample.value,
            timestamp,
            tags: &sample.tags,
        })
        .collect();
    sent.chunks(MOST_SAMPLES)
        .filter_map(|chunk| {
            // Numbers and texts always have a form in JSON.
            let json = serde_json::to_vec(chunk).ok()?;
            Some(Batch {
                json: json.into(),
                items: chunk.len() as u64,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(value: f64) -> Sample {
        Sample {
            name: "gateway_instance_health_score".to_owned(),
            kind: SampleKind::Gauge,
            value,
            tags: BTreeMap::from([("service".to_owned(), "a\"b".to_owned())]),
        }
    }

    #[test]
    fn batches_are_bounded_and_of_the_contracts_form() {
        let mut samples = vec![sample(0.5); MOST_SAMPLES + 1];
        samples.push(sample(f64::NAN));
        samples.push(sample(f64::INFINITY));
        let batches = batches(&samples, 1_705_315_800);
        let items: Vec<u64> = batches.iter().map(|batch| batch.items).collect();
        assert_eq!(items, [MOST_SAMPLES as u64, 1]);
        let json: serde_json::Value = serde_json::from_slice(&batches[1].json).unwrap();
        let expected = serde_json::json!([{
            "name": "gateway_instance_health_score",
            "type": "gauge",
            "value": 0.5,
            "timestamp": 1_705_315_800,
            "tags": {"service": "a\"b"},
        }]);
        assert_eq!(json, expected);
        assert!(super::batches(&[], 1).is_empty());
    }
}
