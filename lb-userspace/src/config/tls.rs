//! What TLS needs of files: certificates and keys, for the API's listeners.
//!
//! The configuration is checked by doing what the listeners do with it, so what has passed works.

use std::{path::Path, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};

use crate::model::TlsSpec;

/// A file is not what TLS needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected api.tls.{key} to name {expected}, found {found} in {path}")]
pub struct TlsError {
    /// Which setting.
    pub key: &'static str,
    /// What belongs there.
    pub expected: &'static str,
    /// What is there.
    pub found: String,
    /// The file.
    pub path: String,
}

/// Reads the files of `spec` and makes of them what a listener needs.
///
/// # Errors
/// When a file is not there or not what it should be, or when they do not fit each other.
pub fn server(spec: &TlsSpec) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates("cert", &spec.cert)?;
    let key = PrivateKeyDer::from_pem_file(&spec.key);
    let of_key = |found: String| TlsError {
        key: "key",
        expected: "a private key in PEM that belongs to the certificate of api.tls.cert",
        found,
        path: spec.key.display().to_string(),
    };
    let key = key.map_err(|error| of_key(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| of_key(error.to_string()))?;
    let builder = match &spec.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(roots("client_ca", path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let verifier = if spec.require_client_cert {
                verifier
            } else {
                verifier.allow_unauthenticated()
            };
            let verifier = verifier
                .build()
                .map_err(|error| no_certificates("client_ca", path, error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let config = builder.with_single_cert(chain, key);
    let mut config = config.map_err(|error| of_key(error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The certificates of a file, at least one.
///
/// # Errors
/// When there is none, or something else.
pub fn certificates(
    key: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    match read() {
        Ok(certificates) if certificates.is_empty() => {
            Err(no_certificates(key, path, "none".to_owned()))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(no_certificates(key, path, error.to_string())),
    }
}

/// The certificates of a file as those that others are judged by.
///
/// # Errors
/// When there is none, or something else.
pub fn roots(key: &'static str, path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(key, path)? {
        roots
            .add(certificate)
            .map_err(|error| no_certificates(key, path, error.to_string()))?;
    }
    Ok(roots)
}

fn no_certificates(key: &'static str, path: &Path, found: String) -> TlsError {
    TlsError {
        key,
        expected: "one or more certificates in PEM",
        found,
        path: path.display().to_string(),
    }
}
