//! The keeper: the one way of a change, from what is asked to what is in force.

mod obey;

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::SystemTime,
};

use arc_swap::ArcSwap;
use serde_json::Value;

use super::{
    ChangeError, Changed, Commit, LoadError, Loaded, Party, StateError, View,
    history::{self, History, Revision},
    state_file::{State, StateFile},
};
use crate::{
    config::{
        self, Base, Config, Document, Known, Layer, Sources, Stamp,
        document::{self, Difference},
    },
    model::{AclList, DaemonSpec, Timestamp},
    registry::{Change, Registry},
};

/// The cause of a revision that a start made.
const START: &str = "start";

/// The cause of a revision that a reload made.
const RELOAD: &str = "reload";

/// Keeps the configuration; see the module.
#[derive(Debug)]
pub struct Keeper {
    sources: Sources,
    /// What files of prefixes said before anything started; taken by the start.
    lists: Mutex<Vec<AclList>>,
    registry: Arc<Registry>,
    /// What the process was started with: these settings change at a restart only.
    running: DaemonSpec,
    file: Option<StateFile>,
    party: OnceLock<Party>,
    /// One change at a time.
    inner: Mutex<Inner>,
    view: ArcSwap<View>,
}

#[derive(Debug)]
struct Inner {
    base: Base,
    config: Arc<Config>,
    state: State,
}

impl View {
    fn of(inner: &Inner) -> Self {
        Self {
            config: Arc::clone(&inner.config),
            history: Arc::new(inner.state.history.clone()),
            layer: Arc::new(inner.state.layer.clone()),
            drains: inner.state.orders.drains().into(),
        }
    }
}

impl Keeper {
    /// A keeper of what was loaded from `sources`.
    #[must_use]
    pub fn new(sources: Sources, loaded: Loaded, registry: Arc<Registry>) -> Self {
        let Loaded {
            config,
            lists,
            base,
            state,
            file,
        } = loaded;
        let running = config.daemon.clone();
        let inner = Inner {
            base,
            config,
            state,
        };
        Self {
            lists: Mutex::new(lists),
            sources,
            registry,
            running,
            file,
            party: OnceLock::new(),
            view: ArcSwap::from_pointee(View::of(&inner)),
            inner: Mutex::new(inner),
        }
    }

    /// Applies the configuration to the registry, and the orders that hold.
    ///
    /// # Errors
    /// When the registry refuses it, or the state file cannot be written: better to say so now than
    /// at the first change.
    pub fn start(&self, now: Timestamp) -> Result<(), LoadError> {
        let mut inner = self.lock();
        let desired = Box::new(inner.config.desired.clone());
        let applied = self.registry.apply(Change::Configure(desired))?;
        let lists = std::mem::take(&mut *self.lists.lock().unwrap_or_else(PoisonError::into_inner));
        self.registry.apply(Change::AclLists(lists))?;
        let mut state = inner.state.clone();
        keep(&mut state, &inner.config);
        state.orders.carry_out(&self.registry, now)?;
        let document = &inner.config.document;
        if !state.history.is_at(document) {
            let stamp = stamp(&state, "lb");
            let changes = phrases(&applied.events);
            state.history.push(document, stamp, START, changes);
        }
        self.write(&state)?;
        inner.state = state;
        self.publish(&inner);
        Ok(())
    }

    /// As after a start over a registry that is configured already.
    #[cfg(test)]
    pub(crate) fn adopt(&self) {
        let mut inner = self.lock();
        let document = inner.config.document.clone();
        let stamp = stamp(&inner.state, "lb");
        inner
            .state
            .history
            .push(&document, stamp, START, Vec::new());
        self.publish(&inner);
    }

    /// Notes who takes part in changes, once.
    pub fn taken_part_in(&self, party: Party) {
        // A second one would be a defect of the wiring, and not one to stop for.
        let _ = self.party.set(party);
    }

    fn prepare(&self, config: &Config) -> Result<Option<Commit>, ChangeError> {
        let commit = self.party.get().map(|party| (party.0)(config));
        commit.transpose().map_err(ChangeError::Refused)
    }

    /// Whether what is set at run time survives a restart.
    #[must_use]
    pub const fn persists(&self) -> bool {
        self.file.is_some()
    }

