//! Pages that a browser on this machine shows must not use the browser's address.
//!
//! A page whose name resolves to 127.0.0.1 (DNS rebinding) betrays itself by its `Host`, so that
//! has to be `localhost` or an IP address. A page that posts a form across sites betrays itself by
//! `Origin` or `Sec-Fetch-Site`, so changing methods refuse another origin than their own.

use std::net::IpAddr;

use axum::http::{HeaderMap, Uri, header, request::Parts};

use crate::api::ApiError;

/// Whether somebody has passed the request on for somebody else.
pub(super) fn is_forwarded(headers: &HeaderMap) -> bool {
    ["forwarded", "x-forwarded-for", "x-real-ip", "via"]
        .iter()
        .any(|name| headers.contains_key(*name))
}

/// Refuses what a page of another site could have sent.
pub(super) fn refuse_pages(request: &Parts) -> Result<(), ApiError> {
    let host = host(&request.uri, &request.headers);
    if !host.as_deref().is_some_and(is_local_name) {
        let found = host.map_or_else(|| "none".to_owned(), |host| format!("{host:?}"));
        return Err(ApiError::Forbidden(format!(
            "expected localhost or an IP address as the Host of a request without a token, found \
             {found}"
        )));
    }
    refuse_other_sites(request)
}

/// Refuses changes that a page of another site could ask for.
pub(super) fn refuse_other_sites(request: &Parts) -> Result<(), ApiError> {
    if !super::changes(&request.method) {
        return Ok(());
    }
    let host = host(&request.uri, &request.headers);
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
