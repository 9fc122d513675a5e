//! What the API listens on: addresses and unix sockets.

pub(super) mod tls;
mod unix;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

pub use self::unix::SocketFile;
use super::access::{Peer, UnixPeer};
use crate::{
    config,
    model::{ApiAddress, SocketSpec},
};

/// The API cannot listen where it is told to.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Not at an address.
    #[error("cannot listen on {address} for the management API (setting api.listen): {source}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Not at a path.
    #[error(
        "cannot listen on the socket {} for the management API (setting api.listen): {source}",
        path.display()
    )]
    Path {
        /// The path.
        path: PathBuf,
        /// What the system said, or what is there.
        source: io::Error,
    },
}

/// A socket that connections to the API come in by.
#[derive(Debug)]
pub enum Listener {
    /// At an address.
    Tcp(TcpListener),
    /// At a path.
    Unix(UnixListener),
}

/// A connection to the API.
#[derive(Debug)]
pub(super) enum Connection {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream, Peer),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl Listener {
    /// Listens at `address`. With a path comes what removes it again.
    ///
    /// # Errors
    /// When that cannot be, or when somebody else listens there.
    pub async fn bind(
        address: &ApiAddress,
        socket: &SocketSpec,
    ) -> Result<(Self, Option<SocketFile>), ListenError> {
        match address {
            ApiAddress::Tcp(address) => match TcpListener::bind(address).await {
                Ok(listener) => Ok((Self::Tcp(listener), None)),
                Err(source) => Err(ListenError::Address {
                    address: *address,
                    source,
                }),
            },
            ApiAddress::Unix(path) => {
                let bound = unix::bind(path, socket).and_then(|(listener, file)| {
                    listener.set_nonblocking(true)?;
                    Ok((UnixListener::from_std(listener)?, file))
                });
                match bound {
                    Ok((listener, file)) => Ok((Self::Unix(listener), Some(file))),
                    Err(source) => Err(ListenError::Path {
                        path: path.clone(),
                        source,
                    }),
                }
            }
        }
    }

    /// The next connection.
    pub(super) async fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok(Connection::Tcp(stream, peer))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let peer = peer(&stream);
                Ok(Connection::Unix(stream, peer))
            }
        }
    }
}

/// Who is at the other end of a unix socket: the kernel says it (SO_PEERCRED).
fn peer(stream: &UnixStream) -> Peer {
    let Ok(credentials) = stream.peer_cred() else {
        return Peer::Unknown;
    };
    let uid = credentials.uid();
    Peer::Unix(UnixPeer {
        uid,
        pid: credentials.pid(),
        user: config::user_name(uid).map_or_else(|| Arc::from(format!("uid {uid}")), Arc::from),
    })
}
