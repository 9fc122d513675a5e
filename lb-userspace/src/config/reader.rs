//! Interpreting the tree: one pass that collects every fault and lists every setting.
//!
//! A setting is asked for by key, with the form that it must have and what holds when it is not
//! set. Asking is what makes a key known: what a table holds beyond that was misspelt. A value
//! that is wrong is reported and replaced by what holds without it, so that the pass goes on.
//!
//! The same pass over an empty tree describes what may stand there: see [`mod@super::schema`].

use super::{
    Fault, KeyPath, Origin, Setting,
    document::{self, HIDDEN},
    forms::{Form, Refused},
    origin::Sourced,
    schema::{ANY_NAME, Shape},
    tree::{EMPTY, Node, Table, Value},
};

/// What a pass has found.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) faults: Vec<Fault>,
    pub(super) settings: Vec<Setting>,
    /// Whether the pass is made to describe the tree, not to read one.
    describes: bool,
    /// What may stand in the tree, after a pass that describes.
    pub(super) shape: Option<Shape>,
    /// What a document has to know of the values.
    pub(super) values: document::Found,
}

/// The keys and values of a table whose keys are settings too.
pub(super) type Entries<K, V> = Vec<(Sourced<<K as Form>::Value>, Sourced<<V as Form>::Value>)>;

/// A table at hand.
#[derive(Debug)]
pub(super) struct Section<'r, 't> {
    reader: &'r mut Reader,
    path: KeyPath,
    origin: Origin,
    table: &'t Table,
    known: Vec<&'static str>,
    /// What may stand here, while the pass describes.
    shape: Option<Shape>,
}

impl Reader {
    /// A reader that describes what it is asked for.
    pub(super) fn describing() -> Self {
        Self {
            describes: true,
            ..Self::default()
        }
    }

    /// Reads the whole tree with `read`.
    pub(super) fn root<'t, T>(
        &mut self,
        table: &'t Table,
        read: impl FnOnce(&mut Section<'_, 't>) -> T,
    ) -> T {
        let (result, shape) = Section::read(self, KeyPath::default(), Origin::Default, table, read);
        self.shape = shape;
        result
    }

    /// Reports that `wrong` contradicts something else.
    pub(super) fn contradiction<T>(
        &mut self,
        wrong: &Sourced<T>,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) {
        self.faults.push(Fault {
            path: wrong.path.clone(),
            origin: wrong.origin.clone(),
            expected: expected.into(),
            example: None,
            found: Some(found.into()),
            note: None,
        });
    }
}

