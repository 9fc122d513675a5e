//! Who may use the API.
//!
//! | who | what |
//! |---|---|
//! | anybody | `GET /health` |
//! | shows the configured token as `Authorization: Bearer …` | everything |
//! | connects from a loopback address, without a proxy in between | everything, guarded as below |
//! | everybody else | 401 without a token (or when none is configured), 403 with a wrong one |
//!
//! **The peer is the socket's peer.** No header makes a request local. Headers only take the
//! privilege away: a request from loopback that carries `Forwarded`, `X-Forwarded-For`,
//! `X-Real-IP` or `Via` was passed on by a proxy on this machine for somebody else, and needs the
//! token like that somebody would. A proxy that adds none of these makes its clients local; do not
//! let one pass on the API's paths.
//!
//! **Browsers are on loopback too**, and run pages from anywhere. A page whose name resolves to
//! 127.0.0.1 (DNS rebinding) betrays itself by its `Host`, so that has to be `localhost` or an IP
//! address. A page that posts a form across sites betrays itself by `Origin` or `Sec-Fetch-Site`,
//! so changing methods refuse another origin than their own. A bearer token makes both checks
//! needless: no page has it.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, Method, Uri, header, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::{error::ApiError, state::ApiState};

/// Lets a request through or answers it, and writes down every attempt to change something.
pub(super) async fn guard(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let verdict = judge(&parts, state.token());
    let changing = changes(&parts.method);
    let (method, path) = (parts.method.clone(), parts.uri.path().to_owned());
    let peer = peer(&parts);
    let response = match verdict {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(refusal) => refusal.into_response(),
    };
    if changing {
        let status = response.status().as_u16();
        let peer = peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string());
        tracing::info!(%peer, %method, path, status, "management request");
    }
    response
}

fn peer(parts: &Parts) -> Option<SocketAddr> {
    let info = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    info.map(|ConnectInfo(peer)| *peer)
}

fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// The rule of the module.
fn judge(request: &Parts, token: Option<&str>) -> Result<(), ApiError> {
    let open = matches!(request.uri.path(), "/health" | "/health/");
    if open && !changes(&request.method) {
        return Ok(());
    }
    let shown = bearer(&request.headers);
    if let (Some(token), Some(shown)) = (token, shown)
        && same(token.as_bytes(), shown)
    {
        return Ok(());
    }
    if peer(request).is_some_and(|peer| is_loopback(peer.ip())) && !is_forwarded(&request.headers) {
        return judge_local(request);
    }
    match (token, shown) {
        (None, _) => Err(ApiError::Unauthorized(
            "expected a request from a loopback address, because no token is configured \
             (api.token); found one from elsewhere",
        )),
        (Some(_), None) => Err(ApiError::Unauthorized(
            "expected the header Authorization: Bearer <token> on a request that is not from a \
             loopback address, found none",
        )),
        (Some(_), Some(_)) => Err(ApiError::Forbidden(
            "expected the configured bearer token, found another".to_owned(),
        )),
    }
}

/// Keeps pages that a browser on this machine shows from using the browser's address.
fn judge_local(request: &Parts) -> Result<(), ApiError> {
    let host = host(&request.uri, &request.headers);
    if !host.as_deref().is_some_and(is_local_name) {
        let found = host.map_or_else(|| "none".to_owned(), |host| format!("{host:?}"));
        return Err(ApiError::Forbidden(format!(
            "expected localhost or an IP address as the Host of a request without a token, found \
             {found}"
        )));
    }
    if !changes(&request.method) {
        return Ok(());
    }
    if let Some(origin) = request.headers.get(header::ORIGIN) {
        let own = origin.to_str().ok().and_then(|origin| {
            let (_, authority) = origin.split_once("://")?;
            Some(Some(authority.to_ascii_lowercase()) == host)
        });
        if own != Some(true) {
            return Err(ApiError::Forbidden(format!(
                "expected no Origin but lb's own on a changing request without a token, found \
                 {origin:?}"
            )));
        }
    }
    match request.headers.get("sec-fetch-site") {
        Some(site) if site != "same-origin" && site != "none" => Err(ApiError::Forbidden(format!(
            "expected a changing request without a token from lb's own page, found \
             Sec-Fetch-Site: {site:?}"
        ))),
        _ => Ok(()),
    }
}

