//! A file that lists instances.

use std::{path::Path, sync::Arc};

use super::{
    source::{Answer, Pending, Source, Trouble},
    watch::FileWatch,
};
use crate::config;

/// A watched file.
#[derive(Debug)]
pub(super) struct File {
    path: Arc<Path>,
    weight: u16,
    watch: FileWatch,
}

impl File {
    pub(super) fn new(path: Arc<Path>, weight: u16) -> Self {
        Self {
            watch: FileWatch::new(Arc::clone(&path)),
            path,
            weight,
        }
    }

    async fn read(&mut self) -> Result<Answer, Trouble> {
        // Whatever is written from here on is a change.
        self.watch.mark().await;
        let (path, weight) = (Arc::clone(&self.path), self.weight);
        let read = move || config::instances_in(&path, weight);
        let read = tokio::task::spawn_blocking(read).await;
        let instances = read
            .map_err(|stopped| Trouble::Failed(stopped.to_string()))?
            .map_err(|faults| Trouble::Failed(faults.one_line()))?;
        if instances.is_empty() {
            let why = format!("{} lists no instance", self.path.display());
            return Err(Trouble::Empty(why));
        }
        Ok(Answer {
            instances,
            ttl: None,
        })
    }
}

impl Source for File {
    fn look(&mut self) -> Pending<'_, Result<Answer, Trouble>> {
        Box::pin(self.read())
    }

    fn changed(&mut self) -> Pending<'_, ()> {
        Box::pin(self.watch.changed())
    }
}
