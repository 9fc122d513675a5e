//! The scenarios.

use fastrand::Rng;

use super::{
    chance::{Work, exponential},
    machine::{Manner, Spec},
    scenario::{Effect, Scenario},
};

/// Switches off what ejects and breaks.
const ALGORITHM_ALONE: &str = "breaker = { enabled = false }\noutlier = { enabled = false }";

/// All of them, in the order of the report.
#[must_use]
pub fn all() -> Vec<Scenario> {
    vec![
        alike(),
        calm(),
        slow(),
        flapping(),
        bimodal(),
        heavy(),
        neighbour(),
        cold(),
        failing(),
        ejected(),
        failing_some(),
        huge(),
        overload(),
        overload_ejected(),
        weights(),
        join(),
        scale_out(),
        loss(),
        stall(),
        many_proxies(),
        two(),
        thousand(),
    ]
}

/// The one of that name.
#[must_use]
pub fn find(name: &str) -> Option<Scenario> {
    all().into_iter().find(|scenario| scenario.name == name)
}

/// Nothing happens.
#[must_use]
pub fn alike() -> Scenario {
    Scenario::alike("alike", 20, 0.8).about("20 instances alike at 80 % load")
}

/// Hardly anything happens.
#[must_use]
pub fn calm() -> Scenario {
    Scenario::alike("calm", 10, 0.2).about("10 instances alike at 20 % load")
}

/// One is slow all the time.
#[must_use]
pub fn slow() -> Scenario {
    Scenario::alike("slow instance", 10, 0.6)
        .about("1 of 10 is ten times slower from second 15 on")
        .happens(15.0, 0, Effect::Speed(0.1))
}

/// One is slow every few seconds.
#[must_use]
pub fn flapping() -> Scenario {
    let scenario =
        Scenario::alike("flapping", 10, 0.6).about("1 of 10 is ten times slower every other 3 s");
    (0..10).fold(scenario, |scenario, cycle| {
        let at = 5.0 + 6.0 * f64::from(cycle);
        scenario
            .happens(at, 0, Effect::Speed(0.1))
            .happens(at + 3.0, 0, Effect::Speed(1.0))
    })
}

/// Two kinds of requests.
#[must_use]
pub fn bimodal() -> Scenario {
    let mut scenario =
        Scenario::alike("bimodal", 10, 0.7).about("9 of 10 requests take 2 ms, the tenth 30 ms");
    scenario.work = Work::Bimodal {
        short: 2.0,
        long: 30.0,
        share: 0.1,
    };
    scenario
}

/// Lognormal and wide.
#[must_use]
pub fn heavy() -> Scenario {
    let mut scenario = Scenario::alike("heavy tail", 10, 0.6)
        .about("lognormal work with deviation 1.5: the longest of 100 takes ten times the mean");
    scenario.work = Work::Lognormal {
        mean: 5.0,
        sigma: 1.5,
    };
    scenario
}

/// Others use the same machines now and then.
#[must_use]
pub fn neighbour() -> Scenario {
    let mut scenario = Scenario::alike("noisy neighbour", 10, 0.55)
        .about("each of 10 loses 70 % of its speed to a neighbour for a second, every eight or so");
    let mut rng = Rng::with_seed(99);
    for instance in 0..10 {
        let mut at = exponential(&mut rng, 8.0);
        while at < scenario.seconds {
            scenario = scenario.happens(at, instance, Effect::Speed(0.3));
            at += exponential(&mut rng, 1.0);
            scenario = scenario.happens(at, instance, Effect::Speed(1.0));
            at += exponential(&mut rng, 8.0);
        }
    }
    scenario
}

/// An empty cache and a just-in-time compiler.
#[must_use]
pub fn cold() -> Scenario {
    let scenario = Scenario::alike("cold start", 10, 0.6)
        .about("1 of 10 starts anew at second 15 with a tenth of its speed, warm after 20 s");
    (0..=20).fold(scenario, |scenario, second| {
        let speed = 0.1 + 0.9 * f64::from(second) / 20.0;
        scenario.happens(15.0 + f64::from(second), 0, Effect::Speed(speed))
    })
}

/// Failing is quicker than serving, and nothing but the algorithms takes notice.
#[must_use]
pub fn failing() -> Scenario {
    let mut scenario = Scenario::alike("fast failures", 10, 0.6)
        .about(
            "1 of 10 answers 503 within 1 ms from second 15 on; nothing but the algorithms minds",
        )
        .happens(15.0, 0, Effect::Manner(Manner::Fails(1.0)));
    scenario.culprit = Some((0, 15.0));
    scenario.settings = ALGORITHM_ALONE;
    scenario
}

/// The same for all there is against it.
#[must_use]
pub fn ejected() -> Scenario {
    let mut scenario = failing();
    scenario.name = "fast failures, ejected";
    scenario.settings = "";
    scenario.about("the same with breakers and ejection as they are by default")
}

/// Not all of it fails.
#[must_use]
pub fn failing_some() -> Scenario {
    let mut scenario = Scenario::alike("some failures", 10, 0.6)
        .about("1 of 10 answers 503 to 30 % of its requests within 1 ms from second 15 on")
        .happens(15.0, 0, Effect::Manner(Manner::Fails(0.3)));
    scenario.culprit = Some((0, 15.0));
    scenario.settings = ALGORITHM_ALONE;
    scenario
}

