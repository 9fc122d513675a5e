//! Reloading whenever the configuration file changes.

use crate::{api::ApiState, discovery::FileWatch};

/// Reloads after each change of `file`, for as long as it is polled. A file with faults changes
/// nothing, as with every reload, and the next change is the next try.
pub(super) async fn run(mut file: FileWatch, state: ApiState) {
    let path = file.path().display().to_string();
    tracing::info!(path, "watching the configuration file");
    loop {
        file.changed().await;
        tracing::info!(path, "the configuration file has changed");
        // Its outcome is in the log and in the state.
        drop(state.reload("file watch").await);
    }
}
