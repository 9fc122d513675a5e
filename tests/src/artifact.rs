//! Where the things lie that `cargo xtask build` makes.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where the object is: `LB_BPF_OBJECT`, or beside the build that this program is of.
///
/// # Errors
/// When this program does not lie in a target folder and the variable is not set.
pub fn object_path() -> Result<PathBuf> {
    match env::var_os("LB_BPF_OBJECT") {
        Some(path) => Ok(PathBuf::from(path)),
        None => Ok(target()?.join("bpf/lb-xdp")),
    }
}

/// A program of this workspace, built with the same profile as this one: `LB_BIN_DIR`, or beside it.
///
/// # Errors
/// As [`object_path`].
pub fn program_path(name: &str) -> Result<PathBuf> {
    let folder = match env::var_os("LB_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => profile_folder()?,
    };
    let path = folder.join(name);
    anyhow::ensure!(
        path.is_file(),
        "expected a program at {}; run `cargo xtask build`",
        path.display()
    );
    Ok(path)
}

/// `target/<profile>`: where this program lies, or above it when it is a test.
fn profile_folder() -> Result<PathBuf> {
    let own = env::current_exe()?;
    let folder = own.parent().unwrap_or(Path::new("/"));
    let folder = if folder.ends_with("deps") {
        folder.parent()
    } else {
        Some(folder)
    };
    folder
        .map(Path::to_path_buf)
        .context("this program lies in no folder")
}

/// A program that `cargo xtask test` has got, below `target/tools`; nothing when it is not there.
///
/// # Errors
/// When this program does not lie in a target folder.
pub fn tool(path: &str) -> Result<Option<PathBuf>> {
    let path = target()?.join("tools").join(path);
    Ok(path.is_file().then_some(path))
}

fn target() -> Result<PathBuf> {
    let profile = profile_folder()?;
    profile
        .parent()
        .map(Path::to_path_buf)
        .context("this program lies in no target folder")
}