    /// The configuration in force. Waits for nobody.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Reads file, environment and flags again, and lays over them what was set at run time.
    ///
    /// # Errors
    /// When the result has faults or is refused.
    pub fn reload(&self, who: &str) -> Result<Changed, ChangeError> {
        let mut inner = self.lock();
        let base = Base::read(&self.sources);
        let layer = inner.state.layer.clone();
        let config = base.interpret(&layer, &Known::default());
        let faulty = |faults| ChangeError::Faults {
            faults,
            stamp: None,
        };
        let config = config.map_err(faulty)?;
        let lists = config::prefix_lists(&config.desired.acl.files).map_err(faulty)?;
        let commit = self.prepare(&config)?;
        let desired = Box::new(config.desired.clone());
        let mut applied = self.registry.apply(Change::Configure(desired))?;
        let listed = self.registry.apply(Change::AclLists(lists))?;
        applied.revision = listed.revision;
        applied.events.extend(listed.events);
        if let Some(commit) = commit {
            commit();
        }
        let mut state = inner.state.clone();
        keep(&mut state, &config);
        let changes = phrases(&applied.events);
        let before = &inner.config.document;
        let mut differences = Vec::new();
        if before.whole != config.document.whole || before.whole.is_null() {
            differences = between(before, &config.document);
            let stamp = stamp(&state, who);
            state
                .history
                .push(&config.document, stamp, RELOAD, changes.clone());
        }
        // What was written by hand is safe already, and obeyed. The history follows with the next
        // change that the disk takes.
        let mut persisted = self.persists();
        if let Err(error) = self.write(&state) {
            tracing::error!(%error, "the revisions of the configuration are not on the disk");
            persisted = false;
        }
        inner.base = base;
        inner.config = Arc::new(config);
        inner.state = state;
        self.publish(&inner);
        Ok(Changed {
            persisted,
            ..self.report(&inner, applied.revision, changes, differences)
        })
    }

    /// Makes the configuration what `edit` makes of the document in force; `edit` may also refuse.
    /// With `dry` nothing changes.
    ///
    /// # Errors
    /// What `edit` says, or why what it asks for cannot be.
    pub fn change<E: From<ChangeError>>(
        &self,
        who: &str,
        cause: &str,
        dry: bool,
        edit: impl FnOnce(&Document) -> Result<Value, E>,
    ) -> Result<Changed, E> {
        let mut inner = self.lock();
        let mut target = edit(&inner.config.document)?;
        inner.config.document.keep_secrets(&mut target);
        let same = inner.config.document.at(&["state"]).cloned();
        match document::get(&target, &["state"]) {
            None => {
                if same.is_some() {
                    document::put(&mut target, &["state"], same);
                }
            }
            found if found != same.as_ref() => return Err(ChangeError::StateFile.into()),
            Some(_) => {}
        }
        Ok(self.reach(&mut inner, who, cause, dry, &target)?)
    }

    /// Takes out of the run-time layer what stands at `at` and below, so that file, environment and
    /// flags hold again.
    ///
    /// # Errors
    /// As [`Keeper::change`].
    pub fn unset(&self, who: &str, dry: bool, at: &[String]) -> Result<Changed, ChangeError> {
        let below = self.lock().base.document().at(at).cloned();
        self.change(who, "unset", dry, |now| {
            let mut target = now.whole.clone();
            document::put(&mut target, at, below);
            Ok(target)
        })
    }

    /// Makes the configuration what it was in a revision, whatever file, environment and flags say
    /// by now.
    ///
    /// # Errors
    /// When there is no such revision, or what it was has become a fault.
    pub fn roll_back(&self, who: &str, number: u64, dry: bool) -> Result<Changed, ChangeError> {
        let history = Arc::clone(&self.view().history);
        let cause = format!("rollback to {number}");
        self.change(who, &cause, dry, |now| {
            let mut target = history
                .document(number)
                .ok_or_else(|| no_revision(&history, number))?;
            // Where it is kept is not what is kept.
            document::put(&mut target, &["state"], now.at(&["state"]).cloned());
            Ok(target)
        })
    }

    /// How two revisions differ.
    ///
    /// # Errors
    /// When one of them is not kept.
    pub fn differences(&self, from: u64, to: u64) -> Result<Vec<Difference>, ChangeError> {
        let history = Arc::clone(&self.view().history);
        let document = |number| {
            history
                .document(number)
                .ok_or_else(|| no_revision(&history, number))
        };
        Ok(history.differences(&document(from)?, &document(to)?))
    }

    /// A revision.
    ///
    /// # Errors
    /// When it is not kept.
    pub fn revision(&self, number: u64) -> Result<Revision, ChangeError> {
        let history = Arc::clone(&self.view().history);
        let found = history.revision(number).cloned();
        found.ok_or_else(|| no_revision(&history, number))
    }

