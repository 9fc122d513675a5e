//! Reading files of prefixes of the source ACL again whenever they change.
//!
//! That takes no reload: whoever publishes such a list writes a file, and has no say in the rest of
//! the configuration. A file with faults goes by what it said before, and says so in the log and in
//! the API, until it has none.

use std::sync::Arc;

use tokio::sync::watch;

use crate::{
    config,
    discovery::FileWatch,
    registry::{Change, Registry},
};

/// Follows the files that the ACL names, whichever those are, until `stopped`.
pub(super) async fn run(registry: Arc<Registry>, mut stopped: watch::Receiver<bool>) {
    let mut watches: Vec<FileWatch> = Vec::new();
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = tokio::time::sleep(FileWatch::PERIOD) => {}
        }
        let acl = Arc::clone(&registry.snapshot().acl);
        let files = &acl.spec.files;
        let named = files.iter().map(std::path::PathBuf::as_path);
        if !named.eq(watches.iter().map(FileWatch::path)) {
            // They count as changed: what they were when somebody has read them is not known here.
            let watch = |file: &std::path::PathBuf| FileWatch::new(file.as_path());
            watches = files.iter().map(watch).collect();
        }
        let mut changed = false;
        for watch in &mut watches {
            changed |= watch.look().await;
        }
        if changed {
            let registry = Arc::clone(&registry);
            // A panic in there has been told of already.
            let _ = tokio::task::spawn_blocking(move || read(&registry)).await;
        }
    }
}

/// Reads all files; each may say something of the prefixes of another.
fn read(registry: &Registry) {
    let acl = Arc::clone(&registry.snapshot().acl);
    let lists = config::prefix_lists_again(&acl.spec.files, &acl.lists);
    if let Err(error) = registry.apply(Change::AclLists(lists)) {
        tracing::error!(%error, "what files of prefixes say cannot be taken over");
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;
    use crate::{
        model::{AclAction, AclSpec},
        registry::Desired,
    };

    #[tokio::test]
    async fn a_file_is_followed_and_faults_change_nothing_but_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deny.txt");
        fs::write(&file, "192.0.2.0/24\n").unwrap();
        let registry = Arc::new(Registry::new(1, []));
        let desired = Desired {
            acl: AclSpec {
                files: vec![file.clone()],
                ..AclSpec::default()
            },
            ..Desired::default()
        };
        registry
            .apply(Change::Configure(Box::new(desired)))
            .unwrap();
        let (stop, stopped) = watch::channel(false);
        let following = tokio::spawn(run(Arc::clone(&registry), stopped));
        let until = async |expected: usize, faults: usize| {
            for _ in 0..200 {
                let acl = Arc::clone(&registry.snapshot().acl);
                let told: usize = acl.lists.iter().map(|list| list.faults.len()).sum();
                if (acl.count(AclAction::Deny), told) == (expected, faults) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            panic!("{:?}", registry.snapshot().acl);
        };
        until(1, 0).await;
        fs::write(&file, "192.0.2.0/24\n198.51.100.0/24\n").unwrap();
        until(2, 0).await;
        fs::write(&file, "192.0.2.0/24\nwhat\n").unwrap();
        until(2, 1).await;
        fs::write(&file, "").unwrap();
        until(0, 0).await;
        stop.send_replace(true);
        following.await.unwrap();
    }
}
