//! SRV records (RFC 2782): hosts with ports, weights and priorities.
//!
//! The targets of the lowest priority number are the instances. Those of higher numbers are for
//! clients that cannot reach any of the first; lb sees by its checks which instances it can reach,
//! and the name's owner says by its records who stands in for them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hickory_resolver::proto::rr::{RData, RecordType, rdata::SRV};
use tokio::task::JoinSet;

use super::{
    resolver::{Addresses, Lookups},
    source::{Answer, Pending, Source, Trouble},
};
use crate::model::{Endpoint, InstanceSpec};

/// Targets whose addresses are asked for at the same time.
const AT_ONCE: usize = 16;

/// The name of SRV records.
#[derive(Debug)]
pub(super) struct Srv {
    name: Arc<str>,
    lookups: Lookups,
}

/// A target of the best priority.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    host: String,
    port: u16,
    weight: u16,
}

impl Srv {
    pub(super) const fn new(name: Arc<str>, lookups: Lookups) -> Self {
        Self { name, lookups }
    }

    async fn ask(&self) -> Result<Answer, Trouble> {
        let srv = |record: &hickory_resolver::proto::rr::Record| match &record.data {
            RData::SRV(srv) => Some(srv.clone()),
            _ => None,
        };
        let (records, mut ttl) = self
            .lookups
            .records(&self.name, RecordType::SRV, srv)
            .await?;
        let mut targets = best(&records);
        if targets.is_empty() {
            let why = format!("{} says that there is no such service", self.name);
            return Err(Trouble::Empty(why));
        }
        let mut instances = Vec::new();
        let mut empty = None;
        while !targets.is_empty() {
            let later = targets.split_off(targets.len().min(AT_ONCE));
            let mut asked = JoinSet::new();
            for target in targets {
                let lookups = self.lookups.clone();
                asked.spawn(async move { (lookups.addresses(&target.host).await, target) });
            }
            for (addresses, target) in asked.join_all().await {
                match addresses {
                    Ok(found) => {
                        ttl = ttl.min(found.ttl);
                        instances.extend(instances_of(&target, &found));
                    }
                    // A target without an address is a target less.
                    Err(Trouble::Empty(why)) => empty = empty.or(Some(why)),
                    Err(failed) => return Err(failed),
                }
            }
            targets = later;
        }
        match empty {
            Some(why) if instances.is_empty() => Err(Trouble::Empty(why)),
            _ => Ok(answer(instances, ttl)),
        }
    }
}

impl Source for Srv {
    fn look(&mut self) -> Pending<'_, Result<Answer, Trouble>> {
        Box::pin(self.ask())
    }
}

/// The targets of the lowest priority number; none when the only one is the root, by which a name
/// says that the service is decidedly not there.
fn best(records: &[SRV]) -> Vec<Target> {
    let Some(priority) = records.iter().map(|srv| srv.priority).min() else {
        return Vec::new();
    };
    records
        .iter()
        .filter(|srv| srv.priority == priority && !srv.target.is_root() && srv.port != 0)
        .map(|srv| Target {
            host: srv.target.to_string(),
            port: srv.port,
            // RFC 2782 leaves a weight of 0 a small chance beside others and all of it alone.
            weight: srv.weight.max(1),
        })
        .collect()
}

fn instances_of(target: &Target, found: &Addresses) -> Vec<InstanceSpec> {
    let of = |ip| {
        let endpoint = Endpoint::from_address(SocketAddr::new(ip, target.port));
        InstanceSpec::new(endpoint, target.weight)
    };
    found.list.iter().copied().map(of).collect()
}

/// Targets may share an address: the first one counts, and their order is that of the network.
fn answer(mut instances: Vec<InstanceSpec>, ttl: Duration) -> Answer {
    instances.sort_by(|a, b| {
        let key = |spec: &InstanceSpec| (spec.endpoint.address(), std::cmp::Reverse(spec.weight));
        key(a).cmp(&key(b))
    });
    instances.dedup_by_key(|spec| spec.endpoint.address());
    Answer {
        instances,
        ttl: Some(ttl),
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::rr::Name;

    use super::*;

    fn srv(priority: u16, weight: u16, port: u16, target: &str) -> SRV {
        SRV::new(priority, weight, port, Name::from_ascii(target).unwrap())
    }

    #[test]
    fn the_lowest_priority_number_counts_and_nobody_weighs_nothing() {
        let records = [
            srv(10, 60, 8080, "a."),
            srv(20, 0, 8080, "backup."),
            srv(10, 0, 9090, "b."),
        ];
        let target = |host: &str, port, weight| Target {
            host: host.to_owned(),
            port,
            weight,
        };
        assert_eq!(
            best(&records),
            [target("a.", 8080, 60), target("b.", 9090, 1)]
        );
        assert_eq!(best(&[srv(0, 0, 0, ".")]), []);
        assert_eq!(best(&[]), []);
    }

    #[test]
    fn an_address_is_one_instance() {
        let instance =
            |text: &str, weight| InstanceSpec::new(Endpoint::parse(text).unwrap(), weight);
        let list = vec![
            instance("10.0.0.2:1", 5),
            instance("10.0.0.1:1", 1),
            instance("10.0.0.1:1", 9),
        ];
        let answer = answer(list, Duration::from_secs(1));
        let expected = [instance("10.0.0.1:1", 9), instance("10.0.0.2:1", 5)];
        assert_eq!(answer.instances, expected);
    }
}
