//! One stream of events: a task that follows the feed, and the body that its chunks leave by.

use std::{
    collections::HashSet,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Bytes;
use http_body::{Body, Frame};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use super::{CHUNK, document};
use crate::{
    api::{state::ApiState, types::Lost},
    registry::{Batch, Entry},
};

/// How long a stream is silent at most: less than what proxies on the way take for dead.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How long a client that was cut off waits before it comes again.
const RETRY: Duration = Duration::from_secs(2);

/// Which events are wanted; all where nothing is said.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) services: HashSet<String>,
    pub(super) types: HashSet<&'static str>,
}

/// What a stream follows.
#[derive(Debug)]
pub(super) struct Followed {
    state: ApiState,
    wanted: Wanted,
    /// The last event that was written or passed over.
    last: u64,
}

/// The body of a stream.
#[derive(Debug)]
pub(in crate::api) struct Stream(mpsc::Receiver<Bytes>);

impl Stream {
    /// The body of what is sent to this receiver.
    pub(in crate::api) const fn new(chunks: mpsc::Receiver<Bytes>) -> Self {
        Self(chunks)
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let chunk = ready!(self.0.poll_recv(context));
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

/// Starts a stream. Its place is free when it has ended.
pub(super) fn start(followed: Followed, place: OwnedSemaphorePermit) -> Stream {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        followed.run(sender).await;
        drop(place);
    });
    Stream(receiver)
}

impl Followed {
    pub(super) fn new(state: &ApiState, wanted: Wanted, last: u64) -> Self {
        Self {
            state: state.clone(),
            wanted,
            last,
        }
    }

    /// Writes events until lb stops or the reader is gone.
    async fn run(mut self, sender: mpsc::Sender<Bytes>) {
        let mut newest = self.state.registry().feed().subscribe();
        let stop = self.state.stopped();
        let mut chunk = format!("retry: {}\n: events of lb\n\n", RETRY.as_millis());
        loop {
            if !hand_over(&mut chunk, &sender, stopping(stop.clone())).await {
                return;
            }
            newest.borrow_and_update();
            let batch = self.state.registry().feed().after(self.last, CHUNK);
            if batch.entries.is_empty() && batch.lost == Some(0) {
                tokio::select! {
                    changed = newest.changed() => if changed.is_err() { return },
                    // The number goes along, so that a client that wants few events does not
                    // come back for what it has no use for.
                    () = tokio::time::sleep(HEARTBEAT) => {
                        chunk = format!(": heartbeat\nid: {}\n\n", self.last);
                    }
                    () = sender.closed() => return,
                    () = stopping(stop.clone()) => return,
                }
            } else {
                chunk = self.write(&batch);
                self.last = batch.last;
            }
        }
    }

    /// A batch as text.
    fn write(&self, batch: &Batch) -> String {
        let mut text = String::new();
        if batch.lost != Some(0) {
            let lost = Lost { lost: batch.lost };
            let before = batch.entries.first().map_or(batch.last, |e| e.sequence - 1);
            append(&mut text, before, "lost", &lost);
        }
        for entry in &batch.entries {
            self.append(&mut text, entry);
        }
        text
    }

    fn append(&self, text: &mut String, entry: &Entry) {
        let event = document::of(entry);
        let Wanted { services, types } = &self.wanted;
        let of_service = |name: &String| services.contains(name);
        let wanted = (services.is_empty() || event.service.as_ref().is_some_and(of_service))
            && (types.is_empty() || types.contains(event.kind.as_str()));
        if wanted {
            append(text, event.sequence, &event.kind, &event);
        }
    }
}

/// Hands over what is in `chunk`, if anything is; whether somebody took it before the `end`.
async fn hand_over(
    chunk: &mut String,
    sender: &mpsc::Sender<Bytes>,
    end: impl Future<Output = ()>,
) -> bool {
    if chunk.is_empty() {
        return true;
    }
    tokio::select! {
        sent = sender.send(Bytes::from(std::mem::take(chunk))) => sent.is_ok(),
        () = end => false,
    }
}

/// Waits until lb stops.
pub(in crate::api) async fn stopping(mut stop: watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

/// Appends an event in the form of the HTML standard, 9.2.5. JSON has no line breaks in it.
pub(in crate::api) fn append(text: &mut String, id: u64, kind: &str, data: &impl serde::Serialize) {
    use std::fmt::Write as _;
    // What is written has no form that JSON lacks, and writing to a string cannot fail.
    let data = serde_json::to_string(data).unwrap_or_default();
    let _ = write!(text, "id: {id}\nevent: {kind}\ndata: {data}\n\n");
}
