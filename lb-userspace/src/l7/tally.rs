//! A service's counters of what its clients see, as one worker uses them.

use std::{rc::Rc, sync::Arc, time::Duration};

use super::access::Ending;
use crate::{
    model::{Class, Served},
    registry::Snapshot,
};

/// The counters of a service and whose they are. Shared by the requests of one worker: a count of
/// references that all workers shared would cost each request more than the counting.
#[derive(Debug)]
pub(super) struct Tally {
    served: Arc<Served>,
    worker: usize,
}

impl Tally {
    /// Those of all services of a snapshot, in their order.
    pub(super) fn all(snapshot: &Snapshot, worker: usize) -> Rc<[Rc<Self>]> {
        let services = snapshot.services.iter();
        let tally = services.map(|service| {
            Rc::new(Self {
                served: Arc::clone(&service.served),
                worker,
            })
        });
        tally.collect()
    }

    /// Counts the end of a request.
    pub(super) fn ended(&self, ending: Ending, took: Duration, complete: bool) {
        let class = match ending {
            Ending::Answered(status) => Class::of(status),
            Ending::Refused(reason) => Class::of(reason.status()),
            Ending::ClientGone => Class::ClientGone,
        };
        self.served.ended(self.worker, class, took, complete);
    }

    /// Counts bytes of a request's body.
    pub(super) fn received(&self, bytes: usize) {
        self.served.received(self.worker, bytes);
    }

    /// Counts bytes of an answer's body.
    pub(super) fn sent(&self, bytes: usize) {
        self.served.sent(self.worker, bytes);
    }
}
