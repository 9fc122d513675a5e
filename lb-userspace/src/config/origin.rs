//! Where a value was found.

use std::{fmt, path::Path, sync::Arc};

use super::layer::Stamp;

/// Where a value comes from. The order is that of growing weight.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A file, with line and column (from 1, the column in characters) unless the file as a whole
    /// is meant.
    File {
        /// The file as it was named.
        file: Arc<Path>,
        /// Line and column.
        at: Option<(usize, usize)>,
    },
    /// An environment variable.
    Variable(Arc<str>),
    /// A command line flag, with its dashes.
    Flag(&'static str),
    /// A change at run time.
    RunTime(Arc<Stamp>),
}

impl Origin {
    /// Whether values from here are text whatever is meant, as no shell knows types.
    #[must_use]
    pub(super) const fn is_untyped(&self) -> bool {
        matches!(self, Self::Variable(_) | Self::Flag(_))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, at: None } => write!(f, "{}", file.display()),
            Self::File {
                file,
                at: Some((line, column)),
            } => write!(f, "{}:{line}:{column}", file.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::RunTime(stamp) => {
                let Stamp {
                    revision,
                    who,
                    time,
                } = &**stamp;
                write!(f, "run time (revision {revision}, by {who}, at {time})")
            }
        }
    }
}

/// A value with its place in the configuration and where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sourced<T> {
    pub(super) value: T,
    pub(super) path: super::KeyPath,
    pub(super) origin: Origin,
}

impl<T> Sourced<T> {
    /// A value that nobody set.
    pub(super) fn unset(value: T) -> Self {
        Self {
            value,
            path: super::KeyPath::default(),
            origin: Origin::Default,
        }
    }

    /// Another value in the same place.
    pub(super) fn with<U>(&self, value: U) -> Sourced<U> {
        Sourced {
            value,
            path: self.path.clone(),
            origin: self.origin.clone(),
        }
    }

    pub(super) fn is_set(&self) -> bool {
        self.origin != Origin::Default
    }
}
