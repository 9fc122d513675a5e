//! The configuration at run time: who wants it changed says what it should be, and the keeper sees
//! to it that it is, or that nothing has changed.
//!
//! There is one way in. A change of any kind (a reload, an edit by REST, a step back to an earlier
//! revision) becomes a stack of file, environment, flags and run-time layer; the stack is read by
//! the one reader, with all its checks; what comes out is tried on the registry, brought to the
//! disk, and then applied. A change that is refused on the way has left no trace. One that was
//! answered survives whatever happens next, if a state file is configured, and is said to be
//! volatile if none is.
//!
//! Beside the configuration stand the operators' orders (see `orders.rs`), which take the same way
//! to the disk.

mod history;
mod keeper;
mod orders;
mod state_file;

use std::sync::Arc;

use self::state_file::{State, StateFile};
use crate::{
    config::{
        self, Base, Config, Faults, Known, Layer, Setting, Sources, Stamp, document::Difference,
    },
    model::AclList,
    registry::RegistryError,
};

pub use history::{History, Revision};
pub use keeper::Keeper;
pub use orders::{Deadline, Drain, Order, Then};
pub use state_file::StateError;

/// Why a configuration cannot be started with.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It has faults.
    #[error(transparent)]
    Faults(#[from] Faults),
    /// What was set at run time cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The registry refuses it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// Why a change was refused. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// What it would lead to has faults; those of the change itself bear its stamp.
    #[error("{}", faults.headline())]
    Faults {
        /// The faults.
        faults: Faults,
        /// The stamp; `None` for a reload.
        stamp: Option<Arc<Stamp>>,
    },
    /// The registry refuses it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// It cannot be kept.
    #[error(transparent)]
    State(#[from] StateError),
    /// Whoever takes part in it refuses it.
    #[error("{0}")]
    Refused(String),
    /// No such revision is kept.
    #[error("expected the number of a revision that is kept, {known}; found {found}")]
    NoRevision {
        /// What was given.
        found: u64,
        /// What there is.
        known: String,
    },
    /// A setting that has to be known before the run-time layer is.
    #[error(
        "expected state.file to be set in the file, by LB_STATE_FILE or by --state-file, found \
         another one set at run time"
    )]
    StateFile,
}

/// What becomes of a change once it is made, of whoever takes part in it.
type Commit = Box<dyn FnOnce() + Send>;

/// What is asked before.
type Prepare = dyn Fn(&Config) -> Result<Commit, String> + Send + Sync;

/// Whoever follows the configuration beside the registry. It is asked before a change is made, and
/// may refuse; what it answers is called once the change is made.
pub struct Party(Box<Prepare>);

impl Party {
    /// One that prepares for a configuration by `prepare`.
    #[must_use]
    pub fn new(
        prepare: impl Fn(&Config) -> Result<Commit, String> + Send + Sync + 'static,
    ) -> Self {
        Self(Box::new(prepare))
    }
}

impl std::fmt::Debug for Party {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Party")
    }
}

/// What was read before anything is started.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration to start with.
    pub config: Arc<Config>,
    /// What the files of prefixes say that it names.
    lists: Vec<AclList>,
    base: Base,
    state: State,
    file: Option<StateFile>,
}

/// What a change did, or would do.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The revision of the configuration that is in force now.
    pub configuration: u64,
    /// The revision of the state.
    pub revision: u64,
    /// What changed, a phrase each.
    pub changes: Vec<String>,
    /// Where the configuration differs from before, without secrets.
    pub differences: Vec<Difference>,
    /// Settings whose new values wait for a restart of the daemon.
    pub needs_restart: Vec<String>,
    /// Whether it survives a restart.
    pub persisted: bool,
    /// The configuration that is in force now, or would be.
    pub config: Arc<Config>,
}

impl Changed {
    /// Every setting as it was read, those included that wait for a restart.
    #[must_use]
    pub fn settings(&self) -> &[Setting] {
        &self.config.settings
    }
}

/// The configuration in force, and how it came about.
#[derive(Clone, Debug)]
pub struct View {
    /// The configuration.
    pub config: Arc<Config>,
    /// Its revisions.
    pub history: Arc<History>,
    /// What was set at run time.
    pub layer: Arc<Layer>,
    /// The drains that end at some time.
    pub drains: Arc<[Drain]>,
}

/// Reads everything that a configuration is made of: file, environment, flags, and what was set at
/// run time. Blocks as [`crate::config::load`] does.
///
/// # Errors
/// Every fault that was found, or what is wrong with the state file.
pub fn load(sources: &Sources) -> Result<Loaded, LoadError> {
    let base = Base::read(sources);
    let file = base.state_file().map(StateFile::new);
    finish(base, file)
}

/// The same for a daemon, which has the state file for itself from before it is read.
///
/// # Errors
/// As [`load`], and when another daemon has it.
pub fn load_to_run(sources: &Sources) -> Result<Loaded, LoadError> {
    let base = Base::read(sources);
    let mut file = base.state_file().map(StateFile::new);
    if let Some(file) = &mut file {
        file.take()?;
    }
    finish(base, file)
}

fn finish(base: Base, file: Option<StateFile>) -> Result<Loaded, LoadError> {
    let state = match &file {
        Some(file) => file.read()?.unwrap_or_default(),
        None => State::default(),
    };
    let config = Arc::new(base.interpret(&state.layer, &Known::default())?);
    let lists = config::prefix_lists(&config.desired.acl.files)?;
    Ok(Loaded {
        config,
        lists,
        base,
        state,
        file,
    })
}
