//! Fields that end at lb, and fields that lb adds.
//!
//! Everything that is not named here is forwarded as it came. Most messages carry none of the rare
//! fields: one pass says which are there ([`Seen`]), and only those cost a removal.

use std::net::IpAddr;

use hyper::{
    HeaderMap,
    header::{self, HeaderName, HeaderValue},
};

use super::head::{self, Seen};
use crate::model::{IpPrefix, Reason};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
/// No field of HTTP: CGI turns it into the environment variable `HTTP_PROXY` (CVE-2016-5385).
static PROXY: HeaderName = HeaderName::from_static("proxy");

/// lb's own entry in `Via`: what it received was HTTP/1.1 or is treated as such.
const VIA: HeaderValue = HeaderValue::from_static("1.1 lb");

/// Fields that `Connection` cannot take away although a client may name them there: without them
/// an instance would take a request for another client's, or frame it differently
/// (RFC 9110, 7.6.1 leaves the choice to the recipient).
const KEPT: [HeaderName; 12] = [
    header::HOST,
    header::AUTHORIZATION,
    header::COOKIE,
    header::SET_COOKIE,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::TRANSFER_ENCODING,
    header::FORWARDED,
    header::VIA,
    header::DATE,
    header::CACHE_CONTROL,
    header::WWW_AUTHENTICATE,
];

/// The first value of a field whose name, in lower case, is configured. To look it up would be to parse
/// and hash the name for each message, which costs ten times what looking at all names of a usual
/// message does.
pub(super) fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a HeaderValue> {
    let mut fields = headers.iter();
    let found = fields.find(|(field, _)| field.as_str() == name);
    found.map(|(_, value)| value)
}

/// What the peer of a connection adds to its requests.
#[derive(Debug)]
pub(super) struct Peer {
    address: IpAddr,
    text: HeaderValue,
    trusted: bool,
}

impl Peer {
    /// A peer at `address`, trusted when one of `proxies` holds it.
    pub(super) fn new(address: IpAddr, proxies: &[IpPrefix]) -> Self {
        let address = address.to_canonical();
        let text = HeaderValue::from_str(&address.to_string());
        Self {
            address,
            // The text of an address has only digits, dots, colons and letters.
            text: text.unwrap_or_else(|_| HeaderValue::from_static("unknown")),
            trusted: proxies.iter().any(|prefix| prefix.contains(address)),
        }
    }

    /// Whether it is a trusted proxy.
    pub(super) const fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Whether the client has sent a request over TLS, as far as a trusted peer says so.
    pub(super) fn is_secure(&self, headers: &HeaderMap) -> bool {
        let said = headers.get(&X_FORWARDED_PROTO);
        self.trusted && said.is_some_and(|said| said.as_bytes().eq_ignore_ascii_case(b"https"))
    }

    /// The client's address: the peer's, or what a trusted peer says, which is the last address in
    /// `X-Forwarded-For` that is itself no trusted proxy.
    pub(super) fn client(&self, headers: &HeaderMap, proxies: &[IpPrefix]) -> IpAddr {
        if !self.trusted {
            return self.address;
        }
        let values = headers.get_all(&X_FORWARDED_FOR);
        let hops = values.iter().rev().flat_map(|value| {
            let hops = value.as_bytes().rsplit(|byte| *byte == b',');
            hops.map(|hop| std::str::from_utf8(hop.trim_ascii()).unwrap_or_default())
        });
        let mut client = self.address;
        for hop in hops {
            let Ok(address) = hop.parse::<IpAddr>() else {
                break;
            };
            client = address.to_canonical();
            if !proxies.iter().any(|prefix| prefix.contains(client)) {
                break;
            }
        }
        client
    }
}

