//! Names of places in the configuration.

use std::fmt;

/// The way to a value, such as `services.web.instances[0].weight`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPath(Vec<Segment>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Segment {
    Key(String),
    Index(usize),
}

impl KeyPath {
    /// The document itself.
    #[must_use]
    pub(super) const fn root() -> Self {
        Self(Vec::new())
    }

    #[must_use]
    pub(super) fn key(&self, key: &str) -> Self {
        self.with(Segment::Key(key.to_owned()))
    }

    #[must_use]
    pub(super) fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    /// The same way, with `name` in the place of a number for which there is one. It is asked with
    /// the names so far and the number.
    pub(super) fn named(&self, mut name: impl FnMut(&[String], usize) -> Option<String>) -> Self {
        let mut so_far = Vec::new();
        let segments = self.0.iter().map(|segment| {
            let segment = match segment {
                Segment::Index(index) => match name(&so_far, *index) {
                    Some(name) => Segment::Key(name),
                    None => Segment::Index(*index),
                },
                key @ Segment::Key(_) => key.clone(),
            };
            so_far.push(match &segment {
                Segment::Key(key) => key.clone(),
                Segment::Index(index) => index.to_string(),
            });
            segment
        });
        Self(segments.collect())
    }

    /// The names and numbers on the way.
    pub fn segments(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|segment| match segment {
            Segment::Key(key) => key.clone(),
            Segment::Index(index) => index.to_string(),
        })
    }

    fn with(&self, segment: Segment) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment);
        Self(segments)
    }

    /// Whether this is the document itself.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The same as a JSON pointer (RFC 6901), such as `/services/web/instances/0/weight`.
    #[must_use]
    pub fn pointer(&self) -> String {
        let mut pointer = String::new();
        for segment in &self.0 {
            pointer.push('/');
            match segment {
                Segment::Key(key) => pointer += &key.replace('~', "~0").replace('/', "~1"),
                Segment::Index(index) => pointer += &index.to_string(),
            }
        }
        pointer
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) => {
                    if position > 0 {
                        f.write_str(".")?;
                    }
                    let bare = !key.is_empty()
                        && key
                            .bytes()
                            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
                    if bare {
                        f.write_str(key)?;
                    } else {
                        write!(f, "{key:?}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_as_in_toml_and_as_a_json_pointer() {
        let path = KeyPath::default().key("services").key("a/b~c");
        let path = path.key("instances").index(3).key("weight");
        assert_eq!(path.to_string(), r#"services."a/b~c".instances[3].weight"#);
        assert_eq!(path.pointer(), "/services/a~1b~0c/instances/3/weight");
        assert_eq!(KeyPath::default().pointer(), "");
    }
}
