//! VIPs that nobody serves.

use std::{future::Future, sync::Arc};

use super::report::Reporter;
use crate::registry::{Registry, Snapshot};

/// Says loudly, whenever a configuration has VIPs, that nobody serves them.
pub(crate) async fn mourn(
    registry: Arc<Registry>,
    reporter: Reporter,
    shutdown: impl Future<Output = ()>,
) {
    let mut revisions = registry.subscribe();
    revisions.mark_changed();
    let mut shutdown = std::pin::pin!(shutdown);
    let mut configured = 0;
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            alive = revisions.changed() => {
                if alive.is_err() {
                    break;
                }
                let snapshot = registry.snapshot();
                if snapshot.configured != configured {
                    configured = snapshot.configured;
                    let mut report = (*reporter.latest()).clone();
                    report.warnings = unserved(&snapshot, &report.reason);
                    for warning in &report.warnings {
                        tracing::error!("{warning}");
                    }
                    reporter.publish(report);
                }
            }
        }
    }
}

fn unserved(snapshot: &Snapshot, reason: &str) -> Vec<String> {
    snapshot
        .vips
        .iter()
        .map(|vip| format!("VIP {vip} is not served: {reason}"))
        .collect()
}
