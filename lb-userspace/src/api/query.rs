//! The parameters of a query: nothing that is not understood, nothing twice that is meant once.

use axum::{
    extract::{FromRequestParts, Query},
    http::request::Parts,
};

use super::error::{ApiError, Fault};

/// The parameters that a request has, in their order, until each is taken.
#[derive(Debug, Default)]
pub(super) struct Parameters(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::from_request_parts(parts, state).await;
        let Query(parameters) = query.map_err(|_| {
            let expected = "parameters in the form name=value&…";
            unexpected("", expected, "something else")
        })?;
        Ok(Self(parameters))
    }
}

impl Parameters {
    /// Takes the value of `name`, which may be there once.
    pub(super) fn one(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        let mut values = self.all(name).into_iter();
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(unexpected(name, "it once", "it more often")),
        }
    }

    /// Takes all values of `name`.
    pub(super) fn all(&mut self, name: &str) -> Vec<String> {
        let taken = self.0.extract_if(.., |(found, _)| found == name);
        taken.map(|(_, value)| value).collect()
    }

    /// Nothing is left; `known` says what there could have been.
    pub(super) fn end(self, known: &str) -> Result<(), ApiError> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => Err(unexpected("", &format!("the parameters {known}"), &name)),
        }
    }
}

/// The error of a parameter, or of all together when `parameter` is empty.
pub(super) fn unexpected(parameter: &str, expected: &str, found: &str) -> ApiError {
    ApiError::Query(Fault {
        pointer: parameter.to_owned(),
        origin: None,
        expected: expected.to_owned(),
        found: found.to_owned(),
    })
}
