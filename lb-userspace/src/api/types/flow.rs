//! `/explain/flow`: what would become of a packet, and why.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /explain/flow?source=…&destination=…`: nothing is sent, remembered or counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FlowExplanation {
    /// The packet as the program saw it.
    pub packet: AskedPacket,
    /// `forwarded`, `passed` to the host, or `dropped`; of a connection that a relay would get `relayed` or
    /// `refused`.
    pub verdict: String,
    /// The counter that it would be counted under; for a packet that is dropped the reason. Of a relay `relayed`, or
    /// the reason of `lb_l4_relay_refused_connections_total`.
    pub counter: String,
    /// Why, in a sentence.
    pub reason: String,
    /// Other counters that would have grown.
    pub events: Vec<String>,
    /// The VIP that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vip: Option<String>,
    /// The one of `gateway.vips` by which the host hands its connection to the gateway; see there what
    /// becomes of requests. Only for what is for no VIP of the packet path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_vip: Option<String>,
    /// The VIP's service; of a relay the one that serves, which may be its fallback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// How packets of this service get to instances: `nat`, `dnat`, `l2dsr`, `ipip` or `gue`; absent of a relay, to
    /// which it makes no difference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<String>,
    /// The service's algorithm in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<String>,
    /// The instance that it goes to, or comes from when it is a reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// What lb knows of its connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<FlowConnection>,
    /// Where its flow is in the table of the VIP; only where the flow says that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<FlowSlot>,
    /// The packet as it leaves lb; absent when it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<SentPacket>,
    /// Every instance of the service, in the order of the configuration.
    pub candidates: Vec<FlowCandidate>,
}

/// A packet that was asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AskedPacket {
    /// Address and port that it is from.
    pub source: String,
    /// Address and port that it is for.
    pub destination: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Flags of TCP.
    pub flags: Vec<String>,
    /// The interface that it came in by; a relay does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

/// What lb knows of a connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FlowConnection {
    /// `remembered`: it is in the connection table. `new`: this packet would begin it, with an entry.
    /// `settled`: it has no entry and needs none, its slot says where it goes.
    pub state: String,
    /// `request` for what goes to the instance, `reply` for what comes from it.
    pub direction: String,
    /// Seconds since its last packet, exact to about one; only when it is remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_seconds: Option<f64>,
    /// Whether its end was seen.
    pub closing: bool,
}

/// A slot of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlowSlot {
    /// Its number, 0 to 65536.
    pub number: u32,
    /// The instance that new connections of this slot go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// The instance whose the connections of this slot are that have no entry; another one than
    /// `current` while the slot changes hands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// A packet as it leaves lb.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SentPacket {
    /// The interface that it leaves by, where it was looked up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// MAC address of the next hop.
    pub next_hop: String,
    /// The outermost source, with its port where there is one.
    pub source: String,
    /// The outermost destination, with its port where there is one.
    pub destination: String,
    /// Bytes of the frame.
    pub length: usize,
}

/// What speaks for and against an instance in the kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FlowCandidate {
    /// Its name.
    pub instance: String,
    /// Its part of the slots of the VIP's table, 0 to 1: its chance to get a new flow of which
    /// nothing is known. Of a relay its chance to get this connection, from trial picks.
    pub share: f64,
    /// Why it gets no new flow; absent when it may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excluded: Option<String>,
    /// Weight in force, in the units of the configuration.
    pub effective_weight: f64,
    /// Live connections that the kernel counts; of a relay connections of relay and gateway.
    pub live: u64,
}