impl<'t> Section<'_, 't> {
    fn read<T>(
        reader: &mut Reader,
        path: KeyPath,
        origin: Origin,
        table: &'t Table,
        read: impl FnOnce(&mut Section<'_, 't>) -> T,
    ) -> (T, Option<Shape>) {
        let mut section = Section {
            shape: reader.describes.then(Shape::default),
            reader,
            path,
            origin,
            table,
            known: Vec::new(),
        };
        let result = read(&mut section);
        section.refuse_unknown();
        (result, section.shape)
    }

    fn refuse_unknown(&mut self) {
        for (key, node) in self.table {
            if self.known.contains(&key.as_str()) {
                continue;
            }
            let mut names = self.known.clone();
            names.sort_unstable();
            let expected = match &*self.path.to_string() {
                "" => format!("one of the sections {}", names.join(", ")),
                path => format!("one of the keys of {path}: {}", names.join(", ")),
            };
            self.reader.faults.push(Fault {
                path: self.path.key(key),
                origin: node.key.clone(),
                expected,
                example: None,
                found: Some(Node::text(key, Origin::Default).show()),
                note: closest(key, &names).map(|name| format!("did you mean {name:?}?")),
            });
        }
    }

    /// The table's own place.
    pub(super) const fn path(&self) -> &KeyPath {
        &self.path
    }

    pub(super) const fn reader(&mut self) -> &mut Reader {
        self.reader
    }

    /// The table itself, for faults that concern it as a whole.
    pub(super) fn itself(&self) -> Sourced<()> {
        Sourced {
            value: (),
            path: self.path.clone(),
            origin: self.origin.clone(),
        }
    }

    /// Whether the key is set here, rightly or wrongly.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Says for a description that one of `keys` must be there; the caller sees to it.
    pub(super) fn one_of(&mut self, keys: &[&str]) {
        if let Some(shape) = &mut self.shape {
            shape.one_of(keys);
        }
    }

    fn get(&mut self, key: &'static str) -> Option<&'t Node> {
        self.known.push(key);
        self.table.get(key)
    }

    /// A setting that holds as `otherwise` says when it is not set.
    pub(super) fn value<F: Form>(
        &mut self,
        key: &'static str,
        form: &F,
        otherwise: &Sourced<F::Value>,
    ) -> Sourced<F::Value> {
        let path = self.path.key(key);
        if let Some(shape) = &mut self.shape {
            shape.setting(&path, key, form, Some(&form.show(&otherwise.value)));
        }
        let read = self.get(key).and_then(|node| self.parse(form, node, &path));
        let value = read.unwrap_or_else(|| Sourced {
            path: path.clone(),
            ..otherwise.clone()
        });
        self.list_setting(&value, form.show(&value.value));
        value
    }

    /// A setting that may be unset; `absent` says what holds then.
    pub(super) fn optional<F: Form>(
        &mut self,
        key: &'static str,
        form: &F,
        otherwise: &Sourced<Option<F::Value>>,
        absent: &str,
    ) -> Sourced<Option<F::Value>> {
        let path = self.path.key(key);
        if let Some(shape) = &mut self.shape {
            shape.setting(&path, key, form, None);
        }
        let read = self.get(key).and_then(|node| self.parse(form, node, &path));
        let value = read.map_or_else(
            || Sourced {
                path: path.clone(),
                ..otherwise.clone()
            },
            |read| Sourced {
                value: Some(read.value),
                path: path.clone(),
                origin: read.origin,
            },
        );
        let shown = value.value.as_ref().map(|value| form.show(value));
        self.list_setting(&value, shown.unwrap_or_else(|| absent.to_owned()));
        value
    }

    /// A setting that must be set; `None` after a fault.
    pub(super) fn required<F: Form>(
        &mut self,
        key: &'static str,
        form: &F,
    ) -> Option<Sourced<F::Value>> {
        let path = self.path.key(key);
        if let Some(shape) = &mut self.shape {
            shape.setting(&path, key, form, None);
            shape.require(key);
        }
        let Some(node) = self.get(key) else {
            self.missing(path, form.expected(), form.example());
            return None;
        };
        let value = self.parse(form, node, &path)?;
        self.list_setting(&value, form.show(&value.value));
        Some(value)
    }

    /// Reports that a key is missing here.
    pub(super) fn missing(&mut self, path: KeyPath, expected: String, example: String) {
        self.reader.faults.push(Fault {
            path,
            origin: self.origin.clone(),
            expected,
            example: Some(example),
            found: None,
            note: None,
        });
    }

    /// A list of settings of one form; a single value stands for a list of one.
    pub(super) fn list<F: Form>(
        &mut self,
        key: &'static str,
        form: &F,
        otherwise: &[F::Value],
    ) -> Vec<Sourced<F::Value>> {
        let path = self.path.key(key);
        let (origin, values): (_, Vec<_>) = match self.get(key) {
            None => {
                let values = otherwise.iter().enumerate().map(|(index, value)| Sourced {
                    path: path.index(index),
                    ..Sourced::unset(value.clone())
                });
                (Origin::Default, values.collect())
            }
            Some(node) => {
                let items = match &node.value {
                    Value::List(items) => items.as_slice(),
                    _ => std::slice::from_ref(node),
                };
                let values = items.iter().enumerate();
                let values = values
                    .filter_map(|(index, item)| self.parse(form, item, &path.index(index)))
                    .collect();
                (node.origin.clone(), values)
            }
        };
        let shown: Vec<_> = values.iter().map(|value| form.show(&value.value)).collect();
        let shown = format!("[{}]", shown.join(", "));
        if let Some(shape) = &mut self.shape {
            shape.list(&path, key, form, &shown);
        }
        self.reader.settings.push(Setting {
            path,
            value: shown,
            origin,
        });
        values
    }

    /// A table whose keys are of one form, and whose values of another. It is one setting.
    pub(super) fn map<K: Form, V: Form>(
        &mut self,
        key: &'static str,
        keys: &K,
        values: &V,
    ) -> Entries<K, V> {
        let path = self.path.key(key);
        if let Some(shape) = &mut self.shape {
            shape.map(&path, key, keys, values);
        }
        let (origin, table) = match self.get(key) {
            None => (Origin::Default, &EMPTY),
            Some(node) => (node.origin.clone(), self.expect_table(node, &path)),
        };
        let mut entries = Vec::new();
        for (name, node) in table {
            let path = path.key(name);
            let name = Node::text(name, node.key.clone());
            let (name, value) = (
                self.parse(keys, &name, &path),
                self.parse(values, node, &path),
            );
            entries.extend(name.zip(value));
        }
        let shown: Vec<_> = entries
            .iter()
            .map(|(name, value)| {
                format!("{} = {}", keys.show(&name.value), values.show(&value.value))
            })
            .collect();
        self.reader.settings.push(Setting {
            path,
            value: match shown.as_slice() {
                [] => "{}".to_owned(),
                shown => format!("{{ {} }}", shown.join(", ")),
            },
            origin,
        });
        entries
    }

    /// A table below; read as an empty one when it is not there.
    pub(super) fn table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'_, 't>) -> T,
    ) -> T {
        let path = self.path.key(key);
        let (origin, table) = match self.get(key) {
            None => (self.origin.clone(), &EMPTY),
            Some(node) => (node.origin.clone(), self.expect_table(node, &path)),
        };
        let (result, below) = Section::read(self.reader, path, origin, table, read);
        self.note(below, |shape, below| shape.table(key, below));
        result
    }

    /// Notes for a description what may stand below.
    fn note(&mut self, below: Option<Shape>, how: impl FnOnce(&mut Shape, Shape)) {
        if let Some((shape, below)) = self.shape.as_mut().zip(below) {
            how(shape, below);
        }
    }

    /// Describes one of the tables below, whatever its place is called.
    fn describe<T>(
        &mut self,
        path: KeyPath,
        read: impl FnOnce(&mut Section<'_, 't>) -> T,
    ) -> Option<Shape> {
        let origin = self.origin.clone();
        self.shape.as_ref()?;
        Section::read(self.reader, path, origin, &EMPTY, read).1
    }

    /// A table of tables, each with its key.
    pub(super) fn named<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'_, 't>, &Sourced<String>) -> Option<T>,
    ) -> Vec<T> {
        let path = self.path.key(key);
        let any = Sourced {
            path: path.key(ANY_NAME),
            ..Sourced::unset(ANY_NAME.to_owned())
        };
        let below = self.describe(any.path.clone(), |t| read(t, &any));
        self.note(below, |shape, below| shape.named(key, below));
        let Some(node) = self.get(key) else {
            return Vec::new();
        };
        let mut results = Vec::new();
        for (name, node) in self.expect_table(node, &path) {
            let name = Sourced {
                value: name.clone(),
                path: path.key(name),
                origin: node.key.clone(),
            };
            let table = self.expect_table(node, &name.path);
            let origin = node.origin.clone();
            let path = name.path.clone();
            let (result, _) = Section::read(self.reader, path, origin, table, |section| {
                read(section, &name)
            });
            results.extend(result);
        }
        results
    }

    /// A list of tables. Where `short` is given, a value that is no table stands for a table with
    /// this one key.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        short: Option<&'static str>,
        mut read: impl FnMut(&mut Section<'_, '_>) -> Option<T>,
    ) -> Vec<T> {
        let path = self.path.key(key);
        let below = self.describe(path.index(0), |t| read(t));
        self.note(below, |shape, below| shape.tables(key, short, below));
        let Some(node) = self.get(key) else {
            return Vec::new();
        };
        let Value::List(items) = &node.value else {
            self.reader.faults.push(Fault {
                path,
                origin: node.origin.clone(),
                expected: "a list".to_owned(),
                example: None,
                found: Some(node.show()),
                note: None,
            });
            return Vec::new();
        };
        let mut results = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = path.index(index);
            let origin = item.origin.clone();
            let read = |section: &mut Section<'_, '_>| read(section);
            results.extend(match (&item.value, short) {
                (Value::Table(_), _) | (_, None) => {
                    let table = self.expect_table(item, &path);
                    Section::read(self.reader, path, origin, table, read).0
                }
                (_, Some(short)) => {
                    let table = Table::from([(short.to_owned(), item.clone())]);
                    Section::read(self.reader, path, origin, &table, read).0
                }
            });
        }
        results
    }

    /// A table, or a list of such tables.
    pub(super) fn one_or_more(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'_, '_>) -> Option<()>,
    ) {
        let is_table = |node: &Node| matches!(node.value, Value::Table(_));
        if self.shape.is_some() {
            self.known.push(key);
            let below = self.describe(self.path.key(key), |t| read(t));
            self.note(below, |shape, below| shape.one_or_more(key, below));
        } else if self.table.get(key).is_some_and(is_table) {
            self.table(key, |t| read(t));
        } else {
            self.tables(key, None, read);
        }
    }

    fn expect_table(&mut self, node: &'t Node, path: &KeyPath) -> &'t Table {
        if let Value::Table(table) = &node.value {
            return table;
        }
        self.reader.faults.push(Fault {
            path: path.clone(),
            origin: node.origin.clone(),
            expected: "a table".to_owned(),
            example: None,
            found: Some(node.show()),
            note: None,
        });
        &EMPTY
    }

    fn parse<F: Form>(
        &mut self,
        form: &F,
        node: &Node,
        path: &KeyPath,
    ) -> Option<Sourced<F::Value>> {
        let hidden = form.is_secret() && node.as_text() == Some(HIDDEN);
        let parsed = if hidden {
            let note = "it stands for a secret that is not shown, and none is set here";
            Err(Refused::because(note))
        } else {
            form.parse(node)
        };
        let values = &mut self.reader.values;
        if form.is_secret() {
            values.hidden.insert(path.clone());
        } else if let (Ok(value), true) = (&parsed, node.origin.is_untyped()) {
            values.typed.insert(path.clone(), form.show(value));
        }
        match parsed {
            Ok(value) => Some(Sourced {
                value,
                path: path.clone(),
                origin: node.origin.clone(),
            }),
            Err(note) => {
                self.reader.faults.push(Fault {
                    path: path.clone(),
                    origin: node.origin.clone(),
                    expected: form.expected(),
                    example: Some(form.example()),
                    found: Some(form.show_found(node)),
                    note: note.0,
                });
                None
            }
        }
    }

    fn list_setting<T>(&mut self, value: &Sourced<T>, shown: String) {
        self.reader.settings.push(Setting {
            path: value.path.clone(),
            value: shown,
            origin: value.origin.clone(),
        });
    }
}

/// The name that `found` was most likely meant to be: a few letters away, or one that it begins
/// with or that begins with it.
pub(super) fn closest<'n>(found: &str, names: &[&'n str]) -> Option<&'n str> {
    let found = found.to_lowercase();
    let distance = |name: &str| {
        let name = name.to_lowercase();
        let shorter = found.len().min(name.len());
        if shorter >= 3 && (found.starts_with(&name) || name.starts_with(&found)) {
            return 1;
        }
        strsim::damerau_levenshtein(&found, &name)
    };
    names
        .iter()
        .map(|name| (distance(name), *name))
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .map(|(_, name)| name)
}
