//! Checks the direction of imports, which is what keeps the architecture an architecture.
//!
//! The rules are the invariants of ARCHITECTURE.md as tables. Paths are read from the source text,
//! in `use` statements and inline alike; a rule that only a reviewer checks is broken within weeks.

mod lexer;
mod paths;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::workspace;
use paths::Named;

/// Modules of the daemon from left to right: a module may use those of its own row and above.
const LAYERS: &[&[&str]] = &[
    &["model"],
    &["balance", "resilience", "affinity", "net"],
    &["config", "registry"],
    &["runtime"],
    &["health", "l4", "l7", "discovery", "integration"],
    &["telemetry", "api"],
    &["cli", "dashboard", "app"],
];

/// Modules that may not use others although the rows would let them.
const STRANGERS: &[(&str, &[&str])] = &[
    // A data plane knows neither the other one nor systems beside lb.
    ("l4", &["l7", "integration"]),
    ("l7", &["l4", "integration"]),
    // Clients of the REST API: they see what every other client sees.
    (
        "cli",
        &[
            "registry",
            "balance",
            "resilience",
            "affinity",
            "health",
            "l7",
            "discovery",
            "integration",
        ],
    ),
    (
        "dashboard",
        &[
            "registry",
            "balance",
            "resilience",
            "affinity",
            "health",
            "l4",
            "l7",
            "integration",
        ],
    ),
];

/// Modules that are plain values and state machines, and crates that would make them more.
const PURE: (&[&str], &[&str]) = (
    &["model", "balance", "resilience", "affinity"],
    &[
        "tokio",
        "hyper",
        "hyper_util",
        "axum",
        "tower",
        "aya",
        "aya_log",
        "serde",
        "serde_json",
    ],
);

/// Where aya may be named in the daemon, as a prefix of the module's path.
const KERNEL: (&str, &[&str]) = ("l4/datapath/kernel", &["aya", "aya_log", "aya_obj"]);

/// Checks all rules; an error lists every breach.
pub(crate) fn check() -> Result<()> {
    let mut breaches = Vec::new();
    let daemon = workspace::root().join("lb-userspace/src");
    for file in sources(&daemon)? {
        let source = read(&file)?;
        let module = module_path(file.strip_prefix(&daemon)?);
        breaches.extend(
            daemon_breaches(&source, &module)
                .into_iter()
                .map(|b| at(&file, &b)),
        );
    }
    let packet = workspace::root().join("lb-ebpf/src");
    for file in sources(&packet)? {
        let source = read(&file)?;
        breaches.extend(packet_breaches(&source).into_iter().map(|b| at(&file, &b)));
    }
    if !breaches.is_empty() {
        bail!("imports in the wrong direction:\n{}", breaches.join("\n"));
    }
    Ok(())
}

/// A rule that a line breaks.
#[derive(Debug, PartialEq, Eq)]
struct Breach {
    line: usize,
    what: String,
}

fn at(file: &Path, breach: &Breach) -> String {
    let root = workspace::root();
    let file = file.strip_prefix(&root).unwrap_or(file);
    format!("{}:{}: {}", file.display(), breach.line, breach.what)
}

fn daemon_breaches(source: &str, module: &[String]) -> Vec<Breach> {
    let Some(from) = module.first() else {
        return Vec::new();
    };
    let whole = module.join("/");
    let mut breaches = Vec::new();
    for Named { path, line } in paths::named(source, module) {
        let fault = match &path {
            paths::Path::Own(Some(to)) => own_fault(from, to),
            paths::Path::Own(None) => None,
            paths::Path::Foreign(name) => foreign_fault(from, &whole, name),
        };
        breaches.extend(fault.map(|what| Breach { line, what }));
    }
    breaches
}

fn own_fault(from: &str, to: &str) -> Option<String> {
    let (here, there) = (layer(from)?, layer(to)?);
    if there > here {
        return Some(format!("`{from}` is below `{to}` and may not use it"));
    }
    let strangers = STRANGERS.iter().find(|(module, _)| *module == from)?.1;
    strangers
        .contains(&to)
        .then(|| format!("`{from}` may not use `{to}`"))
}

fn foreign_fault(from: &str, module: &str, name: &str) -> Option<String> {
    let (pure, banned) = PURE;
    if pure.contains(&from) && banned.contains(&name) {
        return Some(format!("`{from}` is pure and may not know `{name}`"));
    }
    let (kernel, crates) = KERNEL;
    (crates.contains(&name) && !module.starts_with(kernel))
        .then(|| format!("`{name}` may be named in `{kernel}` only"))
}

/// The packet library runs in host tests, where aya-ebpf would replace libc's memcpy.
fn packet_breaches(source: &str) -> Vec<Breach> {
    paths::named(source, &[])
        .into_iter()
        .filter_map(|named| match named.path {
            paths::Path::Foreign(name) if name.starts_with("aya") => {
                let what = format!("the library of lb-ebpf may not know `{name}`");
                Some(Breach {
                    line: named.line,
                    what,
                })
            }
            _ => None,
        })
        .collect()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// `l4/plan.rs` is the module `l4::plan`; `mod.rs`, `lib.rs` and `main.rs` are their folder's.
fn module_path(file: &Path) -> Vec<String> {
    let mut parts: Vec<String> = file
        .with_extension("")
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    if parts
        .last()
        .is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str()))
    {
        parts.pop();
    }
    parts
}

fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder)
            .with_context(|| format!("expected a folder of sources at {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    ensure!(
        !found.is_empty(),
        "expected sources in {}, found none",
        folder.display()
    );
    found.sort();
    Ok(found)
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches(file: &str, source: &str) -> usize {
        daemon_breaches(source, &module_path(Path::new(file))).len()
    }

    #[test]
    fn right_may_use_left_and_never_the_reverse() {
        assert_eq!(breaches("l7/router.rs", "use crate::model::Route;"), 0);
        assert_eq!(breaches("model/route.rs", "use crate::l7::Router;"), 1);
        assert_eq!(
            breaches("registry/mod.rs", "fn f() { crate::api::notify() }"),
            1
        );
        assert_eq!(breaches("app.rs", "use crate::{l4::Plan, l7::Router};"), 0);
    }

    #[test]
    fn the_planes_do_not_know_each_other() {
        assert_eq!(breaches("l4/plan.rs", "use crate::l7::Router;"), 1);
        assert_eq!(breaches("l7/pool.rs", "use super::super::l4::Plan;"), 1);
    }

    #[test]
    fn aya_stays_in_its_file_and_pure_modules_stay_pure() {
        assert_eq!(breaches("l4/datapath/kernel.rs", "use aya::Ebpf;"), 0);
        assert_eq!(breaches("l4/datapath/kernel/pin.rs", "use aya::Ebpf;"), 0);
        assert_eq!(breaches("l4/reconcile.rs", "use aya::Ebpf;"), 1);
        assert_eq!(
            breaches("balance/maglev.rs", "use tokio::time::Instant;"),
            1
        );
        assert_eq!(breaches("health/http.rs", "use tokio::time::Instant;"), 0);
    }

    #[test]
    fn the_packet_library_does_not_know_aya() {
        assert_eq!(packet_breaches("use aya_ebpf::bindings;").len(), 1);
        assert!(packet_breaches("use lb_common::Vip;").is_empty());
    }

    #[test]
    fn the_workspace_holds_the_rules() {
        check().unwrap();
    }
}
