//! What consistent hashing hashes of a request.

use std::net::{IpAddr, SocketAddr};

use hyper::{
    Request,
    header::{self, HeaderValue},
};

use super::headers::value;
use crate::model::HashKey;

/// Hash of what `key` names in `request`; of `client`, where the request does not have it. `peer` is
/// the other end of the connection that the request came by.
pub(super) fn hash<B>(
    key: &HashKey,
    request: &Request<B>,
    peer: SocketAddr,
    client: impl FnOnce() -> IpAddr,
) -> u64 {
    let value = match key {
        // The session, where there is one, is found elsewhere: see `affinity`.
        HashKey::Source | HashKey::Session => None,
        // Behind another proxy this is that proxy's connection, which is the only one there is.
        HashKey::Flow => {
            return address(peer.ip()).rotate_left(1) ^ mix(&peer.port().to_be_bytes());
        }
        HashKey::Header(name) => value(request.headers(), name).map(HeaderValue::as_bytes),
        HashKey::Cookie(name) => cookie(request, name.as_bytes()),
        HashKey::Path => Some(request.uri().path().as_bytes()),
        HashKey::Query(name) => query(request.uri().query().unwrap_or_default(), name),
    };
    match value {
        Some(value) => mix(value),
        None => address(client()),
    }
}

fn address(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => mix(&address.octets()),
        IpAddr::V6(address) => mix(&address.octets()),
    }
}

/// FNV-1a, then the finalizer of MurmurHash3, whose output bits all depend on all of its input:
/// tables take the hash modulo their size, and FNV alone is weak in its upper bits.
fn mix(bytes: &[u8]) -> u64 {
    let mut hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// The value of a cookie (RFC 6265, 5.4: `name=value` pairs, separated by semicolons).
fn cookie<'a, B>(request: &'a Request<B>, name: &[u8]) -> Option<&'a [u8]> {
    let values = request.headers().get_all(header::COOKIE).iter();
    values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'))
        .find_map(|pair| value_of(pair.trim_ascii(), name))
}

/// The raw value of a query parameter, percent-encodings left as they are.
fn query<'a>(query: &'a str, name: &str) -> Option<&'a [u8]> {
    let mut pairs = query.as_bytes().split(|byte| *byte == b'&');
    pairs.find_map(|pair| value_of(pair, name.as_bytes()))
}

fn value_of<'a>(pair: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    pair.strip_prefix(name)?.strip_prefix(b"=")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)), 40_000);

    fn key(key: &HashKey, target: &str, fields: &[(&str, &str)], client: &str) -> u64 {
        let mut request = Request::builder().uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let client: IpAddr = client.parse().unwrap();
        hash(key, &request.body(()).unwrap(), PEER, || client)
    }

    #[test]
    fn each_key_sees_its_part_and_nothing_else() {
        let header = HashKey::Header("x-user".to_owned());
        let cookie = HashKey::Cookie("session".to_owned());
        let query = HashKey::Query("id".to_owned());
        for (kind, target, fields, same, other) in [
            (&HashKey::Path, "/a?x=1", &[][..], "/a?x=2", "/b?x=1"),
            (&query, "/a?y=2&id=7", &[], "/b?id=7", "/a?id=8&y=2"),
            (&query, "/?xid=7&id=1", &[], "/?id=1", "/?xid=7&id=2"),
        ] {
            let one = key(kind, target, fields, "10.0.0.1");
            assert_eq!(one, key(kind, same, fields, "10.0.0.2"), "{kind:?}");
            assert_ne!(one, key(kind, other, fields, "10.0.0.1"), "{kind:?}");
        }
        for (kind, fields, same, other) in [
            (&header, ("x-user", "a"), ("x-user", "a"), ("x-user", "b")),
            (
                &cookie,
                ("cookie", "a=1; session=x; b=2"),
                ("cookie", "session=x"),
                ("cookie", "a=1; session=y; b=2"),
            ),
        ] {
            let one = key(kind, "/", &[fields], "10.0.0.1");
            assert_eq!(one, key(kind, "/z", &[same], "10.0.0.2"), "{kind:?}");
            assert_ne!(one, key(kind, "/", &[other], "10.0.0.1"), "{kind:?}");
        }
    }

    #[test]
    fn a_flow_is_a_connection() {
        let request = Request::builder().uri("/").body(()).unwrap();
        let client: IpAddr = "10.0.0.1".parse().unwrap();
        let flow = |peer: SocketAddr| hash(&HashKey::Flow, &request, peer, || client);
        let one = flow(PEER);
        assert_eq!(one, flow(PEER));
        assert_ne!(one, flow(SocketAddr::new(PEER.ip(), 40_001)));
        assert_ne!(one, flow(SocketAddr::new(client, 40_000)));
    }

    #[test]
    fn without_a_key_the_client_decides() {
        let source = key(&HashKey::Source, "/", &[], "10.0.0.1");
        assert_ne!(source, key(&HashKey::Source, "/", &[], "10.0.0.2"));
        for kind in [
            HashKey::Header("x-user".to_owned()),
            HashKey::Cookie("session".to_owned()),
            HashKey::Query("id".to_owned()),
        ] {
            assert_eq!(
                source,
                key(&kind, "/?id", &[("cookie", "sessions=1")], "10.0.0.1")
            );
        }
    }
}
