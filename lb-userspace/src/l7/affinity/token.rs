//! JSON Web Tokens (RFC 7519), verified.
//!
//! lb does not let anybody in on the strength of a token; that is for the instances. It verifies
//! so that nobody can take part in a session, and crowd its instance, by writing its name into a
//! token. Reading and checking are those of the `jsonwebtoken` crate, signatures are ring's.
//!
//! Each key is for one algorithm and a token must name exactly that one, so neither `none` nor a
//! public key taken for an HMAC secret gets through (RFC 8725, 2.1).

use std::{collections::HashSet, sync::Once};

use jsonwebtoken::{
    Algorithm, DecodingKey, Validation,
    crypto::{CryptoProvider, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind},
};
use ring::{hmac, signature as rings};
use serde::Deserialize;
use serde_json::Value;
use signature::Verifier as Check;

use crate::{
    affinity::SessionId,
    model::{JwtAlgorithm, JwtKey},
};

/// How far apart the clocks of lb and of whoever signs may be, in seconds.
const SKEW: u64 = 60;

/// The keys of a service.
pub(super) struct Verifier(Vec<(Algorithm, DecodingKey)>);

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Verifier({} keys)", self.0.len())
    }
}

/// What a token that was verified says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verified {
    session: SessionId,
    /// The first second in which it is good.
    from: u64,
    /// The first second in which it is no more.
    until: u64,
}

impl Verified {
    /// What is taken of a token when there is no key: all of it, as it is.
    pub(super) fn unchecked(token: &[u8]) -> Self {
        Self {
            session: SessionId::of(token),
            from: 0,
            until: u64::MAX,
        }
    }

    /// The session, when the token is good at `now` seconds since 1970.
    pub(super) fn at(&self, now: u32) -> Option<SessionId> {
        let now = u64::from(now);
        (now + SKEW >= self.from && now < self.until.saturating_add(SKEW)).then_some(self.session)
    }
}

/// The claims that matter (RFC 7519, 4.1; `sid` is OpenID Connect's).
#[derive(Deserialize)]
struct Said {
    sid: Option<Value>,
    jti: Option<Value>,
    sub: Option<Value>,
    exp: Option<f64>,
    nbf: Option<f64>,
}

impl Verifier {
    /// A verifier with `keys`; `None` when there are none. A key that cannot be read, which the
    /// configuration has refused, verifies nothing.
    pub(super) fn new(keys: &[JwtKey]) -> Option<Self> {
        install();
        if keys.is_empty() {
            return None;
        }
        let key = |key: &JwtKey| {
            let bytes = &*key.key.0;
            Some(match key.algorithm {
                JwtAlgorithm::Hs256 => (Algorithm::HS256, DecodingKey::from_secret(bytes)),
                JwtAlgorithm::Rs256 => (Algorithm::RS256, DecodingKey::from_rsa_pem(bytes).ok()?),
                JwtAlgorithm::Es256 => (Algorithm::ES256, DecodingKey::from_ec_pem(bytes).ok()?),
                JwtAlgorithm::EdDsa => (Algorithm::EdDSA, DecodingKey::from_ed_pem(bytes).ok()?),
            })
        };
        Some(Self(keys.iter().filter_map(key).collect()))
    }

    /// What `token` says, if one of the keys has signed it. The times are for [`Verified::at`].
    pub(super) fn verify(&self, token: &[u8]) -> Option<Verified> {
        let named = jsonwebtoken::decode_header(token).ok()?.alg;
        let fitting = self.0.iter().filter(|(algorithm, _)| *algorithm == named);
        let said = fitting.into_iter().find_map(|(algorithm, key)| {
            let mut wanted = Validation::new(*algorithm);
            wanted.required_spec_claims = HashSet::new();
            wanted.validate_exp = false;
            wanted.validate_aud = false;
            let decoded = jsonwebtoken::decode::<Said>(token, key, &wanted);
            decoded.ok().map(|decoded| decoded.claims)
        })?;
        let text = |claim: &Value| match claim {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let claims = [&said.sid, &said.jti, &said.sub];
        let id = claims.into_iter().flatten().find_map(text);
        Some(Verified {
            session: id.map_or_else(|| SessionId::of(token), |id| SessionId::of(id.as_bytes())),
            // As casts of floats do: what is negative or no number becomes 0.
            from: said.nbf.map_or(0, |at| at as u64),
            until: said.exp.map_or(u64::MAX, |at| at as u64),
        })
    }
}

/// A signature's check by ring.
struct Rings {
    algorithm: Algorithm,
    key: Vec<u8>,
}

impl Check<Vec<u8>> for Rings {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let public = |algorithm: &'static dyn rings::VerificationAlgorithm| {
            rings::UnparsedPublicKey::new(algorithm, &self.key).verify(message, signature)
        };
        let checked = match self.algorithm {
            Algorithm::HS256 => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, &self.key);
                hmac::verify(&key, message, signature)
            }
            Algorithm::RS256 => public(&rings::RSA_PKCS1_2048_8192_SHA256),
            Algorithm::ES256 => public(&rings::ECDSA_P256_SHA256_FIXED),
            Algorithm::EdDSA => public(&rings::ED25519),
            _ => Err(ring::error::Unspecified),
        };
        checked.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Rings {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

/// Tells `jsonwebtoken` who does the arithmetic. It can be told once, for the whole process.
fn install() {
    static INSTALLED: Once = Once::new();
    static PROVIDER: CryptoProvider = CryptoProvider {
        signer_factory: |_, _| Err(Error::from(ErrorKind::InvalidAlgorithm)),
        verifier_factory: |algorithm, key| {
            Ok(Box::new(Rings {
                algorithm: *algorithm,
                key: key.try_get_as_bytes()?.to_vec(),
            }))
        },
        // For sets of keys in JSON, which are not read.
        key_utils: KeyUtils::new_unimplemented(),
    };
    INSTALLED.call_once(|| {
        if PROVIDER.install_default().is_err() {
            tracing::error!("signatures of tokens are checked by another library than ring");
        }
    });
}

#[cfg(test)]
pub(in crate::l7) mod tests;
