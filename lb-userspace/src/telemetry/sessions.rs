//! Metrics of session affinity.

use prometheus::proto::MetricFamily;

use super::{names, samples::Samples};
use crate::{
    affinity::Store,
    model::{Break, Followed, Refused},
    registry::Snapshot,
};

/// The families of affinity; those by service for services that have it.
pub(super) fn samples(snapshot: &Snapshot, store: &Store) -> Vec<MetricFamily> {
    let mut requests = Samples::new(&names::SESSION_REQUESTS);
    let mut breaks = Samples::new(&names::SESSION_BREAKS);
    let mut refusals = Samples::new(&names::SESSION_REFUSALS);
    let services = snapshot.services.iter();
    for service in services.filter(|service| service.spec.affinity.enabled) {
        let (name, stats) = (service.name().as_str(), &service.affinity);
        for followed in Followed::ALL {
            let count = stats.followed(*followed);
            requests.add(&[name, followed.label()], count as f64);
        }
        for reason in Break::ALL {
            breaks.add(&[name, reason.label()], stats.breaks(*reason) as f64);
        }
        for claim in Refused::ALL {
            refusals.add(&[name, claim.label()], stats.refused(*claim) as f64);
        }
    }
    let gauge = |family, value: usize| {
        let mut samples = Samples::new(family);
        samples.add(&[], value as f64);
        samples.finish()
    };
    let mut ends = Samples::new(&names::SESSION_ENDS);
    ends.add(&["expired"], store.expired() as f64);
    ends.add(&["evicted"], store.evicted() as f64);
    vec![
        requests.finish(),
        breaks.finish(),
        refusals.finish(),
        gauge(&names::SESSIONS, store.len()),
        gauge(&names::SESSION_CAPACITY, store.capacity()),
        gauge(&names::SESSION_BYTES, store.memory()),
        ends.finish(),
    ]
}
