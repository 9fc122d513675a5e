//! Requests for lb itself on a listener of the gateway.
//!
//! Whoever wires lb together says which paths these are and what answers them; the rule of access
//! is the answerer's business, and for that it gets the peer's address.
//!
//! The answer is worked out on the control plane's runtime. A worker that rebuilt tables or resolved
//! names for an operator would keep all of its clients waiting.

use std::{convert::Infallible, fmt, rc::Rc, sync::Arc, time::Duration};

use axum::{body::Body, extract::ConnectInfo};
use hyper::{Request, Response, body::Incoming};
use tokio::runtime::Handle;
use tower::{ServiceExt as _, util::BoxCloneSyncService};

use super::{
    answer,
    body::{Answer, Told},
    connection::Client,
    exchange::unless_stopped,
};
use crate::model::Reason;

/// What answers the requests.
pub type ManagementService = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Longest time that an answer may take: a reload may have to resolve names.
const LIMIT: Duration = Duration::from_secs(60);

/// Longest time that passes between two parts of an answer: several heartbeats of a stream of events.
const SILENCE: Duration = Duration::from_secs(60);

/// Paths that are answered by lb instead of being routed.
#[derive(Clone)]
pub struct Management {
    /// What answers them.
    pub service: ManagementService,
    /// Where it runs: never on a worker.
    pub runtime: Handle,
    /// The paths: each stands for itself and everything below it.
    pub prefixes: &'static [&'static str],
}

impl fmt::Debug for Management {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Management");
        debug
            .field("prefixes", &self.prefixes)
            .finish_non_exhaustive()
    }
}

impl Management {
    /// Whether `path` is one of them.
    pub(super) fn owns(&self, path: &str) -> bool {
        self.prefixes.iter().any(|prefix| {
            path.strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

/// Answers a request for lb itself.
pub(super) async fn answer(
    client: &Client,
    management: &Management,
    request: Request<Incoming>,
) -> Response<Answer> {
    let worker = &client.worker;
    client.pulse.arrived_here(worker.clock.now(), LIMIT);
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(ConnectInfo(client.address));
    let answer = management.service.clone().oneshot(request);
    let answer = management.runtime.spawn(answer);
    let answer = match unless_stopped(&client.pulse, answer).await {
        Some(Ok(Ok(answer))) => Ok(answer),
        Some(Ok(Err(never))) => match never {},
        Some(Err(error)) if error.is_panic() => Err(Reason::BadAnswer),
        // The control plane has ended before the workers.
        Some(Err(_)) => Err(Reason::ShuttingDown),
        None => Err(client.pulse.stopped().0),
    };
    let stats = &worker.stats.answers;
    let now = worker.clock.now();
    let mut answer = match answer {
        // It may be long, or a stream of events that never ends by itself: the connection is busy
        // with it until then.
        Ok(answer) => {
            client.pulse.answering(now, SILENCE);
            answer.map(|body| {
                Answer::Management(Told {
                    body,
                    worker: Rc::clone(worker),
                    pulse: Arc::clone(&client.pulse),
                })
            })
        }
        Err(reason) => {
            let answer = answer::local(reason, stats);
            client.pulse.answered(now);
            answer
        }
    };
    answer::ends_connection(answer.headers_mut(), &client.pulse);
    answer
}
