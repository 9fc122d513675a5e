//! The kernel's data plane: snapshots into XDP maps.
//!
//! [`open()`] loads and attaches the program, or goes on with what an earlier daemon has left.
//! [`run`] starts the one task that owns the maps from then on: it plans what a snapshot means for
//! them, brings them there with the fewest writes, forgets connections that are over and reads what
//! was counted. Everything between a snapshot and a system call is pure or behind the trait of
//! `datapath`, so it is tested with packets and without rights; everything that knows aya is below
//! `datapath/kernel`.
//!
//! Where the program cannot be had, [`relay`] serves TCP VIPs with sockets instead.
//!
//! Nothing here can stop HTTP: what fails is reported, and tried again. And nothing of it ends with
//! the daemon: the program stays attached, [`detach`] takes it off. `docs/life-of-a-packet.md` tells
//! the whole story.

mod acl;
mod addresses;
mod affinity;
mod arrivals;
mod ceilings;
mod cookies;
mod datapath;
mod decap;
mod error;
mod filter;
#[cfg(test)]
mod fixture;
mod flows;
mod host;
mod link;
mod neighbour;
mod netlink;
mod open;
mod owners;
#[cfg(test)]
mod packet_tests;
mod paths;
mod plan;
mod recipe;
mod reconcile;
mod rehearsal;
mod relay;
mod report;
mod stats;
mod steer;
mod sweep;
mod tables;
mod unserved;
mod vlans;
mod worker;

pub use datapath::{AttachMode, Attachment, DatapathError};
pub use decap::{Decap, DecapSpec};
pub use error::L4Error;
pub use flows::{Filter, FlowFigures, Followed, Headers, MOST_FOLLOWERS, SeenPacket};
#[cfg(test)]
pub(crate) use flows::{
    fixture::{Tape, event as recorded, ring},
    start as start_flows,
};
pub(crate) use host::interface_name;
pub use open::{Opened, PinnedStatus, Running, detach, open, run, status};
pub use reconcile::ReconcileError;
pub use rehearsal::{Probe, Rehearsed, Sent, SlotView, TcpFlags};
pub use relay::{Relay, Relayed, explain as explain_relayed};
#[cfg(test)]
pub(crate) use report::Reporter;
pub use report::{
    ClientReport, ConnectionReport, Handle, PathMode, PathMtuReport, ReconcileReport, RelayedVip,
    Report, VipReport,
};
pub use steer::Steerer;
