//! The open connections of a worker: what they have passed on, how long they have been silent, and
//! how each of them is cut.
//!
//! A connection notes what it passes on in cells of its own. Once a second the worker goes through
//! all of them: it adds up what was noted, and cuts what has nothing to live for. So a connection costs no
//! timer, and passing on a piece no clock and no shared counter.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::sync::Notify;

use super::front::Front;
use crate::model::{DatapathSpec, Instance, Timestamp};

/// How often the worker goes through all connections.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// A connection between a client and an instance.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) front: Arc<Front>,
    pub(super) instance: Arc<Instance>,
    /// When it began.
    since: Timestamp,
    /// Bytes from the client and to it that have not been added up.
    bytes: [Cell<u64>; 2],
    /// Whether anything was passed on since the last look, and in how many looks nothing was.
    moved: Cell<bool>,
    silent: Cell<u64>,
    /// Whether one of the two has said that it sends no more.
    pub(super) half_closed: Cell<bool>,
    cut: Notify,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    In,
    Out,
}

impl Line {
    /// Notes bytes that were passed on.
    pub(super) fn passed(&self, direction: Direction, bytes: usize) {
        let count = &self.bytes[direction as usize];
        count.set(count.get() + bytes as u64);
        self.moved.set(true);
    }

    /// Waits until it is to be cut.
    pub(super) async fn is_cut(&self) {
        self.cut.notified().await;
    }

    fn add_up(&self) {
        let (vip, kernel) = (&self.front.counts, &self.instance.kernel);
        for (count, totals) in self.bytes.iter().zip([
            [&vip.bytes_in, &kernel.bytes_in],
            [&vip.bytes_out, &kernel.bytes_out],
        ]) {
            let bytes = count.take();
            if bytes > 0 {
                for total in totals {
                    total.fetch_add(bytes, Relaxed);
                }
            }
        }
    }

    /// Whether it has been silent for as long as it may be; to be asked once a look.
    fn is_silent(&self, spec: &DatapathSpec) -> bool {
        let silent = match self.moved.take() {
            true => 0,
            false => self.silent.get() + 1,
        };
        self.silent.set(silent);
        // The same as of the kernel's connections whose one end was seen.
        let limit = match self.half_closed.get() {
            true => spec.udp_idle_timeout,
            false => self
                .front
                .service
                .spec
                .idle_timeout
                .unwrap_or(spec.tcp_idle_timeout),
        };
        silent > limit.as_secs()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lines {
    next: Cell<u64>,
    open: RefCell<HashMap<u64, Rc<Line>>>,
}

/// An open connection; dropping it says that it is over.
#[derive(Debug)]
pub(super) struct Open<'a> {
    lines: &'a Lines,
    number: u64,
    pub(super) line: Rc<Line>,
}

impl Lines {
    /// Enters a connection.
    pub(super) fn enter(
        &self,
        front: &Arc<Front>,
        instance: &Arc<Instance>,
        now: Timestamp,
    ) -> Open<'_> {
        let number = self.next.replace(self.next.get() + 1);
        let line = Rc::new(Line {
            front: Arc::clone(front),
            instance: Arc::clone(instance),
            since: now,
            bytes: Default::default(),
            moved: Cell::new(true),
            silent: Cell::new(0),
            half_closed: Cell::new(false),
            cut: Notify::new(),
        });
        self.open.borrow_mut().insert(number, Rc::clone(&line));
        let (vip, kernel) = (&front.counts, &instance.kernel);
        for count in [
            &vip.connections,
            &vip.live,
            &kernel.connections,
            &kernel.live,
        ] {
            count.fetch_add(1, Relaxed);
        }
        kernel.relayed.store(true, Relaxed);
        Open {
            lines: self,
            number,
            line,
        }
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        self.open.borrow().len()
    }

    /// Adds up what was noted and cuts what has been silent for too long; once a [`LOOK`].
    pub(super) fn look(&self, spec: &DatapathSpec) {
        for line in self.open.borrow().values() {
            line.add_up();
            if line.is_silent(spec) {
                line.cut.notify_one();
            }
        }
    }

    /// Cuts what `keeps` does not keep, and what is left of instances that were given up.
    pub(super) fn cut(&self, keeps: impl Fn(&Line) -> bool) {
        for line in self.open.borrow().values() {
            let severed = line.instance.severed();
            if severed.is_some_and(|at| line.since <= at) || !keeps(line) {
                line.cut.notify_one();
            }
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.lines.open.borrow_mut().remove(&self.number);
        self.line.add_up();
        for live in [
            &self.line.front.counts.live,
            &self.line.instance.kernel.live,
        ] {
            live.fetch_sub(1, Relaxed);
        }
    }
}
