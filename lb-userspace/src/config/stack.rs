//! The stack of sources: file, environment and flags, as they were read once, and what was set at
//! run time over them.
//!
//! A change at run time goes by what was read at the start or the last reload. What has been
//! written to the file since is nobody's wish yet: a reload says that it is.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use super::{
    Config, Document, Faults, Layer, Notice, Sources,
    document::{self, Found},
    environment, file, flags, interpret,
    resolve::Resolve,
    state,
    tree::Table,
};
use crate::model::Endpoint;

/// What file, environment and flags say.
#[derive(Clone, Debug)]
pub struct Base {
    root: Table,
    faults: Vec<super::Fault>,
    /// Whether the file could be read.
    sound: bool,
    notices: Vec<Notice>,
    document: Document,
}

/// Addresses of names that are known already, so that nobody needs to be asked again.
#[derive(Clone, Debug, Default)]
pub struct Known(Arc<BTreeMap<String, Endpoint>>);

impl Known {
    /// What a configuration knows.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let services = config.desired.services.iter();
        let endpoints = services.flat_map(|service| &service.instances);
        let named = endpoints.map(|instance| {
            let endpoint = instance.endpoint.clone();
            (endpoint.name().to_owned(), endpoint)
        });
        Self(Arc::new(named.collect()))
    }

    fn resolve(&self) -> Resolve {
        let known = Arc::clone(&self.0);
        Arc::new(move |text| match known.get(text.trim_end_matches('/')) {
            Some(endpoint) => Ok(endpoint.clone()),
            None => Endpoint::parse(text),
        })
    }
}

impl Base {
    /// Reads file, environment and flags.
    #[must_use]
    pub fn read(sources: &Sources) -> Self {
        let parsed = match &sources.file {
            Some(file) => file::read(file),
            None => file::Parsed::none(),
        };
        Self::new(parsed, &sources.env, &sources.flags)
    }

    /// Lays environment and flags over what the file says.
    pub(super) fn new(
        parsed: file::Parsed,
        env: &BTreeMap<String, String>,
        flags: &flags::Overrides,
    ) -> Self {
        let file::Parsed {
            table: mut root,
            faults,
            sound,
        } = parsed;
        if !sound {
            root.clear();
        }
        let mut notices = Vec::new();
        environment::overlay(&mut root, env, &mut notices);
        flags::overlay(&mut root, flags);
        let document = Document::of(&root, &Found::default());
        Self {
            root,
            faults,
            sound,
            notices,
            document,
        }
    }

    /// The same as a document, with values of environment and flags as text.
    #[must_use]
    pub const fn document(&self) -> &Document {
        &self.document
    }

    /// The state file that is named here, if one is.
    #[must_use]
    pub fn state_file(&self) -> Option<PathBuf> {
        state::peek(&self.root)
    }

    /// Lays `layer` over it and interprets the result.
    ///
    /// # Errors
    /// Every fault that was found, at once.
    pub fn interpret(&self, layer: &Layer, known: &Known) -> Result<Config, Faults> {
        self.interpret_with(layer, &known.resolve())
    }

    /// The same for a change at run time, whose faults name members of lists by their names: their
    /// places mean nothing to whoever has sent one of them.
    ///
    /// # Errors
    /// As [`Base::interpret`].
    pub fn interpret_change(&self, layer: &Layer, known: &Known) -> Result<Config, Faults> {
        let result = self.interpret(layer, known);
        result.map_err(|faults| {
            let mut root = self.root.clone();
            layer.overlay(&mut root, &mut Vec::new());
            faults.with_paths(|path| document::named(path, &root))
        })
    }

    pub(super) fn interpret_with(
        &self,
        layer: &Layer,
        resolve: &Resolve,
    ) -> Result<Config, Faults> {
        let mut root = self.root.clone();
        let mut notices = self.notices.clone();
        // Over half a file the layer would make faults of its own.
        if self.sound {
            layer.overlay(&mut root, &mut notices);
        }
        let (config, found) = interpret(&root, notices, resolve);
        // Without the file most else is missing; what environment and flags got wrong is still
        // true.
        let mut faults = self.faults.clone();
        faults.extend(
            found
                .into_iter()
                .filter(|fault| self.sound || fault.origin.is_untyped()),
        );
        Faults::check(faults)?;
        Ok(config)
    }
}
