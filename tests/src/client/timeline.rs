//! One client whose every request is written down: when, by whom answered, and how.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::http::{Client, runtime};
use crate::netns::Namespace;

/// A request and what became of it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When it was begun, and with it its connection when that is a new one.
    pub begun: Instant,
    /// When its answer was there.
    pub ended: Instant,
    /// The answer's status; nothing when there was no answer.
    pub status: Option<u16>,
    /// Who has answered; empty when that was the balancer, or nobody.
    pub instance: String,
}

/// A client at work.
#[derive(Debug)]
pub struct Timeline {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Entry>>>,
}

impl Timeline {
    /// Asks for `path` again and again with so long a pause between two requests; `fresh`: on a new
    /// connection each.
    #[must_use]
    pub fn start(
        namespace: &Namespace,
        target: SocketAddr,
        path: &str,
        fresh: bool,
        pause: Duration,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, path) = (Arc::clone(&stop), path.to_owned());
        let thread = namespace.spawn(move || {
            runtime()?.block_on(async {
                let mut entries = Vec::new();
                let mut client = Client::new(target, "lb.test");
                while !stopped.load(Ordering::Relaxed) {
                    if fresh {
                        client = Client::new(target, "lb.test");
                    }
                    let begun = Instant::now();
                    let answer = client.get(&path).await.ok();
                    let instance = answer.as_ref().and_then(|answer| answer.instance());
                    entries.push(Entry {
                        begun,
                        ended: Instant::now(),
                        status: answer.as_ref().map(|answer| answer.status.as_u16()),
                        instance: instance.unwrap_or_default().to_owned(),
                    });
                    if pause > Duration::ZERO {
                        tokio::time::sleep(pause).await;
                    }
                }
                Ok(entries)
            })
        });
        Self { stop, thread }
    }

    /// Ends it; all that was written down.
    ///
    /// # Errors
    /// When the namespace could not be entered.
    pub fn stop(self) -> Result<Vec<Entry>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("a client's thread panicked"))?
    }
}
