//! The proxy as its neighbours see it: real sockets on both sides, byte by byte.
//!
//! Clients and instances are blocking threads without any HTTP library, so that a test can send
//! and expect exactly what it says. Every proxy listens at a loopback address of its own, which no
//! other test and no ephemeral port can meet.

mod access;
mod admission;
mod affinity;
mod breakers;
mod connections;
mod failures;
mod fallback;
mod forwarding;
mod framing;
mod hedging;
mod lifecycle;
mod random;
mod rates;
mod retries;
mod timeouts;
mod tracing;
mod tunnels;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{AccessLog, Management, Proxy, start};
use crate::{
    model::{
        Algorithm, Clock, Endpoint, HostPattern, Instance, InstanceSpec, ListenerSpec, PathPattern,
        Reason, RouteSpec, ServiceName, ServiceSpec,
    },
    net::fixture::{PATIENCE, eventually, unused_address},
    registry::{Change, Desired, Registry},
};

/// One side of a connection: a client's or an instance's.
#[derive(Debug)]
struct Peer {
    stream: BufReader<TcpStream>,
}

/// A message as it was read: the start line, the fields in lower case, the body.
#[derive(Debug, Default)]
struct Message {
    start: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Message {
    fn status(&self) -> u16 {
        let mut parts = self.start.split(' ');
        parts.nth(1).unwrap().parse().unwrap()
    }

    fn field(&self, name: &str) -> Option<&str> {
        let mut found = self.fields.iter().filter(|field| field.0 == name);
        found.next().map(|field| &*field.1)
    }

    fn count(&self, name: &str) -> usize {
        self.fields.iter().filter(|field| field.0 == name).count()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The reason of an answer that lb made.
    fn reason(&self) -> Option<&str> {
        let (_, details) = self.field("proxy-status")?.split_once("details=\"")?;
        details.strip_suffix('"')
    }
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream: BufReader::new(stream),
        }
    }

    fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).unwrap())
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.try_send(bytes).unwrap();
        self
    }

    fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => match line.strip_suffix("\r\n") {
                Some(line) => Some(line.to_owned()),
                None => panic!("expected the end of a line, found {line:?}"),
            },
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// The next head; `None` at the end of the connection.
    fn head(&mut self) -> Option<Message> {
        let mut message = Message {
            start: self.line()?,
            ..Message::default()
        };
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Some(message);
            }
            let (name, value) = line.split_once(": ").unwrap();
            let field = (name.to_ascii_lowercase(), value.to_owned());
            message.fields.push(field);
        }
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// The next request with its body; `None` at the end of the connection.
    fn request(&mut self) -> Option<Message> {
        let mut message = self.head()?;
        self.framed(&mut message);
        Some(message)
    }

    /// The next answer with its body, which for an unframed one is all until the end.
    fn answer(&mut self) -> Message {
        let mut message = self.head().expect("an answer");
        let bodiless = matches!(message.status(), 100..200 | 204 | 304);
        if !bodiless && !self.framed(&mut message) {
            self.stream.read_to_end(&mut message.body).unwrap();
        }
        message
    }

    fn framed(&mut self, message: &mut Message) -> bool {
        if let Some(length) = message.field("content-length") {
            message.body = self.bytes(length.parse().unwrap());
            return true;
        }
        if message.field("transfer-encoding") != Some("chunked") {
            return false;
        }
        loop {
            let size = usize::from_str_radix(&self.line().unwrap(), 16).unwrap();
            if size == 0 {
                break;
            }
            message.body.extend(self.bytes(size));
            assert_eq!(self.line().unwrap(), "");
        }
        while let Some(line) = self.line().filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap();
            message
                .fields
                .push((format!("trailer {name}"), value.to_owned()));
        }
        true
    }

    /// A GET on this connection.
    fn get(&mut self, path: &str) -> Message {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        self.answer()
    }

    /// Whether the other side has closed, which must happen soon.
    fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => rest.is_empty(),
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// An instance: a thread for each connection that it accepts.
#[derive(Debug)]
struct Stub {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
}

