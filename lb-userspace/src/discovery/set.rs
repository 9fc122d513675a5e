//! One list of instances from the answers of several sources, and how instances leave it.

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Duration};

use crate::model::{Endpoint, InstanceSpec, Timestamp};

/// The shortest time that an instance takes to leave: what the kernel has of it is counted once a
/// second, so that only then nothing means nothing.
const SHORTEST: Duration = Duration::from_secs(2);

/// The instances that were found for a service.
#[derive(Debug, Default)]
pub(super) struct Instances {
    /// Those that a source names.
    live: Vec<InstanceSpec>,
    /// Those that none names any more.
    leaving: Vec<Leaving>,
}

#[derive(Debug)]
struct Leaving {
    instance: InstanceSpec,
    since: Timestamp,
    deadline: Timestamp,
}

/// What the sources of a service name; of an address that two of them name, the first one says the
/// weight.
pub(super) fn merge<'a>(sets: impl Iterator<Item = &'a Arc<[InstanceSpec]>>) -> Vec<InstanceSpec> {
    let mut seen = HashSet::new();
    sets.flat_map(|set| set.iter())
        .filter(|instance| seen.insert(instance.endpoint.address()))
        .cloned()
        .collect()
}

impl Instances {
    /// Makes the list `wanted`. Those that are not in it leave, unless the list is not `complete`
    /// because a source has not said anything yet: then they stay as they are.
    pub(super) fn become_(
        &mut self,
        mut wanted: Vec<InstanceSpec>,
        complete: bool,
        now: Timestamp,
        drain: Duration,
    ) {
        let named: HashSet<SocketAddr> = wanted.iter().map(address).collect();
        let gone = self.live.drain(..).filter(|i| !named.contains(&address(i)));
        if complete {
            self.leaving.extend(gone.map(|instance| Leaving {
                instance: InstanceSpec {
                    weight: 0,
                    leaving: true,
                    ..instance
                },
                since: now,
                deadline: now + drain,
            }));
        } else {
            wanted.extend(gone);
        }
        // Who is named again has never left.
        self.leaving
            .retain(|leaving| !named.contains(&address(&leaving.instance)));
        self.live = wanted;
    }

    /// Lets go of those that have finished, or whose time is over.
    pub(super) fn finish(&mut self, now: Timestamp, is_idle: impl Fn(&Endpoint) -> bool) {
        self.leaving.retain(|leaving| {
            let may = now - leaving.since >= SHORTEST;
            let done = now >= leaving.deadline || (may && is_idle(&leaving.instance.endpoint));
            !done
        });
    }

    /// Whether anybody is leaving.
    pub(super) const fn is_draining(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// All of them, those that leave last.
    pub(super) fn all(&self) -> Vec<InstanceSpec> {
        let leaving = self.leaving.iter().map(|leaving| &leaving.instance);
        self.live.iter().chain(leaving).cloned().collect()
    }
}

fn address(instance: &InstanceSpec) -> SocketAddr {
    instance.endpoint.address()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN: Duration = Duration::from_secs(60);

    fn list(specs: &[(&str, u16)]) -> Vec<InstanceSpec> {
        let instance = |(text, weight): &(&str, u16)| {
            InstanceSpec::new(Endpoint::parse(text).unwrap(), *weight)
        };
        specs.iter().map(instance).collect()
    }

    fn shown(instances: &Instances) -> Vec<String> {
        let all = instances.all();
        all.iter()
            .map(|i| {
                format!(
                    "{} {}{}",
                    i.endpoint,
                    i.weight,
                    if i.leaving { " leaves" } else { "" }
                )
            })
            .collect()
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp(0) + Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_source_says_the_weight() {
        let one: Arc<[InstanceSpec]> = list(&[("10.0.0.1:1", 1), ("10.0.0.2:1", 2)]).into();
        let two: Arc<[InstanceSpec]> = list(&[("10.0.0.2:1", 9), ("10.0.0.3:1", 3)]).into();
        let expected = list(&[("10.0.0.1:1", 1), ("10.0.0.2:1", 2), ("10.0.0.3:1", 3)]);
        assert_eq!(merge([&one, &two].into_iter()), expected);
    }

    #[test]
    fn who_is_gone_finishes_what_it_has_and_who_comes_back_stays() {
        let mut instances = Instances::default();
        let (a, b, c) = (("10.0.0.1:1", 1), ("10.0.0.2:1", 2), ("10.0.0.3:1", 3));
        instances.become_(list(&[a, b, c]), true, at(0), DRAIN);
        instances.become_(list(&[a]), true, at(10), DRAIN);
        let all = ["10.0.0.1:1 1", "10.0.0.2:1 0 leaves", "10.0.0.3:1 0 leaves"];
        assert_eq!(shown(&instances), all);
        // Idle at once is not believed: what the kernel has was counted before.
        instances.finish(at(11), |_| true);
        assert_eq!(shown(&instances), all);
        instances.finish(at(12), |endpoint| endpoint.name() == "10.0.0.2:1");
        assert_eq!(shown(&instances), ["10.0.0.1:1 1", "10.0.0.3:1 0 leaves"]);
        instances.become_(list(&[a, c]), true, at(13), DRAIN);
        assert_eq!(shown(&instances), ["10.0.0.1:1 1", "10.0.0.3:1 3"]);
        instances.become_(list(&[a]), true, at(20), DRAIN);
        instances.finish(at(79), |_| false);
        assert!(instances.is_draining());
        instances.finish(at(80), |_| false);
        assert_eq!(shown(&instances), ["10.0.0.1:1 1"]);
        assert!(!instances.is_draining());
    }

    #[test]
    fn nobody_leaves_while_a_source_has_not_said_anything() {
        let mut instances = Instances::default();
        let (a, b) = (("10.0.0.1:1", 1), ("10.0.0.2:1", 2));
        instances.become_(list(&[a, b]), true, at(0), DRAIN);
        instances.become_(list(&[]), false, at(1), DRAIN);
        assert_eq!(shown(&instances), ["10.0.0.1:1 1", "10.0.0.2:1 2"]);
        instances.become_(list(&[b]), true, at(2), DRAIN);
        assert_eq!(shown(&instances), ["10.0.0.2:1 2", "10.0.0.1:1 0 leaves"]);
    }
}
