//! Finds, or gets, a way to compile Rust for the kernel.
//!
//! There are two, and which one works depends on the machine:
//!
//! 1. **rust-src**: a compiler whose sysroot holds the source of the standard library; cargo builds
//!    `core` for the target itself.
//! 2. **prebuilt core**: a distribution's compiler that ships `core` for `bpfel-unknown-none`
//!    (Debian: `rustc-web` with `libstd-rust-web-dev-bpf`).
//!
//! Both need `RUSTC_BOOTSTRAP=1` on a stable compiler, because aya-ebpf uses an unstable kind of
//! inline assembly; and both need `bpf-linker`, which loads LLVM at run time and must be shown
//! exactly one, of the compiler's own major version: it takes the first that it finds, and an older
//! one cannot read the bitcode.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{fetch, step, system, workspace};

/// What the kernel program is compiled for.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

const LINKER_VERSION: &str = "0.10.1";

/// Atomic instructions that return a value need `v3`. The linker generates the code, so it is told
/// that unaligned loads are allowed (they are on x86-64 and arm64): copies of headers and keys go
/// by words, which is a fifth fewer instructions. It is also told to expand small copies and fills as
/// LLVM usually does: its own default turns each fill into a call of a loop over bytes. BTF is what
/// maps and tools know types by.
const FLAGS: &str = "-C target-cpu=v3 -C link-arg=--btf \
    -C link-arg=--cpu-features=+allows-misaligned-mem-access \
    -C link-arg=--disable-expand-memcpy-in-order";

/// Debian's compiler with a `core` for the kernel.
const DEBIAN_PACKAGES: &[&str] = &["rustc-web", "libstd-rust-web-dev-bpf"];

/// One complete way to compile for the kernel.
#[derive(Debug)]
pub(crate) struct Toolchain {
    way: Way,
    rustc: PathBuf,
    linker: PathBuf,
    llvm: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    BuildStd,
    PrebuiltCore,
}

impl Toolchain {
    /// Finds a way, installing what is missing where that is allowed.
    pub(crate) fn find_or_install() -> Result<Self> {
        let (way, rustc) = match find_compiler() {
            Some(found) => found,
            None => install_compiler()?,
        };
        let llvm = llvm_folder(&rustc)?;
        let linker = find_or_install_linker()?;
        Ok(Self {
            way,
            rustc,
            linker,
            llvm,
        })
    }

    /// Which way was found, for the user.
    pub(crate) fn describe(&self) -> String {
        let way = match self.way {
            Way::BuildStd => "core built from rust-src",
            Way::PrebuiltCore => "prebuilt core",
        };
        format!("{way}, {}", self.rustc.display())
    }

    /// Turns a cargo command into one that compiles for the kernel.
    pub(crate) fn apply(&self, cargo: &mut Command) {
        let target = TARGET.to_uppercase().replace('-', "_");
        cargo
            .args(["--target", TARGET])
            .env("RUSTC", &self.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("LD_LIBRARY_PATH", &self.llvm)
            .env(format!("CARGO_TARGET_{target}_LINKER"), &self.linker)
            .env(format!("CARGO_TARGET_{target}_RUSTFLAGS"), FLAGS)
            // Flags and wrappers of the host's builds say nothing about the kernel's.
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("RUSTC_WORKSPACE_WRAPPER");
        if self.way == Way::BuildStd {
            cargo.args(["-Z", "build-std=core"]);
        }
    }
}

fn find_compiler() -> Option<(Way, PathBuf)> {
    let candidates = [default_rustc(), Some(PathBuf::from("/usr/bin/rustc"))];
    for rustc in candidates.into_iter().flatten() {
        let Some(sysroot) = sysroot(&rustc) else {
            continue;
        };
        if sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
            return Some((Way::BuildStd, rustc));
        }
        let prebuilt = sysroot.join("lib/rustlib").join(TARGET).join("lib");
        if contains(&prebuilt, "libcore-") {
            return Some((Way::PrebuiltCore, rustc));
        }
    }
    None
}

/// The compiler that cargo would use, not rustup's stand-in for it: its sysroot says where it is.
fn default_rustc() -> Option<PathBuf> {
    let rustc = sysroot(Path::new("rustc"))?.join("bin/rustc");
    rustc.is_file().then_some(rustc)
}

fn sysroot(rustc: &Path) -> Option<PathBuf> {
    let mut command = Command::new(rustc);
    command
        .args(["--print", "sysroot"])
        .current_dir(workspace::root());
    let text = step::output(&mut command).ok()?;
    Some(PathBuf::from(text.trim()))
}

