//! VIPs as they were asked for.

use std::{fmt, net::IpAddr};

use super::ServiceName;

/// Transport protocol of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The name in configuration and API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// How the kernel forwards packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Forwarding {
    /// Source and destination are rewritten; replies come back through lb.
    #[default]
    Nat,
    /// The destination is rewritten; replies come back through lb, which is the instances' way to
    /// their clients.
    Dnat,
    /// Only the destination MAC address is rewritten; replies go straight to the client. The
    /// instances hold the VIP themselves and share a link with lb.
    L2Dsr,
    /// The packet travels whole in another IP packet; replies go straight to the client. The
    /// instances hold the VIP themselves and unpack, but may be anywhere.
    Ipip,
    /// As [`Self::Ipip`], with a UDP header in between, by which routers and network cards spread
    /// the flows.
    Gue,
}

impl Forwarding {
    /// The name in configuration and API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dnat => "dnat",
            Self::L2Dsr => "l2dsr",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
        }
    }

    /// Whether packets get other addresses, which must be of the VIP's family.
    #[must_use]
    pub const fn translates(self) -> bool {
        matches!(self, Self::Nat | Self::Dnat)
    }

    /// Whether packets get an outer header.
    #[must_use]
    pub const fn encapsulates(self) -> bool {
        matches!(self, Self::Ipip | Self::Gue)
    }
}

/// An address, port and protocol that the kernel balances over a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VipSpec {
    /// Address that clients connect to.
    pub address: IpAddr,
    /// Port that clients connect to, 1 to 65535.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The service that answers.
    pub service: ServiceName,
}

impl fmt::Display for VipSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = std::net::SocketAddr::new(self.address, self.port);
        write!(f, "{}/{address}", self.protocol.as_str())
    }
}