    fn reach(
        &self,
        inner: &mut Inner,
        who: &str,
        cause: &str,
        dry: bool,
        target: &Value,
    ) -> Result<Changed, ChangeError> {
        let now = &inner.config.document;
        if now.whole == *target {
            let revision = self.registry.snapshot().revision;
            return Ok(self.report(inner, revision, Vec::new(), Vec::new()));
        }
        let stamp = stamp(&inner.state, who);
        let mut layer: Layer = inner.state.layer.clone();
        let base = &inner.base.document().whole;
        layer.reach(base, &now.whole, target, stamp.clone());
        let config = inner
            .base
            .interpret_change(&layer, &Known::of(&inner.config));
        let faulty = |faults| ChangeError::Faults {
            faults,
            stamp: Some(Arc::new(stamp.clone())),
        };
        let config = config.map_err(faulty)?;
        let named = &config.desired.acl.files;
        let lists = match *named == inner.config.desired.acl.files {
            true => None,
            false => Some(config::prefix_lists(named).map_err(faulty)?),
        };
        let commit = self.prepare(&config)?;
        let change = Change::Configure(Box::new(config.desired.clone()));
        let changes = phrases(&self.registry.preview(change.clone())?);
        let differences = between(now, &config.document);
        let mut state = inner.state.clone();
        state.layer = layer;
        keep(&mut state, &config);
        let next = &config.document;
        state.history.push(next, stamp, cause, changes.clone());
        let next = Inner {
            base: inner.base.clone(),
            config: Arc::new(config),
            state,
        };
        if dry {
            let revision = self.registry.snapshot().revision;
            return Ok(self.report(&next, revision, changes, differences));
        }
        self.write_or_restore(&next.state, &inner.state)?;
        let applied = self.registry.apply(change)?;
        if let Some(lists) = lists {
            self.registry.apply(Change::AclLists(lists))?;
        }
        if let Some(commit) = commit {
            commit();
        }
        *inner = next;
        self.publish(inner);
        tracing::info!(
            revision = inner.state.history.number(),
            who,
            cause,
            changes = changes.len(),
            "configuration changed at run time"
        );
        Ok(self.report(inner, applied.revision, changes, differences))
    }

    fn report(
        &self,
        inner: &Inner,
        revision: u64,
        changes: Vec<String>,
        differences: Vec<Difference>,
    ) -> Changed {
        let needs_restart = config::needs_restart(&self.running, &inner.config.daemon);
        Changed {
            configuration: inner.state.history.number(),
            revision,
            changes,
            differences,
            needs_restart: needs_restart.into_iter().map(str::to_owned).collect(),
            persisted: self.persists(),
            config: Arc::clone(&inner.config),
        }
    }

    fn publish(&self, inner: &Inner) {
        self.view.store(Arc::new(View::of(inner)));
    }

    fn write(&self, state: &State) -> Result<(), StateError> {
        self.file.as_ref().map_or(Ok(()), |file| file.write(state))
    }

    /// Writes `state`; should that fail so late that it may be in its place, the one before is put
    /// back, because what was refused must not be there after a restart.
    fn write_or_restore(&self, state: &State, before: &State) -> Result<(), StateError> {
        let result = self.write(state);
        if let Err(StateError::Unwritable { replaced: true, .. }) = &result
            && let Err(error) = self.write(before)
        {
            tracing::error!(%error, "a change that was refused may be in the state file");
        }
        result
    }

    /// A panic while the lock was held has left the state as it was: it is replaced as a whole,
    /// and last.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The orders of what `config` has.
fn keep(state: &mut State, config: &Config) {
    let services = &config.desired.services;
    let find = |name: &str| services.iter().find(|spec| spec.name.as_str() == name);
    state.orders.keep(
        |service, instance| {
            // A source may name an instance again that it does not name now.
            find(service).is_some_and(|spec| {
                let mut instances = spec.instances.iter();
                spec.discovery.is_on() || instances.any(|one| one.endpoint.name() == instance)
            })
        },
        |service| find(service).map(|spec| spec.algorithm),
    );
}

/// How two documents differ, without the secrets of either.
fn between(before: &Document, after: &Document) -> Vec<Difference> {
    let secrets = before.secrets.union(&after.secrets).cloned().collect();
    history::differences_without(&before.whole, &after.whole, &secrets)
}

fn stamp(state: &State, who: &str) -> Stamp {
    Stamp {
        revision: state.history.number() + 1,
        who: who.to_owned(),
        time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
    }
}

fn phrases(events: &[crate::registry::Event]) -> Vec<String> {
    events.iter().map(ToString::to_string).collect()
}

fn no_revision(history: &History, found: u64) -> ChangeError {
    let oldest = history.revisions().last();
    let oldest = oldest.map_or(0, |oldest| oldest.stamp.revision);
    ChangeError::NoRevision {
        found,
        known: format!("{oldest} to {}", history.number()),
    }
}

#[cfg(test)]
mod tests;
