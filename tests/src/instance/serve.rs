//! The program: listeners for HTTP, TCP and UDP on one thread.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::{HTTP, TCP, UDP, http};

/// What the program says when it listens.
pub(super) const READY: &str = "listening";

/// Arguments of `lb-test-instance`.
#[derive(Debug, clap::Parser)]
#[command(about = "Answers with its name: HTTP, TCP and UDP")]
pub struct Arguments {
    /// The name to answer with
    #[arg(long)]
    pub name: String,
    /// Where to serve HTTP
    #[arg(long, default_value_t = any(HTTP))]
    pub http: SocketAddr,
    /// Where to serve TCP
    #[arg(long, default_value_t = any(TCP))]
    pub tcp: SocketAddr,
    /// Where to serve UDP; may be repeated
    #[arg(long, default_values_t = [any(UDP)])]
    pub udp: Vec<SocketAddr>,
}

/// All addresses of both families.
fn any(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
}

/// Serves until the process is ended.
///
/// # Errors
/// When an address cannot be listened on.
pub fn serve(arguments: Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> Result<()> {
    let name: Arc<str> = arguments.name.into();
    let tcp = listen(arguments.tcp).await?;
    tokio::spawn(serve_tcp(tcp, Arc::clone(&name)));
    for address in arguments.udp {
        let socket = UdpSocket::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address} for UDP"))?;
        tokio::spawn(serve_udp(socket, Arc::clone(&name)));
    }
    let listener = listen(arguments.http).await?;
    #[expect(
        clippy::print_stdout,
        reason = "whoever has started the program waits for this"
    )]
    {
        println!("{READY}");
    }
    http::serve(listener, name).await
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
}

async fn serve_tcp(listener: TcpListener, name: Arc<str>) {
    loop {
        // A connection that is gone before it is accepted is no reason to stop.
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(greet_and_echo(stream, Arc::clone(&name)));
        }
    }
}

async fn greet_and_echo(mut stream: TcpStream, name: Arc<str>) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(format!("{name}\n").as_bytes()).await?;
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await?;
    Ok(())
}

async fn serve_udp(socket: UdpSocket, name: Arc<str>) {
    let greeting = format!("{name}\n");
    let mut buffer = vec![0_u8; 65_536];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let answer = [greeting.as_bytes(), &buffer[..length]].concat();
        // A client that is gone needs no answer.
        drop(socket.send_to(&answer, peer).await);
    }
}
