//! TLS on a connection to the API, and the names in what its client has shown.

use std::{io, sync::Arc, time::Duration};

use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use x509_parser::{extensions::GeneralName, prelude::FromDer as _, prelude::X509Certificate};

use crate::api::access::CertificateNames;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Does the handshake.
pub(in crate::api) async fn accept(
    stream: TcpStream,
    config: Arc<ServerConfig>,
) -> io::Result<(TlsStream<TcpStream>, CertificateNames)> {
    let accepted = tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream));
    let stream = accepted.await.map_err(io::Error::from)??;
    let (_, session) = stream.get_ref();
    let shown = session.peer_certificates().and_then(<[_]>::first);
    let names = shown.map(names).unwrap_or_default();
    Ok((stream, CertificateNames(names.into())))
}

/// Whom a certificate is about: the common names of its subject, and its alternative names that are
/// text.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    // rustls has read it to verify it; what it makes of a name is nothing that it tells.
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let common = certificate.subject().iter_common_name();
    let mut names: Vec<String> = common
        .filter_map(|name| name.as_str().ok())
        .map(str::to_owned)
        .collect();
    if let Ok(Some(alternative)) = certificate.subject_alternative_name() {
        names.extend(
            alternative
                .value
                .general_names
                .iter()
                .filter_map(|name| match name {
                    GeneralName::DNSName(name)
                    | GeneralName::RFC822Name(name)
                    | GeneralName::URI(name) => Some((*name).to_owned()),
                    _ => None,
                }),
        );
    }
    names.dedup();
    names
}
