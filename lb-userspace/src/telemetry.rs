//! What lb tells about itself: metrics for machines, a log for people, and a line for each
//! request where somebody wants that.
//!
//! Metrics are read: the counters live in the instances and in the kernel's maps, and a scrape, or a
//! collection for a backend that they are pushed to, reads them where they are. Nothing on the
//! request path knows that metrics exist.

pub mod access_log;
mod admission;
mod audit;
mod cap;
mod discovery;
mod gateway;
mod integration;
mod lines;
pub mod logging;
pub mod metrics;
pub mod names;
pub mod openmetrics;
mod packets;
mod process;
mod pushed;
mod samples;
mod served;
mod sessions;
mod traffic;

pub use lines::{LineTarget, LineWriter, LinesError};
pub use logging::{LogFilter, LoggingError};
pub use metrics::{Metrics, MetricsError};
