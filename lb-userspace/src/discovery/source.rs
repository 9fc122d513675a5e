//! What a source of instances is.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use super::{dns::Dns, file::File, resolver::Lookups, srv::Srv};
use crate::model::{DiscoverySpec, InstanceSpec, SourceSpec};

/// A future that borrows its source.
pub(super) type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Something that knows instances.
pub(super) trait Source: Send {
    /// Asks for all instances. Dropping the future gives the look up; how long it may take is not
    /// the source's concern.
    fn look(&mut self) -> Pending<'_, Result<Answer, Trouble>>;

    /// Returns when it is worth to look again before the last answer's time is over. Never, for a
    /// source that cannot be watched.
    fn changed(&mut self) -> Pending<'_, ()> {
        Box::pin(std::future::pending())
    }
}

/// All instances that a source knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The instances, in any order.
    pub(super) instances: Vec<InstanceSpec>,
    /// How long the answer holds; until [`Source::changed`] when `None`.
    pub(super) ttl: Option<Duration>,
}

/// Why a source has named no instance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    /// It answers, and there is none.
    #[error("{0}")]
    Empty(String),
    /// It has no answer, or one that cannot be right.
    #[error("{0}")]
    Failed(String),
}

/// The source that `source` describes.
pub(super) fn open(source: &SourceSpec, spec: &DiscoverySpec) -> Box<dyn Source> {
    let lookups = || Lookups::new(spec);
    match source {
        SourceSpec::Dns { host, port } => {
            Box::new(Dns::new(Arc::clone(host), *port, spec.weight, lookups()))
        }
        SourceSpec::Srv { name } => Box::new(Srv::new(Arc::clone(name), lookups())),
        SourceSpec::File { path } => Box::new(File::new(Arc::clone(path), spec.weight)),
    }
}
