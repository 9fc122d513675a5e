//! What a source is believed to say, and when it is asked again.
//!
//! Pure: time and chance are arguments. A look that succeeded replaces the set and holds for its TTL,
//! within the bounds of the service. One that failed changes nothing but the time of the next one,
//! which is further away with each failure in a row. A source that says that there is nothing is
//! treated as one that fails, until it has said so for as long as the service wants to hear it: an
//! empty answer is what a name server gives whose zone was lost, and what a generator of files gives
//! whose template was.

use std::{sync::Arc, time::Duration};

use super::source::{Answer, Trouble};
use crate::model::{DiscoverySpec, InstanceSpec, Timestamp};

/// The longest time between two looks at a source that fails.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// How far a look may be put off, as a share of its time. Many lbs that were started together would
/// ask together for ever.
const JITTER: f64 = 0.1;

/// What is known of a source.
#[derive(Debug)]
pub(super) struct Keeper {
    /// Stands before each instance, for people.
    name: Arc<str>,
    set: Option<Arc<[InstanceSpec]>>,
    failures: u32,
    empty_since: Option<Timestamp>,
    random: fastrand::Rng,
}

/// What a look has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Looked {
    /// When to look again, unless the source changes before; only then when `None`.
    pub(super) wait: Option<Duration>,
    /// What went wrong.
    pub(super) problem: Option<String>,
}

impl Keeper {
    /// Nothing is known but what was found before under another setting, if anything was.
    pub(super) const fn new(
        name: Arc<str>,
        set: Option<Arc<[InstanceSpec]>>,
        random: fastrand::Rng,
    ) -> Self {
        Self {
            name,
            set,
            failures: 0,
            empty_since: None,
            random,
        }
    }

    /// The instances that the source names; `None` when it has not named any so far.
    pub(super) const fn set(&self) -> Option<&Arc<[InstanceSpec]>> {
        self.set.as_ref()
    }

