//! The open connections of a worker to instances, so that what is left of an instance can be cut.
//!
//! A drain waits for whom it can wait for. A client that holds a WebSocket for a week, or a body
//! that does not end, has to be cut when the time of the drain is over, and then also where the
//! instance has left the configuration. So each task that holds a connection to an instance is
//! noted here when it begins; an instance that was severed ([`Instance::sever`]) has those ended
//! that began before. Noting costs a connection a little and a request nothing.

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use tokio::task::AbortHandle;

use crate::model::{Instance, InstanceId, Timestamp};

/// Tasks of an instance between two looks at which of them have ended already.
const FEW: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lines(RefCell<HashMap<InstanceId, OfInstance>>);

#[derive(Debug)]
struct OfInstance {
    instance: Arc<Instance>,
    open: Vec<Line>,
    /// So many are looked through for those that have ended: twice as many as were left the last
    /// time, so that looking costs each a constant.
    most: usize,
}

/// A task that holds a connection.
#[derive(Debug)]
struct Line {
    since: Timestamp,
    task: AbortHandle,
}

impl Lines {
    /// Notes a task that holds a connection to `instance` from now on.
    pub(super) fn note(&self, instance: &Arc<Instance>, now: Timestamp, task: AbortHandle) {
        let mut lines = self.0.borrow_mut();
        let of = lines.entry(instance.id).or_insert_with(|| OfInstance {
            instance: Arc::clone(instance),
            open: Vec::new(),
            most: FEW,
        });
        if of.open.len() >= of.most {
            of.tidy();
        }
        of.open.push(Line { since: now, task });
    }

    /// Cuts what is left of instances that were severed, and forgets what has ended.
    pub(super) fn sweep(&self) {
        self.0.borrow_mut().retain(|_, of| {
            if let Some(severed) = of.instance.severed() {
                let before = of.open.iter().filter(|line| line.since <= severed);
                before.for_each(|line| line.task.abort());
            }
            of.tidy();
            !of.open.is_empty()
        });
    }
}

impl OfInstance {
    fn tidy(&mut self) {
        self.open.retain(|line| !line.task.is_finished());
        self.most = (2 * self.open.len()).max(FEW);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::task::{JoinHandle, LocalSet, spawn_local};

    use super::*;
    use crate::model::{Endpoint, ServiceLoad, ServiceName};

    fn instance(index: u16) -> Arc<Instance> {
        let id = InstanceId {
            index,
            generation: 1,
        };
        let endpoint = Endpoint::from_address(([127, 0, 0, 1], index).into());
        let name = ServiceName::new("a").unwrap();
        Arc::new(Instance::new(
            id,
            name,
            endpoint,
            Arc::new(ServiceLoad::new(1)),
        ))
    }

    fn held(lines: &Lines, instance: &Arc<Instance>, now: u64) -> JoinHandle<()> {
        let task = spawn_local(pending());
        lines.note(instance, Timestamp(now), task.abort_handle());
        task
    }

    #[tokio::test]
    async fn what_began_before_is_cut_and_nothing_else() {
        let lines = Lines::default();
        let (one, other) = (instance(1), instance(2));
        let local = LocalSet::new();
        let cut = local.run_until(async {
            let tasks = [
                held(&lines, &one, 10),
                held(&lines, &one, 30),
                held(&lines, &other, 10),
            ];
            one.sever(Timestamp(20));
            lines.sweep();
            tokio::task::yield_now().await;
            tasks.map(|task| task.is_finished())
        });
        assert_eq!(cut.await, [true, false, false]);
    }

    #[tokio::test]
    async fn who_has_ended_is_forgotten() {
        let lines = Lines::default();
        let one = instance(1);
        let local = LocalSet::new();
        let most = local.run_until(async {
            let mut most = 0;
            for _ in 0..1000 {
                held(&lines, &one, 1).abort();
                tokio::task::yield_now().await;
                most = most.max(lines.0.borrow()[&one.id].open.len());
            }
            most
        });
        assert!(most.await <= FEW + 1);
        local.run_until(async { lines.sweep() }).await;
        assert!(lines.0.borrow().is_empty());
    }
}
