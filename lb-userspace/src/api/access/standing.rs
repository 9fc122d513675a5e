//! Whoever has asked for something that goes on: whether it still may, and what is written down of it.
//!
//! A request is judged when it comes in. A stream may last for a day, and rules are replaced meanwhile:
//! a token is taken back, a role lowered. So the head of its request is kept, and judged again by each
//! rule that comes.

use axum::{extract::FromRequestParts, http::request::Parts};
use tokio::sync::watch;

use super::{Caller, audit::Record};
use crate::{
    api::{ApiError, ApiState},
    model::Role,
};

/// Whoever has asked for a stream. Nothing shows it: its secret is in it.
pub(in crate::api) struct Standing {
    state: ApiState,
    request: Parts,
    caller: Caller,
    /// What the stream needs.
    needed: Role,
    rules: watch::Receiver<()>,
}

/// The end of a stream, for those who look after it.
#[derive(Clone, Copy, Debug)]
pub(in crate::api) struct Ending {
    /// Why it has ended, in a word.
    pub(in crate::api) reason: &'static str,
    /// Events that were in it.
    pub(in crate::api) events: u64,
}

impl Standing {
    /// Whoever asks.
    pub(in crate::api) const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Whether it may have what needs this role, now and from now on.
    ///
    /// # Errors
    /// When not now.
    pub(in crate::api) fn needs(&mut self, role: Role) -> Result<(), ApiError> {
        self.needed = role;
        if self.caller.role >= role {
            return Ok(());
        }
        Err(ApiError::Role {
            needed: role,
            caller: self.caller.to_string(),
            role: self.caller.role,
        })
    }

    /// Waits until it may no more. Whoever stops waiting has lost nothing.
    pub(in crate::api) async fn lapsed(&mut self) {
        while self.rules.changed().await.is_ok() {
            if !self.state.access().lets(&self.request, self.needed) {
                return;
            }
        }
        // There will be no other rules.
        std::future::pending::<()>().await;
    }

    /// Writes into the audit log that the stream begins, or how it has ended.
    pub(in crate::api) fn audit(&self, ending: Option<Ending>) {
        let mut record = Record::new(&self.request, self.state.snapshot().revision);
        record.known(&self.caller);
        record.streamed(&self.request, ending);
        self.state.access().audit.write(record, self.state.now());
    }
}

impl FromRequestParts<ApiState> for Standing {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let caller = Caller::from_request_parts(parts, state).await?;
        let mut rules = state.access().rules.subscribe();
        // There may have been others since the guard has judged.
        rules.mark_changed();
        Ok(Self {
            state: state.clone(),
            request: parts.clone(),
            caller,
            needed: Role::Read,
            rules,
        })
    }
}
