//! Session affinity: of a service or of those without settings of their own, and `[sessions]` for
//! what all sessions have in common.

use std::{fs, path::Path, path::PathBuf, time::Duration};

use jsonwebtoken::DecodingKey;

use super::{
    forms::{Choice, Number, Pattern, Period, Switch},
    origin::Sourced,
    reader::Section,
    values::{COOKIE_KEY, COOKIE_NAME, FILE, JWT_SECRET, SESSION_SOURCE},
};
use crate::model::{
    AffinitySpec, JwtAlgorithm, JwtKey, SameSite, Secret, SecureCookie, SessionSource, SessionSpec,
};

const TTL: Period = Period {
    min: Duration::from_secs(1),
    max: Duration::from_secs(366 * 24 * 3600),
    example: "30m",
};

const CAPACITY: Number<usize> = Number {
    min: 1000,
    max: 100_000_000,
    example: 1_000_000,
};

const SAME_SITE: Choice<SameSite> = Choice {
    choices: &[SameSite::Lax, SameSite::Strict, SameSite::None],
    name: SameSite::as_str,
};

const SECURE: Choice<SecureCookie> = Choice {
    choices: &[
        SecureCookie::Auto,
        SecureCookie::Always,
        SecureCookie::Never,
    ],
    name: SecureCookie::as_str,
};

/// Bytes of the modulus of an RSA key below which signatures are not checked at all.
const RSA_BYTES: usize = 256;

/// Bytes of an uncompressed point on P-256.
const P256_BYTES: usize = 65;

/// The settings of affinity, each with its source.
#[derive(Clone, Debug)]
pub(super) struct AffinitySettings {
    enabled: Sourced<bool>,
    ttl: Sourced<Duration>,
    sources: Vec<SessionSource>,
    jwt_secret: Sourced<Option<Secret>>,
    jwt_secret_file: Sourced<Option<PathBuf>>,
    jwt_keys_file: Sourced<Option<PathBuf>>,
    same_site: Sourced<SameSite>,
    secure: Sourced<SecureCookie>,
    /// What the three settings of keys come to.
    jwt_keys: Vec<JwtKey>,
}

impl AffinitySettings {
    /// What holds when nobody says anything.
    pub(super) fn unset() -> Self {
        let model = AffinitySpec::default();
        Self {
            enabled: Sourced::unset(model.enabled),
            ttl: Sourced::unset(model.ttl),
            sources: model.sources,
            jwt_secret: Sourced::unset(None),
            jwt_secret_file: Sourced::unset(None),
            jwt_keys_file: Sourced::unset(None),
            same_site: Sourced::unset(model.same_site),
            secure: Sourced::unset(model.secure),
            jwt_keys: model.jwt_keys,
        }
    }

    /// Reads a table; `self` holds for what it does not say.
    pub(super) fn read(&self, t: &mut Section<'_, '_>) -> Self {
        let enabled = t.value("enabled", &Switch, &self.enabled);
        let ttl = t.value("ttl", &TTL, &self.ttl);
        let sources = t.list("sources", &SESSION_SOURCE, &self.sources);
        let own = ["jwt_secret", "jwt_secret_file", "jwt_keys_file"].map(|key| t.has(key));
        let jwt_secret = t.optional("jwt_secret", &JWT_SECRET, &self.jwt_secret, "none");
        let jwt_secret_file = t.optional("jwt_secret_file", &FILE, &self.jwt_secret_file, "none");
        let jwt_keys_file = t.optional("jwt_keys_file", &FILE, &self.jwt_keys_file, "none");
        let same_site = t.value("same_site", &SAME_SITE, &self.same_site);
        let secure = t.value("secure", &SECURE, &self.secure);
        if same_site.value == SameSite::None && secure.value == SecureCookie::Never {
            let expected = "anything but \"never\" beside same_site = \"none\": browsers refuse it";
            t.reader().contradiction(&secure, "\"never\"", expected);
        }
        // Files are read where they are named: a fault in one is reported once.
        let jwt_keys = if own.contains(&true) {
            jwt_keys(t, &jwt_secret, &jwt_secret_file, &jwt_keys_file)
        } else {
            self.jwt_keys.clone()
        };
        Self {
            enabled,
            ttl,
            sources: sources.into_iter().map(|source| source.value).collect(),
            jwt_secret,
            jwt_secret_file,
            jwt_keys_file,
            same_site,
            secure,
            jwt_keys,
        }
    }

    /// The affinity.
    pub(super) fn build(&self) -> AffinitySpec {
        AffinitySpec {
            enabled: self.enabled.value,
            ttl: self.ttl.value,
            sources: self.sources.clone(),
            jwt_keys: self.jwt_keys.clone(),
            same_site: self.same_site.value,
            secure: self.secure.value,
        }
    }
}

