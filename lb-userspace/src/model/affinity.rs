//! Session affinity as configured, and what is counted of it.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Where a session's id may stand in a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SessionSource {
    /// The value of a header, its name in lower case.
    Header(String),
    /// The JSON Web Token in `Authorization: Bearer`: its claim `sid`, else `jti`, else `sub`, once
    /// its signature is verified; without a key to verify with, the token as a whole.
    Jwt,
    /// The value of a cookie that the instances set.
    Cookie(String),
    /// The client's address. Also for connections to VIPs, in which nothing else can be read.
    Address,
    /// A cookie of lb's own, which carries the instance too. Requests without any id get one.
    Own,
}

/// Which requests a cookie may come along with from other sites (RFC 6265bis, 5.6.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SameSite {
    /// Only those that follow a link.
    #[default]
    Lax,
    /// None.
    Strict,
    /// All, over TLS.
    None,
}

impl SameSite {
    /// The name in configuration and cookies.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lax => "lax",
            Self::Strict => "strict",
            Self::None => "none",
        }
    }
}

/// Whether clients send a cookie over TLS alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SecureCookie {
    /// When the request came over TLS, as a trusted proxy says in `X-Forwarded-Proto`.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl SecureCookie {
    /// The name in configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

/// A text that no log and no answer may show.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// How a token is signed. Each key is for one algorithm, so a token cannot choose a weaker one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JwtAlgorithm {
    /// HMAC with SHA-256 and a shared secret.
    Hs256,
    /// RSA (PKCS #1 v1.5) with SHA-256, 2048 to 8192 bits.
    Rs256,
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

/// A key that tokens are verified with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JwtKey {
    /// The one algorithm that it is for.
    pub algorithm: JwtAlgorithm,
    /// The shared secret, or the public key as PEM.
    pub key: Secret,
}

/// Session affinity of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AffinitySpec {
    /// Whether sessions stay with their instance. The sources hold either way: a service may hash
    /// by session without affinity.
    pub enabled: bool,
    /// How long a session is remembered after its last request.
    pub ttl: Duration,
    /// Where a session's id is looked for; the first that is there counts.
    pub sources: Vec<SessionSource>,
    /// Keys for tokens; any of them will do.
    pub jwt_keys: Vec<JwtKey>,
    /// `SameSite` of lb's own cookie.
    pub same_site: SameSite,
    /// `Secure` of lb's own cookie.
    pub secure: SecureCookie,
}

impl Default for AffinitySpec {
    /// Off; the guide's 30 minutes; the specification's order of sources.
    fn default() -> Self {
        Self {
            enabled: false,
            ttl: Duration::from_secs(30 * 60),
            sources: vec![
                SessionSource::Header("x-session-id".to_owned()),
                SessionSource::Header("session-id".to_owned()),
                SessionSource::Jwt,
                SessionSource::Own,
            ],
            jwt_keys: Vec::new(),
            same_site: SameSite::default(),
            secure: SecureCookie::default(),
        }
    }
}

impl AffinitySpec {
    /// How long connections to VIPs go to their client's instance, if they do: where sessions are known
    /// by the client's address.
    #[must_use]
    pub fn of_connections(&self) -> Option<Duration> {
        let by_address = self.enabled && self.sources.contains(&SessionSource::Address);
        by_address.then_some(self.ttl)
    }

    /// Whether lb sets a cookie of its own.
    #[must_use]
    pub fn sets_cookie(&self) -> bool {
        self.enabled && self.sources.contains(&SessionSource::Own)
    }
}

/// What sessions of all services have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSpec {
    /// Most entries that are remembered, one for each session and service.
    pub capacity: usize,
    /// What the names of lb's own cookies begin with.
    pub cookie: String,
    /// Keys of lb's own cookies, 32 bytes each: the first seals, all open. Without any, each
    /// process makes one of its own, and no cookie outlives it.
    pub cookie_keys: Vec<Secret>,
}

impl Default for SessionSpec {
    fn default() -> Self {
        Self {
            capacity: 1_000_000,
            cookie: "lb_session".to_owned(),
            cookie_keys: Vec::new(),
        }
    }
}

