//! Who is let in, and who is not.

use std::net::SocketAddr;

use axum::extract::ConnectInfo;
use ring::digest::{SHA256, digest};

use super::*;
use crate::model::{Role, TokenSpec};

const NEAR: &str = "127.0.0.1:5000";
const FAR: &str = "192.0.2.7:5000";

/// A token with a role.
pub(in crate::api) fn token(name: &str, token: &str, role: Role) -> TokenSpec {
    TokenSpec {
        name: name.into(),
        digest: digest(&SHA256, token.as_bytes())
            .as_ref()
            .try_into()
            .unwrap(),
        role,
    }
}

/// The verdict on a request.
fn verdict(
    method: &str,
    target: &str,
    peer: Option<&str>,
    spec: &AccessSpec,
    headers: &[(&str, &str)],
) -> Result<Option<Caller>, ApiError> {
    let mut builder = axum::http::Request::builder().method(method).uri(target);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    let mut parts = builder.body(()).unwrap().into_parts().0;
    if let Some(peer) = peer {
        let peer: SocketAddr = peer.parse().unwrap();
        parts.extensions.insert(ConnectInfo(peer));
    }
    let rule = Rule {
        spec: spec.clone(),
        budgets: None,
    };
    let verdict = rule.judge(&parts, Timestamp(0));
    verdict.map_err(|refusal| refusal.error)
}

impl From<AccessSpec> for Prepared {
    /// Without TLS.
    fn from(spec: AccessSpec) -> Self {
        Self { spec, tls: None }
    }
}

