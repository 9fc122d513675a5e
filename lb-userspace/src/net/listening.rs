//! Listening sockets that share an address, one for each worker.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

/// Connections that wait to be accepted, on each socket; the kernel lowers it to
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// When the kernel asks whether a peer is still there that says nothing: connections may be idle for
/// days, and a peer that has vanished does not say so.
pub(crate) const KEEPALIVE: TcpKeepalive = TcpKeepalive::new().with_time(Duration::from_secs(60));

/// Sockets that listen at one address and share what comes in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    /// Where.
    pub(crate) address: SocketAddr,
    /// Whether the address need not be one of this host's.
    pub(crate) foreign: bool,
    /// Whether another socket of this process may listen at all addresses with that port.
    pub(crate) shared: bool,
}

impl Group {
    /// `count` listening sockets. Sockets that share a port with `SO_REUSEPORT` would also share it
    /// with those of another lb that was started by mistake, each getting some of the connections; a
    /// socket without that option, bound first, finds that out.
    ///
    /// # Errors
    /// When the address is not this host's, or not free.
    pub(crate) fn open(&self, count: usize) -> io::Result<Vec<TcpListener>> {
        if !self.shared {
            let alone = self.socket()?;
            alone.bind(&self.address.into())?;
        }
        let mut sockets = Vec::with_capacity(count);
        let mut group = *self;
        for _ in 0..count {
            let socket = group.listen()?;
            // Where the port is the system's to choose, it has chosen.
            group.address = socket.local_addr()?;
            sockets.push(socket);
        }
        Ok(sockets)
    }

    fn socket(&self) -> io::Result<Socket> {
        let domain = Domain::for_address(self.address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if self.address.is_ipv6() {
            // `[::]` and `0.0.0.0` are two listeners, whatever the system's default.
            socket.set_only_v6(true)?;
        }
        match (self.foreign, self.address) {
            (false, _) => {}
            (true, SocketAddr::V4(_)) => socket.set_freebind_v4(true)?,
            (true, SocketAddr::V6(_)) => socket.set_freebind_v6(true)?,
        }
        Ok(socket)
    }

    fn listen(&self) -> io::Result<TcpListener> {
        let socket = self.socket()?;
        socket.set_reuse_port(true)?;
        // Accepted connections inherit these from the socket on Linux.
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&KEEPALIVE)?;
        socket.set_nonblocking(true)?;
        socket.bind(&self.address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    /// An address that no host has (RFC 5737, RFC 3849).
    fn foreign(v4: bool) -> SocketAddr {
        if v4 {
            (Ipv4Addr::new(192, 0, 2, 77), 8077).into()
        } else {
            (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x77), 8077).into()
        }
    }

    #[test]
    fn an_address_of_nobody_is_for_who_asks_for_it() {
        for address in [true, false].map(foreign) {
            let mut group = Group {
                address,
                foreign: false,
                shared: false,
            };
            let error = group.open(1).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL));
            group.foreign = true;
            assert_eq!(group.open(3).unwrap().len(), 3);
        }
    }

    #[test]
    fn a_port_that_the_system_chooses_is_the_same_for_all() {
        let group = Group {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            foreign: false,
            shared: false,
        };
        let sockets = group.open(3).unwrap();
        let mut addresses = sockets.iter().map(|socket| socket.local_addr().unwrap());
        let first = addresses.next().unwrap();
        assert_ne!(first.port(), 0);
        assert!(addresses.all(|address| address == first));
    }

    #[test]
    fn who_listens_at_that_port_already_is_found_unless_that_may_be() {
        let mut group = Group {
            address: (Ipv4Addr::new(127, 0, 77, 1), 8078).into(),
            foreign: false,
            shared: false,
        };
        let all = Group {
            address: (Ipv4Addr::UNSPECIFIED, 8078).into(),
            ..group
        };
        let _all = all.open(1).unwrap();
        let error = group.open(1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        group.shared = true;
        assert_eq!(group.open(2).unwrap().len(), 2);
    }
}
