//! A page to browse the API and to try it.
//!
//! It is a reader of the OpenAPI document, and so knows every endpoint there is. It is part of the
//! program: nothing is fetched from elsewhere, which its Content-Security-Policy also forbids, and
//! what the page shows is put into it as text, never as markup. Who may use the API may see it, and
//! can do by it what the API lets them do: the page sends a token when one is entered, and keeps it
//! nowhere.

use axum::{
    http::{HeaderName, header},
    response::{IntoResponse, Response},
};

use super::document::tag;

/// Only what lb itself serves, in no frame, with no other site told.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'";

/// A page to browse this API
///
/// For browsers; it works offline. On the API's own listener it is at `/api/v1/docs`, too.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/docs",
    tag = tag::DOCUMENTATION,
    operation_id = "getPage",
    responses((status = OK, body = String, content_type = "text/html", description = "The page"))
)]
pub(super) async fn html() -> Response {
    part("text/html; charset=utf-8", include_str!("page/page.html"))
}

/// What the page does.
pub(super) async fn script() -> Response {
    part(
        "text/javascript; charset=utf-8",
        include_str!("page/page.js"),
    )
}

/// How the page looks.
pub(super) async fn style() -> Response {
    part("text/css; charset=utf-8", include_str!("page/page.css"))
}

fn part(media_type: &'static str, content: &'static str) -> Response {
    let headers: [(HeaderName, &str); 4] = [
        (header::CONTENT_TYPE, media_type),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, content).into_response()
}
