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
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Nat, Self::Dnat, Self::L2Dsr, Self::Ipip, Self::Gue];

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

/// What becomes of packets for a VIP that no instance can take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WithoutInstances {
    /// They are dropped: their senders try again, and may find an instance then.
    #[default]
    Drop,
    /// Their senders are told, and fail at once.
    Refuse,
}

impl WithoutInstances {
    /// The name in configuration and API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Refuse => "refuse",
        }
    }
}

/// What becomes of a flow of UDP whose instance fails its checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UdpFlows {
    /// It goes on with another instance.
    #[default]
    Move,
    /// It stays, for as long as it is heard of: a peer that has its state there is of no use elsewhere.
    Stay,
}

impl UdpFlows {
    /// The name in configuration and API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Move => "move",
            Self::Stay => "stay",
        }
    }
}

/// The ports of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ports {
    /// This one, 1 to 65535.
    One(u16),
    /// From the first to the last, which is above it.
    Range(u16, u16),
    /// All for which there is no other VIP.
    Any,
}

impl Ports {
    /// The first and the last.
    #[must_use]
    pub const fn ends(self) -> (u16, u16) {
        match self {
            Self::One(port) => (port, port),
            Self::Range(first, last) => (first, last),
            Self::Any => (0, u16::MAX),
        }
    }

    /// How many there are.
    #[must_use]
    pub const fn count(self) -> usize {
        let (first, last) = self.ends();
        (last - first) as usize + 1
    }

    /// Whether this port is one of them.
    #[must_use]
    pub const fn hold(self, port: u16) -> bool {
        let (first, last) = self.ends();
        first <= port && port <= last
    }

    /// Whether they have a port in common.
    #[must_use]
    pub const fn overlap(self, other: Self) -> bool {
        let ((first, last), (other_first, other_last)) = (self.ends(), other.ends());
        first <= other_last && other_first <= last
    }

    /// Whether it could not be said which of the two a packet is for: one port comes before a range,
    /// and a range before any, but two ranges with a port in common are equals.
    #[must_use]
    pub const fn collide(self, other: Self) -> bool {
        match (self, other) {
            (Self::One(one), Self::One(other)) => one == other,
            (Self::Range(first, last), Self::Range(other_first, other_last)) => {
                first <= other_last && other_first <= last
            }
            (Self::Any, Self::Any) => true,
            _ => false,
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(port) => write!(f, "{port}"),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
            Self::Any => f.write_str("any"),
        }
    }
}

/// An address, ports and a protocol that the kernel balances over a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VipSpec {
    /// Address that clients connect to.
    pub address: IpAddr,
    /// Ports that clients connect to.
    pub ports: Ports,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The service that answers.
    pub service: ServiceName,
}

/// The most ports of a VIP that is relayed: each takes a socket of every worker.
const MOST_RELAYED_PORTS: usize = 256;

impl VipSpec {
    /// Why it cannot be relayed; `None` when it can. A relay joins the connections that its
    /// listening sockets accept, so there have to be connections, and ports to listen on.
    #[must_use]
    pub const fn relay_obstacle(&self) -> Option<&'static str> {
        match (self.protocol, self.ports) {
            (Protocol::Udp, _) => Some("a relay joins TCP connections, and UDP has none"),
            (Protocol::Tcp, Ports::Any) => Some("a relay cannot listen on every port"),
            (Protocol::Tcp, ports) if ports.count() > MOST_RELAYED_PORTS => {
                Some("a relay listens on each port, and on 256 of a VIP at most")
            }
            (Protocol::Tcp, _) => None,
        }
    }

    /// Whether it could not be said which of the two a packet is for.
    #[must_use]
    pub fn collides(&self, other: &Self) -> bool {
        (self.address, self.protocol) == (other.address, other.protocol)
            && self.ports.collide(other.ports)
    }
}

impl fmt::Display for VipSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (protocol, ports) = (self.protocol.as_str(), self.ports);
        match self.address {
            IpAddr::V4(address) => write!(f, "{protocol}/{address}:{ports}"),
            IpAddr::V6(address) => write!(f, "{protocol}/[{address}]:{ports}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_connections_or_too_many_ports_is_not_relayed() {
        let vip = |protocol, ports| VipSpec {
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            ports,
            protocol,
            service: ServiceName::new("a").unwrap(),
        };
        let obstacle = |protocol, ports| vip(protocol, ports).relay_obstacle();
        assert_eq!(obstacle(Protocol::Tcp, Ports::One(80)), None);
        assert_eq!(obstacle(Protocol::Tcp, Ports::Range(1000, 1255)), None);
        assert!(obstacle(Protocol::Tcp, Ports::Range(1000, 1256)).is_some());
        assert!(obstacle(Protocol::Tcp, Ports::Any).is_some());
        assert!(obstacle(Protocol::Udp, Ports::One(53)).is_some());
    }
}
