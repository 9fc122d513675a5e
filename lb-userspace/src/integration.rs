//! Systems beside lb: who is asked what it knows of the services, and who is told what lb has
//! measured.
//!
//! The rule for all of them is that they cannot hurt: a peer that is slow, lies or is gone must not
//! be noticed by a single request. So everything here runs on the control plane's runtime and
//! touches the request path in one place only, a word in the service's guard that a request reads
//! anyway ([`breaker`]). Nothing is counted for a peer's sake: what it is told are differences and
//! copies of what instances have counted, and traces that workers have left in queues of their own. What waits to be told is bounded, and what is lost is
//! counted. Every exchange has a limit of time and of bytes ([`http`]).
//!
//! [`run`] follows the configuration: a reload changes, adds or ends an integration in place.

mod breaker;
mod delivery;
mod http;
mod metrics;
mod otlp;
mod report;
mod traces;

use std::sync::Arc;

use tokio::sync::watch;

use crate::{
    l7::Spans,
    model::{Clock, IntegrationSpec},
    registry::Registry,
};

pub use metrics::{Sample, SampleKind};
pub use report::{BreakerReport, Integrations, Report, Word};

/// Where the values of metrics come from: those of the families whose names the filter lets pass.
pub type Source = Arc<dyn Fn(&dyn Fn(&str) -> bool) -> Vec<Sample> + Send + Sync>;

/// Runs all integrations that the configuration asks for, until `stopped`; then what waits to be
/// told is sent, once.
pub async fn run(
    registry: Arc<Registry>,
    clock: Clock,
    source: Source,
    spans: Spans,
    integrations: Arc<Integrations>,
    stopped: watch::Receiver<bool>,
) {
    let breakers = breaker::follow(
        Arc::clone(&registry),
        clock,
        Arc::clone(&integrations),
        stopped.clone(),
    );
    let metrics = metrics::follow(
        Arc::clone(&registry),
        source,
        Arc::clone(&integrations),
        stopped.clone(),
    );
    let traces = traces::follow(registry, spans, integrations, stopped);
    tokio::join!(breakers, metrics, traces);
}

/// Waits until the registry holds another value than `now` of what `part` takes from a snapshot, or
/// until the daemon stops. Says whether it is the former.
async fn changed<T: PartialEq>(
    registry: &Registry,
    now: &T,
    part: impl Fn(&IntegrationSpec) -> &T,
    stopped: &mut watch::Receiver<bool>,
) -> bool {
    let mut revisions = registry.subscribe();
    let differs = async {
        while *part(&registry.snapshot().integration) == *now {
            // The registry is held here, so its sender cannot go away.
            if revisions.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = differs => true,
        _ = stopped.wait_for(|stop| *stop) => false,
    }
}

#[cfg(test)]
mod tests;
