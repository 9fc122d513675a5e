//! Who may use the management API, as it was asked for.

use std::{fmt, net::SocketAddr, path::PathBuf, sync::Arc};

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
    /// Clients that are known by their certificates, unique by name.
    pub clients: Vec<ClientSpec>,
    /// What peers on a loopback address may do without a token.
    pub loopback: Option<Role>,
    /// What peers at a unix socket may do without a token.
    pub socket: Option<Role>,
    /// How much a caller may ask for; `None` for as much as it likes.
    pub rates: Option<ApiRates>,
}

/// A client that is known by its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSpec {
    /// A name in the certificate, which the client is called too.
    pub name: Arc<str>,
    /// What it may do.
    pub role: Role,
}

/// TLS on the API's own listeners that are no unix sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSpec {
    /// The certificate and those that lead to its authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities that vouch for clients; without them no certificate is asked for.
    pub client_ca: Option<PathBuf>,
    /// Whether a client without a certificate is refused at once.
    pub require_client_cert: bool,
}

/// How much a caller of the management API may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiRates {
    /// Requests a second, 1 to 1000000.
    pub requests: u32,
    /// Requests that may come at once after a silence, 1 to 1000000.
    pub burst: u32,
    /// Wrong tokens that an address may show in a minute, 1 to 1000000.
    pub failures: u32,
}

impl Default for ApiRates {
    fn default() -> Self {
        Self {
            requests: 1000,
            burst: 2000,
            failures: 20,
        }
    }
}

/// A place where the management API listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiAddress {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl fmt::Display for ApiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Who may connect to the API's unix sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketSpec {
    /// Permissions of the file.
    pub mode: u32,
    /// Whom it belongs to; whoever runs lb when `None`.
    pub owner: Option<SocketOwner>,
}

impl Default for SocketSpec {
    fn default() -> Self {
        Self {
            mode: 0o600,
            owner: None,
        }
    }
}

/// Whom a file belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOwner {
    /// As it was written.
    pub text: String,
    /// The user, if it is another than that of lb.
    pub user: Option<u32>,
    /// The group, if it is another than that of lb.
    pub group: Option<u32>,
}

impl Default for AccessSpec {
    fn default() -> Self {
        Self {
            tokens: Vec::new(),
            clients: Vec::new(),
            loopback: Some(Role::Configure),
            socket: Some(Role::Configure),
            rates: Some(ApiRates::default()),
        }
    }
}
