//! What the machine has, and how to get what it lacks.
//!
//! Only Debian's package manager is driven, and only as root. Everywhere else the user is told the
//! command to run, because guessing at a machine's package manager does more harm than a clear
//! sentence.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::step;

/// A program that a task starts, and the Debian package that brings it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
}

/// What the namespaces of tests, demo and benchmarks are built with.
pub(crate) const NETWORK_TOOLS: &[Tool] = &[
    Tool {
        program: "ip",
        package: "iproute2",
    },
    Tool {
        program: "ethtool",
        package: "ethtool",
    },
    Tool {
        program: "nsenter",
        package: "util-linux",
    },
];

/// The real clients and servers that end-to-end tests talk to.
pub(crate) const PEER_TOOLS: &[Tool] = &[
    Tool {
        program: "curl",
        package: "curl",
    },
    Tool {
        program: "nginx",
        package: "nginx-light",
    },
    Tool {
        program: "chromium",
        package: "chromium",
    },
    Tool {
        program: "promtool",
        package: "prometheus",
    },
    Tool {
        program: "tcpdump",
        package: "tcpdump",
    },
];

/// The balancer that the kernel brings, beside which packets are measured.
pub(crate) const BALANCER_TOOLS: &[Tool] = &[Tool {
    program: "nft",
    package: "nftables",
}];

/// Whom and what the benchmarks measure with.
pub(crate) const BENCH_TOOLS: &[Tool] = &[
    Tool {
        program: "nginx",
        package: "nginx-light",
    },
    Tool {
        program: "haproxy",
        package: "haproxy",
    },
    Tool {
        program: "h2load",
        package: "nghttp2-client",
    },
    Tool {
        program: "taskset",
        package: "util-linux",
    },
];

/// Whether this process may do everything.
pub(crate) fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Finds a program on the search path, or in the folders that an ordinary user's path leaves out.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(extra)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// Makes sure that all tools are there, installing the missing ones as root on Debian.
pub(crate) fn require(tools: &[Tool]) -> Result<()> {
    let missing: Vec<&Tool> = tools
        .iter()
        .filter(|tool| find(tool.program).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    install(&packages)?;
    for tool in missing {
        if find(tool.program).is_none() {
            bail!(
                "expected package {} to bring {}, found none",
                tool.package,
                tool.program
            );
        }
    }
    Ok(())
}

/// Installs Debian packages; without the right to do so, says the command.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    let by_hand = format!("apt-get install --no-install-recommends {list}");
    if find("apt-get").is_none() {
        bail!("needed, and not found: {list} (names of Debian packages); install their like");
    }
    if !is_root() {
        bail!("needed, and not installed: {list}; run\n    sudo {by_hand}");
    }
    let first = step::quiet(
        &format!("installing {list}"),
        apt_get().arg("install").args(packages),
    );
    if first.is_ok() {
        return Ok(());
    }
    // The usual reason is that the machine has never read the list of packages.
    step::quiet("reading the list of packages", apt_get().arg("update"))?;
    step::quiet(
        &format!("installing {list}"),
        apt_get().arg("install").args(packages),
    )
    .with_context(|| format!("could not install; try\n    {by_hand}"))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args([
            "-y",
            "-qq",
            "--no-install-recommends",
            "-o",
            "DPkg::Lock::Timeout=120",
        ])
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Services that a package brings are not started: tests start their own.
        .env("RUNLEVEL", "1");
    command
}

/// Whether the kernel lets this process make network namespaces and load programs: in practice,
/// whether it is root with a network namespace folder that can be written.
pub(crate) fn can_use_kernel() -> Result<(), &'static str> {
    if !is_root() {
        return Err("not root");
    }
    if !Path::new("/sys/fs/bpf").is_dir() {
        return Err("this kernel has no /sys/fs/bpf");
    }
    Ok(())
}