/// Rewrites the fields of a request for the instance; `seen` is what is in them. `upgrade` keeps
/// what asks for another protocol.
pub(super) fn request(headers: &mut HeaderMap, seen: Seen, peer: &Peer, upgrade: bool) {
    let mut trailers = false;
    if seen.has(Seen::CONNECTION) {
        if seen.has(Seen::NAMES_FIELDS) {
            remove_named(headers);
        }
        headers.remove(header::CONNECTION);
    }
    if seen.has(Seen::TE) {
        trailers = accepts_trailers(headers);
        headers.remove(header::TE);
    }
    if seen.has(Seen::HOP) {
        remove_hops(headers);
    }
    if seen.has(Seen::CODING) {
        // An instance that compares this with care for case would see no coding in `Chunked`.
        let chunked = HeaderValue::from_static("chunked");
        headers.insert(header::TRANSFER_ENCODING, chunked);
    }
    if seen.has(Seen::EXPECTS) {
        // hyper tells the client to continue as soon as the instance is ready for the body.
        headers.remove(header::EXPECT);
    }
    if upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    } else if seen.has(Seen::UPGRADE) {
        headers.remove(header::UPGRADE);
    }
    if trailers {
        let te = HeaderValue::from_static("te");
        headers.append(header::CONNECTION, te);
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if seen.has(Seen::FORWARDED) && !peer.trusted {
        remove_forwarded(headers);
    }
    if seen.has(Seen::FORWARDED) && peer.trusted {
        extend_forwarded(headers, peer);
    } else {
        headers.insert(&X_FORWARDED_FOR, peer.text.clone());
        headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static("http"));
        if let Some(host) = headers.get(header::HOST).cloned() {
            headers.insert(&X_FORWARDED_HOST, host);
        }
    }
    headers.append(header::VIA, VIA);
}

/// Rewrites the fields of an answer for the client. `tunnel` is an answer of 101.
pub(super) fn answer(headers: &mut HeaderMap, tunnel: bool) -> Result<(), Reason> {
    let mut seen = Seen::default();
    for (name, value) in &*headers {
        match *name {
            header::CONNECTION => head::connection(value, &mut seen),
            header::TRANSFER_ENCODING => {
                // What hyper hands on is decoded from `chunked` alone; a client would be told
                // nothing of any other coding.
                if seen.has(Seen::CODING) || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                    return Err(Reason::BadAnswer);
                }
                seen.add(Seen::CODING);
            }
            header::UPGRADE => seen.add(Seen::UPGRADE),
            header::TE => seen.add(Seen::TE),
            header::CONTENT_LENGTH => seen.add(Seen::LENGTH),
            header::PROXY_AUTHENTICATE => seen.add(Seen::HOP),
            _ => match name.as_str() {
                "keep-alive" | "proxy-connection" => seen.add(Seen::HOP),
                _ => {}
            },
        }
    }
    if seen.has(Seen::CONNECTION) {
        if seen.has(Seen::NAMES_FIELDS) {
            remove_named(headers);
        }
        headers.remove(header::CONNECTION);
    }
    if seen.has(Seen::CODING) {
        headers.remove(header::TRANSFER_ENCODING);
        if seen.has(Seen::LENGTH) {
            headers.remove(header::CONTENT_LENGTH);
        }
    }
    if seen.has(Seen::HOP) {
        remove_hops(headers);
        headers.remove(header::PROXY_AUTHENTICATE);
    }
    if seen.has(Seen::TE) {
        headers.remove(header::TE);
    }
    if tunnel {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    } else if seen.has(Seen::UPGRADE) {
        headers.remove(header::UPGRADE);
    }
    headers.append(header::VIA, VIA);
    Ok(())
}

/// The fields that only ever concern two neighbours.
fn remove_hops(headers: &mut HeaderMap) {
    for name in [&KEEP_ALIVE, &PROXY_CONNECTION, &PROXY, &HTTP2_SETTINGS] {
        headers.remove(name);
    }
    headers.remove(header::PROXY_AUTHORIZATION);
}

/// Removes the fields that `Connection` names, less those that it has no say in.
#[cold]
fn remove_named(headers: &mut HeaderMap) {
    let values = headers.get_all(header::CONNECTION);
    let named: Vec<HeaderName> = values
        .iter()
        .flat_map(head::options)
        .filter_map(|option| HeaderName::from_bytes(option).ok())
        .filter(|name| !KEPT.contains(name) && !name.as_str().starts_with("x-forwarded-"))
        // These have rules of their own.
        .filter(|name| *name != header::UPGRADE && *name != header::TE)
        .collect();
    for name in named {
        headers.remove(name);
    }
}

