//! What signals ask for.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Read the configuration again (SIGHUP).
    Reload,
    /// Open log files anew (SIGUSR1).
    Reopen,
    /// Stop, letting requests in flight finish (SIGTERM, SIGINT).
    Stop,
}

/// The signals that lb obeys.
#[derive(Debug)]
pub(super) struct Signals {
    hangup: Signal,
    user: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes the signals over; from here on they no longer end the process by themselves.
    pub(super) fn new() -> anyhow::Result<Self> {
        let take = |kind| signal(kind).context("cannot take over a signal");
        Ok(Self {
            hangup: take(SignalKind::hangup())?,
            user: take(SignalKind::user_defined1())?,
            terminate: take(SignalKind::terminate())?,
            interrupt: take(SignalKind::interrupt())?,
        })
    }

    /// The next order.
    pub(super) async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.hangup.recv() => Order::Reload,
            _ = self.user.recv() => Order::Reopen,
            _ = self.terminate.recv() => Order::Stop,
            _ = self.interrupt.recv() => Order::Stop,
        }
    }
}
