//! `cargo xtask upgrade REVISION`: whether the change between two versions of lb costs anybody anything.
//!
//! The other version is built from the repository, in a copy of its own below `target`, as its README says. Then
//! the test of restarts runs with both in turn: numbered datagrams and held connections, while daemons are
//! stopped, killed and started, each time the other version's. Where their maps have another layout, that is what
//! is tested; the test says whether they have.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build::{self, Profile};
use crate::{step, system, workspace};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The other version: a commit, a tag or a branch
    revision: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let Err(reason) = system::can_use_kernel() {
        bail!(
            "versions are changed in network namespaces, with programs in the kernel ({reason}); run it as root"
        );
    }
    system::require(system::NETWORK_TOOLS)?;
    let root = workspace::root();
    let mut resolve = Command::new("git");
    resolve.arg("-C").arg(&root);
    resolve.args(["rev-parse", "--verify", "--quiet", "--end-of-options"]);
    resolve.arg(format!("{}^{{commit}}", arguments.revision));
    let commit = step::output(&mut resolve).with_context(|| {
        format!(
            "expected a revision of this repository, found {:?}",
            arguments.revision
        )
    })?;
    let commit = commit.trim();
    let tree = workspace::target().join("upgrade").join("tree");
    if !tree.join(".git").exists() {
        let mut clone = Command::new("git");
        clone.args(["clone", "--quiet", "--shared", "--no-checkout"]);
        step::quiet("a copy of the repository", clone.arg(&root).arg(&tree))?;
    }
    let mut checkout = Command::new("git");
    checkout.arg("-C").arg(&tree);
    checkout.args(["checkout", "--quiet", "--force", "--detach", commit]);
    step::quiet(&format!("version {commit}"), &mut checkout)?;
    // By the toolchain that it names, into a target folder of its own.
    let mut other = Command::new("cargo");
    other.current_dir(&tree).args(["xtask", "build"]);
    for name in [
        "CARGO",
        "RUSTUP_TOOLCHAIN",
        "CARGO_TARGET_DIR",
        "CARGO_MANIFEST_DIR",
        "LD_LIBRARY_PATH",
    ] {
        other.env_remove(name);
    }
    step::quiet(
        "building it, which takes minutes the first time",
        &mut other,
    )?;
    build::with_harness(Profile::Fast)?;
    let mut test = workspace::cargo();
    test.args([
        "test",
        "--package",
        "lb-tests",
        "--profile",
        Profile::Fast.name(),
    ]);
    test.args([
        "--test",
        "e2e_l4_restart",
        "--",
        "--include-ignored",
        "--nocapture",
    ]);
    test.env("LB_TEST_OTHER", tree.join("target/fast/lb"));
    step::loud("changes from one version to the other", &mut test)
}
