//! `[api]`: where the management API is, and for whom.

use std::{fs, path::Path, sync::Arc};

use ring::digest::{SHA256, digest};

use super::{
    api_listen::{ApiListen, MODE, OWNER},
    api_tls,
    forms::{Choice, Number, Switch},
    origin::Sourced,
    reader::Section,
    values::{AUDIT_LOG, CALLER, FILE, TOKEN, TOKEN_SHA256},
};
use crate::model::{
    AccessSpec, ApiAddress, ApiRates, ApiSpec, AuditLogSpec, DaemonSpec, Role, SocketSpec,
    TokenSpec,
};

const ROLE: Choice<Role> = Choice {
    choices: &Role::ALL,
    name: Role::as_str,
};

const ROLE_OR_NONE: Choice<Option<Role>> = Choice {
    choices: &[
        Some(Role::Read),
        Some(Role::Operate),
        Some(Role::Configure),
        None,
    ],
    name: |role| match role {
        Some(role) => role.as_str(),
        None => "none",
    },
};

/// What the holder of `api.token` is called.
const ONLY_TOKEN: &str = "api.token";

/// `[api]`.
#[derive(Debug)]
pub(super) struct ReadApi {
    pub(super) spec: ApiSpec,
    pub(super) listen: Sourced<Vec<ApiAddress>>,
}

pub(super) fn read(root: &mut Section<'_, '_>) -> ReadApi {
    root.table("api", |t| {
        let unset = DaemonSpec::default().api;
        let listen = t.value("listen", &ApiListen, &Sourced::unset(unset.listen));
        let mode = t.value("socket_mode", &MODE, &Sourced::unset(unset.socket.mode));
        let owner = Sourced::unset(unset.socket.owner);
        let owner = t.optional("socket_owner", &OWNER, &owner, "none");
        let on_gateway = t.value("on_gateway", &Switch, &Sourced::unset(unset.on_gateway));
        let mut access = read_access(t, &unset.access);
        let (tls, clients) = api_tls::read(t);
        access.clients = clients;
        let require_if_match = Sourced::unset(unset.require_if_match);
        let require_if_match = t.value("require_if_match", &Switch, &require_if_match);
        ReadApi {
            spec: ApiSpec {
                listen: listen.value.clone(),
                socket: SocketSpec {
                    mode: mode.value,
                    owner: owner.value,
                },
                on_gateway: on_gateway.value,
                access,
                tls,
                require_if_match: require_if_match.value,
            },
            listen,
        }
    })
}

fn read_access(t: &mut Section<'_, '_>, unset: &AccessSpec) -> AccessSpec {
    let mut tokens = Vec::new();
    let given = read_token(t, false);
    tokens.extend(given.map(|digest| Sourced {
        value: TokenSpec {
            name: ONLY_TOKEN.into(),
            digest: digest.value,
            role: Role::Configure,
        },
        path: digest.path,
        origin: digest.origin,
    }));
    tokens.extend(t.tables("tokens", None, read_named_token));
    refuse_twins(t, &tokens);
    let loopback = Sourced::unset(unset.loopback);
    let loopback = t.value("loopback_role", &ROLE_OR_NONE, &loopback);
    AccessSpec {
        tokens: tokens.into_iter().map(|token| token.value).collect(),
        loopback: loopback.value,
        socket: t
            .value("socket_role", &ROLE_OR_NONE, &Sourced::unset(unset.socket))
            .value,
        rates: read_rates(t),
        clients: Vec::new(),
    }
}

fn read_rates(t: &mut Section<'_, '_>) -> Option<ApiRates> {
    t.table("rate_limit", |t| {
        let unset = ApiRates::default();
        let on = t.value("enabled", &Switch, &Sourced::unset(true)).value;
        let count = |example| Number {
            min: 1,
            max: 1_000_000,
            example,
        };
        let mut rate =
            |key, form: Number<u32>, unset| t.value(key, &form, &Sourced::unset(unset)).value;
        let rates = ApiRates {
            requests: rate("requests", count(100), unset.requests),
            burst: rate("burst", count(500), unset.burst),
            failures: rate("failures", count(5), unset.failures),
        };
        on.then_some(rates)
    })
}

