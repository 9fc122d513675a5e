//! The one task that knows all sources: it starts and ends their tasks as the configuration says,
//! makes one list of what they find, and tells the registry.
//!
//! A source that stays in the configuration keeps its task or at least what it has found; a new one
//! adds, and only when it has answered may what was there before go.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::mpsc, task::AbortHandle};

use super::{
    keeper::Keeper,
    report::Handle,
    set::{self, Instances},
    source,
    task::{Task, Update},
};
use crate::{
    model::{Clock, DiscoverySpec, InstanceSpec, ServiceName, SourceSpec},
    registry::{Change, Registry, Service, Snapshot},
};

/// How often instances that leave are looked at.
const DRAIN_PERIOD: Duration = Duration::from_millis(500);

/// Looks for the instances of `registry`'s services, for as long as it is polled.
pub async fn run(registry: Arc<Registry>, clock: Clock, handle: Handle) {
    let mut revisions = registry.subscribe();
    let (sender, mut updates) = mpsc::unbounded_channel();
    let mut follower = Follower {
        registry,
        clock,
        handle,
        updates: sender,
        services: BTreeMap::new(),
        tasks: 0,
        configured: None,
    };
    follower.follow();
    loop {
        let draining = follower.services.values().any(|s| s.found.is_draining());
        tokio::select! {
            // The registry is held here, so its sender cannot go away; so is the tasks' one.
            _ = revisions.changed() => follower.follow(),
            Some(update) = updates.recv() => follower.took(update),
            () = tokio::time::sleep(DRAIN_PERIOD), if draining => follower.drain(),
        }
    }
}

struct Follower {
    registry: Arc<Registry>,
    clock: Clock,
    handle: Handle,
    updates: mpsc::UnboundedSender<Update>,
    services: BTreeMap<ServiceName, Followed>,
    /// Tasks so far.
    tasks: u64,
    /// The configuration that the tasks are those of.
    configured: Option<u64>,
}

/// A service with sources.
struct Followed {
    spec: DiscoverySpec,
    sources: Vec<Asked>,
    found: Instances,
    /// What the registry was told last.
    told: Option<Vec<InstanceSpec>>,
}

