//! `cargo xtask lint`: everything about the code that a machine can judge without running it.

use anyhow::Result;

use crate::{fetch, imports, links, step, system, workspace};

const DENY_VERSION: &str = "0.18.9";

#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Build cargo-deny when it is missing (takes minutes); without it, its checks are skipped
    #[arg(long)]
    deny: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    step::step("direction of imports", imports::check)?;
    step::step("links of the documentation", links::check)?;
    step::quiet(
        "formatting",
        workspace::cargo().args(["fmt", "--all", "--check"]),
    )?;
    // All features: the program for the kernel must pass on an ordinary compiler, too.
    step::quiet(
        "clippy",
        workspace::cargo()
            .args([
                "clippy",
                "--quiet",
                "--workspace",
                "--all-targets",
                "--all-features",
            ])
            .args(["--", "-D", "warnings"]),
    )?;
    step::quiet(
        "documentation",
        workspace::cargo()
            .args([
                "doc",
                "--quiet",
                "--workspace",
                "--no-deps",
                "--document-private-items",
            ])
            // Documentation of a program is read with its private items: links to them resolve.
            .env(
                "RUSTDOCFLAGS",
                "-D warnings -A rustdoc::private_intra_doc_links",
            ),
    )?;
    dependencies(arguments.deny)
}

/// Licences, banned and doubled packages, sources. The list of known vulnerabilities comes from a
/// network that a build machine need not reach, so it is left to a scheduled job.
fn dependencies(may_build: bool) -> Result<()> {
    let ours = workspace::tools().join("bin/cargo-deny");
    if !ours.is_file() && system::find("cargo-deny").is_none() {
        if !may_build {
            step::note("SKIPPED: licences and bans; `cargo xtask lint --deny` builds cargo-deny");
            return Ok(());
        }
        fetch::cargo_install("cargo-deny", DENY_VERSION)?;
    }
    let program = if ours.is_file() {
        ours
    } else {
        "cargo-deny".into()
    };
    step::quiet(
        "licences, bans and sources",
        std::process::Command::new(program)
            .current_dir(workspace::root())
            .args([
                "--workspace",
                "--all-features",
                "check",
                "bans",
                "licenses",
                "sources",
            ]),
    )
}
