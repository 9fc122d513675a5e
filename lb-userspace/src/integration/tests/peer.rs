//! A system beside lb: a thread for each connection, which answers as it is told to at that moment.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// What the peer does with a request.
#[derive(Clone, Debug)]
pub(super) enum Manner {
    /// It answers with this status and body.
    Says(u16, &'static str),
    /// It never answers.
    Silent,
    /// It writes these bytes and then this piece again and again, until nobody listens.
    Endless(&'static str, &'static str),
    /// It writes these bytes and closes.
    Writes(&'static str),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Got {
    pub(super) line: String,
    pub(super) body: String,
}

#[derive(Debug)]
struct Shared {
    manner: Mutex<Manner>,
    got: Mutex<Vec<Got>>,
    connections: AtomicUsize,
    gone: AtomicBool,
}

/// The peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
}

impl Peer {
    pub(super) fn new(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = Self {
            address: listener.local_addr().unwrap(),
            shared: Arc::new(Shared {
                manner: Mutex::new(manner),
                got: Mutex::default(),
                connections: AtomicUsize::new(0),
                gone: AtomicBool::new(false),
            }),
        };
        peer.listen(listener);
        peer
    }

    fn listen(&self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if shared.gone.load(Ordering::SeqCst) {
                    return;
                }
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(&shared, stream));
            }
        });
    }

    /// From now on it does this.
    pub(super) fn now(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap() = manner;
    }

    /// Everything that it was asked and told so far.
    pub(super) fn got(&self) -> Vec<Got> {
        self.shared.got.lock().unwrap().clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// It refuses connections and closes those that it has.
    pub(super) fn goes(&self) {
        self.shared.gone.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }

    /// It is there again.
    pub(super) fn comes_back(&self) {
        let listener = loop {
            // The one of before may take a moment to close.
            match TcpListener::bind(self.address) {
                Ok(listener) => break listener,
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        };
        self.shared.gone.store(false, Ordering::SeqCst);
        self.listen(listener);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.goes();
    }
}

fn serve(shared: &Shared, stream: TcpStream) {
    let mut reader = BufReader::new(stream);
    while let Some(got) = request(&mut reader) {
        if shared.gone.load(Ordering::SeqCst) {
            return;
        }
        shared.got.lock().unwrap().push(got);
        let manner = shared.manner.lock().unwrap().clone();
        let stream = reader.get_mut();
        match manner {
            Manner::Says(status, body) => {
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}");
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
            Manner::Silent => {
                // Until the other side gives up.
                let _ = stream.read(&mut [0]);
                return;
            }
            Manner::Endless(first, piece) => {
                let mut sent = stream.write_all(first.as_bytes());
                while sent.is_ok() {
                    sent = stream.write_all(piece.as_bytes());
                }
                return;
            }
            Manner::Writes(bytes) => {
                let _ = stream.write_all(bytes.as_bytes());
                return;
            }
        }
    }
}

/// The next request; `None` at the end of the connection.
fn request(reader: &mut BufReader<TcpStream>) -> Option<Got> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
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
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Got {
        line: line.trim().to_owned(),
        body: String::from_utf8(body).unwrap(),
    })
}