/// `[audit_log]`.
pub(super) fn read_audit_log(root: &mut Section<'_, '_>) -> AuditLogSpec {
    root.table("audit_log", |t| {
        let none = Sourced::unset(None);
        let path = t.optional("path", &AUDIT_LOG, &none, "none");
        AuditLogSpec { path: path.value }
    })
}

fn read_named_token(t: &mut Section<'_, '_>) -> Option<Sourced<TokenSpec>> {
    let name = t.required("name", &CALLER);
    let role = t.required("role", &ROLE);
    let digest = read_token(t, true);
    let (name, role, digest) = (name?, role?, digest?);
    Some(Sourced {
        value: TokenSpec {
            name: Arc::from(name.value),
            digest: digest.value,
            role: role.value,
        },
        path: name.path,
        origin: name.origin,
    })
}

/// One name, or one token, for two holders: which of them it is could not be told.
fn refuse_twins(t: &mut Section<'_, '_>, tokens: &[Sourced<TokenSpec>]) {
    for (position, token) in tokens.iter().enumerate() {
        let earlier = &tokens[..position];
        let of_name = |other: &&Sourced<TokenSpec>| other.value.name == token.value.name;
        if let Some(twin) = earlier.iter().find(of_name) {
            let expected = format!("every name once, but {} has it", twin.path);
            let found = format!("{:?}", token.value.name);
            t.reader().contradiction(token, found, expected);
        } else if let Some(twin) = earlier
            .iter()
            .find(|other| other.value.digest == token.value.digest)
        {
            let expected = format!("a token of its own, but {} has it", twin.path);
            t.reader().contradiction(token, "the same token", expected);
        }
    }
}

/// The token that stands in this table in one of its forms, as its hash.
fn read_token(t: &mut Section<'_, '_>, named: bool) -> Option<Sourced<[u8; 32]>> {
    let token = t.optional("token", &TOKEN, &Sourced::unset(None), "none");
    let file = t.optional("token_file", &FILE, &Sourced::unset(None), "none");
    let hash = Sourced::unset(None);
    let (hash, forms) = if named {
        let hash = t.optional("token_sha256", &TOKEN_SHA256, &hash, "none");
        (hash, "one of token, token_file and token_sha256")
    } else {
        (hash, "either token or token_file")
    };
    let places = [place(&token), place(&file), place(&hash)];
    let mut given = places.into_iter().filter(Sourced::is_set);
    let first = given.next();
    if let (Some(first), Some(second)) = (&first, given.next()) {
        let found = format!("{} as well", first.path);
        t.reader().contradiction(&second, found, forms);
    }
    // What is there and was refused is one fault already.
    let refused = ["token", "token_file", "token_sha256"];
    if named && first.is_none() && !refused.iter().any(|key| t.has(key)) {
        let itself = t.itself();
        t.reader().contradiction(&itself, "none of them", forms);
    }
    let from_file = file
        .value
        .as_deref()
        .and_then(|path| token_in(t, path, &file));
    let hashed = |text: String| digest(&SHA256, text.as_bytes()).as_ref().try_into().ok();
    let value = token.value.or(from_file).and_then(hashed).or(hash.value)?;
    let Sourced { path, origin, .. } = first?;
    Some(Sourced {
        value,
        path,
        origin,
    })
}

fn place<T>(setting: &Sourced<T>) -> Sourced<()> {
    Sourced {
        value: (),
        path: setting.path.clone(),
        origin: setting.origin.clone(),
    }
}

/// Reads a token from the first line of a file.
fn token_in<T>(t: &mut Section<'_, '_>, path: &Path, place: &Sourced<T>) -> Option<String> {
    match fs::read_to_string(path) {
        Ok(text) => match (TOKEN.parse)(text.lines().next().unwrap_or("").trim()) {
            Ok(token) => return Some(token),
            Err(_) => t.reader().contradiction(
                place,
                "a file whose first line is something else",
                format!("a file whose first line is {}", TOKEN.expected),
            ),
        },
        Err(error) => {
            let expected = format!("a readable file ({error})");
            t.reader()
                .contradiction(place, format!("{:?}", path.display().to_string()), expected);
        }
    }
    None
}
