//! Enough of Rust's grammar to tell names from comments and literals.

/// A piece of source text that matters for paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    Name(&'a str),
    /// `::`
    PathSeparator,
    /// Any other single character.
    Other(char),
}

/// A token and the line it stands on, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind<'a>,
    pub(super) line: usize,
}

/// Splits source text into tokens; comments, strings, characters and white space are left out.
pub(super) fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut lexer = Lexer {
        source,
        at: 0,
        line: 1,
    };
    let mut found = Vec::new();
    while let Some(c) = lexer.peek() {
        let line = lexer.line;
        if let Some(kind) = lexer.token(c) {
            found.push(Token { kind, line });
        }
    }
    found
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Steps over `bytes` bytes, which end at a character's boundary.
    fn skip(&mut self, bytes: usize) {
        let passed = &self.rest()[..bytes];
        self.line += passed.matches('\n').count();
        self.at += bytes;
    }

    /// Steps over everything up to and including `end`, or to the end of the text.
    fn skip_past(&mut self, end: &str) {
        let rest = self.rest();
        self.skip(rest.find(end).map_or(rest.len(), |start| start + end.len()));
    }

    fn token(&mut self, c: char) -> Option<Kind<'a>> {
        let rest = self.rest();
        if rest.starts_with("//") {
            self.skip_past("\n");
            return None;
        }
        if rest.starts_with("/*") {
            self.skip_comment();
            return None;
        }
        if let Some(hashes) = raw_string(rest) {
            let open = rest.find('"').map_or(rest.len(), |quote| quote + 1);
            self.skip(open);
            self.skip_past(&format!("\"{}", "#".repeat(hashes)));
            return None;
        }
        if c == '"' || rest.starts_with("b\"") || rest.starts_with("c\"") {
            self.skip_string();
            return None;
        }
        if c == '\'' {
            self.skip_quote();
            return None;
        }
        if c.is_alphanumeric() || c == '_' {
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            self.skip(end);
            return Some(Kind::Name(&rest[..end]));
        }
        if rest.starts_with("::") {
            self.skip(2);
            return Some(Kind::PathSeparator);
        }
        self.skip(c.len_utf8());
        (!c.is_whitespace()).then_some(Kind::Other(c))
    }

    /// Block comments nest.
    fn skip_comment(&mut self) {
        let mut depth = 0_usize;
        while !self.rest().is_empty() {
            if self.rest().starts_with("/*") {
                depth += 1;
                self.skip(2);
            } else if self.rest().starts_with("*/") {
                depth -= 1;
                self.skip(2);
                if depth == 0 {
                    return;
                }
            } else {
                self.skip(self.peek().map_or(1, char::len_utf8));
            }
        }
    }

    fn skip_string(&mut self) {
        let rest = self.rest();
        let open = rest.find('"').unwrap_or(0);
        let mut escaped = false;
        for (index, c) in rest.char_indices().skip(open + 1) {
            if escaped {
                escaped = false;
            } else if c == '\\' {
                escaped = true;
            } else if c == '"' {
                self.skip(index + 1);
                return;
            }
        }
        self.skip(rest.len());
    }

    /// A quote begins either a character or a lifetime; a lifetime is only stepped into.
    fn skip_quote(&mut self) {
        let mut characters = self.rest().char_indices().skip(1);
        match (characters.next(), characters.next()) {
            (Some((_, '\\')), Some((escaped, c))) => {
                self.skip(escaped + c.len_utf8());
                self.skip_past("'");
            }
            (Some(_), Some((close, '\''))) => self.skip(close + 1),
            _ => self.skip(1),
        }
    }
}

/// The number of `#` of a raw string that begins here, if one does.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest
        .strip_prefix('r')
        .or_else(|| rest.strip_prefix("br"))
        .or_else(|| rest.strip_prefix("cr"))?;
    let hashes = after.bytes().take_while(|byte| *byte == b'#').count();
    after[hashes..].starts_with('"').then_some(hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(source: &str) -> Vec<&str> {
        tokens(source)
            .into_iter()
            .filter_map(|token| match token.kind {
                Kind::Name(name) => Some(name),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn comments_and_literals_hold_no_names() {
        assert_eq!(names("a // b\nc"), ["a", "c"]);
        assert_eq!(names("a /* b /* c */ d */ e"), ["a", "e"]);
        assert_eq!(names(r#"a "b \" c" d"#), ["a", "d"]);
        assert_eq!(names("a r#\"b \" c\"# d"), ["a", "d"]);
        assert_eq!(names("a 'b' '\\'' '\\n' '\u{e9}' d"), ["a", "d"]);
    }

    #[test]
    fn a_lifetime_does_not_swallow_what_follows() {
        assert_eq!(
            names("fn f<'a>(x: &'a str) {}"),
            ["fn", "f", "a", "x", "a", "str"]
        );
    }

    #[test]
    fn lines_are_counted_through_comments_and_strings() {
        let found = tokens("/*\n\n*/ a \"\n\" b");
        assert_eq!(
            found.iter().map(|token| token.line).collect::<Vec<_>>(),
            [3, 4]
        );
    }
}
