//! Addresses of a name, each of which is an instance.

use std::{net::SocketAddr, sync::Arc};

use super::{
    resolver::Lookups,
    source::{Answer, Pending, Source, Trouble},
};
use crate::model::{Endpoint, InstanceSpec};

/// A name and the port of all its addresses.
#[derive(Debug)]
pub(super) struct Dns {
    host: Arc<str>,
    port: u16,
    weight: u16,
    lookups: Lookups,
}

impl Dns {
    pub(super) const fn new(host: Arc<str>, port: u16, weight: u16, lookups: Lookups) -> Self {
        Self {
            host,
            port,
            weight,
            lookups,
        }
    }

    async fn ask(&self) -> Result<Answer, Trouble> {
        let addresses = self.lookups.addresses(&self.host).await?;
        let instance = |ip| {
            let endpoint = Endpoint::from_address(SocketAddr::new(ip, self.port));
            InstanceSpec::new(endpoint, self.weight)
        };
        Ok(Answer {
            instances: addresses.list.into_iter().map(instance).collect(),
            ttl: Some(addresses.ttl),
        })
    }
}

impl Source for Dns {
    fn look(&mut self) -> Pending<'_, Result<Answer, Trouble>> {
        Box::pin(self.ask())
    }
}