fn jwt_keys(
    t: &mut Section<'_, '_>,
    secret: &Sourced<Option<Secret>>,
    secret_file: &Sourced<Option<PathBuf>>,
    keys_file: &Sourced<Option<PathBuf>>,
) -> Vec<JwtKey> {
    let mut keys = Vec::new();
    let from_file = lines(t, secret_file, &JWT_SECRET);
    for secret in secret.value.iter().cloned().chain(from_file) {
        keys.push(JwtKey {
            algorithm: JwtAlgorithm::Hs256,
            key: secret,
        });
    }
    let Some(text) = contents(t, keys_file) else {
        return keys;
    };
    let before = keys.len();
    for block in pem_blocks(&text) {
        match public_key(block) {
            Some(key) => keys.push(key),
            None => {
                let found = block.lines().next().unwrap_or_default();
                t.reader().contradiction(keys_file, found, PEM);
            }
        }
    }
    if keys.len() == before {
        let reader = t.reader();
        reader.contradiction(keys_file, "a file without a PEM block that will do", PEM);
    }
    keys
}

const PEM: &str = "a file of public keys in PEM: RSA of 2048 bits or more, P-256 or Ed25519";

/// The PEM blocks of a text, each from its first to its last line.
fn pem_blocks(mut text: &str) -> Vec<&str> {
    let mut blocks = Vec::new();
    while let Some(start) = text.find("-----BEGIN ") {
        let block = &text[start..];
        let Some(last) = block.find("-----END ") else {
            break;
        };
        let line = block[last..].find('\n');
        let (block, rest) = block.split_at(line.map_or(block.len(), |line| last + line));
        blocks.push(block);
        text = rest;
    }
    blocks
}

/// The key in a block, if it is one that tokens can be verified with.
fn public_key(block: &str) -> Option<JwtKey> {
    if block.contains("PRIVATE KEY") {
        return None;
    }
    let pem = block.as_bytes();
    let long = |key: &DecodingKey, fits: fn(usize) -> bool| {
        key.try_get_as_bytes().is_ok_and(|bytes| fits(bytes.len()))
    };
    let rsa = DecodingKey::from_rsa_pem(pem).is_ok_and(|key| long(&key, |n| n > RSA_BYTES));
    let p256 = DecodingKey::from_ec_pem(pem).is_ok_and(|key| long(&key, |n| n == P256_BYTES));
    let algorithm = match (rsa, p256) {
        (true, _) => JwtAlgorithm::Rs256,
        (_, true) => JwtAlgorithm::Es256,
        _ if DecodingKey::from_ed_pem(pem).is_ok() => JwtAlgorithm::EdDsa,
        _ => return None,
    };
    Some(JwtKey {
        algorithm,
        key: Secret(pem.to_vec()),
    })
}

/// Reads `[sessions]`.
pub(super) fn read_sessions(root: &mut Section<'_, '_>) -> SessionSpec {
    root.table("sessions", |t| {
        let unset = SessionSpec::default();
        let capacity = t.value("capacity", &CAPACITY, &Sourced::unset(unset.capacity));
        let cookie = t.value("cookie", &COOKIE_NAME, &Sourced::unset(unset.cookie));
        let keys = t.list("cookie_keys", &COOKIE_KEY, &[]);
        let file = t.optional("cookie_keys_file", &FILE, &Sourced::unset(None), "none");
        if let (Some(first), true) = (keys.first(), file.is_set()) {
            let found = format!("{} as well", first.path);
            let expected = "either cookie_keys or cookie_keys_file";
            t.reader().contradiction(&file, found, expected);
        }
        let from_file = lines(t, &file, &COOKIE_KEY);
        let keys = keys.into_iter().map(|key| key.value);
        SessionSpec {
            capacity: capacity.value,
            cookie: cookie.value,
            cookie_keys: keys.chain(from_file).collect(),
        }
    })
}

/// The secrets in a file, one a line.
fn lines(
    t: &mut Section<'_, '_>,
    file: &Sourced<Option<PathBuf>>,
    form: &Pattern<Secret>,
) -> Vec<Secret> {
    let Some(text) = contents(t, file) else {
        return Vec::new();
    };
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    let secrets: Option<Vec<Secret>> = lines.iter().map(|line| (form.parse)(line).ok()).collect();
    let secrets = secrets.unwrap_or_default();
    if secrets.is_empty() {
        let expected = format!("a file each of whose lines is {}", form.expected);
        let found = "a file with something else in it";
        t.reader().contradiction(file, found, expected);
    }
    secrets
}

fn contents(t: &mut Section<'_, '_>, file: &Sourced<Option<PathBuf>>) -> Option<String> {
    let path: &Path = file.value.as_deref()?;
    match fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) => {
            let expected = format!("a readable file ({error})");
            let found = format!("{:?}", path.display().to_string());
            t.reader().contradiction(file, found, expected);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_parted_whatever_stands_around_them() {
        let block = |name: &str| format!("-----BEGIN {name}-----\nAAAA\n-----END {name}-----");
        let (one, two) = (block("PUBLIC KEY"), block("RSA PUBLIC KEY"));
        let text = format!("# keys\n{one}\nnext\n\n{two}");
        assert_eq!(pem_blocks(&text), [one, two]);
        assert_eq!(pem_blocks("nothing"), [""; 0]);
        assert_eq!(pem_blocks("-----BEGIN X-----\nAAAA"), [""; 0]);
    }
}