    /// Looks in a row that have failed.
    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }

    /// Takes what a look has come to at `now`.
    pub(super) fn took(
        &mut self,
        outcome: Result<Answer, Trouble>,
        spec: &DiscoverySpec,
        now: Timestamp,
    ) -> Looked {
        match outcome {
            Ok(answer) => {
                self.failures = 0;
                self.empty_since = None;
                self.keep(answer.instances);
                let wait = answer.ttl.map(|ttl| {
                    let wait = ttl.clamp(spec.min_interval, spec.max_interval);
                    wait.mul_f64(1.0 + JITTER * self.random.f64())
                });
                Looked {
                    wait,
                    problem: None,
                }
            }
            Err(trouble) => {
                match &trouble {
                    Trouble::Failed(_) => self.empty_since = None,
                    Trouble::Empty(_) => {
                        let since = *self.empty_since.get_or_insert(now);
                        if spec.empty_after.is_some_and(|after| now - since >= after) {
                            self.keep(Vec::new());
                        }
                    }
                }
                Looked {
                    wait: Some(self.backoff(spec)),
                    problem: Some(trouble.to_string()),
                }
            }
        }
    }

    /// The same instances in another order are no other set.
    fn keep(&mut self, mut instances: Vec<InstanceSpec>) {
        instances.sort_by_key(|instance| instance.endpoint.address());
        for instance in &mut instances {
            instance.found_by = Some(Arc::clone(&self.name));
        }
        if self.set.as_deref() != Some(&*instances) {
            self.set = Some(instances.into());
        }
    }

    /// From half to all of a time that doubles with each failure.
    fn backoff(&mut self, spec: &DiscoverySpec) -> Duration {
        let longest = spec
            .max_interval
            .min(LONGEST_BACKOFF)
            .max(spec.min_interval);
        let factor = 2_u32.saturating_pow(self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        let wait = spec.min_interval.saturating_mul(factor).min(longest);
        wait.mul_f64(0.5 + self.random.f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Endpoint;

    fn keeper() -> Keeper {
        Keeper::new("dns web:80".into(), None, fastrand::Rng::with_seed(7))
    }

    fn spec() -> DiscoverySpec {
        DiscoverySpec {
            min_interval: Duration::from_secs(2),
            max_interval: Duration::from_secs(60),
            ..DiscoverySpec::default()
        }
    }

    fn answer(addresses: &[&str], ttl: u64) -> Result<Answer, Trouble> {
        let instance = |text: &&str| InstanceSpec::new(Endpoint::parse(text).unwrap(), 1);
        Ok(Answer {
            instances: addresses.iter().map(instance).collect(),
            ttl: Some(Duration::from_secs(ttl)),
        })
    }

    fn names(keeper: &Keeper) -> Option<Vec<&str>> {
        let set = keeper.set()?;
        Some(set.iter().map(|spec| spec.endpoint.name()).collect())
    }

    fn failed() -> Result<Answer, Trouble> {
        Err(Trouble::Failed("no answer".to_owned()))
    }

    fn empty() -> Result<Answer, Trouble> {
        Err(Trouble::Empty("NXDOMAIN".to_owned()))
    }

    #[test]
    fn a_ttl_holds_within_the_bounds_and_is_never_cut_short() {
        let mut keeper = keeper();
        for (ttl, expected) in [(0, 2), (1, 2), (10, 10), (60, 60), (3600, 60)] {
            for _ in 0..100 {
                let looked = keeper.took(answer(&["10.0.0.1:80"], ttl), &spec(), Timestamp(0));
                let wait = looked.wait.unwrap().as_secs_f64();
                let expected = f64::from(expected);
                assert!((expected..=expected * 1.1).contains(&wait), "{ttl}: {wait}");
            }
        }
    }

    #[test]
    fn failures_keep_the_set_and_are_asked_about_less_and_less() {
        let (mut keeper, spec) = (keeper(), spec());
        let mut now = Timestamp(0);
        assert_eq!(names(&keeper), None);
        keeper.took(failed(), &spec, now);
        assert_eq!(names(&keeper), None);
        keeper.took(answer(&["10.0.0.2:80", "10.0.0.1:80"], 5), &spec, now);
        let both = Some(vec!["10.0.0.1:80", "10.0.0.2:80"]);
        for expected in [2.0, 4.0, 8.0, 16.0, 30.0, 30.0] {
            now = now + Duration::from_secs(3600);
            let looked = keeper.took(failed(), &spec, now);
            assert_eq!(looked.problem.as_deref(), Some("no answer"));
            let wait = looked.wait.unwrap().as_secs_f64();
            assert!((expected / 2.0..=expected).contains(&wait), "{wait}");
            assert_eq!(names(&keeper), both);
        }
        assert_eq!(keeper.failures(), 6);
        keeper.took(answer(&["10.0.0.3:80"], 5), &spec, now);
        assert_eq!(keeper.failures(), 0);
        assert_eq!(names(&keeper), Some(vec!["10.0.0.3:80"]));
    }

    #[test]
    fn an_empty_answer_is_believed_when_it_lasts_and_somebody_wants_to() {
        let mut believes = spec();
        believes.empty_after = Some(Duration::from_secs(300));
        for (spec, expected) in [
            (spec(), Some(vec!["10.0.0.1:80"])),
            (believes, Some(vec![])),
        ] {
            let mut keeper = keeper();
            let at = |seconds| Timestamp(0) + Duration::from_secs(seconds);
            keeper.took(answer(&["10.0.0.1:80"], 5), &spec, at(0));
            keeper.took(empty(), &spec, at(10));
            // A server that fails says nothing about the name: the time begins anew.
            keeper.took(failed(), &spec, at(200));
            keeper.took(empty(), &spec, at(210));
            keeper.took(empty(), &spec, at(509));
            assert_eq!(names(&keeper), Some(vec!["10.0.0.1:80"]));
            keeper.took(empty(), &spec, at(510));
            assert_eq!(names(&keeper), expected);
        }
    }

    #[test]
    fn another_order_is_the_same_set() {
        let (mut keeper, spec) = (keeper(), spec());
        keeper.took(
            answer(&["10.0.0.2:80", "10.0.0.1:80"], 5),
            &spec,
            Timestamp(0),
        );
        let before = Arc::clone(keeper.set().unwrap());
        keeper.took(
            answer(&["10.0.0.1:80", "10.0.0.2:80"], 5),
            &spec,
            Timestamp(1),
        );
        assert!(Arc::ptr_eq(&before, keeper.set().unwrap()));
        assert_eq!(before[0].found_by.as_deref(), Some("dns web:80"));
    }
}
