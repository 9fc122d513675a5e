//! Bearer tokens, and telling them apart without giving any away.

use axum::http::{HeaderMap, header};
use ring::digest::{SHA256, digest};

use crate::model::TokenSpec;

/// The token of the one `Authorization` header, when that is of the scheme `Bearer` (RFC 6750).
pub(super) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, token) = value.as_bytes().split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

/// The token that was shown, in a time that depends on the number of tokens and on the length of
/// `shown` alone: hashes are compared instead of the tokens, each of them to its end, and one that
/// fits does not end the search. An answer that came later the more bytes are right would let a
/// stranger find a token byte by byte.
pub(super) fn find<'a>(tokens: &'a [TokenSpec], shown: &[u8]) -> Option<&'a TokenSpec> {
    let shown = digest(&SHA256, shown);
    let mut found = None;
    for token in tokens {
        if same(&token.digest, shown.as_ref()) {
            found = Some(token);
        }
    }
    found
}

fn same(one: &[u8], other: &[u8]) -> bool {
    let mut difference = one.len() ^ other.len();
    for (a, b) in one.iter().zip(other) {
        difference |= usize::from(std::hint::black_box(a ^ b));
    }
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::access::tests::token, model::Role};

    #[test]
    fn comparison_is_exact() {
        for (one, other, equal) in [
            ("a", "a", true),
            ("abc", "abc", true),
            ("abc", "abd", false),
            ("bbc", "abc", false),
            ("abc", "ab", false),
            ("abc", "abcd", false),
            ("a", "", false),
        ] {
            assert_eq!(same(one.as_bytes(), other.as_bytes()), equal);
        }
    }

    #[test]
    fn every_token_of_several_is_found_and_no_other() {
        let tokens = [
            token("a", "one", Role::Read),
            token("b", "two", Role::Operate),
            token("c", "three", Role::Configure),
        ];
        for expected in &tokens {
            let shown = match &*expected.name {
                "a" => "one",
                "b" => "two",
                _ => "three",
            };
            assert_eq!(find(&tokens, shown.as_bytes()), Some(expected));
        }
        for shown in ["", "on", "onee", "One", "a"] {
            assert_eq!(find(&tokens, shown.as_bytes()), None, "{shown}");
        }
        assert_eq!(find(&[], b"one"), None);
    }
}