/// The token of the one `Authorization` header, when that is of the scheme `Bearer` (RFC 6750).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, token) = value.as_bytes().split_at_checked(7)?;
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then(|| token.trim_ascii())
}

/// Whether both are equal, in a time that depends on the length of `shown` alone: an answer that
/// comes later the more bytes are right would let a stranger find the token byte by byte.
fn same(token: &[u8], shown: &[u8]) -> bool {
    let mut difference = token.len() ^ shown.len();
    for (i, byte) in shown.iter().enumerate() {
        // Past the token's end any byte will do: the lengths already differ.
        let expected = token.get(i).or(token.first()).copied().unwrap_or_default();
        difference |= usize::from(std::hint::black_box(byte ^ expected));
    }
    std::hint::black_box(difference) == 0
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn is_forwarded(headers: &HeaderMap) -> bool {
    ["forwarded", "x-forwarded-for", "x-real-ip", "via"]
        .iter()
        .any(|name| headers.contains_key(*name))
}

/// The authority that the request is for, lower case; that of the target beats the header
/// (RFC 9112, 3.2.2). `None` also when there are several.
fn host(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    if let Some(authority) = uri.authority() {
        return Some(authority.as_str().to_ascii_lowercase());
    }
    let mut values = headers.get_all(header::HOST).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().map(str::to_ascii_lowercase),
        _ => None,
    }
}