/// The status that a request gets from the guard when there is one token or none; 200 when it
/// passes.
fn status(
    method: &str,
    target: &str,
    peer: Option<&str>,
    known: Option<&str>,
    headers: &[(&str, &str)],
) -> u16 {
    let tokens = known.map(|text| token("t", text, Role::Configure));
    let spec = AccessSpec {
        tokens: tokens.into_iter().collect(),
        ..AccessSpec::default()
    };
    let verdict = verdict(method, target, peer, &spec, headers);
    verdict.map_or_else(|refusal| refusal.status().as_u16(), |_| 200)
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
        (Some(FAR), Some("secret"), &bearer("Bearer wrong"), 401),
        (Some(FAR), Some("secret"), &bearer("Bearer secre"), 401),
        (Some(FAR), Some("secret"), &bearer("Bearer secrets"), 401),
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
    assert_eq!(status("GET", "/livez", Some(FAR), None, &[]), 200);
    assert_eq!(status("GET", "/readyz/", Some(FAR), None, &[]), 200);
    assert_eq!(status("POST", "/health", Some(FAR), None, &[]), 401);
    for path in [
        "/healthy",
        "/readyz//",
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
fn roles_bound_what_a_token_may() {
    let spec = AccessSpec {
        tokens: vec![
            token("watch", "one", Role::Read),
            token("night-shift", "two", Role::Operate),
            token("owner", "three", Role::Configure),
        ],
        ..AccessSpec::default()
    };
    let drain = "/api/v1/loadbalancer/instances/web/http://10.0.0.1:80/drain";
    let reload = "/api/v1/admin/loadbalancer/reload";
    for (method, path, needed) in [
        ("GET", "/metrics", Role::Read),
        ("HEAD", "/api/v1/loadbalancer/stats", Role::Read),
        ("GET", "/api/v1/admin/loadbalancer/debug", Role::Read),
        ("POST", drain, Role::Operate),
        ("PUT", "/api/v1/loadbalancer/algorithms/web", Role::Operate),
        ("DELETE", "/api/v1/loadbalancer/sessions", Role::Operate),
        ("POST", "/api/v1/admin/loadbalancer/reset", Role::Operate),
        ("POST", reload, Role::Configure),
        (
            "POST",
            "/api/v1/admin/loadbalancer/reload/",
            Role::Configure,
        ),
        ("POST", "/health", Role::Configure),
        // What nobody has thought of.
        ("POST", "/api/v1/loadbalancer/unheard/of", Role::Configure),
        (
            "POST",
            "/api/v1/loadbalancer/instances/web/drain",
            Role::Configure,
        ),
        ("PUT", drain, Role::Configure),
    ] {
        for (shown, role) in [
            ("one", Role::Read),
            ("two", Role::Operate),
            ("three", Role::Configure),
        ] {
            let bearer = format!("Bearer {shown}");
            // A token says who asks, also from where no token is needed.
            for peer in [FAR, NEAR] {
                let headers = [("authorization", bearer.as_str()), ("host", "localhost")];
                match verdict(method, path, Some(peer), &spec, &headers) {
                    Ok(Some(caller)) => {
                        assert!(role >= needed, "{method} {path} with {role}");
                        assert_eq!((caller.means, caller.role), (Means::Token, role));
                    }
                    Err(ApiError::Role {
                        needed: told,
                        role: found,
                        caller,
                    }) => {
                        assert!(role < needed, "{method} {path} with {role}");
                        assert_eq!((told, found), (needed, role));
                        assert!(caller.starts_with("token "), "{caller}");
                    }
                    other => panic!("{method} {path} with {role}: {other:?}"),
                }
            }
        }
    }
}

#[test]
fn loopback_peers_have_the_role_that_is_configured() {
    let stats = "/api/v1/loadbalancer/stats";
    let reset = "/api/v1/admin/loadbalancer/reset";
    let reload = "/api/v1/admin/loadbalancer/reload";
    for (loopback, expected) in [
        (Some(Role::Configure), [200, 200, 200]),
        (Some(Role::Operate), [200, 200, 403]),
        (Some(Role::Read), [200, 403, 403]),
        (None, [401, 401, 401]),
    ] {
        for tokens in [Vec::new(), vec![token("t", "t", Role::Read)]] {
            let spec = AccessSpec {
                tokens,
                loopback,
                ..AccessSpec::default()
            };
            let ask = |method, path| {
                let host = [("host", "localhost")];
                let verdict = verdict(method, path, Some(NEAR), &spec, &host);
                verdict.map_or_else(|refusal| refusal.status().as_u16(), |_| 200)
            };
            let found = [ask("GET", stats), ask("POST", reset), ask("POST", reload)];
            assert_eq!(found, expected, "{loopback:?}");
            assert_eq!(ask("GET", "/health"), 200);
        }
    }
}

#[test]
fn a_caller_says_who_it_is() {
    let spec = AccessSpec {
        tokens: vec![token("ci", "one", Role::Operate)],
        ..AccessSpec::default()
    };
    let who = |peer, headers: &[(&str, &str)]| {
        let caller = verdict("GET", "/metrics", Some(peer), &spec, headers).unwrap();
        let caller = caller.unwrap();
        (caller.to_string(), caller.peer.to_string())
    };
    let own = |who: &str, peer: &str| (who.to_owned(), peer.to_owned());
    let shown = [("authorization", "Bearer one")];
    assert_eq!(who(FAR, &shown), own("token ci", FAR));
    assert_eq!(who(NEAR, &[("host", "localhost")]), own("loopback", NEAR));
}

/// Every endpoint that takes a changing method has its line in the table.
#[test]
fn no_change_is_without_a_role() {
    let mut document = crate::api::endpoints().document();
    let mut changes = 0;
    for (path, item) in &mut document.paths.paths {
        for (method, _) in crate::api::document::operations(item) {
            if roles::reads(&method) {
                continue;
            }
            changes += 1;
            let role = roles::listed(&method, path);
            assert!(role.is_some(), "{method} {path} has no role");
        }
    }
    assert!(changes > 15, "only {changes} changes were found");
}

#[test]
fn a_certificate_is_a_caller_unless_a_page_shows_it() {
    let clients = [("ci", Role::Operate), ("watch", Role::Read)];
    let spec = AccessSpec {
        clients: clients
            .into_iter()
            .map(|(name, role)| ClientSpec {
                name: name.into(),
                role,
            })
            .collect(),
        ..AccessSpec::default()
    };
    let rule = Rule {
        spec,
        budgets: None,
    };
    let ask = |method: &str, peer: &str, names: &[&str], header: (&str, &str)| {
        let request = axum::http::Request::builder()
            .method(method)
            .uri("/api/v1/admin/loadbalancer/reset")
            .header("host", "lb.example.org:7700")
            .header(header.0, header.1);
        let mut parts = request.body(()).unwrap().into_parts().0;
        let peer: SocketAddr = peer.parse().unwrap();
        parts.extensions.insert(Peer::Address(peer));
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        parts.extensions.insert(CertificateNames(names.into()));
        match rule.judge(&parts, Timestamp(0)) {
            Ok(caller) => caller.map(|caller| caller.to_string()).unwrap_or_default(),
            Err(refusal) => refusal.error.status().as_u16().to_string(),
        }
    };
    let none = ("accept", "*/*");
    assert_eq!(ask("POST", FAR, &["ci"], none), "certificate ci");
    assert_eq!(ask("POST", FAR, &["x", "ci"], none), "certificate ci");
    assert_eq!(ask("GET", FAR, &["watch"], none), "certificate watch");
    assert_eq!(ask("POST", FAR, &["watch"], none), "403");
    assert_eq!(ask("GET", FAR, &["CI"], none), "403");
    assert_eq!(ask("GET", FAR, &[], none), "401");
    // A browser shows its certificate to every page.
    let origin = |origin| ask("POST", FAR, &["ci"], ("origin", origin));
    assert_eq!(origin("https://evil.example"), "403");
    assert_eq!(origin("https://lb.example.org:7700"), "certificate ci");
    let site = ("sec-fetch-site", "cross-site");
    assert_eq!(ask("POST", FAR, &["ci"], site), "403");
}
