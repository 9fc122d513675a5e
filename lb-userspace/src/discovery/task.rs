//! The task that asks one source, again and again.

use std::sync::Arc;

use tokio::{sync::mpsc, time::timeout};

use super::{
    keeper::{Keeper, Looked},
    report::{Handle, Key, SourceState},
    source::{Answer, Source, Trouble},
};
use crate::model::{Clock, DiscoverySpec, InstanceSpec, Timestamp};

/// What a task has to say.
#[derive(Debug)]
pub(super) struct Update {
    /// Which task.
    pub(super) task: u64,
    /// The source and its service.
    pub(super) key: Key,
    /// What the source names; `None` when it has not named anything so far.
    pub(super) set: Option<Arc<[InstanceSpec]>>,
}

/// Asks a source.
pub(super) struct Task {
    pub(super) number: u64,
    pub(super) key: Key,
    pub(super) spec: DiscoverySpec,
    pub(super) source: Box<dyn Source>,
    pub(super) keeper: Keeper,
    pub(super) updates: mpsc::UnboundedSender<Update>,
    pub(super) handle: Handle,
    pub(super) clock: Clock,
}

impl Task {
    /// Asks until nobody listens any more.
    pub(super) async fn run(mut self) {
        loop {
            let asked = self.clock.now();
            let outcome = self.look().await;
            let now = self.clock.now();
            let looked = self.keeper.took(outcome, &self.spec, now);
            self.report(asked, now, &looked);
            let update = Update {
                task: self.number,
                key: self.key.clone(),
                set: self.keeper.set().cloned(),
            };
            if self.updates.send(update).is_err() {
                return;
            }
            self.rest(&looked).await;
        }
    }

    async fn look(&mut self) -> Result<Answer, Trouble> {
        let limit = self.spec.timeout;
        timeout(limit, self.source.look())
            .await
            .unwrap_or_else(|_| Err(Trouble::Failed(format!("no answer within {limit:?}"))))
    }

    /// Waits until it is worth to ask again.
    async fn rest(&mut self, looked: &Looked) {
        let time = async {
            match looked.wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = time => {}
            () = self.source.changed() => {}
            () = self.handle.refreshed() => {}
        }
    }

    /// Writes down how it went; a change for better or worse goes to the log.
    fn report(&self, asked: Timestamp, now: Timestamp, looked: &Looked) {
        let (service, source) = &self.key;
        self.handle.update(&self.key, |report| {
            let before = report.state;
            report.asked = Some(asked);
            report.next = looked.wait.map(|wait| now + wait);
            report.instances = self.keeper.set().cloned();
            report.failures_in_row = self.keeper.failures();
            report.state = match (&looked.problem, &report.instances) {
                (None, _) => SourceState::Good,
                (Some(_), Some(_)) => SourceState::Stale,
                (Some(_), None) => SourceState::Failing,
            };
            match &looked.problem {
                None => {
                    report.successes += 1;
                    report.good = Some(now);
                    report.took = Some(now - asked);
                }
                Some(_) => report.failures += 1,
            }
            report.problem.clone_from(&looked.problem);
            match &looked.problem {
                Some(problem) if before != report.state => {
                    let kept = report.instances.as_ref().map_or(0, |set| set.len());
                    tracing::warn!(%service, %source, problem, kept, "source of instances fails");
                }
                None if before.is_trouble() => {
                    tracing::info!(%service, %source, "source of instances answers again");
                }
                _ => {}
            }
        });
    }
}
