//! `docs/cli.md` and the command line say the same.
//!
//! The page's second half is what `--help` says, command by command. A test compares it;
//! `LB_WRITE_DOCS=1 cargo test -p lb-userspace reference` writes it.

use clap::{Command, CommandFactory as _};

use super::*;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");

/// What precedes the part that is written by this test.
const MARK: &str = "<!-- What follows is written from the program's own help. -->\n";

fn reference() -> String {
    let root = Cli::command();
    let mut index = String::from("| command | does |\n|---|---|\n");
    let mut pages = String::new();
    add(&root, "lb", &mut index, &mut pages);
    format!("{MARK}\n{index}{pages}")
}

/// A command and those below it.
fn add(command: &Command, name: &str, index: &mut String, pages: &mut String) {
    let mut own = command
        .clone()
        .bin_name(name)
        .term_width(100)
        .disable_help_subcommand(true)
        .mut_args(|argument| argument.hide_env_values(true));
    let help = own.render_long_help().to_string();
    let help: String = help
        .lines()
        .map(|l| format!("{}\n", l.trim_end()))
        .collect();
    *pages += &format!("\n## `{name}`\n\n```text\n{}\n```\n", help.trim_end());
    if !command.has_subcommands() {
        let about = command.get_about().map(ToString::to_string);
        let link: String = name
            .chars()
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        *index += &format!("| [`{name}`](#{link}) | {} |\n", about.unwrap_or_default());
    }
    for below in command.get_subcommands() {
        if below.get_name() != "help" {
            add(below, &format!("{name} {}", below.get_name()), index, pages);
        }
    }
}

#[test]
fn the_page_of_the_command_line_says_what_help_says() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (by_hand, written) = page.split_once(MARK).expect("the mark in docs/cli.md");
    let expected = reference();
    if std::env::var_os("LB_WRITE_DOCS").is_some() {
        std::fs::write(PAGE, format!("{by_hand}{expected}")).unwrap();
        return;
    }
    let written = format!("{MARK}{written}");
    for (is, should) in written.lines().zip(expected.lines()) {
        assert_eq!(
            is, should,
            "LB_WRITE_DOCS=1 cargo test -p lb-userspace reference"
        );
    }
    assert_eq!(written.len(), expected.len());
}

#[test]
fn every_command_and_option_is_described() {
    fn check(command: &Command, name: &str) {
        assert!(command.get_about().is_some(), "{name}");
        for argument in command.get_arguments() {
            let told = argument.get_help().is_some();
            assert!(told, "{name}: {}", argument.get_id());
        }
        for below in command.get_subcommands() {
            check(below, &format!("{name} {}", below.get_name()));
        }
    }
    check(&Cli::command(), "lb");
}
