//! `[datapath.acl]`, and the files of prefixes that it names.
//!
//! A file has one prefix in a line, as lists of others do: `192.0.2.0/24`, which denies it, or
//! with a word before it that says what it means. What follows `#` or `;` is for people.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Fault, Faults, KeyPath, Origin, file,
    forms::{Choice, Form as _, Pattern, Refused},
    reader::Section,
    values::FILE,
};
use crate::model::{AclAction, AclList, AclSpec, IpPrefix};

const ACTION: Choice<AclAction> = Choice {
    choices: &[AclAction::Deny, AclAction::Allow],
    name: AclAction::as_str,
};

const PREFIX: Pattern<IpPrefix> = Pattern {
    expected: "an address or a range of addresses without bits beyond its length",
    example: "192.0.2.0/24",
    numbers: false,
    secret: false,
    parse: |text| {
        let prefix: IpPrefix = text.parse().map_err(|_| Refused::default())?;
        match prefix.address() {
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() && prefix.length() >= 96 => {
                Err(Refused::because("IPv4 is written as IPv4"))
            }
            _ => Ok(prefix),
        }
    },
    show: ToString::to_string,
};

const LIST: Pattern<PathBuf> = Pattern {
    example: "/etc/lb/deny.txt",
    ..FILE
};

/// The most prefixes of one file, and of all that a configuration names.
const MOST: usize = 1_000_000;

/// Faults of one file that are told; a file that is something else has one in each line.
const TOLD: usize = 100;

/// Reads `[datapath.acl]`.
pub(super) fn read(t: &mut Section<'_, '_>) -> AclSpec {
    let rules = t.map("rules", &PREFIX, &ACTION);
    let files = t.list("files", &LIST, &[]);
    let mut spec = AclSpec::default();
    for (prefix, action) in rules {
        if spec.rules.insert(prefix.value, action.value).is_some() {
            let found = PREFIX.show(&prefix.value);
            t.reader()
                .contradiction(&prefix, found, "every prefix once");
        }
    }
    for file in files {
        if spec.files.contains(&file.value) {
            let found = format!("{:?}", file.value);
            t.reader().contradiction(&file, found, "every file once");
        } else {
            spec.files.push(file.value);
        }
    }
    spec
}

/// The prefix that a text means.
///
/// # Errors
/// What is expected, and what is worth knowing beyond that.
pub fn prefix(text: &str) -> Result<IpPrefix, (&'static str, Option<String>)> {
    (PREFIX.parse)(text).map_err(|Refused(note)| (PREFIX.expected, note))
}

/// Reads files of prefixes. Blocks on them.
///
/// # Errors
/// Every fault that was found in any of them, at once.
pub fn prefix_lists(files: &[PathBuf]) -> Result<Vec<AclList>, Faults> {
    let (mut lists, mut faults) = (Vec::new(), Vec::new());
    for mut read in read_all(files) {
        faults.append(&mut read.faults);
        lists.push(read.list());
    }
    Faults::check(faults)?;
    Ok(lists)
}

/// Reads files of prefixes that have been read `before`: of one that has faults now holds what it
/// said then. Blocks on them.
#[must_use]
pub fn prefix_lists_again(files: &[PathBuf], before: &[AclList]) -> Vec<AclList> {
    let lists = read_all(files).into_iter().map(|read| {
        if read.faults.is_empty() {
            return read.list();
        }
        let mut before = before.iter();
        let before = before.find(|before| before.file == read.file);
        AclList {
            rules: before.map_or_else(Arc::default, |before| Arc::clone(&before.rules)),
            faults: read.faults.iter().map(ToString::to_string).collect(),
            file: read.file,
        }
    });
    lists.collect()
}

/// Reads files, which must not contradict each other.
fn read_all(files: &[PathBuf]) -> Vec<Lines> {
    let mut known = BTreeMap::new();
    let lists = files.iter().map(|path| {
        let mut lines = Lines {
            file: path.as_path().into(),
            rules: BTreeMap::new(),
            faults: Vec::new(),
        };
        match file::read_text(path) {
            Ok(text) => lines.read(&text, &mut known),
            Err(fault) => lines.faults.push(fault),
        }
        if known.len() > MOST {
            let (origin, found) = (lines.origin(None), format!("{} of them", known.len()));
            let expected = format!("at most {MOST} prefixes in all files together");
            lines.faults.push(fault(origin, expected, found, None));
        }
        lines
    });
    lists.collect()
}

/// The lines of a file.
struct Lines {
    file: Arc<Path>,
    rules: BTreeMap<IpPrefix, AclAction>,
    faults: Vec<Fault>,
}

impl Lines {
    fn list(self) -> AclList {
        AclList {
            file: self.file,
            rules: Arc::new(self.rules),
            faults: Vec::new(),
        }
    }

    fn origin(&self, at: Option<(usize, usize)>) -> Origin {
        let file = Arc::clone(&self.file);
        Origin::File { file, at }
    }

