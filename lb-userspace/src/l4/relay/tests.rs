//! The relay between real sockets: clients and instances are blocking threads of the test.

mod changes;
mod explain;
mod limits;
mod passing;

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use super::{Relay, start};
use crate::{
    l4::{
        fixture::{World, name, service, vip},
        report::{Handle, Report},
    },
    model::{Algorithm, Clock, DatapathSpec, Protocol, ServiceSpec, VipSpec},
    net::fixture::{PATIENCE, eventually, unused_address},
};

/// An instance that says its letter to whoever connects, and then returns what it gets, to the end.
#[derive(Debug)]
struct Echo {
    address: SocketAddr,
}

impl Echo {
    fn start(letter: u8) -> Self {
        Self::start_at(unused_address(), letter)
    }

    fn start_at(address: SocketAddr, letter: u8) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let _ = stream.write_all(&[letter]);
                    let mut reader = stream.try_clone().unwrap();
                    let _ = std::io::copy(&mut reader, &mut stream);
                    let _ = stream.shutdown(Shutdown::Write);
                });
            }
        });
        Self { address }
    }

    fn name(&self) -> String {
        self.address.to_string()
    }
}

/// A client's connection.
#[derive(Debug)]
struct Client(TcpStream);

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// What the instance says first; the error when there is none.
    fn letter(&mut self) -> Result<u8, ErrorKind> {
        let mut letter = [0];
        match self.0.read_exact(&mut letter) {
            Ok(()) => Ok(letter[0]),
            Err(error) => Err(error.kind()),
        }
    }

    /// Whether a word comes back.
    fn is_alive(&mut self) -> bool {
        let mut back = [0; 5];
        self.0.write_all(b"hello").is_ok()
            && self.0.read_exact(&mut back).is_ok()
            && &back == b"hello"
    }

    /// Waits for the end; how it ends.
    fn end(&mut self) -> Result<(), ErrorKind> {
        match self.0.read_to_end(&mut Vec::new()) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.kind()),
        }
    }
}

/// A relay at work.
#[derive(Debug)]
struct Stage {
    world: World,
    handle: Handle,
    // Before the runtime, on which its task runs.
    relay: Option<Relay>,
    _runtime: tokio::runtime::Runtime,
}

impl Stage {
    fn new(services: Vec<ServiceSpec>, vips: Vec<VipSpec>) -> Self {
        Self::with(DatapathSpec::default(), services, vips)
    }

    fn with(spec: DatapathSpec, services: Vec<ServiceSpec>, vips: Vec<VipSpec>) -> Self {
        Self::because("", spec, services, vips)
    }

    /// One that nobody has asked for.
    fn because(
        reason: &str,
        spec: DatapathSpec,
        services: Vec<ServiceSpec>,
        vips: Vec<VipSpec>,
    ) -> Self {
        let world = World::new(services, vips);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let started = runtime.block_on(async {
            let registry = Arc::clone(&world.0);
            let wanted = (spec, reason.to_owned());
            start(wanted, registry, Clock::real(), 2, std::future::pending())
        });
        let (handle, relay) = started.unwrap();
        Self {
            world,
            handle,
            relay: Some(relay),
            _runtime: runtime,
        }
    }

    /// Waits until the relay has followed all changes.
    fn settle(&self) {
        let revision = self.world.snapshot().revision;
        eventually("the latest snapshot", || {
            self.handle.report().reconcile.revision >= revision
        });
    }

    /// What the relay warns of.
    fn warnings(&self) -> Vec<String> {
        self.settle();
        self.handle.report().warnings.clone()
    }

    fn report_when(&self, what: &str, holds: impl Fn(&Report) -> bool) -> Arc<Report> {
        eventually(what, || holds(&self.handle.report()));
        self.handle.report()
    }
}

/// `web` with these instances, in turns.
fn web(members: &[&Echo]) -> ServiceSpec {
    let names: Vec<String> = members.iter().map(|echo| echo.name()).collect();
    let members: Vec<(&str, u16)> = names.iter().map(|name| (&**name, 1)).collect();
    service("web", Algorithm::RoundRobin, &members)
}

fn tcp(address: SocketAddr, service: &str) -> VipSpec {
    vip(&address.to_string(), Protocol::Tcp, service)
}
