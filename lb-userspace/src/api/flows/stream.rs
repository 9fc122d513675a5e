//! One stream of flow events.

use std::time::Duration;

use axum::body::Bytes;
use tokio::{sync::mpsc, time::Instant};

use super::{Asked, document::Writer};
use crate::{
    api::{
        events::{Stream, append, hand_over, stopping},
        state::ApiState,
        types::Lost,
    },
    l4::Followed,
};

/// How long a stream is silent at most: less than what proxies on the way take for dead.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Events that are written at once.
const CHUNK: usize = 64;

/// Starts a stream.
pub(super) fn start(state: &ApiState, followed: Followed, asked: &Asked) -> Stream {
    let (sender, receiver) = mpsc::channel(1);
    let run = Run {
        state: state.clone(),
        followed,
        writer: Writer::new(asked.bytes),
        left: asked.count,
        end: asked.time.map(|time| Instant::now() + time),
        number: 0,
    };
    tokio::spawn(run.run(sender));
    Stream::new(receiver)
}

struct Run {
    state: ApiState,
    followed: Followed,
    writer: Writer,
    /// Events that may still come.
    left: Option<u64>,
    end: Option<Instant>,
    /// Of the last event.
    number: u64,
}

impl Run {
    /// Writes events until there are enough, or nobody reads or writes any more.
    async fn run(mut self, sender: mpsc::Sender<Bytes>) {
        let stop = self.state.stopped();
        let mut chunk = ": flow events of lb\n\n".to_owned();
        loop {
            let end = async {
                tokio::select! {
                    () = stopping(stop.clone()) => {}
                    () = at(self.end) => {}
                }
            };
            if !hand_over(&mut chunk, &sender, end).await {
                return;
            }
            if self.left == Some(0) {
                return;
            }
            tokio::select! {
                packet = self.followed.next() => match packet {
                    Some(packet) => {
                        self.write(&mut chunk, &packet);
                        self.gather(&mut chunk);
                    }
                    None => return,
                },
                () = tokio::time::sleep(HEARTBEAT) => {
                    self.tell_lost(&mut chunk);
                    if chunk.is_empty() {
                        chunk.push_str(": heartbeat\n\n");
                    }
                }
                () = at(self.end) => {
                    self.tell_lost(&mut chunk);
                    if !chunk.is_empty() {
                        drop(sender.try_send(Bytes::from(chunk)));
                    }
                    return;
                }
                () = sender.closed() => return,
                () = stopping(stop.clone()) => return,
            }
        }
    }

    /// Writes what is there already.
    fn gather(&mut self, chunk: &mut String) {
        for _ in 1..CHUNK {
            if self.left == Some(0) {
                break;
            }
            let Some(packet) = self.followed.ready() else {
                break;
            };
            self.write(chunk, &packet);
        }
        self.tell_lost(chunk);
    }

    fn write(&mut self, chunk: &mut String, packet: &crate::l4::SeenPacket) {
        let (snapshot, report) = (self.state.snapshot(), self.state.report());
        let event = self.writer.document(packet, &snapshot, &report);
        self.number += 1;
        self.left = self.left.map(|left| left.saturating_sub(1));
        append(chunk, self.number, "flow", &event);
    }

    fn tell_lost(&self, chunk: &mut String) {
        let lost = self.followed.take_lost();
        if lost > 0 {
            append(chunk, self.number, "lost", &Lost { lost: Some(lost) });
        }
    }
}

async fn at(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}