    /// Reads all lines; `known` is what files say of prefixes, and where.
    fn read(&mut self, text: &str, known: &mut BTreeMap<IpPrefix, (AclAction, Origin)>) {
        let mut untold = 0;
        for (number, line) in (1..).zip(text.lines()) {
            let said = line.split(['#', ';']).next().unwrap_or_default();
            let Some(column) = said.find(|letter: char| !letter.is_whitespace()) else {
                continue;
            };
            let origin = self.origin(Some((number, said[..column].chars().count() + 1)));
            let fault = match rule(said.trim()) {
                Ok((prefix, action)) => match known.entry(prefix) {
                    Entry::Occupied(other) if other.get().0 != action => {
                        let (said, place) = other.get();
                        let expected =
                            format!("one word on {prefix}, but {place} has {:?}", said.as_str());
                        fault(origin, expected, said_of(line), None)
                    }
                    entry => {
                        entry.or_insert((action, origin));
                        self.rules.insert(prefix, action);
                        continue;
                    }
                },
                Err(note) => {
                    let expected =
                        format!("{}, alone or after \"deny\" or \"allow\"", PREFIX.expected);
                    Fault {
                        example: Some(PREFIX.example.to_owned()),
                        ..fault(origin, expected, said_of(line), note)
                    }
                }
            };
            if self.faults.len() < TOLD {
                self.faults.push(fault);
            } else {
                untold += 1;
            }
        }
        if untold > 0
            && let Some(last) = self.faults.last_mut()
        {
            last.note = Some(format!("and {untold} more lines of this file have faults"));
        }
    }
}

/// The rule of a line that says something.
fn rule(said: &str) -> Result<(IpPrefix, AclAction), Option<String>> {
    let (action, text) = match said.split_once(char::is_whitespace) {
        Some(("allow", text)) => (AclAction::Allow, text.trim()),
        Some(("deny", text)) => (AclAction::Deny, text.trim()),
        _ => (AclAction::Deny, said),
    };
    let prefix = prefix(text).map_err(|(_, note)| note)?;
    Ok((prefix, action))
}

fn said_of(line: &str) -> String {
    let line: String = line.trim().chars().take(80).collect();
    format!("{line:?}")
}

const fn fault(origin: Origin, expected: String, found: String, note: Option<String>) -> Fault {
    Fault {
        path: KeyPath::root(),
        origin,
        expected,
        example: None,
        found: Some(found),
        note,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(texts: &[&str]) -> Result<Vec<AclList>, Faults> {
        let folder = tempfile::tempdir().unwrap();
        let files = texts.iter().enumerate().map(|(number, text)| {
            let path = folder.path().join(format!("{number}.txt"));
            fs::write(&path, text).unwrap();
            path
        });
        let files: Vec<PathBuf> = files.collect();
        prefix_lists(&files)
    }

    fn shown(list: &AclList) -> Vec<String> {
        let rules = list.rules.iter();
        rules
            .map(|(prefix, action)| format!("{} {prefix}", action.as_str()))
            .collect()
    }

    #[test]
    fn lines_are_prefixes_with_or_without_a_word() {
        let text = "# a list\n192.0.2.0/24\n\n  198.51.100.7 ; one host\nallow 192.0.2.7\n\
                    deny\t2001:db8::/32 # documentation\r\n192.0.2.0/24\n";
        let lists = read(&[text, "192.0.2.0/24"]).unwrap();
        assert_eq!(
            shown(&lists[0]),
            [
                "deny 192.0.2.0/24",
                "allow 192.0.2.7/32",
                "deny 198.51.100.7/32",
                "deny 2001:db8::/32"
            ]
        );
        assert_eq!(shown(&lists[1]), ["deny 192.0.2.0/24"]);
    }

    #[test]
    fn all_faults_of_all_files_are_told_at_once() {
        let faults = read(&[
            "192.0.2.1/24\nrefuse 192.0.2.0/24\n  300.0.0.1",
            "203.0.113.0/24\nallow 203.0.113.0/24\n::ffff:10.0.0.1",
        ]);
        let text = faults.unwrap_err().to_string();
        for expected in [
            "0.txt:1:1: expected an address or a range of addresses without bits beyond its \
             length, alone or after \"deny\" or \"allow\", such as 192.0.2.0/24; found \
             \"192.0.2.1/24\"",
            "0.txt:2:1: expected an address",
            "0.txt:3:3: expected an address",
            "1.txt:2:1: expected one word on 203.0.113.0/24, but ",
            "1.txt:1:1 has \"deny\"; found \"allow 203.0.113.0/24\"",
            "found \"::ffff:10.0.0.1\" (IPv4 is written as IPv4)",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        let missing = prefix_lists(&[PathBuf::from("/nowhere/deny.txt")]);
        let text = missing.unwrap_err().to_string();
        assert!(
            text.contains("/nowhere/deny.txt: expected a readable file"),
            "{text}"
        );
    }

    #[test]
    fn a_file_that_is_something_else_is_not_told_line_by_line() {
        let text = "<html>\n".repeat(1000);
        let faults = read(&[&text]).unwrap_err();
        assert_eq!(faults.list().len(), TOLD);
        assert!(
            faults.to_string().contains("and 900 more lines"),
            "{faults}"
        );
    }
}
