//! `/datapath`: how the packet path stands and what it counts.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /datapath`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Datapath {
    /// Whether the program is attached.
    pub attached: bool,
    /// `native` (XDP in the driver) when it is so on every interface, `tc` in traffic control, `generic` where one
    /// interface or more has XDP in the network stack; `relay` when TCP VIPs are relayed by the daemon instead;
    /// absent when VIPs are not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Why the mode is what it is; empty when it is what was asked for.
    pub reason: String,
    /// What will not work, and why, a sentence each.
    pub warnings: Vec<String>,
    /// Where the program is attached.
    pub interfaces: Vec<Interface>,
    /// What became of the packets.
    pub packets: Packets,
    /// Every counter of the program, zeros included.
    pub counters: Vec<CounterValue>,
    /// The VIPs that are in the kernel, or relayed, and their traffic.
    pub vips: Vec<VipTraffic>,
    /// The connection table; of a relay its connections.
    pub connections: ConnectionTable,
    /// Clients whose instance is remembered; a relay keeps them among the sessions.
    #[serde(default)]
    pub clients: Usage,
    /// Instances whose paths are narrower than the host's routes say, because a router has said so of a tunnel's
    /// packet; as of the last walk over the connection table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path_mtus: Vec<NarrowPath>,
    /// The tables from which instances are chosen.
    pub tables: Usage,
    /// How bringing the state into the kernel goes.
    pub reconcile: Reconcile,
}

/// An interface with the program on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Interface {
    /// Name of the interface.
    pub interface: String,
    /// `native`, `tc` or `generic`.
    pub mode: String,
}

/// What became of the packets that the program saw. Received is the sum of the others, but for
/// those that are under way while the counters are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Packets {
    /// Seen.
    pub received: u64,
    /// Sent on to an instance or a client.
    pub forwarded: u64,
    /// Left to the host: not for a VIP.
    pub passed: u64,
    /// Refused, each for a reason that `counters` shows.
    pub dropped: u64,
}

/// A counter of the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CounterValue {
    /// Its number, which never changes its meaning.
    pub number: u32,
    /// Its name: a reason or an event.
    pub counter: String,
    /// `received`, `forwarded`, `passed`, `dropped`, or `event` for what is beside the sum.
    pub kind: String,
    /// How often.
    pub count: u64,
}

/// Traffic of a VIP since it was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VipTraffic {
    /// The VIP: `tcp/10.0.0.1:80`.
    pub vip: String,
    /// The service that answers.
    pub service: String,
    /// How often it was pointed to another table.
    pub generation: u32,
    /// Connections begun.
    pub connections: u64,
    /// Packets from clients; a relay sees none.
    pub packets_in: u64,
    /// Bytes from clients, Ethernet headers included; of a relay what they have sent.
    pub bytes_in: u64,
    /// Packets from instances, where they come back through lb.
    pub packets_out: u64,
    /// Bytes from instances, where they come back through lb.
    pub bytes_out: u64,
    /// Packets refused; of a relay connections.
    pub dropped: u64,
    /// Why packets were refused, reasons that have occurred only; not of a relay.
    pub drops: Vec<DropCount>,
    /// Connections that are open. In the kernel path as counted by the last walk over the connection
    /// table, which is some five seconds ago at most while that is not very large, without those that
    /// nobody remembers; absent until the first walk is over. Of a relay those of now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<u64>,
}

/// How often something was the reason to refuse a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DropCount {
    /// The name of the counter.
    pub reason: String,
    /// Packets.
    pub count: u64,
}

/// The connection table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConnectionTable {
    /// Entries, as counted by the last sweep. A `nat` connection has two.
    pub entries: u64,
    /// Entries that fit.
    pub max: u64,
    /// Entries forgotten since the daemon's start because their time was over.
    pub forgotten: u64,
    /// By how much live counters of instances had to be put right since the daemon's start.
    pub corrected: u64,
}

/// A path that is narrower than the host's routes say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NarrowPath {
    /// The instance's address.
    pub address: String,
    /// Largest IP packet that the path takes, in bytes, outer headers included.
    pub mtu: u32,
    /// When that is forgotten, unless it is said again.
    pub expires_in_seconds: f64,
}

/// How much of something is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// In use.
    pub used: u64,
    /// There are.
    pub max: u64,
}

/// How bringing the state into the kernel goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Reconcile {
    /// The revision that the kernel holds completely; 0 before the first.
    pub revision: u64,
    /// How long the last pass took.
    pub took_ms: f64,
    /// Values written since the daemon's start.
    pub writes: u64,
    /// Passes since the daemon's start that failed.
    pub failures: u64,
    /// Why the last pass failed; absent when it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
