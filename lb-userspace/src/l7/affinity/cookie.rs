//! Cookies (RFC 6265): finding them, taking lb's own out, setting one.

use bytes::Bytes;
use hyper::{
    HeaderMap,
    header::{self, HeaderValue},
};

use crate::model::{AffinitySpec, SameSite};

/// The cookies of a request as names and values, in order.
pub(super) fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let values = headers.get_all(header::COOKIE).iter();
    values.flat_map(|value| parts(value.as_bytes()))
}

fn parts(value: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    value.split(|byte| *byte == b';').filter_map(|pair| {
        let pair = pair.trim_ascii();
        let at = pair.iter().position(|byte| *byte == b'=')?;
        Some((&pair[..at], &pair[at + 1..]))
    })
}

/// The name of lb's own cookie for the service with that number (see
/// [`crate::affinity::store::scope`]). Each service has one of its own, or a client of two would
/// lose one affinity to the other.
pub(super) fn name(prefix: &str, scope: u32) -> String {
    format!("{prefix}_{scope:08x}")
}

/// The number of the service whose cookie of lb's own has that name.
pub(super) fn scope(prefix: &str, name: &[u8]) -> Option<u32> {
    let digits = name.strip_prefix(prefix.as_bytes())?.strip_prefix(b"_")?;
    let lower_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if digits.len() != 8 || !digits.iter().all(lower_hex) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Takes lb's own cookies out of a request: they are no business of instances.
pub(super) fn strip(headers: &mut HeaderMap, prefix: &str) {
    if pairs(headers).any(|(name, _)| scope(prefix, name).is_some()) {
        rebuild(headers, prefix);
    }
}

fn rebuild(headers: &mut HeaderMap, prefix: &str) {
    let mut kept = Vec::new();
    for value in headers.get_all(header::COOKIE) {
        let mut rest: Vec<u8> = Vec::with_capacity(value.len());
        for pair in value.as_bytes().split(|byte| *byte == b';') {
            let pair = pair.trim_ascii();
            let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
            if pair.is_empty() || scope(prefix, name).is_some() {
                continue;
            }
            if !rest.is_empty() {
                rest.extend_from_slice(b"; ");
            }
            rest.extend_from_slice(pair);
        }
        // Parts of a value are a value.
        kept.extend(HeaderValue::from_maybe_shared(Bytes::from(rest)).ok());
    }
    headers.remove(header::COOKIE);
    for value in kept.into_iter().filter(|value| !value.is_empty()) {
        headers.append(header::COOKIE, value);
    }
}

/// Adds a cookie to an answer.
pub(super) fn set(headers: &mut HeaderMap, name: &str, value: &str, of: &AffinitySpec, tls: bool) {
    let site = match of.same_site {
        SameSite::Lax => "Lax",
        SameSite::Strict => "Strict",
        SameSite::None => "None",
    };
    let secure = if tls { "; Secure" } else { "" };
    let age = of.ttl.as_secs();
    let text = format!("{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite={site}{secure}");
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(text)) {
        headers.append(header::SET_COOKIE, value);
    }
}

/// Whether a cache may give an answer to other clients than the one that asked (RFC 9111, 5.2.2).
/// Such an answer gets no cookie, or all of them would be one session.
pub(super) fn is_for_all(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CACHE_CONTROL).iter();
    let mut said = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    said.any(|directive| {
        let name = directive.split(|byte| *byte == b'=').next();
        let name = name.unwrap_or_default().trim_ascii();
        name.eq_ignore_ascii_case(b"public") || name.eq_ignore_ascii_case(b"s-maxage")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(cookies: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(header::COOKIE, cookie.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_lbs_own_cookies_are_taken_out() {
        let own = name("lb_session", 0xabc);
        assert_eq!(own, "lb_session_00000abc");
        assert_eq!(scope("lb_session", own.as_bytes()), Some(0xabc));
        for (sent, left) in [
            (&["a=1; b=2"][..], &["a=1; b=2"][..]),
            (&["a=1;lb_session_00000abc=x;b=2"], &["a=1; b=2"]),
            (&["lb_session_00000abc=x; lb_session_12345678=y"], &[]),
            (&["lb_session_00000abc=x", "c=3;"], &["c=3"]),
            // Those of somebody else, however alike.
            (
                &["lb_session=1; lb_session_0abc=2"],
                &["lb_session=1; lb_session_0abc=2"],
            ),
            (&["lb_session_00000ABC=2"], &["lb_session_00000ABC=2"]),
            (&["a=lb_session_00000abc=x"], &["a=lb_session_00000abc=x"]),
        ] {
            let mut headers = with(sent);
            strip(&mut headers, "lb_session");
            let values: Vec<&HeaderValue> = headers.get_all(header::COOKIE).iter().collect();
            assert_eq!(values, left, "{sent:?}");
        }
    }

    #[test]
    fn pairs_are_what_clients_send() {
        let headers = with(&["a=1; b=x=y;c;  d=", "e=5"]);
        let found: Vec<_> = pairs(&headers).collect();
        let expected: [(&[u8], &[u8]); 4] =
            [(b"a", b"1"), (b"b", b"x=y"), (b"d", b""), (b"e", b"5")];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_cookie_says_how_it_is_to_be_kept() {
        let mut of = AffinitySpec::default();
        let mut headers = HeaderMap::new();
        set(&mut headers, "n", "v", &of, false);
        let said = "n=v; Path=/; Max-Age=1800; HttpOnly; SameSite=Lax";
        assert_eq!(headers[header::SET_COOKIE], said);
        of.same_site = SameSite::None;
        set(&mut headers, "n", "v", &of, true);
        let last = headers
            .get_all(header::SET_COOKIE)
            .iter()
            .next_back()
            .unwrap();
        assert_eq!(
            last,
            "n=v; Path=/; Max-Age=1800; HttpOnly; SameSite=None; Secure"
        );
    }

    #[test]
    fn answers_for_everybody_are_known() {
        for (value, shared) in [
            ("public, max-age=60", true),
            ("max-age=1,S-MaxAge=5", true),
            ("private", false),
            ("no-store", false),
            ("max-age=60", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CACHE_CONTROL, value.parse().unwrap());
            assert_eq!(is_for_all(&headers), shared, "{value}");
        }
    }
}
