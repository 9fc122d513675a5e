//! A name server in a namespace, whose zone and manners a test can change while it runs.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, SRV};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo, Server};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Notify;

use crate::client::http::runtime;
use crate::topology::Host;

const PORT: u16 = 53;

/// How the server answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// What the zone says; NXDOMAIN for a name that is not in it.
    #[default]
    Right,
    /// SERVFAIL.
    ServFail,
    /// Not at all.
    Silent,
}

/// A question that was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When.
    pub at: Instant,
    /// For what.
    pub kind: RecordType,
    /// Whether over TCP.
    pub tcp: bool,
}

#[derive(Debug, Default)]
struct State {
    zone: BTreeMap<String, Vec<Record>>,
    manner: Manner,
    asked: Vec<Asked>,
}

/// A running name server; stopped when dropped.
#[derive(Debug)]
pub struct NameServer {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// A target of SRV records: priority, weight, port and name.
pub type Target<'a> = (u16, u16, u16, &'a str);

impl NameServer {
    /// Starts one on a host, over UDP and TCP.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(host: &Host) -> Result<Self> {
        let state = Arc::new(Mutex::new(State::default()));
        let stop = Arc::new(Notify::new());
        let address = SocketAddr::new(host.v4.into(), PORT);
        let (handler, stopped) = (Handler(Arc::clone(&state)), Arc::clone(&stop));
        let (tell, told) = mpsc::channel();
        let thread = host.namespace.spawn(move || {
            runtime()?.block_on(async {
                let mut server = Server::new(handler);
                server.register_socket(UdpSocket::bind(address).await?);
                let listener = TcpListener::bind(address).await?;
                server.register_listener(listener, Duration::from_secs(5), 4096);
                tell.send(()).context("nobody waits for the server")?;
                stopped.notified().await;
                Ok(())
            })
        });
        let mut server = Self {
            address,
            state,
            stop,
            thread: Some(thread),
        };
        if told.recv().is_err() {
            let thread = server.thread.take().context("no thread")?;
            let ended = thread.join().map_err(|_| anyhow!("a thread panicked"))?;
            ended.context("the name server did not come up")?;
        }
        Ok(server)
    }

    /// Gives a name these addresses and no others.
    ///
    /// # Errors
    /// When the name is none.
    pub fn addresses(&self, name: &str, ttl: u32, addresses: &[IpAddr]) -> Result<()> {
        let data = addresses.iter().map(|address| match address {
            IpAddr::V4(v4) => RData::A(A(*v4)),
            IpAddr::V6(v6) => RData::AAAA(AAAA(*v6)),
        });
        self.set(name, ttl, data)
    }

    /// Gives a name these SRV records and nothing else.
    ///
    /// # Errors
    /// When a name is none.
    pub fn targets(&self, name: &str, ttl: u32, targets: &[Target<'_>]) -> Result<()> {
        let data: Vec<RData> = targets
            .iter()
            .map(|(priority, weight, port, target)| {
                let target = Name::from_ascii(format!("{target}."))?;
                Ok(RData::SRV(SRV::new(*priority, *weight, *port, target)))
            })
            .collect::<Result<_>>()?;
        self.set(name, ttl, data.into_iter())
    }

    fn set(&self, name: &str, ttl: u32, data: impl Iterator<Item = RData>) -> Result<()> {
        let owner = Name::from_ascii(format!("{name}."))?;
        let records = data.map(|data| Record::from_rdata(owner.clone(), ttl, data));
        self.state()
            .zone
            .insert(format!("{name}."), records.collect());
        Ok(())
    }

    /// Takes a name out of the zone.
    pub fn remove(&self, name: &str) {
        self.state().zone.remove(&format!("{name}."));
    }

    /// Answers in this manner from here on.
    pub fn behave(&self, manner: Manner) {
        self.state().manner = manner;
    }

    /// Every question so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

#[derive(Debug)]
struct Handler(Arc<Mutex<State>>);

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        let answers = match self.answer(request) {
            Some((code, answers)) => {
                metadata.response_code = code;
                answers
            }
            // The client has to find out by itself.
            None => std::future::pending().await,
        };
        let message = MessageResponseBuilder::from_message_request(request).build(
            metadata,
            answers.iter(),
            &[],
            &[],
            &[],
        );
        match response.send_response(message).await {
            Ok(info) => info,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Handler {
    /// Status and records of the answer; nothing when there is to be none.
    fn answer(&self, request: &Request) -> Option<(ResponseCode, Vec<Record>)> {
        let info = request.request_info().ok()?;
        let (name, kind) = (info.query.name().to_string(), info.query.query_type());
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked.push(Asked {
            at: Instant::now(),
            kind,
            tcp: request.protocol() == Protocol::Tcp,
        });
        match (state.manner, state.zone.get(&name)) {
            (Manner::Silent, _) => None,
            (Manner::ServFail, _) => Some((ResponseCode::ServFail, Vec::new())),
            (Manner::Right, None) => Some((ResponseCode::NXDomain, Vec::new())),
            (Manner::Right, Some(records)) => {
                let of_kind = records.iter().filter(|record| record.record_type() == kind);
                Some((ResponseCode::NoError, of_kind.cloned().collect()))
            }
        }
    }
}
