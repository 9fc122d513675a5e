//! Sources, their tasks and the registry together, in virtual time.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};

use super::{
    keeper::Keeper,
    source::{Answer, Pending, Source, Trouble},
    task::{Task, Update},
    *,
};
use crate::{
    model::{
        Algorithm, Clock, DiscoverySpec, Endpoint, InstanceSpec, ServiceName, ServiceSpec,
        SourceSpec,
    },
    registry::{Change, Desired, Registry},
};

fn name() -> ServiceName {
    ServiceName::new("web").unwrap()
}

fn instance(text: &str) -> InstanceSpec {
    InstanceSpec::new(Endpoint::parse(text).unwrap(), 1)
}

/// A source that says what a test has written down; at the end it hangs.
struct Script {
    lines: VecDeque<Result<Answer, Trouble>>,
    asked: Arc<Mutex<Vec<Instant>>>,
    /// When the source says that it has changed, after each look.
    changes: Option<Duration>,
}

impl Source for Script {
    fn look(&mut self) -> Pending<'_, Result<Answer, Trouble>> {
        Box::pin(async {
            self.asked.lock().unwrap().push(Instant::now());
            match self.lines.pop_front() {
                Some(line) => line,
                None => std::future::pending().await,
            }
        })
    }

    fn changed(&mut self) -> Pending<'_, ()> {
        let after = self.changes;
        Box::pin(async move {
            match after {
                Some(after) => tokio::time::sleep(after).await,
                None => std::future::pending().await,
            }
        })
    }
}

struct Played {
    asked: Arc<Mutex<Vec<Instant>>>,
    updates: mpsc::UnboundedReceiver<Update>,
    handle: Handle,
    started: Instant,
}

impl Played {
    fn new(lines: Vec<Result<Answer, Trouble>>, changes: Option<Duration>) -> Self {
        let asked = Arc::default();
        let script = Script {
            lines: lines.into(),
            asked: Arc::clone(&asked),
            changes,
        };
        let source = SourceSpec::Dns {
            host: "web".into(),
            port: 80,
        };
        let (sender, updates) = mpsc::unbounded_channel();
        let (handle, key) = (Handle::default(), (name(), source));
        handle.add(key.clone());
        let task = Task {
            number: 1,
            key,
            spec: DiscoverySpec::default(),
            source: Box::new(script),
            keeper: Keeper::new("dns web:80".into(), None, fastrand::Rng::with_seed(1)),
            updates: sender,
            handle: handle.clone(),
            clock: Clock::real(),
        };
        tokio::spawn(task.run());
        Self {
            asked,
            updates,
            handle,
            started: Instant::now(),
        }
    }

    /// Names of the instances after the next look, and the source's state.
    async fn next(&mut self) -> (Option<usize>, SourceState) {
        let update = self.updates.recv().await.unwrap();
        let (_, _, report) = self.handle.sources().remove(0);
        (update.set.map(|set| set.len()), report.state)
    }

    /// Seconds from the start to each look.
    fn times(&self) -> Vec<f64> {
        let asked = self.asked.lock().unwrap();
        let seconds = |at: &Instant| at.duration_since(self.started).as_secs_f64();
        asked.iter().map(seconds).collect()
    }
}

fn answer(instances: &[&str], ttl: Option<u64>) -> Result<Answer, Trouble> {
    Ok(Answer {
        instances: instances.iter().map(|text| instance(text)).collect(),
        ttl: ttl.map(Duration::from_secs),
    })
}

#[tokio::test(start_paused = true)]
async fn a_source_is_asked_when_its_answer_is_over_and_given_up_when_it_hangs() {
    let failed = || Err(Trouble::Failed("no".to_owned()));
    let lines = vec![
        failed(),
        answer(&["10.0.0.1:80"], Some(20)),
        answer(&["10.0.0.1:80", "10.0.0.2:80"], Some(10)),
    ];
    let mut played = Played::new(lines, None);
    assert_eq!(played.next().await, (None, SourceState::Failing));
    assert_eq!(played.next().await, (Some(1), SourceState::Good));
    assert_eq!(played.next().await, (Some(2), SourceState::Good));
    // From here on it hangs.
    assert_eq!(played.next().await, (Some(2), SourceState::Stale));
    let times = played.times();
    let waits: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let bounds = [(0.5, 1.0), (20.0, 22.0), (10.0, 11.0)];
    for (wait, (least, most)) in waits.iter().zip(bounds) {
        assert!((least..=most + 0.01).contains(wait), "{waits:?}");
    }
    let (_, _, report) = played.handle.sources().remove(0);
    assert_eq!((report.successes, report.failures), (2, 2));
    assert_eq!(report.problem.as_deref(), Some("no answer within 5s"));
}

#[tokio::test(start_paused = true)]
async fn a_change_and_an_operator_lead_to_a_look_at_once() {
    let lines = || {
        vec![
            answer(&["10.0.0.1:80"], None),
            answer(&["10.0.0.2:80"], None),
        ]
    };
    let mut played = Played::new(lines(), Some(Duration::from_secs(3)));
    played.next().await;
    played.next().await;
    assert!((3.0..3.1).contains(&played.times()[1]));

    let mut played = Played::new(lines(), None);
    played.next().await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(played.times().len(), 1);
    played.handle.refresh();
    played.next().await;
    assert!((100.0..100.1).contains(&played.times()[1]));
}

