//! A TCP connection as hyper is to use it.
//!
//! hyper hands over a head and a body as two slices. The kernel needs noticeably longer for a
//! gathering write of two slices than for copying a small body and writing one, so small messages
//! are put together first.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::room::Held;

/// Largest write that is put together, in bytes.
const SMALL: usize = 4096;

thread_local! {
    /// Where writes are put together; empty between two of them.
    static TOGETHER: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(SMALL));
}

/// See the module.
#[derive(Debug)]
pub(super) struct Socket {
    // Closed before what it holds is given back.
    io: TokioIo<TcpStream>,
    held: Option<Held>,
}

impl Socket {
    /// Wraps a client's connection.
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            io: TokioIo::new(stream),
            held: None,
        }
    }

    /// Wraps a connection to an instance, which counts there until it is closed.
    pub(super) fn held(stream: TcpStream, held: Held) -> Self {
        Self {
            io: TokioIo::new(stream),
            held: Some(held),
        }
    }

    /// The connection, and what is to be held until it is closed.
    pub(super) fn into_parts(self) -> (TcpStream, Option<Held>) {
        (self.io.into_inner(), self.held)
    }

    fn io(self: Pin<&mut Self>) -> Pin<&mut TokioIo<TcpStream>> {
        Pin::new(&mut self.get_mut().io)
    }
}

impl Read for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.io().poll_read(cx, buffer)
    }
}

impl Write for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [slice] = slices {
            return self.io().poll_write(cx, slice);
        }
        if slices.iter().map(|slice| slice.len()).sum::<usize>() > SMALL {
            return self.io().poll_write_vectored(cx, slices);
        }
        TOGETHER.with_borrow_mut(|together| {
            together.clear();
            for slice in slices {
                together.extend_from_slice(slice);
            }
            self.io().poll_write(cx, together)
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(cx)
    }
}
