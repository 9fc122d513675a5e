//! One stream of flow events.

use std::time::Duration;

use axum::body::Bytes;
use tokio::{
    sync::{
        mpsc::{self, OwnedPermit, Sender},
        watch,
    },
    time::{Instant, sleep},
};

use super::{Asked, document::Writer};
use crate::{
    api::{
        access::{Ending, Standing},
        events::{Stream, append, stopping},
        state::ApiState,
        types::{Ended, Lost},
    },
    l4::Followed,
};

/// How long a stream is silent at most: less than what proxies on the way take for dead.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How long something may wait for a reader that takes nothing. There are few places, and what is recorded
/// for one who does not look is missing for those who do.
const PATIENCE: Duration = Duration::from_secs(30);

/// Events that are written at once.
const CHUNK: usize = 64;

/// Starts a stream.
pub(super) fn start(
    state: &ApiState,
    standing: Standing,
    followed: Followed,
    asked: &Asked,
) -> Stream {
    if asked.bytes {
        standing.audit(None);
    }
    // One chunk, and the last word.
    let (sender, receiver) = mpsc::channel(2);
    let run = Run {
        state: state.clone(),
        followed,
        writer: Writer::new(asked.bytes),
        left: asked.count,
        bounds: Bounds {
            standing,
            stop: state.stopped(),
            end: asked.time.map(|time| Instant::now() + time),
        },
        number: 0,
        is_audited: asked.bytes,
    };
    tokio::spawn(run.run(sender));
    Stream::new(receiver)
}

/// Why a stream is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// There was as much as was asked for.
    Enough,
    /// The reader is gone.
    Left,
    /// The reader takes nothing.
    Stuck,
    /// Whoever has asked for it may no more.
    Lapsed,
    /// lb stops.
    Stopping,
    /// Packets cannot be followed any more.
    Gone,
}

impl End {
    /// In a word, for those who look after it.
    const fn word(self) -> &'static str {
        match self {
            Self::Enough => "enough",
            Self::Left => "reader_left",
            Self::Stuck => "reader_stuck",
            Self::Lapsed => "rights_lapsed",
            Self::Stopping => "stopping",
            Self::Gone => "path_gone",
        }
    }

    /// For the reader, where it does not know.
    const fn why(self) -> Option<&'static str> {
        match self {
            Self::Enough | Self::Left => None,
            Self::Stuck => Some("nothing was read for 30 seconds"),
            Self::Lapsed => Some("whoever has asked for this may no longer see it"),
            Self::Stopping => Some("lb stops"),
            Self::Gone => Some("packets cannot be followed any more"),
        }
    }
}

/// What ends a stream, whatever its reader does.
struct Bounds {
    standing: Standing,
    stop: watch::Receiver<bool>,
    end: Option<Instant>,
}

impl Bounds {
    async fn over(&mut self) -> End {
        tokio::select! {
            () = self.standing.lapsed() => End::Lapsed,
            () = stopping(self.stop.clone()) => End::Stopping,
            () = at(self.end) => End::Enough,
        }
    }
}

struct Run {
    state: ApiState,
    followed: Followed,
    writer: Writer,
    /// Events that may still come.
    left: Option<u64>,
    bounds: Bounds,
    /// Of the last event.
    number: u64,
    is_audited: bool,
}

impl Run {
    async fn run(mut self, sender: Sender<Bytes>) {
        // Whoever takes nothing has left no room for it by then.
        let word = sender.clone().try_reserve_owned().ok();
        let end = self.follow(&sender).await;
        self.close(end, word);
    }

    /// Writes events until there are enough, or nobody reads or writes any more.
    async fn follow(&mut self, sender: &Sender<Bytes>) -> End {
        let mut chunk = ": flow events of lb\n\n".to_owned();
        loop {
            if let Err(end) = self.hand_over(&mut chunk, sender).await {
                return end;
            }
            if self.left == Some(0) {
                return End::Enough;
            }
            tokio::select! {
                packet = self.followed.next() => match packet {
                    Some(packet) => {
                        self.write(&mut chunk, &packet);
                        self.gather(&mut chunk);
                    }
                    None => return End::Gone,
                },
                () = sleep(HEARTBEAT) => {
                    self.tell_lost(&mut chunk);
                    if chunk.is_empty() {
                        chunk.push_str(": heartbeat\n\n");
                    }
                }
                () = sender.closed() => return End::Left,
                end = self.bounds.over() => return end,
            }
        }
    }

    /// Hands over what is in `chunk`, unless there is a reason to do so no more.
    async fn hand_over(&mut self, chunk: &mut String, sender: &Sender<Bytes>) -> Result<(), End> {
        if chunk.is_empty() {
            return Ok(());
        }
        tokio::select! {
            sent = sender.send(Bytes::from(std::mem::take(chunk))) => sent.map_err(|_| End::Left),
            end = self.bounds.over() => Err(end),
            () = sleep(PATIENCE) => Err(End::Stuck),
        }
    }

    /// Says what is left to be said, to the reader and to those who look after it.
    fn close(self, end: End, word: Option<OwnedPermit<Bytes>>) {
        let mut chunk = String::new();
        self.tell_lost(&mut chunk);
        if let Some(why) = end.why() {
            let why = why.to_owned();
            append(&mut chunk, self.number, "ended", &Ended { why });
        }
        if let Some(word) = word.filter(|_| !chunk.is_empty()) {
            word.send(Bytes::from(chunk));
        }
        let standing = &self.bounds.standing;
        if let End::Stuck | End::Lapsed = end {
            let (caller, reason) = (standing.caller(), end.word());
            tracing::info!(%caller, reason, "a stream of flow events was ended");
        }
        if self.is_audited {
            standing.audit(Some(Ending {
                reason: end.word(),
                events: self.number,
            }));
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
