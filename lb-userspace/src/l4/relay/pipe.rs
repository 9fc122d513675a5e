//! Passing bytes from one connection to another.
//!
//! A worker has one buffer. A piece is read into it and written from it at once, which nearly always
//! succeeds whole; only what the receiver does not take is copied to memory of the connection's own, and
//! nothing more is read until it is gone. So a connection that is silent has no buffer, and one whose
//! receiver is slow has [`PIECE`] bytes at most, each way.
//!
//! splice(2) would save the copy of large pieces and take two pipes, that is four more files, and two
//! more system calls for small ones; most connections have small ones.
//!
//! The end of what one side sends is passed on as what it is: the other side's is still open. A reset
//! is passed on as a reset.

use std::{cell::RefCell, io, net::Shutdown, time::Duration};

use socket2::SockRef;
use tokio::net::TcpStream;

use super::lines::{Direction, Line};

/// The most that is read at a time, in bytes.
pub(super) const PIECE: usize = 64 * 1024;

/// Pieces that a connection passes on before others have their turn.
const TURN: u32 = 8;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE].into_boxed_slice());
}

/// Passes on what either side sends until both have ended, and notes it.
///
/// # Errors
/// When one side was reset, or cannot be written to any more.
pub(super) async fn join(client: &TcpStream, instance: &TcpStream, line: &Line) -> io::Result<()> {
    let inwards = Pipe {
        from: client,
        to: instance,
        direction: Direction::In,
        line,
    };
    let outwards = Pipe {
        from: instance,
        to: client,
        direction: Direction::Out,
        line,
    };
    tokio::try_join!(inwards.run(), outwards.run()).map(drop)
}

/// Makes the end of a connection a reset.
pub(super) fn reset(stream: TcpStream) {
    // Without it the end is an ordinary one, which its peer may take for success.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}

struct Pipe<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    direction: Direction,
    line: &'a Line,
}

/// What became of an attempt to pass a piece on.
enum Passed {
    /// All of it.
    Whole,
    /// All but this.
    But(Vec<u8>),
    /// There was nothing.
    Nothing,
    /// There will be nothing more.
    End,
}

impl Pipe<'_> {
    async fn run(self) -> io::Result<()> {
        let mut turn = 0;
        loop {
            self.from.readable().await?;
            match self.pass()? {
                Passed::Whole => {}
                Passed::But(left) => self.write(&left).await?,
                Passed::Nothing => continue,
                Passed::End => break,
            }
            turn += 1;
            if turn % TURN == 0 {
                // What is always ready would never let go of the thread.
                tokio::task::yield_now().await;
            }
        }
        self.line.half_closed.set(true);
        match SockRef::from(self.to).shutdown(Shutdown::Write) {
            // Its end has come already.
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error),
            _ => Ok(()),
        }
    }

    /// Reads a piece and writes it, as far as that goes without waiting.
    fn pass(&self) -> io::Result<Passed> {
        BUFFER.with_borrow_mut(|buffer| {
            let read = match self.from.try_read(buffer) {
                Ok(0) => return Ok(Passed::End),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Passed::Nothing);
                }
                Err(error) => return Err(error),
            };
            let written = self.try_write(&buffer[..read])?;
            Ok(match &buffer[written..read] {
                [] => Passed::Whole,
                left => Passed::But(left.to_vec()),
            })
        })
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.to.try_write(bytes) {
            Ok(written) => {
                self.line.passed(self.direction, written);
                Ok(written)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.to.writable().await?;
            bytes = &bytes[self.try_write(bytes)?..];
        }
        Ok(())
    }
}