fn accepts_trailers(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::TE).iter().flat_map(head::options);
    values.any(|option| option.eq_ignore_ascii_case(b"trailers"))
}

/// Removes everything by which a client could pretend to be somebody else's proxy.
#[cold]
fn remove_forwarded(headers: &mut HeaderMap) {
    let claims = headers.keys().filter(|name| {
        let name = name.as_str().as_bytes();
        matches!(name, b"forwarded" | b"x-real-ip")
            || matches!(name, [b'x', b'-' | b'_', rest @ ..] if rest.starts_with(b"forwarded"))
    });
    let claims: Vec<HeaderName> = claims.cloned().collect();
    for name in claims {
        headers.remove(name);
    }
}

/// Adds to what a trusted proxy says: its own address; the rest only where it is missing.
#[cold]
fn extend_forwarded(headers: &mut HeaderMap, peer: &Peer) {
    let hops = headers.get_all(&X_FORWARDED_FOR);
    let mut joined: Vec<u8> = Vec::new();
    for hop in hops.iter().map(HeaderValue::as_bytes) {
        joined.extend_from_slice(hop);
        joined.extend_from_slice(b", ");
    }
    joined.extend_from_slice(peer.text.as_bytes());
    let joined = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined));
    headers.insert(
        &X_FORWARDED_FOR,
        joined.unwrap_or_else(|_| peer.text.clone()),
    );
    if !headers.contains_key(&X_FORWARDED_PROTO) {
        headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if !headers.contains_key(&X_FORWARDED_HOST)
        && let Some(host) = headers.get(header::HOST).cloned()
    {
        headers.insert(&X_FORWARDED_HOST, host);
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn lines(headers: &HeaderMap) -> Vec<String> {
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}", value.to_str().unwrap())
        };
        let mut lines: Vec<String> = headers.iter().map(line).collect();
        lines.sort();
        lines
    }

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn forwarded(fields: &[(&'static str, &str)], trusted: &[&str], upgrade: bool) -> Vec<String> {
        let proxies: Vec<IpPrefix> = trusted.iter().map(|text| text.parse().unwrap()).collect();
        let mut sent = Request::new(());
        *sent.headers_mut() = map(fields);
        sent.headers_mut().insert("host", "h:1".parse().unwrap());
        let seen = head::examine(&sent).unwrap().seen;
        let peer = Peer::new("192.0.2.1".parse().unwrap(), &proxies);
        request(sent.headers_mut(), seen, &peer, upgrade);
        let own = ["host: h:1", "via: 1.1 lb", "x-forwarded-proto: http"];
        let mut lines = lines(sent.headers());
        for line in own {
            let at = lines.iter().position(|found| found == line);
            lines.remove(at.unwrap_or_else(|| panic!("{line} is missing in {lines:?}")));
        }
        lines.retain(|line| line != "x-forwarded-host: h:1");
        lines
    }

    #[test]
    fn fields_of_requests() {
        let own = "x-forwarded-for: 192.0.2.1";
        for (sent, kept) in [
            (&[][..], &[own][..]),
            (
                &[("accept", "*/*"), ("cookie", "a=b")],
                &["accept: */*", "cookie: a=b", own],
            ),
            (
                &[("connection", "keep-alive"), ("keep-alive", "timeout=5")],
                &[own],
            ),
            (
                &[("connection", "close"), ("proxy-connection", "x")],
                &[own],
            ),
            (
                &[
                    ("connection", "x-a, X-B"),
                    ("x-a", "1"),
                    ("x-b", "2"),
                    ("x-c", "3"),
                ],
                &[own, "x-c: 3"],
            ),
            (
                &[
                    ("connection", "cookie, host, authorization, x-forwarded-for"),
                    ("cookie", "c"),
                ],
                &["cookie: c", own],
            ),
            (
                &[("te", "trailers, gzip;q=1"), ("connection", "te")],
                &["connection: te", "te: trailers", own],
            ),
            (&[("te", "gzip")], &[own]),
            (
                &[("upgrade", "websocket"), ("connection", "upgrade")],
                &[own],
            ),
            (
                &[("expect", "100-continue"), ("content-length", "1")],
                &["content-length: 1", own],
            ),
            (
                &[("transfer-encoding", "chunked")],
                &["transfer-encoding: chunked", own],
            ),
            (
                &[("proxy", "http://evil"), ("proxy-authorization", "x")],
                &[own],
            ),
            (
                &[
                    ("x-forwarded-for", "6.6.6.6"),
                    ("x-forwarded-for", "7.7.7.7"),
                    ("x_forwarded_for", "6.6.6.6"),
                    ("x-forwarded-host", "evil"),
                    ("x-forwarded-proto", "https"),
                    ("x-forwarded-prefix", "/evil"),
                    ("forwarded", "for=6.6.6.6"),
                    ("x-real-ip", "6.6.6.6"),
                ],
                &[own],
            ),
        ] {
            let mut kept = kept.to_vec();
            kept.sort_unstable();
            assert_eq!(forwarded(sent, &[], false), kept, "{sent:?}");
        }
    }

    #[test]
    fn an_upgrade_keeps_what_asks_for_it() {
        let sent = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
        ];
        let kept = [
            "connection: upgrade",
            "upgrade: websocket",
            "x-forwarded-for: 192.0.2.1",
        ];
        assert_eq!(forwarded(&sent, &[], true), kept);
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_extended() {
        let sent = [
            ("x-forwarded-for", "203.0.113.9, 198.51.100.1"),
            ("x-forwarded-for", "192.0.2.2"),
            ("x-forwarded-host", "public.example"),
            ("forwarded", "for=203.0.113.9"),
        ];
        let kept = [
            "forwarded: for=203.0.113.9",
            "x-forwarded-for: 203.0.113.9, 198.51.100.1, 192.0.2.2, 192.0.2.1",
            "x-forwarded-host: public.example",
        ];
        assert_eq!(forwarded(&sent, &["192.0.2.0/24"], false), kept);
    }

    #[test]
    fn the_client_is_the_last_hop_that_is_no_proxy() {
        let proxies: Vec<IpPrefix> = vec!["192.0.2.0/24".parse().unwrap()];
        let client = |peer: &str, hops: &[(&'static str, &str)]| {
            let peer = Peer::new(peer.parse().unwrap(), &proxies);
            peer.client(&map(hops), &proxies).to_string()
        };
        let hops = [("x-forwarded-for", "6.6.6.6, 203.0.113.9, 192.0.2.7")];
        assert_eq!(client("192.0.2.1", &hops), "203.0.113.9");
        assert_eq!(client("::ffff:192.0.2.1", &hops), "203.0.113.9");
        assert_eq!(client("198.51.100.1", &hops), "198.51.100.1");
        assert_eq!(client("192.0.2.1", &[]), "192.0.2.1");
        assert_eq!(
            client("192.0.2.1", &[("x-forwarded-for", "junk")]),
            "192.0.2.1"
        );
    }

    #[test]
    fn fields_of_answers() {
        let rewritten = |fields: &[(&'static str, &str)], tunnel| {
            let mut headers = map(fields);
            answer(&mut headers, tunnel).map(|()| lines(&headers))
        };
        let via = "via: 1.1 lb";
        for (sent, tunnel, kept) in [
            (
                &[("server", "x"), ("date", "d")][..],
                false,
                &["date: d", "server: x", via][..],
            ),
            (
                &[
                    ("connection", "close, x-a"),
                    ("x-a", "1"),
                    ("keep-alive", "1"),
                ],
                false,
                &[via],
            ),
            (
                &[("transfer-encoding", "chunked"), ("content-length", "5")],
                false,
                &[via],
            ),
            (
                &[("content-length", "5"), ("upgrade", "h2c")],
                false,
                &["content-length: 5", via],
            ),
            (
                &[("connection", "Upgrade"), ("upgrade", "websocket")],
                true,
                &["connection: upgrade", "upgrade: websocket", via],
            ),
            (&[("via", "1.1 inner")], false, &["via: 1.1 inner", via]),
        ] {
            assert_eq!(rewritten(sent, tunnel).unwrap(), kept, "{sent:?}");
        }
        for bad in ["gzip, chunked", "gzip"] {
            let refused = rewritten(&[("transfer-encoding", bad)], false);
            assert_eq!(refused, Err(Reason::BadAnswer));
        }
    }
}
