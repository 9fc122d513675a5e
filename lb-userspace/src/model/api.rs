//! Who may use the management API, as it was asked for.

use std::{fmt, sync::Arc};

/// What somebody may do with the management API; each role may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Look at everything.
    Read,
    /// Tell what runs what to do, within what is configured.
    Operate,
    /// Change what is configured.
    Configure,
}

impl Role {
    /// All roles, the least first.
    pub const ALL: [Self; 3] = [Self::Read, Self::Operate, Self::Configure];

    /// In API, configuration and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Configure => "configure",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A bearer token. Its hash is enough to know it by, so that is all that lb keeps.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSpec {
    /// What whoever shows it is called.
    pub name: Arc<str>,
    /// SHA-256 of the token.
    pub digest: [u8; 32],
    /// What whoever shows it may do.
    pub role: Role,
}

impl fmt::Debug for TokenSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A weak token can be guessed from its hash.
        f.debug_struct("TokenSpec")
            .field("name", &self.name)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// Who may use the management API, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessSpec {
    /// Tokens, unique by name and by hash.
    pub tokens: Vec<TokenSpec>,
    /// What peers on a loopback address may do without a token.
    pub loopback: Option<Role>,
}

impl Default for AccessSpec {
    fn default() -> Self {
        Self {
            tokens: Vec::new(),
            loopback: Some(Role::Configure),
        }
    }
}
