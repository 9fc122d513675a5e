use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};

use super::*;
use crate::model::Secret;

const SECRET: &[u8] = b"a-secret-of-at-least-32-characters";

/// `openssl genrsa 2048`, of which only this half and one signature were kept.
const RSA: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAsA3JeJtqu0OzUW6IkFZi
gKzq59VV9zCr1w0uLTcpDAiP6htlGOU+1F+yf0VpP6eeB+eWN1jIuv2U7eHofNRl
4oNO8szQu558xwGBcgRGRJBB/ECnpPGWuc0PIstWU721obSgpagYREmlq+FwV7y2
kyx4wvL85rZWWFvWCZXVzZjrxyjPdift4BqrzVJjWw9pOd5dKEJa+gs46/JcLUL8
kzxu1SniMbeedZkVmy9F3xCjCHWWjieZZsMN5eB3l5glAlCqMltjmapDigiRrfSr
ZW/cuU0xHXwr6NcbAt1p821yJ5tpjbEYESi+yPgCi2xNHRSuGDqVfMd/kXor76wW
SwIDAQAB
-----END PUBLIC KEY-----
";

/// `{"alg":"RS256","typ":"JWT"}` and `{"sub":"alice"}`, signed with the other half.
const RSA_TOKEN: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZSJ9.\
    Ond4LIiRl9zS2n8JHERVouEWK5FXYdw4BGXyPOWVKOerxjVTUql0idKaSmI_RwOlJ66h_0SxMoF1JNIjTIY5ALv_2BVU\
    OuUzysEYOD32a9AVl2OUkhA4Bjlecn2_sDLwTZcdgQJTJbOItUl-dzuZpRZU4RwUa4OnMRx7rCsXweoIMLLC169lrDXr\
    bCmFWZ6iTS3MZl6ePzTBrmyfAshqbY9SJdqGo85KVCPAFIeRy8nODCvYrbgJSfeQgf1KhfApUwQ8rmq95Vyjpi_9XXN6\
    dnYJDVTL4DsS30C1a_X70mCK6XSwxYEVWWio3pk6nYvRcsj3uovpz_OBtc0vTDdbwA";

fn key(algorithm: JwtAlgorithm, key: &[u8]) -> JwtKey {
    JwtKey {
        algorithm,
        key: Secret(key.to_vec()),
    }
}

fn token(algorithm: &str, claims: &str, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!("{{\"alg\":\"{algorithm}\",\"typ\":\"JWT\"}}"));
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// A token signed with `secret`.
pub(in crate::l7) fn hs256(claims: &str, secret: &[u8]) -> String {
    token("HS256", claims, |text| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        hmac::sign(&key, text).as_ref().to_vec()
    })
}

fn pem(prefix: &[u8], public: &[u8]) -> String {
    let der = STANDARD.encode([prefix, public].concat());
    format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n")
}

fn id(text: &str) -> Option<SessionId> {
    Some(SessionId::of(text.as_bytes()))
}

#[test]
fn each_algorithm_is_verified_with_its_key() {
    let random = SystemRandom::new();
    let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
    let ed = Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap();
    let signing = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let ec = EcdsaKeyPair::generate_pkcs8(signing, &random).unwrap();
    let ec = EcdsaKeyPair::from_pkcs8(signing, ec.as_ref(), &random).unwrap();
    let ed_prefix = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
    let ec_prefix = [
        0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48,
        0xce, 0x3d, 3, 1, 7, 3, 0x42, 0,
    ];
    let keys = [
        key(JwtAlgorithm::Hs256, SECRET),
        key(JwtAlgorithm::Rs256, RSA.as_bytes()),
        key(
            JwtAlgorithm::Es256,
            pem(&ec_prefix, ec.public_key().as_ref()).as_bytes(),
        ),
        key(
            JwtAlgorithm::EdDsa,
            pem(&ed_prefix, ed.public_key().as_ref()).as_bytes(),
        ),
    ];
    let claims = r#"{"sub":"alice"}"#;
    let tokens = [
        hs256(claims, SECRET),
        RSA_TOKEN.to_owned(),
        token("ES256", claims, |text| {
            ec.sign(&random, text).unwrap().as_ref().to_vec()
        }),
        token("EdDSA", claims, |text| ed.sign(text).as_ref().to_vec()),
    ];
    let all = Verifier::new(&keys).unwrap();
    for (at, token) in tokens.iter().enumerate() {
        let session = |verifier: &Verifier| verifier.verify(token.as_bytes())?.at(0);
        assert_eq!(session(&all), id("alice"), "{at}");
        for (other, key) in keys.iter().enumerate() {
            let one = Verifier::new(std::slice::from_ref(key)).unwrap();
            assert_eq!(
                session(&one).is_some(),
                other == at,
                "token {at}, key {other}"
            );
        }
        // One bit of the signature, or of what is signed, is enough.
        for from_end in [10, token.len() / 2] {
            let mut forged = token.clone().into_bytes();
            let at = forged.len() - from_end;
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(all.verify(&forged), None);
        }
    }
}

#[test]
fn a_token_cannot_choose_how_it_is_verified() {
    let rsa = Verifier::new(&[key(JwtAlgorithm::Rs256, RSA.as_bytes())]).unwrap();
    let claims = r#"{"sub":"alice"}"#;
    assert_eq!(rsa.verify(hs256(claims, RSA.as_bytes()).as_bytes()), None);
    for algorithm in ["none", "None", "HS384", "RS256", ""] {
        let unsigned = token(algorithm, claims, |_| Vec::new());
        assert_eq!(rsa.verify(unsigned.as_bytes()), None, "{algorithm}");
    }
    for junk in ["", ".", "..", "a.b.c", "eyJhbGciOiJSUzI1NiJ9..", "\u{fffd}"] {
        assert_eq!(rsa.verify(junk.as_bytes()), None, "{junk:?}");
    }
    assert!(Verifier::new(&[]).is_none());
}

#[test]
fn the_first_claim_that_says_something_is_the_session() {
    let verifier = Verifier::new(&[key(JwtAlgorithm::Hs256, SECRET)]).unwrap();
    let session = |claims: &str| verifier.verify(hs256(claims, SECRET).as_bytes())?.at(1000);
    assert_eq!(session(r#"{"sub":"c","jti":"b","sid":"a"}"#), id("a"));
    assert_eq!(session(r#"{"sub":"c","jti":"b","sid":""}"#), id("b"));
    assert_eq!(session(r#"{"sub":"c","jti":null}"#), id("c"));
    assert_eq!(session(r#"{"sub":17}"#), id("17"));
    let bare = hs256(r#"{"iss":"x"}"#, SECRET);
    assert_eq!(session(r#"{"iss":"x"}"#), id(&bare));
    // Good until the minute after its end, and from the minute before its beginning.
    assert!(session(r#"{"sub":"c","exp":941}"#).is_some());
    assert!(session(r#"{"sub":"c","exp":940}"#).is_none());
    assert!(session(r#"{"sub":"c","nbf":1060}"#).is_some());
    assert!(session(r#"{"sub":"c","nbf":1061.5}"#).is_none());
    assert!(session(r#"{"sub":"c","exp":-5}"#).is_none());
    assert!(session(r#"{"sub":"c","exp":"soon"}"#).is_none());
}
