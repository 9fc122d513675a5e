//! The collector of traces: what the workers have recorded, a batch at a time.
//!
//! The workers' queues are looked into a few times a second instead of waking anybody, and emptied
//! also while nobody is there to get their content. Text is made here, far from any request.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    changed,
    delivery::{Batch, Outlet, Queue},
    http::{Answer, Client},
    otlp,
    report::Integrations,
};
use crate::{
    l7::{SpanRecord, Spans},
    model::TraceBackendSpec,
    registry::Registry,
};

/// Requests of a batch at most.
const MOST_REQUESTS: usize = 512;

/// The rest between two looks into the queues of the workers.
const PAUSE: Duration = Duration::from_millis(50);

/// How long the last batches may take when lb ends.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Follows the configuration, until `stopped`.
pub(super) async fn follow(
    registry: Arc<Registry>,
    spans: Spans,
    integrations: Arc<Integrations>,
    mut stopped: watch::Receiver<bool>,
) {
    let report = &integrations.traces;
    let mut gathering = Gathering {
        spans,
        records: Vec::new(),
        queue: Arc::default(),
        integrations: Arc::clone(&integrations),
    };
    loop {
        let spec = registry.snapshot().integration.traces.clone();
        report.set_url(spec.as_ref().map(|spec| spec.url.to_string()));
        let changed = changed(&registry, &spec, |all| &all.traces, &mut stopped);
        let Some(spec) = spec.as_ref() else {
            gathering.queue.clear(report);
            let again = tokio::select! {
                again = changed => again,
                () = gathering.forget() => false,
            };
            if again {
                continue;
            }
            return;
        };
        let outlet = Outlet {
            client: Client::new(&spec.url, spec.timeout),
            path: &spec.path,
            report,
            interval: spec.interval,
            refused,
        };
        let queue = Arc::clone(&gathering.queue);
        let again = tokio::select! {
            again = changed => again,
            () = gathering.run(spec) => false,
            () = queue.deliver(&outlet) => false,
        };
        if !again {
            gathering.look(spec);
            gathering.flush(spec);
            let _ = timeout(LAST_WORDS, queue.deliver_rest(&outlet)).await;
            return;
        }
    }
}

/// Records on their way into batches.
struct Gathering {
    spans: Spans,
    records: Vec<SpanRecord>,
    queue: Arc<Queue>,
    integrations: Arc<Integrations>,
}

impl Gathering {
    /// Gathers for as long as it is polled.
    async fn run(&mut self, spec: &TraceBackendSpec) {
        let mut due = Instant::now() + spec.interval;
        loop {
            self.look(spec);
            if Instant::now() >= due {
                self.flush(spec);
                due = Instant::now() + spec.interval;
            }
            sleep(PAUSE).await;
        }
    }

    /// Takes what the workers have left.
    fn look(&mut self, spec: &TraceBackendSpec) {
        while let Some(record) = self.spans.take() {
            self.records.push(record);
            if self.records.len() >= MOST_REQUESTS {
                self.flush(spec);
            }
        }
        self.integrations.traces.drops(self.spans.lost());
    }

    /// Makes a batch of what there is.
    fn flush(&mut self, spec: &TraceBackendSpec) {
        if self.records.is_empty() {
            return;
        }
        let records = std::mem::take(&mut self.records);
        let items = records.iter().map(SpanRecord::spans).sum();
        if let Some(json) = otlp::encode(&records, &spec.service_name) {
            let json = json.into();
            let batch = Batch { json, items };
            self.queue
                .push(batch, spec.queue, &self.integrations.traces);
        }
    }

    /// Nobody wants them: what requests recorded that had begun before that was so goes.
    async fn forget(&mut self) {
        self.records.clear();
        loop {
            while self.spans.take().is_some() {}
            let _ = self.spans.lost();
            sleep(PAUSE).await;
        }
    }
}

/// How many spans a collector says that it has not taken, in an answer of success.
fn refused(answer: &Answer) -> u64 {
    let body = answer.body.as_deref().unwrap_or_default();
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let refused = &answer["partialSuccess"]["rejectedSpans"];
    // A number of 64 bits is a text in this form; some write a number.
    let text = refused.as_str().and_then(|text| text.parse().ok());
    text.or(refused.as_u64()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_may_take_a_part() {
        let of = |body: &str| {
            refused(&Answer {
                status: hyper::StatusCode::OK,
                retry_after: None,
                body: Some(body.to_owned().into()),
            })
        };
        assert_eq!(of(r#"{"partialSuccess":{"rejectedSpans":"3"}}"#), 3);
        assert_eq!(of(r#"{"partialSuccess":{"rejectedSpans":3}}"#), 3);
        for nothing in [
            "",
            "{}",
            "[]",
            "no",
            r#"{"partialSuccess":{"rejectedSpans":-1}}"#,
        ] {
            assert_eq!(of(nothing), 0, "{nothing}");
        }
    }
}
