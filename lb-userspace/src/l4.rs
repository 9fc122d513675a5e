//! The kernel's data plane: snapshots into XDP maps.

mod addresses;
mod datapath;
mod error;
#[cfg(test)]
mod fixture;
mod host;
mod neighbour;
mod open;
#[cfg(test)]
mod packet_tests;
mod plan;
mod recipe;
mod reconcile;
mod report;
mod stats;
mod sweep;
mod tables;
mod worker;

pub use datapath::{AttachMode, Attachment, DatapathError};
pub use error::L4Error;
pub use open::{Opened, PinnedStatus, detach, open, run, status};
pub use reconcile::ReconcileError;
#[cfg(test)]
pub(crate) use report::Reporter;
pub use report::{ConnectionReport, Handle, ReconcileReport, Report, VipReport};
