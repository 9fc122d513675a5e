//! Every path that a source file names, made absolute.

use super::lexer::{Kind, Token, tokens};

/// A path as seen from the crate's root, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) path: Path,
    pub(super) line: usize,
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// Within this crate: the top-level module, or nothing for an item of the root.
    Own(Option<String>),
    /// Begins with a name that is neither `crate`, `self` nor `super`: another crate, or something
    /// already imported.
    Foreign(String),
}

/// All paths in the source of the module with this path from the root.
pub(super) fn named(source: &str, module: &[String]) -> Vec<Named> {
    let tokens = tokens(source);
    let mut reader = Reader {
        tokens: &tokens,
        at: 0,
        module: module.to_vec(),
        blocks: Vec::new(),
    };
    let mut found = Vec::new();
    while let Some(token) = reader.next() {
        match token.kind {
            // `use<'a>` says what a type captures.
            Kind::Name("use") if reader.kind(0) != Some(Kind::Other('<')) => {
                reader.use_tree(&mut Vec::new(), &mut found);
            }
            Kind::Name("mod") => reader.enter_module(),
            Kind::Other('{') => reader.blocks.push(false),
            Kind::Other('}') => reader.leave_block(),
            Kind::Name(first) if reader.begins_path() => {
                let path = reader.path_from(first);
                reader.add(&path, token.line, &mut found);
            }
            _ => {}
        }
    }
    found
}

