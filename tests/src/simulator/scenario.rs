//! A scenario: instances, requests, and what happens to them.

use super::{
    chance::Work,
    machine::{Manner, Spec},
};

/// Something that happens to an instance.
#[derive(Clone, Copy, Debug)]
pub enum Effect {
    /// Its speed becomes this many times what its specification says.
    Speed(f64),
    /// It answers in this manner from now on. One that begins to refuse loses what it has.
    Manner(Manner),
    /// It is added to the configuration.
    Join,
    /// It is taken out of the configuration.
    Leave,
}

/// What happens when, and to which instance.
#[derive(Clone, Copy, Debug)]
pub struct Happening {
    /// Seconds from the start.
    pub at: f64,
    /// Position of the instance.
    pub instance: usize,
    /// What.
    pub effect: Effect,
}

/// Everything about a run but the algorithm and the seed.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// A word or two.
    pub name: &'static str,
    /// What happens, in a sentence.
    pub about: String,
    /// The instances.
    pub instances: Vec<Spec>,
    /// How many proxies there are; each sees only what it has sent itself.
    pub proxies: usize,
    /// How much work a request is.
    pub work: Work,
    /// Load as a share of what all instances together can do when all is well: from which second,
    /// and how much. The first begins at 0.
    pub load: Vec<(f64, f64)>,
    /// What happens on the way, in order of time.
    pub happenings: Vec<Happening>,
    /// Seconds that count for nothing, at the start.
    pub warmup: f64,
    /// Seconds of arrivals in all.
    pub seconds: f64,
    /// How many different keys the requests have.
    pub keys: u64,
    /// Settings of the service, as in a configuration file.
    pub settings: &'static str,
    /// Seconds after which a proxy gives a request up.
    pub timeout: f64,
    /// Positions of instances that are equal and well all the time, to compare their shares.
    pub equals: Vec<usize>,
    /// The instance that fails, if the scenario is about one, and from which second.
    pub culprit: Option<(usize, f64)>,
}

impl Scenario {
    /// So many instances alike under constant load, with requests of 5 ms on average.
    #[must_use]
    pub fn alike(name: &'static str, count: usize, load: f64) -> Self {
        Self {
            name,
            about: String::new(),
            instances: vec![Spec::default(); count],
            proxies: 1,
            work: Work::Exponential(5.0),
            load: vec![(0.0, load)],
            happenings: Vec::new(),
            warmup: 5.0,
            seconds: 65.0,
            keys: u64::MAX,
            settings: "",
            timeout: 30.0,
            equals: (0..count).collect(),
            culprit: None,
        }
    }

    /// Says what happens.
    #[must_use]
    pub fn about(mut self, about: &str) -> Self {
        about.clone_into(&mut self.about);
        self
    }

    /// Adds something that happens to an instance, which is no longer one of those that are well.
    #[must_use]
    pub fn happens(mut self, at: f64, instance: usize, effect: Effect) -> Self {
        let happening = Happening {
            at,
            instance,
            effect,
        };
        self.happenings.push(happening);
        self.happenings.sort_by(|a, b| a.at.total_cmp(&b.at));
        self.equals.retain(|equal| *equal != instance);
        self
    }

    /// Requests a second that all instances that are there from the start can serve.
    #[must_use]
    pub fn capacity(&self) -> f64 {
        let slots: f64 = self
            .instances
            .iter()
            .filter(|spec| spec.present)
            .map(|spec| spec.slots as f64 * spec.speed)
            .sum();
        slots * 1000.0 / self.work.mean()
    }

    /// Requests a second at a time.
    #[must_use]
    pub fn rate(&self, second: f64) -> f64 {
        let began = |(from, _): &&(f64, f64)| *from <= second;
        let load = self.load.iter().rev().find(began).map_or(0.5, |(_, l)| *l);
        load * self.capacity()
    }
}
