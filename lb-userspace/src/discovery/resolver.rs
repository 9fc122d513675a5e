//! Asking name servers.
//!
//! A resolver is built for each look, so that what has changed in `resolv.conf` holds at once, and
//! it has no cache: how long an answer holds is decided where the answer is taken. Truncated answers
//! are asked for again over TCP by the library.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_resolver::{
    Resolver, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{RData, Record, RecordType},
    },
};

use super::source::Trouble;
use crate::model::{DiscoverySpec, Family};

/// Tries for each question, all within the time of one look.
const ATTEMPTS: usize = 3;

/// Where and how to ask.
#[derive(Clone, Debug)]
pub(super) struct Lookups {
    servers: Vec<SocketAddr>,
    family: Family,
    timeout: Duration,
}

/// Addresses of a name and how long they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    /// In order.
    pub(super) list: Vec<IpAddr>,
    pub(super) ttl: Duration,
}

impl Lookups {
    pub(super) fn new(spec: &DiscoverySpec) -> Self {
        Self {
            servers: spec.servers.clone(),
            family: spec.family,
            timeout: spec.timeout,
        }
    }

    /// The addresses of a name. When one family cannot be asked for, there is no answer at all:
    /// half of one would take the other half's instances away.
    pub(super) async fn addresses(&self, host: &str) -> Result<Addresses, Trouble> {
        let resolver = self.resolver()?;
        let (v4, v6) = tokio::join!(
            self.of_family(&resolver, host, true),
            self.of_family(&resolver, host, false),
        );
        let mut list = Vec::new();
        let mut ttl = Duration::MAX;
        let mut empty = None;
        for answer in [v4, v6].into_iter().flatten() {
            match answer {
                Ok(addresses) => {
                    list.extend(addresses.list);
                    ttl = ttl.min(addresses.ttl);
                }
                Err(Trouble::Empty(why)) => empty = empty.or(Some(why)),
                Err(failed) => return Err(failed),
            }
        }
        if list.is_empty() {
            return Err(Trouble::Empty(empty.unwrap_or_default()));
        }
        list.sort_unstable();
        list.dedup();
        Ok(Addresses { list, ttl })
    }

    async fn of_family(
        &self,
        resolver: &TokioResolver,
        host: &str,
        ipv4: bool,
    ) -> Option<Result<Addresses, Trouble>> {
        if !self.family.has(ipv4) {
            return None;
        }
        let kind = if ipv4 {
            RecordType::A
        } else {
            RecordType::AAAA
        };
        let address = |record: &Record| match &record.data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        };
        let found = ask(resolver, host, kind, address).await;
        Some(found.map(|(list, ttl)| Addresses { list, ttl }))
    }

    /// The records of `kind` that `of` takes, and how long they hold.
    pub(super) async fn records<T>(
        &self,
        name: &str,
        kind: RecordType,
        of: impl Fn(&Record) -> Option<T>,
    ) -> Result<(Vec<T>, Duration), Trouble> {
        ask(&self.resolver()?, name, kind, of).await
    }

    fn resolver(&self) -> Result<TokioResolver, Trouble> {
        let no_servers = |why: NetError| {
            let why = format!("expected name servers in /etc/resolv.conf or `servers`: {why}");
            Trouble::Failed(why)
        };
        let mut builder = if self.servers.is_empty() {
            Resolver::builder_tokio().map_err(no_servers)?
        } else {
            let servers = self.servers.iter().map(server).collect();
            let config = ResolverConfig::from_name_servers(servers);
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.cache_size = 0;
        options.attempts = ATTEMPTS;
        // All tries together end before the look does, so that it is the server that is blamed.
        options.timeout = self.timeout * 9 / 10 / (ATTEMPTS as u32 + 1);
        builder.build().map_err(failed)
    }
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let with_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    let connections = connections.into_iter().map(with_port).collect();
    NameServerConfig::new(address.ip(), true, connections)
}

async fn ask<T>(
    resolver: &TokioResolver,
    name: &str,
    kind: RecordType,
    of: impl Fn(&Record) -> Option<T>,
) -> Result<(Vec<T>, Duration), Trouble> {
    let lookup = resolver.lookup(name, kind).await;
    let lookup = lookup.map_err(|error| trouble(name, kind, &error))?;
    // Those of aliases on the way count, too.
    let ttl = lookup.answers().iter().map(|record| record.ttl).min();
    let records: Vec<T> = lookup.answers().iter().filter_map(of).collect();
    if records.is_empty() {
        return Err(none(name, kind));
    }
    Ok((records, Duration::from_secs(ttl.unwrap_or(0).into())))
}

fn none(name: &str, kind: RecordType) -> Trouble {
    Trouble::Empty(format!("{name} has no {kind} records"))
}

fn trouble(name: &str, kind: RecordType, error: &NetError) -> Trouble {
    let NetError::Dns(DnsError::NoRecordsFound(records)) = error else {
        return Trouble::Failed(format!("{kind} records of {name}: {error}"));
    };
    match records.response_code {
        ResponseCode::NoError => none(name, kind),
        ResponseCode::NXDomain => Trouble::Empty(format!("{name} does not exist (NXDOMAIN)")),
        code => Trouble::Failed(format!("{kind} records of {name}: {code}")),
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the form that map_err asks for"
)]
fn failed(error: NetError) -> Trouble {
    Trouble::Failed(error.to_string())
}
