//! Checks that links within the documentation lead somewhere: to a file that is there, and in it to a
//! heading.
//!
//! Headings are renamed more often than links to them are looked for, and a link that leads nowhere
//! looks like any other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Folders that hold pages; those of the root are pages as well.
const FOLDERS: [&str; 2] = ["", "docs"];

/// Checks all pages; an error lists every link that leads nowhere.
pub(crate) fn check() -> Result<()> {
    let root = workspace::root();
    let mut pages = BTreeMap::new();
    for folder in FOLDERS {
        for entry in fs::read_dir(root.join(folder))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                pages.insert(path, text);
            }
        }
    }
    let lost = lost(&pages, Path::exists);
    if lost.is_empty() {
        return Ok(());
    }
    bail!("links that lead nowhere:\n{}", lost.join("\n"))
}

/// Links of `pages` that lead nowhere, each with its place. `exists` says of other files whether they
/// are there.
fn lost(pages: &BTreeMap<PathBuf, String>, exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let anchors: BTreeMap<&PathBuf, BTreeSet<String>> = (pages.iter())
        .map(|(path, text)| (path, anchors(text)))
        .collect();
    let mut lost = Vec::new();
    for (page, text) in pages {
        for (line, link) in links(text) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => resolve(page, file),
            };
            let expected = match anchors.get(&target) {
                Some(known) if anchor.is_empty() || known.contains(anchor) => continue,
                Some(_) => format!("a heading for #{anchor} in {}", target.display()),
                None if exists(&target) => continue,
                None => format!("a file {}", target.display()),
            };
            let page = page.display();
            lost.push(format!(
                "  {page}:{line}: expected {expected}, found none: ({link})"
            ));
        }
    }
    lost
}

/// The file that `page` means by a relative path.
fn resolve(page: &Path, file: &str) -> PathBuf {
    let mut target = page.to_owned();
    target.pop();
    for part in file.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(target.pop()),
            part => target.push(part),
        }
    }
    target
}

/// Lines of a page with their numbers, without blocks of code.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

/// The targets of a page's links to files and headings, with the lines that they are in.
fn links(text: &str) -> impl Iterator<Item = (usize, &str)> {
    prose(text).flat_map(|(number, line)| {
        let starts = line.match_indices("](").map(|(start, _)| start);
        // What is between backquotes is no link.
        let starts = starts.filter(|start| line[..*start].matches('`').count() % 2 == 0);
        let targets = starts.filter_map(|start| line[start + 2..].split(')').next());
        let inner = targets.filter(|target| !target.contains(':'));
        inner.map(move |target| (number, target))
    })
}

/// What links may name of a page: its headings, in the form that GitHub gives them. The second
/// heading of a name gets a number.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter(|(_, line)| line.starts_with('#'));
    let mut anchors = BTreeSet::new();
    for (_, heading) in headings {
        let plain = anchor(heading.trim_start_matches('#').trim());
        let again = (1..).map(|number| format!("{plain}-{number}"));
        let mut names = std::iter::once(plain.clone()).chain(again);
        anchors.extend(names.find(|name| !anchors.contains(name)));
    }
    anchors
}

/// A heading in the form of links.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let kept = heading.chars().filter(kept);
    kept.flat_map(char::to_lowercase)
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# One, `two` & three\n\
                        ## `[services.NAME]`\n\
                        ## Twice\n## Twice\n\
                        ```sh\n# no heading [nor](link.md)\n```\n\
                        [a](#twice-1) `[no](link.md)` [b](https://example.org/#x)\n";

    fn pages(other: &str) -> BTreeMap<PathBuf, String> {
        let page = |path: &str, text: &str| (PathBuf::from(path), text.to_owned());
        [page("/r/README.md", PAGE), page("/r/docs/a.md", other)].into()
    }

    #[test]
    fn headings_have_the_names_that_links_give_them() {
        let found: Vec<String> = anchors(PAGE).into_iter().collect();
        assert_eq!(
            found,
            ["one-two--three", "servicesname", "twice", "twice-1"]
        );
    }

    #[test]
    fn links_lead_to_files_and_headings_that_are_there() {
        let exists = |path: &Path| path == Path::new("/r/examples/lb.toml");
        let good = "[x](../README.md#twice) [y](../README.md) [z](../examples/lb.toml)";
        assert_eq!(lost(&pages(good), exists), [""; 0]);
        let bad = "one\n[x](../README.md#thrice), [y](b.md)\n[z](#nothing)";
        assert_eq!(
            lost(&pages(bad), exists),
            [
                "  /r/docs/a.md:2: expected a heading for #thrice in /r/README.md, found none: \
                 (../README.md#thrice)",
                "  /r/docs/a.md:2: expected a file /r/docs/b.md, found none: (b.md)",
                "  /r/docs/a.md:3: expected a heading for #nothing in /r/docs/a.md, found none: \
                 (#nothing)"
            ]
        );
    }

    #[test]
    fn all_links_of_the_documentation_lead_somewhere() {
        check().unwrap();
    }
}
