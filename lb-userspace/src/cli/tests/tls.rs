//! The command line over TLS and unix sockets, with certificates made for the test.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::*;
use crate::{
    api::{Access, Audit, Prepared},
    model::{AccessSpec, ApiAddress, ApiSpec, ClientSpec, DaemonSpec, Role, SocketSpec, TlsSpec},
};

/// An authority with a folder for what it signs.
struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "an authority");
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        Self { folder, issuer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes `NAME.pem` and `NAME.key` for a subject with these alternative names.
    fn sign(&self, name: &str, common: &str, alternative: &[&str]) {
        let names: Vec<_> = alternative.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn spec(&self, require_client_cert: bool) -> ApiSpec {
        let client = |name: &str, role| ClientSpec {
            name: name.into(),
            role,
        };
        ApiSpec {
            access: AccessSpec {
                clients: vec![
                    client("ci", Role::Operate),
                    client("watch.example.org", Role::Read),
                ],
                loopback: None,
                ..AccessSpec::default()
            },
            tls: Some(TlsSpec {
                cert: self.path("lb.pem"),
                key: self.path("lb.key"),
                client_ca: Some(self.path("ca.pem")),
                require_client_cert,
            }),
            ..DaemonSpec::default().api
        }
    }
}

/// Runs a command over TLS, showing the certificate of that name.
fn over_tls(lb: &Lb, ca: &Path, shown: Option<(&Authority, &str)>, args: &str) -> Done {
    let mut line = format!(
        "lb --api https://localhost:{} --ca {}",
        lb.address.port(),
        ca.display()
    );
    if let Some((authority, name)) = shown {
        let cert = authority.path(&format!("{name}.pem"));
        let key = authority.path(&format!("{name}.key"));
        line += &format!(" --cert {} --key {}", cert.display(), key.display());
    }
    command(&format!("{line} {args}"))
}

#[test]
fn certificates_have_roles() {
    let ours = Authority::new();
    ours.sign("lb", "lb", &["localhost"]);
    ours.sign("ci", "ci", &[]);
    ours.sign("watch", "somebody", &["watch.example.org"]);
    ours.sign("nobody", "nobody", &["ci.example.org"]);
    let theirs = Authority::new();
    theirs.sign("ci", "ci", &[]);
    let prepared = Prepared::new(&ours.spec(false)).unwrap();
    let lb = Lb::serving(World::guarded(Access::new(prepared, Audit::to_log())));
    let ca = ours.path("ca.pem");
    let run = |name: &str, args: &str| over_tls(&lb, &ca, Some((&ours, name)), args);
    assert!(run("ci", "status").ok().contains("main-backend"));
    run("ci", "reset").ok();
    let refused = run("ci", "reload").failed(FAILED);
    assert!(
        refused.contains("the role configure") && refused.contains("certificate ci with operate"),
        "{refused}"
    );
    run("watch", "status").ok();
    let refused = run("watch", "reset").failed(FAILED);
    assert!(
        refused.contains("certificate watch.example.org with read"),
        "{refused}"
    );
    let refused = run("nobody", "status").failed(FAILED);
    assert!(
        refused.contains("found one of nobody, ci.example.org"),
        "{refused}"
    );
    let refused = over_tls(&lb, &ca, None, "status").failed(FAILED);
    assert!(refused.contains("expected"), "{refused}");
    // Neither side takes what the other's authority has not signed.
    over_tls(&lb, &ca, Some((&theirs, "ci")), "status").failed(FAILED);
    let stranger = over_tls(&lb, &theirs.path("ca.pem"), None, "status").failed(FAILED);
    assert!(stranger.contains("certificate"), "{stranger}");
    // Who speaks plainly gets no answer.
    lb.run("status").failed(FAILED);
}

#[test]
fn a_reload_brings_new_certificates() {
    let ours = Authority::new();
    ours.sign("lb", "lb", &["localhost"]);
    ours.sign("ci", "ci", &[]);
    let prepared = Prepared::new(&ours.spec(true)).unwrap();
    let lb = Lb::serving(World::guarded(Access::new(prepared, Audit::to_log())));
    let ca = ours.path("ca.pem");
    over_tls(&lb, &ca, Some((&ours, "ci")), "status").ok();
    // Without a certificate there is not even a handshake.
    over_tls(&lb, &ca, None, "status").failed(FAILED);
    let new = Authority::new();
    new.sign("lb", "lb", &["localhost"]);
    new.sign("ci", "ci", &[]);
    let access = lb.world.state.access();
    access.replace(Prepared::new(&new.spec(true)).unwrap());
    over_tls(&lb, &new.path("ca.pem"), Some((&new, "ci")), "status").ok();
    over_tls(&lb, &ca, Some((&ours, "ci")), "status").failed(FAILED);
    // What does not fit together is refused, and nothing changes.
    std::fs::copy(ours.path("lb.key"), new.path("lb.key")).unwrap();
    let error = Prepared::new(&new.spec(true)).unwrap_err().to_string();
    assert!(error.contains("api.tls.key"), "{error}");
    over_tls(&lb, &new.path("ca.pem"), Some((&new, "ci")), "status").ok();
}

#[test]
fn a_socket_is_reached_by_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let lb = Lb::new();
    let address = ApiAddress::Unix(path.clone());
    let (stop, stopped) = watch::channel(false);
    let socket = SocketSpec::default();
    let bound = api::Listener::bind(&address, &socket);
    let (listener, _file) = lb.runtime.block_on(bound).unwrap();
    lb.runtime
        .spawn(api::serve(listener, lb.world.state.clone(), stopped));
    let text = command(&format!("lb --api unix:{} status", path.display())).ok();
    assert!(text.contains("main-backend"), "{text}");
    let nobody = command("lb --api unix:/nonexistent/api.sock status").failed(FAILED);
    assert!(nobody.contains("unix:/nonexistent/api.sock"), "{nobody}");
    stop.send_replace(true);
}