/// A source and its task.
struct Asked {
    source: SourceSpec,
    number: u64,
    task: AbortHandle,
    /// Whether it was asked once.
    asked: bool,
    set: Option<Arc<[InstanceSpec]>>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Follower {
    /// Makes the tasks those of the current configuration.
    fn follow(&mut self) {
        let snapshot = self.registry.snapshot();
        if self.configured == Some(snapshot.configured) {
            return;
        }
        self.configured = Some(snapshot.configured);
        let mut before = std::mem::take(&mut self.services);
        for service in &snapshot.services {
            let spec = &service.spec.discovery;
            if !spec.is_on() {
                continue;
            }
            let name = service.name().clone();
            let mut followed = match before.remove(&name) {
                Some(followed) if followed.spec == *spec => followed,
                followed => self.restart(&name, spec, followed),
            };
            // Two configurations may lie between, and the service may have been gone in one of them.
            followed.told = None;
            self.services.insert(name.clone(), followed);
            self.tell(&name);
        }
        for (name, followed) in before {
            for asked in &followed.sources {
                self.handle.remove(&(name.clone(), asked.source.clone()));
            }
            self.handle.refused(&name, None);
        }
        self.note_first_answers();
    }

    /// A service whose settings are new. What its sources have found so far stays.
    fn restart(
        &mut self,
        name: &ServiceName,
        spec: &DiscoverySpec,
        before: Option<Followed>,
    ) -> Followed {
        let (mut known, found, told) = match before {
            Some(before) => (before.sources, before.found, before.told),
            None => (Vec::new(), Instances::default(), None),
        };
        let mut sources = Vec::new();
        for source in &spec.sources {
            let old = known.iter().position(|asked| asked.source == *source);
            let old = old.map(|position| known.swap_remove(position));
            let set = old.as_ref().and_then(|old| old.set.clone());
            let asked = old.as_ref().is_some_and(|old| old.asked);
            let (number, task) = self.start(name, source, spec, set.clone());
            sources.push(Asked {
                source: source.clone(),
                number,
                task,
                asked,
                set,
            });
        }
        for gone in known {
            self.handle.remove(&(name.clone(), gone.source.clone()));
        }
        Followed {
            spec: spec.clone(),
            sources,
            found,
            told,
        }
    }

    fn start(
        &mut self,
        name: &ServiceName,
        source: &SourceSpec,
        spec: &DiscoverySpec,
        set: Option<Arc<[InstanceSpec]>>,
    ) -> (u64, AbortHandle) {
        self.tasks += 1;
        let key = (name.clone(), source.clone());
        self.handle.add(key.clone());
        let shown: Arc<str> = source.to_string().into();
        let task = Task {
            number: self.tasks,
            key,
            spec: spec.clone(),
            source: source::open(source, spec),
            keeper: Keeper::new(shown, set, fastrand::Rng::new()),
            updates: self.updates.clone(),
            handle: self.handle.clone(),
            clock: self.clock.clone(),
        };
        (self.tasks, tokio::spawn(task.run()).abort_handle())
    }

    /// Takes what a task says; one that was ended meanwhile says nothing any more.
    fn took(&mut self, update: Update) {
        let (name, _) = &update.key;
        let Some(followed) = self.services.get_mut(name) else {
            return;
        };
        let mut sources = followed.sources.iter_mut();
        let Some(asked) = sources.find(|asked| asked.number == update.task) else {
            return;
        };
        asked.asked = true;
        asked.set = update.set;
        self.tell(name);
        self.note_first_answers();
    }

    /// Makes one list of what the sources of a service have found, and tells the registry when it
    /// is another one than it knows.
    fn tell(&mut self, name: &ServiceName) {
        let now = self.clock.now();
        let Some(followed) = self.services.get_mut(name) else {
            return;
        };
        let sources = &followed.sources;
        let complete = sources.iter().all(|asked| asked.set.is_some());
        if sources.iter().any(|asked| asked.set.is_some()) {
            let wanted = set::merge(sources.iter().filter_map(|asked| asked.set.as_ref()));
            let drain = followed.spec.drain;
            followed.found.become_(wanted, complete, now, drain);
            self.publish(name);
        }
    }

    fn publish(&mut self, name: &ServiceName) {
        let Some(followed) = self.services.get_mut(name) else {
            return;
        };
        let all = followed.found.all();
        if followed.told.as_ref() == Some(&all) {
            return;
        }
        let change = Change::Discovered {
            service: name.clone(),
            instances: all.clone(),
        };
        match self.registry.apply(change) {
            Ok(_) => {
                followed.told = Some(all);
                self.handle.refused(name, None);
            }
            // The next answer is another try.
            Err(error) => {
                tracing::error!(service = %name, %error, "what was found cannot be taken over");
                self.handle.refused(name, Some(error.to_string()));
            }
        }
    }

    /// Lets go of instances that have left and finished.
    fn drain(&mut self) {
        let now = self.clock.now();
        let snapshot = self.registry.snapshot();
        let names: Vec<ServiceName> = self.services.keys().cloned().collect();
        for name in names {
            let Some(followed) = self.services.get_mut(&name) else {
                continue;
            };
            if followed.found.is_draining() {
                let busy = busy(&snapshot, &name);
                let is_idle = |endpoint: &crate::model::Endpoint| {
                    !busy.get(endpoint.name()).copied().unwrap_or_default()
                };
                followed.found.finish(now, is_idle);
                self.publish(&name);
            }
        }
    }

    fn note_first_answers(&self) {
        let mut sources = self.services.values().flat_map(|s| &s.sources);
        if sources.all(|asked| asked.asked) {
            self.handle.all_asked();
        }
    }
}

/// The instances of a service, and whether they have requests in flight or connections in the
/// kernel.
fn busy(snapshot: &Snapshot, name: &ServiceName) -> HashMap<String, bool> {
    let members = |service: &Arc<Service>| Arc::clone(&service.members);
    let members = snapshot.service(name.as_str()).map(members);
    let members = members.iter().flat_map(|members| members.iter());
    members
        .map(|member| {
            let instance = &member.instance;
            let live = instance.kernel.live.load(Ordering::Relaxed);
            let owns = instance.kernel.owns.load(Ordering::Relaxed);
            let busy = instance.in_flight() > 0 || live > 0 || owns;
            (instance.endpoint.name().to_owned(), busy)
        })
        .collect()
}