struct Reader<'a> {
    tokens: &'a [Token<'a>],
    at: usize,
    module: Vec<String>,
    /// Open braces; true for those of a module.
    blocks: Vec<bool>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<Token<'a>> {
        let token = self.tokens.get(self.at).copied();
        self.at += 1;
        token
    }

    fn kind(&self, offset: usize) -> Option<Kind<'a>> {
        self.tokens.get(self.at + offset).map(|token| token.kind)
    }

    /// Whether the token just read is the first of a path with more than one part.
    fn begins_path(&self) -> bool {
        let before = |back| {
            self.at
                .checked_sub(back)
                .and_then(|index| self.tokens.get(index))
        };
        let separated = before(2).is_some_and(|token| token.kind == Kind::PathSeparator);
        // `::` after a name or a type goes on with a path; elsewhere it begins one.
        let continues = separated
            && before(3)
                .is_some_and(|token| matches!(token.kind, Kind::Name(_) | Kind::Other('>' | ')')));
        !continues && self.kind(0) == Some(Kind::PathSeparator)
    }

    fn path_from(&mut self, first: &'a str) -> Vec<&'a str> {
        let mut path = vec![first];
        while self.kind(0) == Some(Kind::PathSeparator) {
            let Some(Kind::Name(name)) = self.kind(1) else {
                break;
            };
            path.push(name);
            self.at += 2;
        }
        path
    }

    /// Reads the rest of `use …;`, or one branch of a group within it.
    fn use_tree(&mut self, prefix: &mut Vec<&'a str>, found: &mut Vec<Named>) {
        let length = prefix.len();
        let line = self.tokens.get(self.at).map_or(0, |token| token.line);
        let mut grouped = false;
        while let Some(kind) = self.kind(0) {
            match kind {
                Kind::Other(';') if length == 0 => break,
                Kind::Other(',' | '}' | ';') => break,
                Kind::Name("as") => self.at += 2,
                Kind::Name(name) => {
                    prefix.push(name);
                    self.at += 1;
                }
                Kind::Other('{') => {
                    grouped = true;
                    self.group(prefix, found);
                }
                Kind::PathSeparator | Kind::Other(_) => self.at += 1,
            }
        }
        if !grouped {
            self.add(&prefix.clone(), line, found);
        }
        prefix.truncate(length);
    }

    fn group(&mut self, prefix: &mut Vec<&'a str>, found: &mut Vec<Named>) {
        self.at += 1;
        while let Some(kind) = self.kind(0) {
            match kind {
                Kind::Other('}') => {
                    self.at += 1;
                    return;
                }
                Kind::Other(',') => self.at += 1,
                // No import goes beyond its semicolon.
                Kind::Other(';') => return,
                _ => self.use_tree(prefix, found),
            }
        }
    }

    fn enter_module(&mut self) {
        if let (Some(Kind::Name(name)), Some(Kind::Other('{'))) = (self.kind(0), self.kind(1)) {
            self.module.push(name.to_owned());
            self.blocks.push(true);
            self.at += 2;
        }
    }

    fn leave_block(&mut self) {
        if self.blocks.pop() == Some(true) {
            self.module.pop();
        }
    }

    fn add(&self, path: &[&str], line: usize, found: &mut Vec<Named>) {
        let Some((&first, mut rest)) = path.split_first() else {
            return;
        };
        let mut base: Vec<&str> = Vec::new();
        match first {
            "crate" => {}
            "self" | "super" => {
                base = self.module.iter().map(String::as_str).collect();
                if first == "super" {
                    base.pop();
                }
                while let Some((&"super", after)) = rest.split_first() {
                    base.pop();
                    rest = after;
                }
            }
            "Self" => return,
            foreign => {
                let path = Path::Foreign(foreign.to_owned());
                found.push(Named { path, line });
                return;
            }
        }
        let top = base.first().or(rest.first()).map(|name| (*name).to_owned());
        found.push(Named {
            path: Path::Own(top),
            line,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(source: &str, module: &[&str]) -> Vec<String> {
        let module: Vec<String> = module.iter().map(|name| (*name).to_owned()).collect();
        named(source, &module)
            .into_iter()
            .filter_map(|named| match named.path {
                Path::Own(top) => top,
                Path::Foreign(_) => None,
            })
            .collect()
    }

    fn foreign(source: &str) -> Vec<String> {
        named(source, &[])
            .into_iter()
            .filter_map(|named| match named.path {
                Path::Foreign(first) => Some(first),
                Path::Own(_) => None,
            })
            .collect()
    }

    #[test]
    fn imports_are_found_in_groups_and_inline() {
        assert_eq!(own("use crate::model::Weight;", &["l4"]), ["model"]);
        assert_eq!(
            own("use crate::{model::{A, B as C}, l7::*};", &["l4"]),
            ["model", "model", "l7"]
        );
        assert_eq!(
            own("fn f() { crate::registry::apply(); }", &["l4"]),
            ["registry"]
        );
        assert_eq!(
            own("pub(crate) use crate::api::X;", &["l4"])
                .last()
                .unwrap(),
            "api"
        );
    }

    #[test]
    fn relative_paths_are_made_absolute() {
        assert_eq!(own("use super::super::l7::X;", &["l4", "plan"]), ["l7"]);
        assert_eq!(own("use super::plan::X;", &["l4", "stats"]), ["l4"]);
        assert_eq!(
            own(
                "mod tests { use super::super::X; } use super::Y;",
                &["l4", "plan"]
            ),
            ["l4", "l4"]
        );
        assert_eq!(
            own(
                "fn f() { {} } mod t { use super::super::super::l7; }",
                &["l4", "a"]
            ),
            ["l7"]
        );
    }

    #[test]
    fn other_crates_are_named_by_their_first_part() {
        assert_eq!(foreign("use tokio::{net, sync};"), ["tokio", "tokio"]);
        assert_eq!(
            foreign("fn f(x: ::aya::Ebpf) { serde_json::to_string(); }"),
            ["aya", "serde_json"]
        );
        assert_eq!(foreign("use aya;"), ["aya"]);
    }

    #[test]
    fn what_a_type_captures_is_no_import() {
        let source = "fn f() -> impl Sized + use<> { a(); crate::l7::b() }";
        assert_eq!(own(source, &["l4"]), ["l7"]);
        // Not even broken code is read for ever.
        assert_eq!(own("use a::{b; }", &["l4"]), [""; 0]);
    }

    #[test]
    fn text_is_not_code() {
        assert!(own("// crate::l7::X\nconst A: &str = \"crate::l7\";", &["l4"]).is_empty());
    }
}
