//! Endpoints: what the router serves and what the document says of it, from one declaration.
//!
//! An endpoint is a handler under `#[utoipa::path(…)]`, which says its method, path, parameters and
//! answers, and its name in the list in [`super::endpoints()`]. The list is the only way into the
//! router, and both the router and the document are made from it: a handler without a description
//! does not compile, and a description without a handler does not exist.
//!
//! axum takes a path apart at its slashes, and the names of instances have some: they are URLs. A
//! path with one of [`NAMES`] is therefore read from both ends. What precedes the name is a route
//! of axum's, everything below it goes to one handler, and that finds by the end of the path which
//! endpoint is meant. See [`super::path`] for the forms of names that are understood.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    extract::{RawPathParams, Request, State, rejection::RawPathParamsRejection},
    http::{HeaderName, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, any},
};
use tower::ServiceExt as _;
use utoipa::openapi::{OpenApi, PathItem, Paths, RefOr, Schema};
use utoipa_axum::router::UtoipaMethodRouter;

use super::{document, error::ApiError, path::Name, state::ApiState};

/// Parameters whose value may have slashes. One path has one of them at most.
const NAMES: [&str; 5] = ["{instance}", "{session}", "{route}", "{vip}", "{prefix}"];

/// What a path understands that is only read.
const READING: &str = "GET, HEAD, OPTIONS";

/// A schema and what the document calls it.
type NamedSchema = (String, RefOr<Schema>);

/// Endpoints, as they are gathered.
#[derive(Default)]
pub(super) struct Endpoints {
    router: Router<ApiState>,
    /// By what precedes a name in a path: what may follow it, and who serves that.
    named: BTreeMap<String, Vec<(String, MethodRouter<ApiState>)>>,
    paths: Paths,
    schemas: Vec<NamedSchema>,
}

impl Endpoints {
    /// Adds what [`utoipa_axum::routes!`] makes of the handlers of one path.
    pub(super) fn add(mut self, endpoint: UtoipaMethodRouter<ApiState>) -> Self {
        let (schemas, paths, methods) = endpoint;
        for (path, item) in &paths.paths {
            self = self.serve(path, methods.clone(), allow(item));
        }
        self.schemas.extend(schemas);
        self.paths.merge(paths);
        self
    }

    /// Serves to `GET` what the document does not mention: the same under another address, or a
    /// part of a page.
    pub(super) fn also_at(mut self, alias: &str, methods: MethodRouter<ApiState>) -> Self {
        self = self.serve(alias, methods, READING);
        self
    }

    /// A trailing slash makes no difference to any path. `allow` lists what a path understands,
    /// for `OPTIONS`, which every path does, and for whoever tries something else.
    fn serve(
        mut self,
        path: &str,
        methods: MethodRouter<ApiState>,
        allow: impl Into<Arc<str>>,
    ) -> Self {
        let allow: Arc<str> = allow.into();
        let told = Arc::clone(&allow);
        let methods = methods
            .options(move || async move { (StatusCode::NO_CONTENT, allowed(&told)) })
            .fallback(move |method: Method| async move {
                let method = method.to_string();
                (allowed(&allow), ApiError::Method { method })
            });
        let name = NAMES.iter().find_map(|name| path.split_once(name));
        if let Some((before, after)) = name {
            let ends = self.named.entry(before.to_owned()).or_default();
            ends.push((after.to_owned(), methods));
        } else {
            self.router = self
                .router
                .route(path, methods.clone())
                .route(&format!("{path}/"), methods);
        }
        self
    }

    /// The document over all of them.
    pub(super) fn document(self) -> OpenApi {
        document::complete(self.paths, self.schemas)
    }

    /// The routes of all of them.
    pub(super) fn router(self) -> Router<ApiState> {
        let mut router = self.router;
        for (before, mut ends) in self.named {
            // The longest end first: the empty one fits whatever comes.
            ends.sort_by_key(|(after, _)| std::cmp::Reverse(after.len()));
            let ends = Arc::new(ends);
            let below = move |state, parameters, request| below(ends, state, parameters, request);
            router = router.route(&format!("{before}{{*rest}}"), any(below));
        }
        router.fallback(no_such_path)
    }
}

/// Finds the endpoint that the end of a path means, and tells it the name before that.
async fn below(
    ends: Arc<Vec<(String, MethodRouter<ApiState>)>>,
    State(state): State<ApiState>,
    parameters: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
) -> Response {
    // A path that is no text in UTF-8 names nothing.
    let rest = parameters.ok().and_then(|parameters| {
        let rest = parameters.iter().find(|(name, _)| *name == "rest");
        rest.map(|(_, rest)| rest.trim_end_matches('/').to_owned())
    });
    let found = rest.as_deref().and_then(|rest| {
        ends.iter().find_map(|(after, methods)| {
            let name = rest.strip_suffix(after.as_str())?;
            (!name.is_empty()).then_some((name, methods))
        })
    });
    let Some((name, methods)) = found else {
        return no_such_path(request).await.into_response();
    };
    request.extensions_mut().insert(Name(name.to_owned()));
    match methods.clone().with_state(state).oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

async fn no_such_path(request: Request) -> ApiError {
    ApiError::NoPath {
        path: request.uri().path().to_owned(),
    }
}

/// The methods that a path understands.
fn allow(item: &PathItem) -> String {
    let documented = [
        (item.get.is_some(), "GET, HEAD"),
        (item.put.is_some(), "PUT"),
        (item.post.is_some(), "POST"),
        (item.patch.is_some(), "PATCH"),
        (item.delete.is_some(), "DELETE"),
        (true, "OPTIONS"),
    ];
    let documented = documented.iter().filter(|(there, _)| *there);
    let methods: Vec<&str> = documented.map(|(_, methods)| *methods).collect();
    methods.join(", ")
}

fn allowed(methods: &str) -> [(HeaderName, String); 1] {
    [(header::ALLOW, methods.to_owned())]
}
