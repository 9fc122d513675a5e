//! What the simulator says, seen on the wire: shares of three scenarios by the real daemon, real
//! instances and real clients, next to the shares that the simulator foretells at the same rate.
//!
//! What differs is what a simulator leaves out: two cores that everybody shares, timers of a
//! millisecond. Clients ask by chance, as those of the simulator do: few that take even rests ask
//! all at once and then not at all, and what balancing makes of that is another thing.

use std::{net::SocketAddr, thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    client::{
        curl::curl,
        load::{self, Load, Plan},
    },
    instance,
    scene::{Configuration, Scene},
    simulator::{
        chance::Work,
        machine::{Manner, Spec},
        outcome::Figures,
        scenario::{Effect, Scenario},
        world,
    },
    topology::Family,
};
use lb_userspace::model::Algorithm;

/// How far a share may be from the foretold one.
const TOLERANCE: f64 = 0.06;

/// Milliseconds that an instance takes when all is well.
const WORK: f64 = 10.0;

/// Seconds before anything is counted, and after something happened.
const SETTLE: f64 = 2.0;

/// Seconds that are counted.
const COUNTED: f64 = 4.0;

/// The same in the simulator, where chance costs nothing to even out.
const FORETOLD: f64 = 60.0;

/// Nothing but the algorithms takes part, as in the simulator.
const SETTINGS: &str = "retry = { max = 0 }\nbreaker = { enabled = false }\n\
                        outlier = { enabled = false }";

/// Three instances and one service over them for each algorithm.
struct Stage {
    scene: Scene,
    algorithms: Vec<Algorithm>,
    weights: [u16; 3],
}

impl Stage {
    fn new(algorithms: &[Algorithm], weights: [u16; 3]) -> Result<Self> {
        let mut configuration = Configuration::new("[\"0.0.0.0:80\"]");
        for algorithm in algorithms {
            let name = service(*algorithm);
            let settings = format!("algorithm = \"{algorithm}\"\n{SETTINGS}");
            configuration = configuration
                .service_over(&[Family::V4], &name, instance::HTTP, &weights, &settings)
                .route(&format!("/{name}"), &name);
        }
        let stage = Self {
            scene: Scene::new(3, configuration.text())?,
            algorithms: algorithms.to_vec(),
            weights,
        };
        (0..3).try_for_each(|host| stage.set(host, "delay", WORK as u32))?;
        Ok(stage)
    }

    /// Makes all later answers of an instance something else.
    fn set(&self, host: usize, what: &str, value: u32) -> Result<()> {
        let topology = &self.scene.topology;
        let at = SocketAddr::new(topology.instances[host].v4.into(), instance::HTTP);
        let url = format!("http://{at}/_set/{what}/{value}");
        let answer = curl(&topology.client.namespace, &[&url])?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    }

    /// Clients of every service at once, until they are told to stop.
    fn clients(&self) -> Vec<Load> {
        let load = |algorithm: &Algorithm| {
            let path = format!("/{}", service(*algorithm));
            let plan = Plan {
                clients: 24,
                requests: None,
                pause: Duration::from_millis(100),
                by_chance: true,
                ..Plan::requests(self.scene.gateway(80), &path, 0)
            };
            load::start(&self.scene.topology.client.namespace, plan)
        };
        self.algorithms.iter().map(load).collect()
    }

    /// What each instance was asked so far in the service of an algorithm.
    fn asked(&self, algorithm: Algorithm) -> Result<Vec<u64>> {
        let name = service(algorithm);
        let endpoints = (11..14).map(|number| format!("10.77.0.{number}:{}", instance::HTTP));
        let count = |endpoint: String| -> Result<u64> {
            let resource = format!("/instances/{name}/{endpoint}");
            let found = self.scene.daemon.get(&resource)?;
            found["requests"]["total"].as_u64().context("no count")
        };
        endpoints.map(count).collect()
    }

