//! The table that maps the integration guide to tests names tests that exist.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

/// Every Rust file below `folder`.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// What stands in backquotes in the last column and names a test.
fn named(row: &str) -> Vec<(&str, &str)> {
    let last = row.trim_end_matches('|').rsplit('|').next().unwrap_or("");
    last.split('`')
        .filter_map(|word| word.split_once(".rs::"))
        .collect()
}

#[test]
fn every_line_of_the_guide_names_tests_that_exist() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let guide = fs::read_to_string(root.join("docs/guide.md"))?;
    let mut files = Vec::new();
    for folder in ["lb-userspace/src", "tests/tests", "tests/src"] {
        sources(&root.join(folder), &mut files)?;
    }
    let mut lines = 0;
    for (number, row) in guide.lines().enumerate() {
        let is_row = row.starts_with("| ") && !row.starts_with("| guide |");
        if !is_row {
            continue;
        }
        let tests = named(row);
        ensure!(!tests.is_empty(), "line {}: no test in {row}", number + 1);
        for (file, function) in tests {
            let path = format!("/{file}.rs");
            let mut homes = files.iter().filter(|home| {
                let home = home.to_string_lossy();
                home.ends_with(&path)
            });
            let wanted = [format!("fn {function}("), format!("fn {function}<")];
            let exists = homes.any(|home| {
                fs::read_to_string(home)
                    .is_ok_and(|text| wanted.iter().any(|declared| text.contains(declared)))
            });
            ensure!(exists, "line {}: no test {file}.rs::{function}", number + 1);
            lines += 1;
        }
    }
    ensure!(lines >= 50, "{lines} tests are named: is the table read?");
    Ok(())
}
