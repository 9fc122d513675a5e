//! `[state]`: where what is set at run time is kept.

use std::path::PathBuf;

use super::{forms::Form as _, origin::Sourced, reader::Section, tree, values::STATE_FILE};

/// Reads `[state]`.
pub(super) fn read(root: &mut Section<'_, '_>) -> Option<PathBuf> {
    root.table("state", |t| {
        let none = Sourced::unset(None);
        t.optional("file", &STATE_FILE, &none, "none").value
    })
}

/// The state file that a tree names, if it does so rightly. What is in that file belongs to the
/// configuration too, so it has to be found before the rest is interpreted.
pub(super) fn peek(root: &tree::Table) -> Option<PathBuf> {
    let tree::Value::Table(state) = &root.get("state")?.value else {
        return None;
    };
    STATE_FILE.parse(state.get("file")?).ok()
}