/// A registry with sources at work.
struct World {
    registry: Arc<Registry>,
    handle: Handle,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let registry = Arc::new(Registry::new(1, []));
        let handle = Handle::default();
        let world = Self {
            registry: Arc::clone(&registry),
            handle: handle.clone(),
            folder: tempfile::tempdir().unwrap(),
        };
        // A clock that goes with the runtime's.
        let clock = Clock::manual(crate::model::Timestamp(0));
        let goes = clock.clone();
        tokio::spawn(async move {
            let step = Duration::from_millis(50);
            loop {
                tokio::time::sleep(step).await;
                goes.advance(step);
            }
        });
        tokio::spawn(run(registry, clock, handle));
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces a file as one should.
    fn write(&self, name: &str, instances: &[&str]) {
        let (path, new) = (self.path(name), self.path("new"));
        fs::write(&new, format!("instances = {instances:?}")).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn configure(&self, instances: &[&str], files: &[&str]) {
        let file = |name: &&str| SourceSpec::File {
            path: Arc::<Path>::from(self.path(name)),
        };
        let spec = ServiceSpec {
            discovery: DiscoverySpec {
                sources: files.iter().map(file).collect(),
                drain: Duration::from_secs(3600),
                ..DiscoverySpec::default()
            },
            instances: instances.iter().map(|text| instance(text)).collect(),
            ..ServiceSpec::new(name())
        };
        let desired = Desired {
            services: vec![spec],
            ..Desired::default()
        };
        self.registry
            .apply(Change::Configure(Box::new(desired)))
            .unwrap();
    }

    /// Instances as `port weight`, those that leave with a mark.
    fn instances(&self) -> Vec<String> {
        let snapshot = self.registry.snapshot();
        let service = snapshot.service("web").unwrap();
        let specs = service.spec.instances.iter().zip(service.members.iter());
        specs
            .map(|(spec, member)| {
                assert_eq!(spec.endpoint, member.instance.endpoint);
                let mark = if spec.leaving { "-" } else { "" };
                format!("{mark}{}", spec.endpoint.address().port())
            })
            .collect()
    }

    async fn wait_for(&self, expected: &[&str]) {
        let reached = async {
            while self.instances() != expected {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(120), reached).await;
        assert!(waited.is_ok(), "{expected:?}, found {:?}", self.instances());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_found_stands_beneath_what_is_configured_and_leaves_in_peace() {
    let world = World::new();
    world.write("a", &["127.0.0.1:1", "127.0.0.1:2"]);
    world.write("b", &["127.0.0.1:2", "127.0.0.1:3"]);
    world.configure(&["127.0.0.1:9"], &["a", "b"]);
    assert!(world.handle.first_answers(Duration::from_secs(60)).await);
    world.wait_for(&["9", "1", "2", "3"]).await;

    // A request in flight keeps an instance that is gone; the counters of the others stay.
    let snapshot = world.registry.snapshot();
    let members = &snapshot.service("web").unwrap().members;
    let held = members[3]
        .instance
        .begin(Algorithm::RoundRobin, 0, &Clock::real());
    let stays = Arc::clone(&members[1].instance);
    world.write("b", &["127.0.0.1:2"]);
    world.wait_for(&["9", "1", "2", "-3"]).await;
    let weight = |position: usize| world.registry.snapshot().services[0].members[position].weight;
    assert_eq!(weight(3), 0);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.instances(), ["9", "1", "2", "-3"]);
    drop(held);
    world.wait_for(&["9", "1", "2"]).await;
    let snapshot = world.registry.snapshot();
    assert!(Arc::ptr_eq(
        &snapshot.services[0].members[1].instance,
        &stays
    ));

    // A file with a fault, and one that is gone, change nothing.
    fs::write(world.path("b"), "instances = [3]").unwrap();
    fs::remove_file(world.path("a")).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.instances(), ["9", "1", "2"]);
    let states: Vec<_> = world.handle.sources().into_iter().map(|s| s.2).collect();
    assert!(
        states
            .iter()
            .all(|report| report.state == SourceState::Stale)
    );
    let problem = states[1].problem.as_ref().unwrap();
    assert!(
        problem.contains("b:1:14: instances[0].endpoint"),
        "{problem}"
    );

    // A source that is not configured any more takes its instances with it.
    world.configure(&["127.0.0.1:9"], &["b"]);
    world.wait_for(&["9", "2"]).await;
    assert_eq!(world.handle.sources().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_source_takes_nothing_away_before_it_has_answered() {
    let world = World::new();
    world.configure(&["127.0.0.1:9"], &[]);
    assert!(world.handle.first_answers(Duration::from_secs(1)).await);
    // The list is replaced by a source that is not there yet.
    world.configure(&[], &["a"]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.instances(), ["9"]);
    world.write("a", &["127.0.0.1:1"]);
    world.wait_for(&["1"]).await;
    // One source by another.
    world.configure(&[], &["b"]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.instances(), ["1"]);
    world.write("b", &["127.0.0.1:2"]);
    world.wait_for(&["2", "-1"]).await;
    world.wait_for(&["2"]).await;
    // A service whose sources are gone has what is configured.
    world.configure(&["127.0.0.1:7"], &[]);
    world.wait_for(&["7"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.handle.sources().len(), 0);
}
