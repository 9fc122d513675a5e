//! VIPs of the gateway: connections that the kernel hands to sockets which listen elsewhere.
//!
//! The workers have a group of sockets for each address family at the loopback address, at a port that
//! the system has chosen. The kernel names one of a group for each new connection that a VIP holds, and
//! spreads connections over the group as over every other. To the workers they are listeners like any;
//! that a connection was to another address, its own socket says.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use tokio::sync::mpsc;

use super::{L7Error, worker::Order};
use crate::{
    model::GatewayVip,
    net::{self, Group, Steer, Steered},
};

/// Where the sockets listen, IPv4 first.
const HOMES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// See the module.
#[derive(Debug)]
pub(super) struct Vips {
    steer: Option<Box<dyn Steer>>,
    /// Where the group of each family listens, and one of its sockets.
    groups: [Option<(SocketAddr, TcpListener)>; 2],
    /// What is handed over; `None` when that is not known for sure.
    present: Option<Vec<GatewayVip>>,
    /// Addresses of VIPs whose packets reach nobody, as far as that was said.
    lost: BTreeSet<IpAddr>,
}

impl Vips {
    /// Nothing is handed over.
    pub(super) const fn new(steer: Option<Box<dyn Steer>>) -> Self {
        Self {
            steer,
            groups: [None, None],
            present: Some(Vec::new()),
            lost: BTreeSet::new(),
        }
    }

    /// Has `vips` handed over to `workers`, and nothing else.
    ///
    /// # Errors
    /// When that cannot be done; the next call tries again.
    pub(super) fn follow(
        &mut self,
        vips: &[GatewayVip],
        workers: &[mpsc::UnboundedSender<Order>],
    ) -> Result<(), L7Error> {
        if self.present.as_deref() == Some(vips) {
            return Ok(());
        }
        self.present = None;
        for (group, home) in self.groups.iter_mut().zip(HOMES) {
            let wanted = |vip: &GatewayVip| vip.prefix.address().is_ipv4() == home.is_ipv4();
            if group.is_none() && vips.iter().any(wanted) {
                *group = Some(open(home, workers)?);
            }
        }
        let steer = self.steer.as_mut();
        let steer = steer.ok_or_else(|| L7Error::Steer("nobody who could do it".to_owned()))?;
        let sockets = self.groups.each_ref().map(|group| Some(&group.as_ref()?.1));
        steer.follow(vips, sockets).map_err(L7Error::Steer)?;
        self.present = Some(vips.to_vec());
        if vips.is_empty() {
            self.close(workers);
        }
        self.warn(vips);
        Ok(())
    }

    /// Hands nothing over any more, before the sockets go.
    pub(super) fn end(&mut self) {
        self.steer = None;
    }

    /// What was handed over.
    pub(super) fn steered(&self) -> Steered {
        self.steer
            .as_ref()
            .map_or_else(Steered::default, |steer| steer.steered())
    }

    fn close(&mut self, workers: &[mpsc::UnboundedSender<Order>]) {
        for (address, _) in self.groups.iter_mut().filter_map(Option::take) {
            for worker in workers {
                // A worker that is gone has closed everything.
                let _ = worker.send(Order::Close(address));
            }
        }
    }

    /// Says once of each range of addresses whose packets this host does not keep.
    fn warn(&mut self, vips: &[GatewayVip]) {
        let addresses = vips.iter().map(|vip| (vip.prefix.address(), vip));
        let lost = addresses.filter(|(address, _)| net::is_delivered(*address) == Some(false));
        let lost: Vec<_> = lost.collect();
        for (address, vip) in &lost {
            if !self.lost.contains(address) {
                let (prefix, family) = (vip.prefix, if address.is_ipv4() { "" } else { " -6" });
                tracing::warn!(
                    "{prefix} of gateway.vips is not this host's, so its packets reach nobody \
                     until `ip{family} route add local {prefix} dev lo`"
                );
            }
        }
        self.lost = lost.into_iter().map(|(address, _)| address).collect();
    }
}