impl Stub {
    /// An instance whose connections `serve` serves.
    fn new(serve: impl Fn(Peer) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let (serve, stop) = (Arc::new(serve), Arc::clone(&stopped));
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(Peer::new(stream)));
            }
        });
        Self { address, stopped }
    }

    /// An instance that answers every request by what `answer` makes of it.
    fn answering(answer: impl Fn(&Message) -> String + Send + Sync + 'static) -> Self {
        Self::new(move |mut peer| {
            while let Some(request) = peer.request() {
                if peer.try_send(answer(&request)).is_err() {
                    break;
                }
            }
        })
    }

    /// An instance that answers 200 with `text`.
    fn saying(text: &'static str) -> Self {
        Self::answering(move |_| ok(text))
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

/// An answer with a body.
fn ok(text: &str) -> String {
    let length = text.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}")
}

/// A proxy under test.
#[derive(Debug)]
struct Gateway {
    address: SocketAddr,
    registry: Arc<Registry>,
    desired: Desired,
    proxy: Option<Proxy>,
}

/// A service of `instances` without checks.
fn service(name: &str, instances: &[SocketAddr]) -> ServiceSpec {
    let instance = |address: &SocketAddr| InstanceSpec::new(Endpoint::from_address(*address), 1);
    ServiceSpec {
        algorithm: Algorithm::RoundRobin,
        instances: instances.iter().map(instance).collect(),
        ..ServiceSpec::new(ServiceName::new(name).unwrap())
    }
}

/// A route of every host and path to the service `web` that has `instances`.
fn everything_to(instances: &[SocketAddr]) -> Desired {
    Desired {
        services: vec![service("web", instances)],
        routes: vec![RouteSpec::new(
            PathPattern::Prefix("/".to_owned()),
            ServiceName::new("web").unwrap(),
        )],
        ..Desired::default()
    }
}

impl Gateway {
    /// A proxy of one worker in front of `instances`.
    fn to(instances: &[&Stub]) -> Self {
        let addresses: Vec<_> = instances.iter().map(|stub| stub.address).collect();
        Self::of(everything_to(&addresses))
    }

    /// A proxy of one worker at an address of its own.
    fn of(desired: Desired) -> Self {
        Self::with(desired, 1, None)
    }

    fn with(desired: Desired, workers: usize, management: Option<Management>) -> Self {
        Self::logged(desired, workers, management, None)
    }

    fn logged(
        mut desired: Desired,
        workers: usize,
        management: Option<Management>,
        log: Option<AccessLog>,
    ) -> Self {
        let address = unused_address();
        desired.listeners.push(ListenerSpec { address });
        let registry = Arc::new(Registry::new(workers, []));
        let change = Change::Configure(Box::new(desired.clone()));
        registry.apply(change).unwrap();
        let clock = Clock::real();
        let proxy = start(Arc::clone(&registry), clock, workers, management, log, None).unwrap();
        Self {
            address,
            registry,
            desired,
            proxy: Some(proxy),
        }
    }

    /// Applies a change to what was configured.
    fn reload(&mut self, change: impl FnOnce(&mut Desired)) {
        change(&mut self.desired);
        let change = Change::Configure(Box::new(self.desired.clone()));
        self.registry.apply(change).unwrap();
    }

    fn connect(&self) -> Peer {
        Peer::connect(self.address)
    }

    /// A GET on a connection of its own.
    fn get(&self, path: &str) -> Message {
        self.connect().get(path)
    }

    fn instance(&self, at: usize) -> Arc<Instance> {
        Arc::clone(&self.registry.snapshot().services[0].members[at].instance)
    }

    /// Answers of lb's own for the service.
    fn answers(&self, reason: Reason) -> u64 {
        self.registry.snapshot().services[0].stats.answers(reason)
    }

    /// Successes and failures of an instance.
    fn totals(&self, at: usize) -> (u64, u64) {
        let totals = self.instance(at).totals_of_all();
        (totals.successes, totals.failures)
    }
}
