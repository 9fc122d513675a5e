//! TLS to the management API.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::args::Connection;

/// What TLS to lb needs, from the files that the command line names.
pub(super) fn client(files: &Connection) -> Result<Arc<ClientConfig>, String> {
    let roots = match &files.ca {
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("--ca", path)? {
                let added = roots.add(certificate);
                added.map_err(|error| unfit("--ca", path, &error))?;
            }
            roots
        }
        None => system_roots()?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let config = match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            let chain = certificates("--cert", cert)?;
            let private = PrivateKeyDer::from_pem_file(key);
            let private = private.map_err(|error| unfit("--key", key, &error))?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| unfit("--key", key, &error))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn certificates(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    match read() {
        Ok(certificates) if certificates.is_empty() => Err(format!(
            "expected {flag} to name certificates in PEM, found none in {}",
            path.display()
        )),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unfit(flag, path, &error)),
    }
}

fn unfit(flag: &str, path: &Path, error: &dyn std::fmt::Display) -> String {
    let path = path.display();
    format!("expected {flag} to name a file in PEM that fits, found {path}: {error}")
}

fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = "this machine has no certificate authorities; --ca (LB_API_CA) names some";
        return Err(why.to_owned());
    }
    Ok(roots)
}
