//! Where things are.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace's root: the folder above this package.
pub(crate) fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_path_buf()
}

/// The target folder, `CARGO_TARGET_DIR` respected.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// Where programs that this tool builds for its own use go.
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}

/// The objects that the daemon embeds: of XDP, and of traffic control.
pub(crate) const OBJECTS: [&str; 2] = ["lb-xdp", "lb-tc"];

/// Where such an object lies; `lb-userspace/build.rs` looks for it here.
pub(crate) fn bpf_object(name: &str) -> PathBuf {
    target().join("bpf").join(name)
}

/// The cargo that runs this tool, in the workspace's root.
pub(crate) fn cargo() -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root());
    forget_this_build(&mut command);
    command
}

/// The cargo of another tree: of the toolchain that it names, with a target folder of its own.
pub(crate) fn cargo_in(tree: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(tree);
    forget_this_build(&mut command);
    for name in ["CARGO", "RUSTUP_TOOLCHAIN", "CARGO_TARGET_DIR"] {
        command.env_remove(name);
    }
    command
}

/// What cargo has set for this process is wrong for a build of something else.
fn forget_this_build(command: &mut Command) {
    for name in [
        "CARGO_MANIFEST_DIR",
        "CARGO_PKG_NAME",
        "CARGO_PKG_VERSION",
        "LD_LIBRARY_PATH",
    ] {
        command.env_remove(name);
    }
}