/// Whether an authority in lower case can only mean this machine or a bare address.
fn is_local_name(authority: &str) -> bool {
    let name = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((v6, port)) if port.is_empty() || port.starts_with(':') => v6,
            _ => return false,
        },
        None => authority
            .rsplit_once(':')
            .map_or(authority, |(name, _)| name),
    };
    let bare = name.strip_suffix('.').unwrap_or(name);
    bare == "localhost" || bare.ends_with(".localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: &str = "127.0.0.1:5000";
    const FAR: &str = "192.0.2.7:5000";

    /// The status that a request gets from the guard; 200 when it passes.
    fn status(
        method: &str,
        target: &str,
        peer: Option<&str>,
        token: Option<&str>,
        headers: &[(&str, &str)],
    ) -> u16 {
        let mut builder = axum::http::Request::builder().method(method).uri(target);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let mut parts = builder.body(()).unwrap().into_parts().0;
        if let Some(peer) = peer {
            let peer: SocketAddr = peer.parse().unwrap();
            parts.extensions.insert(ConnectInfo(peer));
        }
        judge(&parts, token).map_or_else(|refusal| refusal.status().as_u16(), |()| 200)
    }

    #[test]
    fn strangers_need_the_token() {
        let stats = "/api/v1/loadbalancer/stats";
        let bearer = |token| [("authorization", token)];
        for (peer, token, headers, expected) in [
            (Some(FAR), None, &bearer("Bearer secret")[..], 401),
            (Some(FAR), Some("secret"), &[], 401),
            (Some(FAR), Some("secret"), &bearer("Basic secret"), 401),
            (Some(FAR), Some("secret"), &bearer("Bearer "), 401),
            (Some(FAR), Some("secret"), &bearer("Bearer wrong"), 403),
            (Some(FAR), Some("secret"), &bearer("Bearer secre"), 403),
            (Some(FAR), Some("secret"), &bearer("Bearer secrets"), 403),
            (Some(FAR), Some("secret"), &bearer("Bearer secret"), 200),
            (Some(FAR), Some("secret"), &bearer("bearer secret"), 200),
            (Some("[2001:db8::1]:9"), Some("secret"), &[], 401),
            (None, Some("secret"), &[("host", "localhost")], 401),
            (None, None, &[("host", "localhost")], 401),
            (
                Some(FAR),
                Some("secret"),
                &[
                    ("authorization", "Bearer secret"),
                    ("authorization", "Bearer x"),
                ],
                401,
            ),
            (
                Some(FAR),
                Some("secret"),
                &[("x-forwarded-for", "127.0.0.1")],
                401,
            ),
            (Some(FAR), None, &[("forwarded", "for=127.0.0.1")], 401),
            (Some(FAR), None, &[("host", "localhost")], 401),
        ] {
            let got = status("GET", stats, peer, token, headers);
            assert_eq!(got, expected, "{peer:?} {token:?} {headers:?}");
        }
    }

    #[test]
    fn health_is_for_everybody_and_nothing_else_is() {
        assert_eq!(status("GET", "/health", Some(FAR), None, &[]), 200);
        assert_eq!(status("HEAD", "/health/", None, None, &[]), 200);
        assert_eq!(status("POST", "/health", Some(FAR), None, &[]), 401);
        for path in [
            "/healthy",
            "/health/x",
            "/metrics",
            "/api/v1/loadbalancer/health",
            "//health",
        ] {
            assert_eq!(status("GET", path, Some(FAR), None, &[]), 401, "{path}");
        }
    }

    #[test]
    fn loopback_peers_may_pass_unless_they_speak_for_others() {
        for (peer, headers, expected) in [
            (NEAR, &[("host", "127.0.0.1:7700")][..], 200),
            ("[::1]:5000", &[("host", "[::1]:7700")], 200),
            ("[::ffff:127.0.0.1]:5000", &[("host", "localhost")], 200),
            ("127.9.9.9:1", &[("host", "LocalHost:7700")], 200),
            (NEAR, &[("host", "lb.localhost")], 200),
            (NEAR, &[("host", "localhost.:80")], 200),
            (NEAR, &[("host", "10.0.0.1")], 200),
            (NEAR, &[], 403),
            (NEAR, &[("host", "example.org")], 403),
            (NEAR, &[("host", "localhost.example.org")], 403),
            (NEAR, &[("host", "127.0.0.1.example.org")], 403),
            (NEAR, &[("host", "notlocalhost")], 403),
            (NEAR, &[("host", "localhost"), ("host", "localhost")], 403),
            (
                NEAR,
                &[("host", "localhost"), ("x-forwarded-for", "127.0.0.1")],
                401,
            ),
            (
                NEAR,
                &[("host", "localhost"), ("forwarded", "for=10.0.0.1")],
                401,
            ),
            (
                NEAR,
                &[("host", "localhost"), ("x-real-ip", "10.0.0.1")],
                401,
            ),
            (NEAR, &[("host", "localhost"), ("via", "1.1 proxy")], 401),
        ] {
            let got = status("GET", "/metrics", Some(peer), None, headers);
            assert_eq!(got, expected, "{peer} {headers:?}");
        }
        // The target's authority is what counts.
        let target = "http://example.org/metrics";
        let local = [("host", "localhost")];
        assert_eq!(status("GET", target, Some(NEAR), None, &local), 403);
        // A token opens what the address does not.
        let proxied = [("x-real-ip", "10.0.0.1"), ("authorization", "Bearer t")];
        assert_eq!(
            status("GET", "/metrics", Some(NEAR), Some("t"), &proxied),
            200
        );
    }

    #[test]
    fn pages_of_other_sites_change_nothing() {
        let host = ("host", "localhost:7700");
        let post = |header| status("POST", "/x", Some(NEAR), Some("t"), &[host, header]);
        for (header, expected) in [
            (("accept", "*/*"), 200),
            (("origin", "http://localhost:7700"), 200),
            (("origin", "http://LOCALHOST:7700"), 200),
            (("origin", "http://localhost:8000"), 403),
            (("origin", "https://example.org"), 403),
            (("origin", "null"), 403),
            (("sec-fetch-site", "same-origin"), 200),
            (("sec-fetch-site", "none"), 200),
            (("sec-fetch-site", "cross-site"), 403),
            (("sec-fetch-site", "same-site"), 403),
            (("authorization", "Bearer t"), 200),
        ] {
            assert_eq!(post(header), expected, "{header:?}");
        }
        let with_token = [
            host,
            ("origin", "https://example.org"),
            ("authorization", "Bearer t"),
        ];
        assert_eq!(status("PUT", "/x", Some(NEAR), Some("t"), &with_token), 200);
        let reading = [host, ("origin", "https://example.org")];
        assert_eq!(status("GET", "/x", Some(NEAR), Some("t"), &reading), 200);
    }

    #[test]
    fn comparison_is_exact() {
        for (token, shown, equal) in [
            ("a", "a", true),
            ("abc", "abc", true),
            ("abc", "abd", false),
            ("abc", "ab", false),
            ("abc", "abcd", false),
            ("aaa", "aaaa", false),
            ("a", "", false),
        ] {
            assert_eq!(same(token.as_bytes(), shown.as_bytes()), equal);
        }
    }
}
