//! TOML to a tree, every syntax error at once.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
    sync::Arc,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Fault, KeyPath, Origin,
    tree::{Node, Table, Value},
};

/// Largest file that is read: what is larger is no configuration.
const MAX_BYTES: u64 = 16 << 20;

/// What became of a file.
pub(super) struct Parsed {
    pub(super) table: Table,
    pub(super) faults: Vec<Fault>,
    /// Whether the table holds what the file says. After a syntax error it does not: recovery
    /// guesses, and faults in guesses would only hide the real one.
    pub(super) sound: bool,
}

impl Parsed {
    /// What stands for a file when there is none.
    pub(super) fn none() -> Self {
        Self {
            table: Table::new(),
            faults: Vec::new(),
            sound: true,
        }
    }
}

/// Reads and parses a file.
pub(super) fn read(path: &Path) -> Parsed {
    match read_text(path) {
        Ok(text) => parse(&text, path),
        Err(fault) => Parsed {
            table: Table::new(),
            faults: vec![fault],
            sound: false,
        },
    }
}

/// The text of a file, or why there is none.
#[expect(
    clippy::result_large_err,
    reason = "once a file, when the configuration is read"
)]
pub(super) fn read_text(path: &Path) -> Result<String, Fault> {
    let unreadable = |expected: &str, note: String| Fault {
        path: KeyPath::default(),
        origin: whole(path),
        expected: expected.to_owned(),
        example: None,
        found: None,
        note: Some(note),
    };
    let bytes =
        read_bytes(path).map_err(|error| unreadable("a readable file", error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..valid]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        Fault {
            found: Some("another encoding".to_owned()),
            ..unreadable("a file in UTF-8", format!("invalid byte in line {line}"))
        }
    })
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("larger than {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

/// Parses `text`; `path` is for messages.
pub(super) fn parse(text: &str, path: &Path) -> Parsed {
    let source = Source::new(text, path);
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut faults = Vec::new();
    let mut sound = true;
    for error in &errors {
        // The only error after which nothing had to be guessed: the first of both values stays.
        let duplicate = error.message() == "duplicate key";
        sound &= duplicate;
        let span = error.span().unwrap_or_default();
        let line = source.line_around(span.start);
        faults.push(Fault {
            path: KeyPath::default(),
            origin: source.origin(span.start),
            expected: if duplicate {
                "every key once".to_owned()
            } else {
                "valid TOML".to_owned()
            },
            example: None,
            found: Some(Node::text(line, Origin::Default).show()),
            note: Some(error.message().to_owned()),
        });
    }
    Parsed {
        table: source.table(document.get_ref()),
        faults,
        sound,
    }
}

/// The file as a whole.
fn whole(path: &Path) -> Origin {
    Origin::File {
        file: path.into(),
        at: None,
    }
}

/// A text and where its lines begin.
struct Source<'a> {
    text: &'a str,
    file: Arc<Path>,
    lines: Vec<usize>,
}

impl<'a> Source<'a> {
    fn new(text: &'a str, path: &Path) -> Self {
        let breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            text,
            file: path.into(),
            lines: std::iter::once(0).chain(breaks).collect(),
        }
    }

    fn origin(&self, offset: usize) -> Origin {
        let line = self.lines.partition_point(|start| *start <= offset).max(1);
        let before = self.text.get(self.lines[line - 1]..offset).unwrap_or("");
        Origin::File {
            file: Arc::clone(&self.file),
            at: Some((line, before.chars().count() + 1)),
        }
    }

    fn line_around(&self, offset: usize) -> &'a str {
        let line = self.lines.partition_point(|start| *start <= offset).max(1);
        let end = self.lines.get(line).copied().unwrap_or(self.text.len());
        self.text
            .get(self.lines[line - 1]..end)
            .unwrap_or("")
            .trim()
    }

    fn table(&self, table: &DeTable<'_>) -> Table {
        let mut nodes = Table::new();
        for (key, value) in table {
            let mut node = self.node(value);
            node.key = self.origin(key.span().start);
            nodes.insert(key.get_ref().clone().into_owned(), node);
        }
        nodes
    }

    fn node(&self, value: &Spanned<DeValue<'_>>) -> Node {
        let origin = self.origin(value.span().start);
        let value = match value.get_ref() {
            DeValue::String(text) => Value::Text(text.clone().into_owned()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| Value::Other(number.to_string()), Value::Integer),
            DeValue::Boolean(boolean) => Value::Boolean(*boolean),
            DeValue::Float(number) => Value::Other(number.to_string()),
            DeValue::Datetime(date) => Value::Other(date.to_string()),
            DeValue::Array(list) => Value::List(list.iter().map(|item| self.node(item)).collect()),
            DeValue::Table(table) => Value::Table(self.table(table)),
        };
        Node::new(value, origin)
    }
}
