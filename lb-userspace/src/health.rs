//! Active health checks and health scores.
//!
//! Every instance of a service with a health check has a task that probes it at its own pace (see
//! [`checker`]); what a probe found goes through a state machine that knows no I/O (see
//! [`verdict`]), and a change of health goes to the registry, which takes the instance out of both
//! data planes or back in. Beside that, once a second, what instances have measured of real
//! traffic becomes scores and weights (see [`scorer`]), instances that stand out for the worse are
//! ejected (see [`outlier`]), and those that have come back or joined go on with their recovery (see
//! [`comeback`]) or their slow start (see [`slow_start`]). Circuit breakers work without any of this;
//! what becomes of them reaches the registry by [`breakers`].
//!
//! Nothing here is on the path of a request or a packet, and a check that hangs delays no other.

pub mod breakers;
pub mod checker;
pub mod comeback;
pub mod outlier;
mod probe;
pub mod scorer;
pub mod slow_start;
mod verdict;

use std::sync::Arc;

use tokio::sync::watch;

use crate::{model::Clock, registry::Registry};

/// Checks and scores the instances of `registry` until `stopped` is true or its sender is gone.
pub async fn run(registry: Arc<Registry>, clock: Clock, mut stopped: watch::Receiver<bool>) {
    let checks = checker::run(Arc::clone(&registry), clock.clone());
    let comebacks = comeback::run(Arc::clone(&registry), clock.clone());
    let breakers = breakers::run(Arc::clone(&registry), clock.clone());
    let outliers = outlier::run(Arc::clone(&registry), clock.clone());
    let starts = slow_start::run(Arc::clone(&registry), clock.clone());
    let scores = scorer::run(registry, clock);
    tokio::select! {
        () = checks => {}
        () = scores => {}
        () = comebacks => {}
        () = breakers => {}
        () = outliers => {}
        () = starts => {}
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
}

#[cfg(test)]
mod tests;
