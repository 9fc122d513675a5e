//! `cargo xtask build`: the programs for the kernel, then the daemon that carries them.
//!
//! They are compiled into a target folder of their own (another compiler, other flags) and copied to
//! `target/bpf` only when they have changed, so that the daemon is rebuilt only then.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::bpf::{self, Toolchain};
use crate::{btf, step, verifier, workspace};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Optimise as for use in production (slow to build)
    #[arg(long)]
    pub(crate) release: bool,
}

/// How much the compiler is asked to optimise the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to build, close to release in speed: tests and demo.
    Fast,
    /// What is shipped and measured.
    Release,
}

impl Profile {
    /// Cargo's name of the profile, and of its folder in target.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Release => "release",
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    objects()?;
    let profile = if arguments.release {
        Profile::Release
    } else {
        Profile::Fast
    };
    let lb = daemon(profile)?;
    step::note(&format!("lb is at {}", lb.display()));
    Ok(())
}

/// Builds the programs for the kernel, has its verifier look at them, and puts them where the daemon's build
/// looks for them.
pub(crate) fn objects() -> Result<()> {
    let toolchain = Toolchain::find_or_install()?;
    let folder = workspace::target().join("bpf-build");
    let mut cargo = workspace::cargo();
    cargo.args([
        "build",
        "--package",
        "lb-ebpf",
        "--bins",
        "--features",
        "bpf",
    ]);
    cargo
        .args(["--profile", "bpf", "--target-dir"])
        .arg(&folder);
    toolchain.apply(&mut cargo);
    step::quiet(
        &format!("the kernel's programs ({})", toolchain.describe()),
        &mut cargo,
    )?;
    for name in workspace::OBJECTS {
        let built = folder.join(bpf::TARGET).join("bpf").join(name);
        place(name, &built, &folder.join(name))?;
    }
    Ok(())
}

/// Puts a mended copy of an object to its place, if it has changed.
fn place(name: &str, built: &Path, mended: &Path) -> Result<()> {
    let mut new = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    btf::mend_names(&mut new).with_context(|| format!("cannot use {}", built.display()))?;
    fs::write(mended, &new).with_context(|| format!("cannot write {}", mended.display()))?;
    verifier::check(mended)?;
    let place = workspace::bpf_object(name);
    if fs::read(&place).is_ok_and(|old| old == new) {
        return Ok(());
    }
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&place, new).with_context(|| format!("cannot write {}", place.display()))
}

/// Builds the daemon.
pub(crate) fn daemon(profile: Profile) -> Result<PathBuf> {
    packages(profile, &["lb-userspace"])?;
    Ok(workspace::target().join(profile.name()).join("lb"))
}

/// Builds the programs for the kernel, the daemon, and what drives it in tests, demo and benchmarks.
///
/// Daemon and harness in one go: cargo unites the features of what is built together, so the daemon's
/// library, which the harness uses as well, would be compiled for each of them otherwise.
pub(crate) fn with_harness(profile: Profile) -> Result<()> {
    objects()?;
    packages(profile, &["lb-userspace", "lb-tests"])
}

/// Builds the libraries and programs of packages.
pub(crate) fn packages(profile: Profile, names: &[&str]) -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--profile", profile.name()]);
    for name in names {
        cargo.args(["--package", name]);
    }
    let what = format!("{} ({})", names.join(" and "), profile.name());
    step::quiet(&what, &mut cargo)
}
