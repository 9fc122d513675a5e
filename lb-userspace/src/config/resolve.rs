//! Host names of instances, resolved once and within a deadline.
//!
//! A name server that does not answer must neither hold up a start or a reload for minutes nor
//! hide the other faults, so every name is asked for beside the others and what has no answer at
//! the deadline is a fault like any other. A thread that is still waiting then ends by itself when
//! the system's resolver gives up; there is no way to interrupt it.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use super::{
    forms::{Form, Pattern, Refused, show_duration},
    tree::{Node, Table, Value},
    values::ENDPOINT,
};
use crate::model::{Endpoint, EndpointError};

/// Parses an endpoint and resolves its host.
pub(super) type Resolve = Arc<dyn Fn(&str) -> Result<Endpoint, EndpointError> + Send + Sync>;

/// Names that are asked for at the same time.
const THREADS: usize = 16;

/// What became of every endpoint that a configuration names.
#[derive(Debug)]
pub(super) struct Resolved {
    known: HashMap<String, Result<Endpoint, EndpointError>>,
    deadline: Duration,
}

impl Resolved {
    /// Parses and resolves the endpoints of all services in `root`.
    pub(super) fn new(root: &Table, deadline: Duration, resolve: &Resolve) -> Self {
        let (literal, names): (Vec<_>, Vec<_>) = endpoints(root)
            .into_iter()
            .partition(|text| is_literal(text));
        let mut known = resolve_all(names, deadline, resolve);
        known.extend(literal.into_iter().map(|text| {
            let result = resolve(&text);
            (text, result)
        }));
        Self { known, deadline }
    }
}

impl Form for Resolved {
    type Value = Endpoint;

    fn expected(&self) -> String {
        ENDPOINT.expected()
    }

    fn example(&self) -> String {
        ENDPOINT.example()
    }

    fn parse(&self, node: &Node) -> Result<Endpoint, Refused> {
        let text = Pattern::parse(&ENDPOINT, node)?;
        match self.known.get(&text) {
            Some(Ok(endpoint)) => Ok(endpoint.clone()),
            Some(Err(EndpointError::Form { why, .. })) => Err(Refused::because(*why)),
            Some(Err(EndpointError::Resolve { host, why })) => Err(Refused::because(format!(
                "the host {host:?} does not resolve: {why}"
            ))),
            None => Err(Refused::because(format!(
                "the host did not resolve within {}",
                show_duration(self.deadline)
            ))),
        }
    }

    fn show(&self, value: &Endpoint) -> String {
        format!("{:?}", value.name())
    }

    fn schema(&self) -> serde_json::Value {
        ENDPOINT.schema()
    }
}

/// The texts of all endpoints.
fn endpoints(root: &Table) -> BTreeSet<String> {
    let mut texts = BTreeSet::new();
    let Some(Value::Table(services)) = root.get("services").map(|node| &node.value) else {
        return texts;
    };
    for service in services.values() {
        let Value::Table(service) = &service.value else {
            continue;
        };
        let Some(Value::List(instances)) = service.get("instances").map(|node| &node.value) else {
            continue;
        };
        for instance in instances {
            let node = match &instance.value {
                Value::Table(instance) => instance.get("endpoint"),
                _ => Some(instance),
            };
            texts.extend(
                node.and_then(Node::as_text)
                    .map(|text| text.trim().to_owned()),
            );
        }
    }
    texts
}

/// Whether no name server needs to be asked.
fn is_literal(text: &str) -> bool {
    let authority = text.split_once("://").map_or(text, |(_, rest)| rest);
    let authority = authority.trim_end_matches('/');
    authority.parse::<SocketAddr>().is_ok() || authority.parse::<IpAddr>().is_ok()
}

fn resolve_all(
    names: Vec<String>,
    deadline: Duration,
    resolve: &Resolve,
) -> HashMap<String, Result<Endpoint, EndpointError>> {
    let mut known = HashMap::new();
    let count = names.len();
    let queue = Arc::new(Mutex::new(VecDeque::from(names)));
    let (sender, receiver) = mpsc::channel();
    for number in 0..count.min(THREADS) {
        let (queue, sender) = (Arc::clone(&queue), sender.clone());
        let resolve = Arc::clone(resolve);
        let work = move || {
            let next = || {
                queue
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .pop_front()
            };
            while let Some(text) = next() {
                let result = resolve(&text);
                if sender.send((text, result)).is_err() {
                    break;
                }
            }
        };
        // Without a single thread nothing resolves, and every name says so.
        if let Err(error) = thread::Builder::new()
            .name(format!("resolve-{number}"))
            .spawn(work)
        {
            tracing::warn!(%error, "no thread to resolve host names with");
        }
    }
    drop(sender);
    let end = Instant::now() + deadline;
    while known.len() < count {
        match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok((text, result)) => known.insert(text, result),
            Err(_) => break,
        };
    }
    queue.lock().unwrap_or_else(PoisonError::into_inner).clear();
    known
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;

    /// A name server that answers about `fast` and keeps everybody else waiting.
    fn slow(text: &str) -> Result<Endpoint, EndpointError> {
        if !text.starts_with("fast") {
            thread::sleep(Duration::from_secs(3));
        }
        Endpoint::parse("127.0.0.1:1")
    }

    #[test]
    fn a_name_server_that_does_not_answer_holds_nothing_up() {
        let list = |prefix: &str| {
            let names: Vec<_> = (0..40).map(|n| format!("{prefix}-{n}:1")).collect();
            Node::comma_list(&names.join(","), &Origin::Default)
        };
        let service = |instances| {
            let table = Table::from([("instances".to_owned(), instances)]);
            Node::new(Value::Table(table), Origin::Default)
        };
        // In the order of names the fast ones come first.
        let services = Table::from([
            ("a".to_owned(), service(list("slow"))),
            ("b".to_owned(), service(list("fast"))),
        ]);
        let services = Node::new(Value::Table(services), Origin::Default);
        let root = Table::from([("services".to_owned(), services)]);

        let started = Instant::now();
        let resolved = Resolved::new(
            &root,
            Duration::from_millis(200),
            &(Arc::new(slow) as Resolve),
        );
        assert!(started.elapsed() < Duration::from_secs(2));
        let parse = |text: &str| resolved.parse(&Node::text(text, Origin::Default));
        assert!(parse("fast-39:1").is_ok());
        let Err(Refused(Some(note))) = parse("slow-0:1") else {
            panic!("it cannot have resolved");
        };
        assert_eq!(note, "the host did not resolve within 200ms");
    }

    #[test]
    fn addresses_need_no_name_server() {
        for text in [
            "10.0.0.1:80",
            "http://10.0.0.1",
            "http://[fd00::1]:80/",
            "[fd00::1]:80",
        ] {
            assert!(is_literal(text), "{text}");
        }
        for text in ["localhost:80", "http://a", "10.0.0.1.example.org:80"] {
            assert!(!is_literal(text), "{text}");
        }
    }
}