fn install_compiler() -> Result<(Way, PathBuf)> {
    let mut reasons = Vec::new();
    if system::is_root() && system::find("apt-get").is_some() {
        match system::install(DEBIAN_PACKAGES) {
            Ok(()) => {}
            Err(error) => reasons.push(format!("{error:#}")),
        }
    } else if system::find("rustup").is_some() {
        let mut rustup = Command::new("rustup");
        rustup
            .args(["component", "add", "rust-src"])
            .current_dir(workspace::root());
        let limit = Duration::from_secs(120);
        let done = step::step("adding rust-src", || fetch::bounded(&mut rustup, limit));
        if let Err(error) = done {
            reasons.push(format!("{error:#}"));
        }
    }
    find_compiler().with_context(|| {
        format!(
            "found no way to compile for the kernel. Either of these gives one:\n    \
             rustup component add rust-src\n    \
             sudo apt-get install --no-install-recommends {}\n{}",
            DEBIAN_PACKAGES.join(" "),
            reasons.join("\n")
        )
    })
}

fn find_or_install_linker() -> Result<PathBuf> {
    let ours = workspace::tools().join("bin/bpf-linker");
    let found = [Some(ours.clone()), system::find("bpf-linker")];
    for linker in found.into_iter().flatten() {
        if linker_version(&linker).is_some_and(|version| version == LINKER_VERSION) {
            return Ok(linker);
        }
    }
    fetch::cargo_install("bpf-linker", LINKER_VERSION)?;
    Ok(ours)
}

fn linker_version(linker: &Path) -> Option<String> {
    // `--version` needs no LLVM; any folder will do.
    let text = step::output(Command::new(linker).arg("--version")).ok()?;
    text.split_whitespace().nth(1).map(str::to_owned)
}

/// A folder with exactly one libLLVM, the one that reads what `rustc` writes.
fn llvm_folder(rustc: &Path) -> Result<PathBuf> {
    let major = llvm_major(rustc)?;
    let library = find_llvm(rustc, &major)?;
    let folder = workspace::tools().join("llvm").join(&major);
    let link = folder.join("libLLVM.so");
    if fs::read_link(&link).is_ok_and(|current| current == library) {
        return Ok(folder);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    symlink(&library, &link)
        .with_context(|| format!("cannot link {} to {}", link.display(), library.display()))?;
    Ok(folder)
}

fn llvm_major(rustc: &Path) -> Result<String> {
    let text = step::output(Command::new(rustc).arg("-vV"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))
        .and_then(|version| version.split('.').next())
        .map(str::to_owned)
        .with_context(|| format!("expected an LLVM version in `rustc -vV`, found\n{text}"))
}

fn find_llvm(rustc: &Path, major: &str) -> Result<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for compiler in [Some(rustc.to_path_buf()), default_rustc()]
        .into_iter()
        .flatten()
    {
        folders.extend(sysroot(&compiler).map(|sysroot| sysroot.join("lib")));
    }
    folders.push(PathBuf::from(format!("/usr/lib/llvm-{major}/lib")));
    folders.push(PathBuf::from("/usr/lib"));
    folders.extend(
        fs::read_dir("/usr/lib")
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path()),
    );
    let wanted = [format!("libLLVM.so.{major}"), format!("libLLVM-{major}")];
    for folder in &folders {
        let names = names(folder);
        for prefix in &wanted {
            if let Some(name) = names.iter().find(|name| is_library(name, prefix)) {
                let path = folder.join(name);
                return fs::canonicalize(&path)
                    .with_context(|| format!("cannot resolve {}", path.display()));
            }
        }
    }
    bail!(
        "bpf-linker needs LLVM {major} as a shared library, and none was found; run\n    \
         sudo apt-get install libllvm{major}"
    )
}

/// Whether a file name begins with `prefix` and the version in it does not go on with a digit.
fn is_library(name: &OsString, prefix: &str) -> bool {
    let name = name.to_string_lossy();
    name.strip_prefix(prefix)
        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn contains(folder: &Path, prefix: &str) -> bool {
    names(folder)
        .iter()
        .any(|name| name.to_string_lossy().starts_with(prefix))
}

fn names(folder: &Path) -> Vec<OsString> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_taken_by_its_whole_major_version() {
        let is = |name: &str| is_library(&OsString::from(name), "libLLVM.so.2");
        assert!(is("libLLVM.so.2"));
        assert!(is("libLLVM.so.2.1-rust-1.95.0-stable"));
        assert!(!is("libLLVM.so.22.1"));
        assert!(!is("libLLVM.so.1"));
    }
}