labelled! {
    /// What became of a request's affinity; every request of a service with affinity has one.
    Followed {
        /// It went to the instance that its session was pinned to.
        Hit: "hit";
        /// Its session was pinned to no instance and now is.
        Miss: "miss";
        /// Its session was pinned to an instance that it could not go to, and is pinned anew.
        Broken: "broken";
        /// It went where its session's hash leads, without anything remembered.
        Hashed: "hashed";
        /// It has no session.
        None: "none";
    }
}

labelled! {
    /// Why a session's affinity was broken.
    Break {
        /// The instance is no part of the service any more.
        Gone: "gone";
        /// The instance takes no requests: unhealthy, ejected, disabled, at its limit.
        Unavailable: "unavailable";
        /// The request was sent to the instance in vain.
        Failed: "failed";
        /// The instance recovers and has had its share for now.
        Quota: "quota";
        /// Another instance recovers and is owed requests for its share.
        Recovery: "recovery";
    }
}

labelled! {
    /// Something that claims a session and is not believed.
    Refused {
        /// A token that no key verifies, or that has expired.
        Token: "token";
        /// A cookie under the name of lb's own that no key opens, or that has expired.
        Cookie: "cookie";
    }
}

/// Counters of a service's affinity. Every worker has its own, so that no cache line travels.
#[derive(Debug)]
pub struct AffinityStats(Box<[Shard]>);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    followed: [AtomicU64; Followed::ALL.len()],
    breaks: [AtomicU64; Break::ALL.len()],
    refused: [AtomicU64; Refused::ALL.len()],
}

impl AffinityStats {
    /// Counters at zero for `workers` threads.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Shard::default()).collect())
    }

    fn shard(&self, worker: usize) -> &Shard {
        &self.0[worker % self.0.len()]
    }

    /// Counts a request.
    pub fn follow(&self, worker: usize, followed: Followed) {
        self.shard(worker).followed[followed as usize].fetch_add(1, Relaxed);
    }

    /// Counts a session that left its instance.
    pub fn broke(&self, worker: usize, reason: Break) {
        self.shard(worker).breaks[reason as usize].fetch_add(1, Relaxed);
    }

    /// Counts a claim that was not believed.
    pub fn refuse(&self, worker: usize, claim: Refused) {
        self.shard(worker).refused[claim as usize].fetch_add(1, Relaxed);
    }

    /// Requests that ended so.
    #[must_use]
    pub fn followed(&self, followed: Followed) -> u64 {
        self.sum(|shard| &shard.followed[followed as usize])
    }

    /// Sessions that left their instance for `reason`.
    #[must_use]
    pub fn breaks(&self, reason: Break) -> u64 {
        self.sum(|shard| &shard.breaks[reason as usize])
    }

    /// Claims that were not believed.
    #[must_use]
    pub fn refused(&self, claim: Refused) -> u64 {
        self.sum(|shard| &shard.refused[claim as usize])
    }

    /// Forgets everything.
    pub fn reset(&self) {
        for shard in &self.0 {
            let counters = shard.followed.iter().chain(&shard.breaks);
            for counter in counters.chain(&shard.refused) {
                counter.store(0, Relaxed);
            }
        }
    }

    fn sum(&self, counter: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        self.0
            .iter()
            .map(|shard| counter(shard).load(Relaxed))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_counts_for_itself_and_the_sum_is_read() {
        let stats = AffinityStats::new(2);
        stats.follow(0, Followed::Hit);
        stats.follow(1, Followed::Hit);
        stats.broke(1, Break::Quota);
        stats.refuse(0, Refused::Token);
        assert_eq!(stats.followed(Followed::Hit), 2);
        assert_eq!(stats.followed(Followed::Miss), 0);
        assert_eq!(stats.breaks(Break::Quota), 1);
        assert_eq!(stats.refused(Refused::Token), 1);
        stats.reset();
        assert_eq!(stats.followed(Followed::Hit), 0);
        assert_eq!(stats.breaks(Break::Quota), 0);
    }

    #[test]
    fn secrets_are_not_shown() {
        let key = JwtKey {
            algorithm: JwtAlgorithm::Hs256,
            key: Secret(b"hush".to_vec()),
        };
        let shown = format!("{key:?}");
        assert!(!shown.contains("hush") && !shown.contains("104"), "{shown}");
    }
}
