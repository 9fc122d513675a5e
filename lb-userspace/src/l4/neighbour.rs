//! Keeps the neighbours of instances known to the kernel.
//!
//! The program asks the kernel's routing and neighbour tables for the next hop, but it cannot make
//! the kernel resolve one: a packet for a neighbour that nobody has spoken to is dropped. So the
//! daemon speaks first: an empty datagram to the discard port (RFC 863) of each instance. What
//! becomes of it does not matter; that the kernel had to find the neighbour's MAC address does.
//! Done again and again it also makes the kernel notice a neighbour that has changed its address.
//! A hop limit of 1 keeps the datagrams from going any further than the neighbour.
//!
//! When packets were dropped for want of a neighbour, instances are spoken to within a second: a
//! kernel whose table was flushed, or was short of room, has forgotten who was known a moment ago.
//! Clients are spoken to as well, but only then: after a restart of the host its router may go on
//! sending for hours without being asked for its own address, and the replies would have nowhere to
//! go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Where the datagrams go.
const DISCARD: u16 = 9;

/// Sends the datagrams.
#[derive(Debug, Default)]
pub(crate) struct Greeter {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
}

impl Greeter {
    /// Makes the kernel resolve the next hop of each address. Failures are nobody's business here:
    /// an instance without a route shows up as dropped packets with that reason.
    pub(crate) fn greet(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        for address in addresses {
            let socket = if address.is_ipv4() {
                &mut self.v4
            } else {
                &mut self.v6
            };
            if socket.is_none() {
                *socket = open(address.is_ipv4());
            }
            if let Some(socket) = socket
                && let Err(error) = socket.send_to(&[], SocketAddr::new(address, DISCARD))
            {
                tracing::trace!(%address, %error, "cannot greet instance");
            }
        }
    }
}

fn open(v4: bool) -> Option<UdpSocket> {
    let any: IpAddr = if v4 {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.set_nonblocking(true).ok()?;
    if v4 {
        socket.set_ttl(1).ok()?;
    } else {
        socket2::SockRef::from(&socket)
            .set_unicast_hops_v6(1)
            .ok()?;
    }
    Some(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greeting_reaches_the_address_and_survives_unreachable_ones() {
        let mut greeter = Greeter::default();
        let addresses: [IpAddr; 3] = [
            Ipv4Addr::LOCALHOST.into(),
            Ipv6Addr::LOCALHOST.into(),
            Ipv4Addr::new(240, 0, 0, 1).into(),
        ];
        // The refusal that the first round provokes must not spoil the socket for the second.
        greeter.greet(addresses);
        greeter.greet(addresses);
        assert!(greeter.v4.is_some());
    }
}
