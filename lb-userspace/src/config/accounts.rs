//! Names of users and groups, as the files of this host have them.
//!
//! Only `/etc/passwd` and `/etc/group` are asked: a directory service may take its time, and what
//! this is for (the owner of a socket, the name of whoever connects to it) is an account of the
//! host.

use std::fs;

/// The number of a user, by its name.
pub(super) fn user_id(name: &str) -> Option<u32> {
    id("/etc/passwd", name)
}

/// The number of a group, by its name.
pub(super) fn group_id(name: &str) -> Option<u32> {
    id("/etc/group", name)
}

/// The name of a user, by its number.
#[must_use]
pub fn user_name(id: u32) -> Option<String> {
    let text = fs::read_to_string("/etc/passwd").ok()?;
    let found = lines(&text).find(|(_, found)| *found == id)?;
    Some(found.0.to_owned())
}

fn id(file: &str, name: &str) -> Option<u32> {
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
        return name.parse().ok();
    }
    let text = fs::read_to_string(file).ok()?;
    lines(&text)
        .find(|(found, _)| *found == name)
        .map(|(_, id)| id)
}

/// Names and numbers of passwd(5) and group(5), which agree in the first and third column.
fn lines(text: &str) -> impl Iterator<Item = (&str, u32)> {
    text.lines().filter_map(|line| {
        let mut columns = line.split(':');
        let name = columns.next().filter(|name| !name.is_empty())?;
        Some((name, columns.nth(1)?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found() {
        assert_eq!(user_id("root"), Some(0));
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert_eq!(group_id("root"), Some(0));
        assert_eq!(user_id("4711"), Some(4711));
        for nobody in ["", "no-such-user", "root:", "x", "99999999999"] {
            assert_eq!(user_id(nobody), None, "{nobody}");
        }
        let text = "a:x:1:2::/:/bin/sh\n# b\nc:x\nd:x:y:z\n:x:7:\ne:x:5:\n";
        assert_eq!(lines(text).collect::<Vec<_>>(), [("a", 1), ("e", 5)]);
    }
}