/// A few requests are huge.
#[must_use]
pub fn huge() -> Scenario {
    let mut scenario = Scenario::alike("1 % huge", 10, 0.5)
        .about("1 of 100 requests is a hundred times the work of the others");
    scenario.work = Work::Bimodal {
        short: 3.0,
        long: 300.0,
        share: 0.01,
    };
    scenario
}

/// More and more, and more than can be done.
#[must_use]
pub fn overload() -> Scenario {
    let mut scenario = Scenario::alike("overload", 10, 0.5)
        .about("load rises from 50 % to 170 % in steps of 20 points; queues hold 50 requests");
    scenario.load = (0..7)
        .map(|step| (5.0 + 8.0 * f64::from(step), 0.5 + 0.2 * f64::from(step)))
        .collect();
    scenario.load.insert(0, (0.0, 0.5));
    scenario.seconds = 61.0;
    for spec in &mut scenario.instances {
        spec.queue = 50;
    }
    scenario.settings = ALGORITHM_ALONE;
    scenario
}

/// The same with breakers and ejection, which take what an overloaded instance refuses for a fault
/// of its own.
#[must_use]
pub fn overload_ejected() -> Scenario {
    let mut scenario = overload();
    scenario.name = "overload, ejection";
    scenario.settings = "";
    scenario.about("the same with breakers and ejection as they are by default")
}

/// Instances of three sizes, and weights that say so.
#[must_use]
pub fn weights() -> Scenario {
    let mut scenario = Scenario::alike("mixed weights", 9, 0.75)
        .about("3 instances each with 2, 4 and 8 slots and weights of 10, 20 and 40");
    for (position, spec) in scenario.instances.iter_mut().enumerate() {
        let size = 1 << (position / 3);
        spec.slots = 2 * size;
        spec.weight = 10 * size as u16;
    }
    scenario.equals = vec![0, 1, 2];
    scenario
}

/// Two more.
#[must_use]
pub fn join() -> Scenario {
    let mut scenario = Scenario::alike("join", 10, 0.85)
        .about("8 instances at 85 % load; 2 more join at second 20");
    for spec in &mut scenario.instances[8..] {
        spec.present = false;
    }
    scenario
        .happens(20.0, 8, Effect::Join)
        .happens(20.0, 9, Effect::Join)
}

/// Too little, and then enough.
#[must_use]
pub fn scale_out() -> Scenario {
    let mut scenario = Scenario::alike("scale-out", 12, 1.0)
        .about("8 instances with more than they can do have queues when 4 more join at second 20");
    for spec in &mut scenario.instances[8..] {
        spec.present = false;
    }
    scenario.load = vec![(0.0, 0.8), (10.0, 1.1), (20.0, 1.05)];
    (8..12).fold(scenario, |scenario, instance| {
        scenario.happens(20.0, instance, Effect::Join)
    })
}

/// One dies and comes back.
#[must_use]
pub fn loss() -> Scenario {
    let mut scenario = Scenario::alike("loss", 10, 0.6)
        .about("1 of 10 is killed at second 15, refuses connections, and is back at second 30")
        .happens(15.0, 0, Effect::Manner(Manner::Refuses))
        .happens(30.0, 0, Effect::Manner(Manner::Serves));
    scenario.settings = "recovery = { interval = \"1s\" }";
    scenario
}

/// One stops for two seconds.
#[must_use]
pub fn stall() -> Scenario {
    Scenario::alike("stall", 10, 0.6)
        .about("1 of 10 does nothing at all for 2 s, at second 15 and again at second 40")
        .happens(15.0, 0, Effect::Speed(0.0))
        .happens(17.0, 0, Effect::Speed(1.0))
        .happens(40.0, 0, Effect::Speed(0.0))
        .happens(42.0, 0, Effect::Speed(1.0))
}

/// Each proxy sees a sixteenth of the load.
#[must_use]
pub fn many_proxies() -> Scenario {
    let mut scenario = Scenario::alike("many proxies", 10, 0.75)
        .about("16 proxies that know nothing of each other; 1 of 10 instances has half its speed");
    scenario.proxies = 16;
    scenario.instances[0].speed = 0.5;
    scenario.equals.retain(|machine| *machine != 0);
    scenario
}

/// The least that can be balanced.
#[must_use]
pub fn two() -> Scenario {
    Scenario::alike("two", 2, 0.6)
        .about("2 instances, one of which is four times slower from second 15 on")
        .happens(15.0, 0, Effect::Speed(0.25))
}

/// A large set.
#[must_use]
pub fn thousand() -> Scenario {
    let mut scenario = Scenario::alike("thousand", 1000, 0.7)
        .about("1000 instances of one slot, 50 of them ten times slower, requests of 50 ms");
    scenario.work = Work::Exponential(50.0);
    scenario.seconds = 45.0;
    for (position, spec) in scenario.instances.iter_mut().enumerate() {
        *spec = Spec {
            slots: 1,
            speed: if position < 50 { 0.1 } else { 1.0 },
            ..Spec::default()
        };
    }
    scenario.equals = (50..1000).collect();
    scenario
}