    /// Lets clients ask, makes something happen, and compares the shares that follow with those
    /// that the simulator finds when the same happens to instances that are models.
    fn compare(&self, effects: &[(usize, Effect)], happen: impl Fn() -> Result<()>) -> Result<()> {
        let loads = self.clients();
        sleep(Duration::from_secs(1));
        happen()?;
        sleep(Duration::from_secs_f64(SETTLE));
        let before: Result<Vec<_>> = self.algorithms.iter().map(|a| self.asked(*a)).collect();
        sleep(Duration::from_secs_f64(COUNTED));
        let after: Result<Vec<_>> = self.algorithms.iter().map(|a| self.asked(*a)).collect();
        for load in loads {
            load.stop()?;
        }
        for ((algorithm, before), after) in self.algorithms.iter().zip(before?).zip(after?) {
            let counts: Vec<u64> = before.iter().zip(after).map(|(b, a)| a - b).collect();
            let sum: u64 = counts.iter().sum();
            ensure!(sum > 100, "{algorithm}: {counts:?}");
            let figures = self.foretell(*algorithm, effects, sum as f64 / COUNTED)?;
            let from = 1 + SETTLE as usize;
            let to = from + FORETOLD as usize;
            for (host, count) in counts.iter().enumerate() {
                let (live, foretold) = (*count as f64 / sum as f64, figures.share(host, from, to));
                ensure!(
                    (live - foretold).abs() <= TOLERANCE,
                    "{algorithm}, instance {host}: {live:.3} of {sum} live, foretold {foretold:.3}"
                );
            }
        }
        Ok(())
    }

    /// The same in the simulator at so many requests a second. An instance of the tests works on
    /// all that it has at once.
    fn foretell(
        &self,
        algorithm: Algorithm,
        effects: &[(usize, Effect)],
        rate: f64,
    ) -> Result<Figures> {
        let mut scenario = Scenario::alike("live", 3, 0.0);
        for (spec, weight) in scenario.instances.iter_mut().zip(self.weights) {
            *spec = Spec {
                slots: 1000,
                weight,
                ..Spec::default()
            };
        }
        scenario.work = Work::Constant(WORK);
        scenario.load = vec![(0.0, rate / scenario.capacity())];
        scenario.settings = SETTINGS;
        (scenario.warmup, scenario.seconds) = (0.0, 1.0 + SETTLE + FORETOLD);
        for (host, effect) in effects {
            scenario = scenario.happens(1.0, *host, *effect);
        }
        world::run(&scenario, algorithm, 1)
    }
}

/// The name of the service that an algorithm has.
fn service(algorithm: Algorithm) -> String {
    algorithm.as_str().replace('_', "-")
}

#[test]
#[ignore = "needs root"]
fn a_slow_instance_gets_what_the_simulator_says() -> Result<()> {
    let algorithms = [
        Algorithm::RoundRobin,
        Algorithm::LeastConnections,
        Algorithm::Adaptive,
    ];
    let stage = Stage::new(&algorithms, [10; 3])?;
    stage.compare(&[(0, Effect::Speed(0.1))], || {
        stage.set(0, "delay", 10 * WORK as u32)
    })
}

#[test]
#[ignore = "needs root"]
fn an_instance_that_fails_at_once_gets_what_the_simulator_says() -> Result<()> {
    let algorithms = [
        Algorithm::WeightedRoundRobin,
        Algorithm::LeastConnections,
        Algorithm::HealthAware,
        Algorithm::Adaptive,
    ];
    let stage = Stage::new(&algorithms, [10; 3])?;
    stage.compare(&[(0, Effect::Manner(Manner::Fails(1.0)))], || {
        stage.set(0, "status", 503)?;
        stage.set(0, "delay", 0)
    })
}

#[test]
#[ignore = "needs root"]
fn mixed_weights_get_what_the_simulator_says() -> Result<()> {
    let algorithms = [
        Algorithm::WeightedRoundRobin,
        Algorithm::LeastConnections,
        Algorithm::LeastResponseTime,
        Algorithm::Adaptive,
    ];
    Stage::new(&algorithms, [10, 20, 40])?.compare(&[], || Ok(()))
}