/// A group of sockets for the workers at an address of this host, and one of them.
fn open(
    home: IpAddr,
    workers: &[mpsc::UnboundedSender<Order>],
) -> Result<(SocketAddr, TcpListener), L7Error> {
    let address = SocketAddr::new(home, 0);
    let fail = |source| L7Error::Listen { address, source };
    let group = Group {
        address,
        foreign: false,
        shared: false,
    };
    let sockets = group.open(workers.len()).map_err(fail)?;
    let Some(first) = sockets.first() else {
        return Err(L7Error::Steer("no worker to hand them to".to_owned()));
    };
    let (address, named) = (
        first.local_addr().map_err(fail)?,
        first.try_clone().map_err(fail)?,
    );
    for (worker, socket) in workers.iter().zip(sockets) {
        let _ = worker.send(Order::Open(address, socket));
    }
    Ok((address, named))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::model::Ports;

    /// What a kernel was told last, and whether it obeys.
    #[derive(Debug, Default)]
    struct Told {
        vips: Vec<GatewayVip>,
        ports: [Option<u16>; 2],
        refuses: bool,
    }

    #[derive(Debug, Clone, Default)]
    struct Kernel(Arc<Mutex<Told>>);

    impl Steer for Kernel {
        fn follow(
            &mut self,
            vips: &[GatewayVip],
            sockets: [Option<&TcpListener>; 2],
        ) -> Result<(), String> {
            let mut told = self.0.lock().unwrap();
            if told.refuses {
                return Err("not today".to_owned());
            }
            told.vips = vips.to_vec();
            told.ports = sockets.map(|socket| Some(socket?.local_addr().unwrap().port()));
            Ok(())
        }

        fn steered(&self) -> Steered {
            Steered::default()
        }
    }

    fn vip(prefix: &str) -> GatewayVip {
        GatewayVip {
            prefix: prefix.parse().unwrap(),
            ports: Ports::One(80),
        }
    }

    /// The ports that a worker was told to open and to close since the last look.
    fn orders(worker: &mut mpsc::UnboundedReceiver<Order>) -> (Vec<u16>, Vec<u16>) {
        let (mut opened, mut closed) = (Vec::new(), Vec::new());
        while let Ok(order) = worker.try_recv() {
            match order {
                Order::Open(address, socket) => {
                    assert_eq!(socket.local_addr().unwrap(), address);
                    opened.push(address.port());
                }
                Order::Close(address) => closed.push(address.port()),
                Order::Drain(_) => panic!("nobody has asked for it"),
            }
        }
        (opened, closed)
    }

    #[test]
    fn sockets_are_there_as_long_as_anything_is_handed_to_them() {
        let kernel = Kernel::default();
        let mut vips = Vips::new(Some(Box::new(kernel.clone())));
        let (one, mut first) = mpsc::unbounded_channel();
        let (other, mut second) = mpsc::unbounded_channel();
        let workers = [one, other];
        assert!(vips.follow(&[], &workers).is_ok());
        assert_eq!(orders(&mut first), (vec![], vec![]));

        let v4 = [vip("127.0.0.0/8")];
        vips.follow(&v4, &workers).unwrap();
        let told = kernel.0.lock().unwrap().ports;
        let port = told[0].unwrap();
        assert_eq!(told[1], None);
        assert_eq!(orders(&mut first), (vec![port], vec![]));
        // Every worker has a socket of the same group.
        assert_eq!(orders(&mut second), (vec![port], vec![]));

        kernel.0.lock().unwrap().refuses = true;
        let both = [vip("127.0.0.1"), vip("::1")];
        let error = vips.follow(&both, &workers).unwrap_err().to_string();
        assert_eq!(error, "expected to serve gateway.vips, found: not today");
        kernel.0.lock().unwrap().refuses = false;
        vips.follow(&both, &workers).unwrap();
        let told = kernel.0.lock().unwrap().ports;
        assert_eq!(told[0], Some(port));
        assert_eq!(kernel.0.lock().unwrap().vips, both);
        assert_eq!(orders(&mut first), (vec![told[1].unwrap()], vec![]));

        vips.follow(&[], &workers).unwrap();
        let (opened, closed) = orders(&mut first);
        assert!(opened.is_empty() && closed.len() == 2, "{closed:?}");
        assert!(kernel.0.lock().unwrap().vips.is_empty());
    }

    #[test]
    fn without_anybody_to_do_it_that_is_said() {
        let (worker, _orders) = mpsc::unbounded_channel();
        let error = Vips::new(None).follow(&[vip("127.0.0.1")], &[worker]);
        assert!(error.unwrap_err().to_string().contains("nobody"));
    }
}
