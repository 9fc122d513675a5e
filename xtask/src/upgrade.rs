//! `cargo xtask upgrade REVISION`: whether the change between two versions of lb costs anybody anything.
//!
//! The other version is built from the repository, in a copy of its own below `target`, as its README says. Then
//! the test of restarts runs with both in turn: numbered datagrams and held connections, while daemons are
//! stopped, killed and started, each time the other version's. Where their maps have another layout, that is what
//! is tested; the test says whether they have.

use std::path::{Path, PathBuf};
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
    let other = other_lb(&arguments.revision)?;
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
    test.env("LB_TEST_OTHER", other);
    step::loud("changes from one version to the other", &mut test)
}

/// Builds the `lb` of a revision; where it is.
fn other_lb(revision: &str) -> Result<PathBuf> {
    let root = workspace::root();
    let of = format!("{revision}^{{commit}}");
    let mut resolve = git(
        &root,
        &["rev-parse", "--verify", "--quiet", "--end-of-options", &of],
    );
    let commit = step::output(&mut resolve)
        .with_context(|| format!("expected a revision of this repository, found {revision:?}"))?;
    let commit = commit.trim();
    let tree = workspace::target().join("upgrade").join("tree");
    if !tree.join(".git").exists() {
        let mut clone = git(
            &root,
            &["clone", "--quiet", "--shared", "--no-checkout", "."],
        );
        step::quiet("a copy of the repository", clone.arg(&tree))?;
    }
    let mut checkout = git(
        &tree,
        &["checkout", "--quiet", "--force", "--detach", commit],
    );
    step::quiet(&format!("version {commit}"), &mut checkout)?;
    let mut build = workspace::cargo_in(&tree);
    build.args(["xtask", "build"]);
    step::quiet(
        "building it, which takes minutes the first time",
        &mut build,
    )?;
    Ok(tree.join("target/fast/lb"))
}

fn git(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(folder).args(arguments);
    command
}
