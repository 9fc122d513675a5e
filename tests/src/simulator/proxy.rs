//! The daemon's part: what chooses instances, and what learns about them, as the daemon has it.
//!
//! Services come out of the configuration reader, so that defaults are the daemon's. Once a second
//! the control plane has its turn: checks (an instance that refuses connections fails them), scores,
//! recoveries,
//! slow starts, ejections and breakers. Instances that fail in a row ring the alarm, and the control
//! plane looks up at once.

use std::{
    fmt::Write as _,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use lb_userspace::{
    balance::{Choice, Random, Tried},
    config::{self, Overrides, Sources},
    health::{
        breakers, checker,
        comeback::Comebacks,
        outlier::{Look, Outliers},
        scorer,
        slow_start::Starts,
    },
    model::{
        Algorithm, Clock, Endpoint, Health, InFlight, Instance, InstanceId, Outcome, Timestamp,
    },
    registry::{Change, Desired, Registry, Service},
    resilience::Permit,
};

use super::{breaker, machine::Manner, scenario::Scenario};

/// Checks that an instance must fail in a row to be out, and pass to be back.
const FALL: u32 = 3;
const RISE: u32 = 2;

/// The shortest time between two looks at failures in a row, the daemon's.
const SHORTEST: Duration = Duration::from_millis(10);

/// A request's place at an instance.
#[derive(Debug)]
pub struct Place {
    guard: InFlight,
    permit: Option<Permit<Instance>>,
}

/// A proxy of one worker.
#[derive(Debug)]
pub struct Proxy {
    registry: Registry,
    service: Option<Arc<Service>>,
    /// The machine of each member.
    machines: Vec<usize>,
    comebacks: Comebacks,
    starts: Starts,
    outliers: Outliers,
    /// When the control plane may look at failures in a row again.
    looks_at: Timestamp,
    /// What the last checks of each machine said, and how often in a row.
    checks: Vec<(bool, u32)>,
    desired: Desired,
    random: Random,
    clock: Clock,
}

impl Proxy {
    /// One that balances over the instances that are there from the start.
    ///
    /// # Errors
    /// When the scenario's settings are not what a configuration may hold.
    pub fn new(scenario: &Scenario, algorithm: Algorithm, seed: u64, clock: Clock) -> Result<Self> {
        let desired = configuration(scenario, algorithm)?;
        let mut proxy = Self {
            registry: Registry::new(1, []),
            service: None,
            machines: Vec::new(),
            comebacks: Comebacks::default(),
            starts: Starts::default(),
            outliers: Outliers::with_seed(seed),
            looks_at: Timestamp::default(),
            checks: vec![(true, 0); scenario.instances.len()],
            desired,
            random: Random::new(seed),
            clock,
        };
        let present: Vec<bool> = scenario.instances.iter().map(|s| s.present).collect();
        proxy.configure(&present)?;
        Ok(proxy)
    }

    /// Makes the service consist of these machines.
    ///
    /// # Errors
    /// When the registry refuses.
    pub fn configure(&mut self, present: &[bool]) -> Result<()> {
        let mut desired = self.desired.clone();
        let service = desired.services.first_mut().context("no service")?;
        service
            .instances
            .retain(|spec| present[machine(&spec.endpoint)]);
        self.apply(Change::Configure(Box::new(desired)))
    }

    /// Picks an instance: its machine, and what holds the request's place there.
    pub fn pick(&self, key: u64, tried: &Tried) -> Option<(usize, Place)> {
        let choice = Choice {
            key,
            worker: 0,
            now: self.clock.now(),
            random: &self.random,
            tried,
        };
        let service = self.service.as_ref()?;
        let (position, permit) = breaker::enter(service, &choice)?;
        let instance = &service.members[position].instance;
        let guard = instance.begin(service.spec.algorithm, 0, &self.clock);
        Some((self.machines[position], Place { guard, permit }))
    }

    /// Takes note of a request's end; its instance, for whoever wants another one.
    pub fn end(&mut self, mut place: Place, outcome: Outcome) -> InstanceId {
        place.guard.judge(outcome);
        if let Some(service) = &self.service {
            let (now, random) = (self.clock.now(), &self.random);
            breaker::settle(service, &place.guard, place.permit, outcome, now, random);
        }
        if outcome.is_failure() {
            self.look();
        }
        place.guard.instance().id
    }

    /// Ejects who has failed too often in a row, if the alarm was rung.
    fn look(&mut self) {
        let now = self.clock.now();
        let context = Context::from_waker(Waker::noop());
        if now >= self.looks_at && self.registry.alarm().poll_rung(&context).is_ready() {
            self.looks_at = now + SHORTEST;
            self.outliers.look(&self.registry, now, Look::Runs);
            self.refresh();
        }
    }

    /// What the control plane does once a second, when machines answer in these manners.
    ///
    /// # Errors
    /// When the registry refuses.
    pub fn tick(&mut self, manners: &[Manner]) -> Result<()> {
        let now = self.clock.now();
        let members = self.service.iter().flat_map(|s| s.members.iter());
        let instances: Vec<_> = members.map(|m| Arc::clone(&m.instance)).collect();
        for instance in instances {
            let machine = machine(&instance.endpoint);
            let passed = manners[machine] != Manner::Refuses;
            instance.checks.count(passed);
            if passed {
                instance.probe_latency.add(now, Duration::from_micros(500));
            }
            self.check(machine, instance.id, passed)?;
        }
        scorer::score(&self.registry, now);
        self.comebacks.drive(&self.registry, now);
        self.starts.drive(&self.registry, now);
        self.outliers.look(&self.registry, now, Look::Whole);
        breakers::follow(&self.registry, now);
        self.refresh();
        Ok(())
    }

    fn check(&mut self, machine: usize, id: InstanceId, passed: bool) -> Result<()> {
        let (last, times) = &mut self.checks[machine];
        *times = if *last == passed { *times + 1 } else { 1 };
        *last = passed;
        let health = match (passed, *times) {
            (true, RISE) => {
                self.is_up_again(id);
                Health::Healthy
            }
            (false, FALL) => Health::Unhealthy,
            _ => return Ok(()),
        };
        let detail = "modelled check".into();
        self.apply(Change::Health { id, health, detail })
    }

    /// What a check does that passes again.
    fn is_up_again(&self, id: InstanceId) {
        let Some(service) = &self.service else { return };
        let mut members = service.members.iter().zip(service.statuses.iter());
        let found = members.find(|(member, _)| member.instance.id == id);
        if let Some((member, status)) = found
            && status.health == Health::Unhealthy
        {
            checker::is_up_again(&member.instance, self.clock.now());
        }
    }

    fn apply(&mut self, change: Change) -> Result<()> {
        self.registry.apply(change)?;
        self.refresh();
        Ok(())
    }

    /// Takes what the registry has published, as a worker does.
    fn refresh(&mut self) {
        let snapshot = self.registry.snapshot();
        if let Some(service) = snapshot.services.first()
            && self
                .service
                .as_ref()
                .is_none_or(|old| !Arc::ptr_eq(service, old))
        {
            self.service = Some(Arc::clone(service));
            let endpoints = service.members.iter().map(|m| &m.instance.endpoint);
            self.machines = endpoints.map(machine).collect();
        }
    }
}

/// The service of a scenario with all its instances, as the configuration reader makes it.
pub(crate) fn configuration(scenario: &Scenario, algorithm: Algorithm) -> Result<Desired> {
    let mut text = format!(
        "[services.simulated]\nalgorithm = \"{}\"\nhealth_check = {{ enabled = false }}\n{}\n\
         instances = [\n",
        algorithm.as_str(),
        scenario.settings
    );
    for (position, spec) in scenario.instances.iter().enumerate() {
        let [high, low] = u16::try_from(position)?.to_be_bytes();
        writeln!(
            text,
            "{{ endpoint = \"10.0.{high}.{low}:80\", weight = {} }},",
            spec.weight
        )?;
    }
    text.push_str("]\n");
    let file = tempfile::NamedTempFile::with_suffix(".toml")?;
    std::fs::write(file.path(), text)?;
    let sources = Sources {
        file: Some(file.path().to_owned()),
        env: std::collections::BTreeMap::new(),
        flags: Overrides::default(),
    };
    let config = config::load(&sources).map_err(|faults| anyhow!("{faults}"))?;
    Ok(config.desired)
}

/// The machine that an address made by [`configuration`] stands for.
fn machine(endpoint: &Endpoint) -> usize {
    match endpoint.address().ip() {
        std::net::IpAddr::V4(address) => {
            let [.., high, low] = address.octets();
            usize::from(u16::from_be_bytes([high, low]))
        }
        std::net::IpAddr::V6(_) => 0,
    }
}
