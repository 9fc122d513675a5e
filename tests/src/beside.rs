//! A system beside lb: the circuit-breaker backend, the metrics backend, a collector of traces. It
//! speaks HTTP byte by byte, so that it can also fail to.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cleanup;
use crate::netns::Namespace;

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It does what it should.
    Well,
    /// It takes connections and requests, and never answers.
    Silent,
    /// It answers what is no HTTP.
    Garbage,
    /// It answers 500.
    Failing,
    /// It answers 200 with JSON of another form.
    Lying,
    /// Its answer's head has no end.
    EndlessHead,
    /// Its answer's body has no end.
    EndlessBody,
}

impl Manner {
    /// All but the first.
    pub const ILL: [Self; 6] = [
        Self::Silent,
        Self::Garbage,
        Self::Failing,
        Self::Lying,
        Self::EndlessHead,
        Self::EndlessBody,
    ];
}

/// A request that it got.
#[derive(Clone, Debug)]
pub struct Got {
    /// Method and path.
    pub line: String,
    /// The body; null when it is no JSON.
    pub body: Value,
}

#[derive(Debug)]
struct Shared {
    manner: Mutex<Manner>,
    /// What it says of the circuit breaker of each service; of others that it is closed.
    states: Mutex<BTreeMap<String, String>>,
    got: Mutex<Vec<Got>>,
    gone: AtomicBool,
}

/// The system; gone when dropped.
#[derive(Debug)]
pub struct Beside {
    namespace: Arc<Namespace>,
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Beside {
    /// Starts it at an address of a namespace.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub fn start(namespace: &Arc<Namespace>, address: SocketAddr) -> Result<Self> {
        let beside = Self {
            namespace: Arc::clone(namespace),
            address,
            shared: Arc::new(Shared {
                manner: Mutex::new(Manner::Well),
                states: Mutex::default(),
                got: Mutex::default(),
                gone: AtomicBool::new(false),
            }),
        };
        beside.listen()?;
        Ok(beside)
    }

    fn listen(&self) -> Result<()> {
        let address = self.address;
        let mut listener = None;
        cleanup::within(Duration::from_secs(5), || {
            // The one of before may take a moment to close.
            let opened = self.namespace.enter(|| TcpListener::bind(address));
            listener = opened.ok().and_then(Result::ok);
            listener.is_some()
        });
        let listener = listener.with_context(|| format!("cannot listen at {address}"))?;
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if shared.gone.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(&shared, stream));
            }
        });
        Ok(())
    }

    /// From now on it is like this.
    pub fn is(&self, manner: Manner) {
        *lock(&self.shared.manner) = manner;
    }

    /// From now on it says this of the circuit breaker of a service.
    pub fn says(&self, service: &str, state: &str) {
        lock(&self.shared.states).insert(service.to_owned(), state.to_owned());
    }

    /// Everything that it got so far.
    #[must_use]
    pub fn got(&self) -> Vec<Got> {
        lock(&self.shared.got).clone()
    }

    /// What came as JSON to a path.
    #[must_use]
    pub fn posted(&self, path: &str) -> Vec<Value> {
        let line = format!("POST {path}");
        let got = self.got().into_iter();
        got.filter(|got| got.line == line)
            .map(|got| got.body)
            .collect()
    }

    /// It ends: connections are refused.
    pub fn goes(&self) {
        self.shared.gone.store(true, Ordering::SeqCst);
        let address = self.address;
        // Whoever waits for connections looks once more.
        let _ = self
            .namespace
            .enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)));
    }

    /// It is there again.
    ///
    /// # Errors
    /// As [`Beside::start`].
    pub fn comes_back(&self) -> Result<()> {
        let address = self.address;
        cleanup::within(Duration::from_secs(5), || {
            let limit = Duration::from_secs(1);
            let open = self
                .namespace
                .enter(|| TcpStream::connect_timeout(&address, limit).is_ok());
            !open.unwrap_or(false)
        });
        self.shared.gone.store(false, Ordering::SeqCst);
        self.listen()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.goes();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(shared: &Shared, stream: TcpStream) {
    let mut reader = BufReader::new(stream);
    while let Some(got) = request(&mut reader) {
        if shared.gone.load(Ordering::SeqCst) {
            return;
        }
        let manner = *lock(&shared.manner);
        let answer = answer(shared, &got);
        if manner == Manner::Well {
            lock(&shared.got).push(got);
        }
        let stream = reader.get_mut();
        let goes_on = match manner {
            Manner::Well => says(stream, 200, &answer),
            Manner::Failing => says(stream, 500, &answer),
            Manner::Lying => says(stream, 200, "[{\"state\": 1}]"),
            Manner::Silent => {
                // Until the other side gives up.
                let _ = stream.read(&mut [0]);
                false
            }
            Manner::Garbage => {
                let _ = stream.write_all(b"\x16\x03\x01 this is something else\r\n\r\n");
                false
            }
            Manner::EndlessHead => endless(stream, "HTTP/1.1 200 OK\r\n", "X-More: and more\r\n"),
            Manner::EndlessBody => {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                endless(stream, head, "10\r\n{\"state\":\"OPEN\"}\r\n")
            }
        };
        if !goes_on {
            return;
        }
    }
}

/// What it says when it is well.
fn answer(shared: &Shared, got: &Got) -> String {
    let states = lock(&shared.states);
    let service = got.line.rsplit('/').next().unwrap_or_default();
    let state = states.get(service).map_or("CLOSED", String::as_str);
    format!("{{\"state\": \"{state}\"}}")
}

fn says(stream: &mut TcpStream, status: u16, body: &str) -> bool {
    let length = body.len();
    let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).is_ok()
}

/// Writes until nobody takes it.
fn endless(stream: &mut TcpStream, head: &str, piece: &str) -> bool {
    let mut sent = stream.write_all(head.as_bytes());
    while sent.is_ok() {
        sent = stream.write_all(piece.as_bytes());
    }
    false
}

/// The next request; `None` at the end of the connection.
fn request(reader: &mut BufReader<TcpStream>) -> Option<Got> {
    let mut first = String::new();
    if reader.read_line(&mut first).ok()? == 0 {
        return None;
    }
    let mut length = 0;
    loop {
        let mut field = String::new();
        reader.read_line(&mut field).ok()?;
        let field = field.trim().to_ascii_lowercase();
        if field.is_empty() {
            break;
        }
        if let Some(value) = field.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (line, _version) = first.trim().rsplit_once(' ')?;
    Some(Got {
        line: line.to_owned(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    })
}
