//! `/flows`: what becomes of packets.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What follows `data:` in the stream of `GET /flows`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlowEvent {
    /// When the verdict was carried out.
    pub timestamp: String,
    /// `forwarded`, `passed` (to the host, untouched) or `dropped`.
    pub verdict: String,
    /// The counter that has the packet, as in `GET /datapath`.
    pub reason: String,
    /// `tcp`, `udp`, `icmp`, `ipip`, or a number; absent when it is no IP packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Where the packet came from, with a port where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What it was for when it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// Flags of TCP: `syn`, `ack`, `fin`, `rst`. Those of packets in tunnels are not looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// Whether it has begun a connection; absent when not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub new: bool,
    /// The VIP that it was for, or that its connection is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vip: Option<String>,
    /// The service of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The instance that it went to or came from, as configured; absent when it has none, or one that
    /// is gone by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The interface that it came in by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The interface that it left by; absent when it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<String>,
    /// Length of its frame in bytes, as it left.
    pub length: u32,
    /// Its first bytes, base64, 192 at most: as it left when it was forwarded, else as it came. Only
    /// where they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<String>,
}

/// What a stream of `GET /flows` says last when it ends before it was to: `event: ended`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ended {
    /// Why, in a few words.
    pub why: String,
}
