//! `[api.tls]`: TLS on the API's own listeners.

use super::{
    forms::{Choice, Switch},
    origin::Sourced,
    reader::Section,
    tls,
    values::{CERTIFICATE_NAME, PEM},
};
use crate::model::{ClientSpec, Role, TlsSpec};

const ROLE: Choice<Role> = Choice {
    choices: &Role::ALL,
    name: Role::as_str,
};

/// Reads the section: TLS, and the clients that are known by their certificates.
pub(super) fn read(t: &mut Section<'_, '_>) -> (Option<TlsSpec>, Vec<ClientSpec>) {
    t.table("tls", |t| {
        let none = Sourced::unset(None);
        let cert = t.optional("cert", &PEM, &none, "none");
        let key = t.optional("key", &PEM, &none, "none");
        let client_ca = t.optional("client_ca", &PEM, &none, "none");
        let required = t.value("require_client_cert", &Switch, &Sourced::unset(false));
        let clients = t.tables("clients", None, read_client);
        let faults = t.reader().faults.len();
        let together = "api.tls.cert and api.tls.key together";
        if cert.is_set() && !key.is_set() && !t.has("key") {
            t.reader()
                .contradiction(&cert, "api.tls.cert alone", together);
        }
        if key.is_set() && !cert.is_set() && !t.has("cert") {
            t.reader()
                .contradiction(&key, "api.tls.key alone", together);
        }
        if client_ca.is_set() && !cert.is_set() && !t.has("cert") {
            let expected = "api.tls.cert as well: certificates of clients are shown by TLS";
            t.reader().contradiction(&client_ca, "it alone", expected);
        }
        let without_ca = client_ca.value.is_none() && !t.has("client_ca");
        if required.value && without_ca {
            let expected = "false, or api.tls.client_ca to judge certificates by";
            t.reader().contradiction(&required, "true", expected);
        }
        if let (Some(first), true) = (clients.first(), without_ca) {
            let expected = "api.tls.client_ca to judge certificates by";
            t.reader().contradiction(first, "none", expected);
        }
        refuse_twins(t, &clients);
        let sound = t.reader().faults.len() == faults;
        let spec = cert
            .value
            .clone()
            .zip(key.value.clone())
            .map(|(cert, key)| TlsSpec {
                cert,
                key,
                client_ca: client_ca.value.clone(),
                require_client_cert: required.value,
            });
        if let Some(spec) = spec.as_ref().filter(|_| sound)
            && let Err(error) = tls::server(spec)
        {
            let place = match error.key {
                "cert" => &cert,
                "key" => &key,
                _ => &client_ca,
            };
            let found = format!("{:?} ({})", error.path, error.found);
            t.reader().contradiction(place, found, error.expected);
        }
        let clients = clients.into_iter().map(|client| client.value);
        (spec, clients.collect())
    })
}

fn read_client(t: &mut Section<'_, '_>) -> Option<Sourced<ClientSpec>> {
    let name = t.required("name", &CERTIFICATE_NAME);
    let role = t.required("role", &ROLE);
    let (name, role) = (name?, role?);
    Some(Sourced {
        value: ClientSpec {
            name: name.value.into(),
            role: role.value,
        },
        path: name.path,
        origin: name.origin,
    })
}

fn refuse_twins(t: &mut Section<'_, '_>, clients: &[Sourced<ClientSpec>]) {
    for (position, client) in clients.iter().enumerate() {
        let mut earlier = clients[..position].iter();
        if let Some(twin) = earlier.find(|other| other.value.name == client.value.name) {
            let expected = format!("every name once, but {} has it", twin.path);
            let found = format!("{:?}", client.value.name);
            t.reader().contradiction(client, found, expected);
        }
    }
}
