//! Balancing in the simulator, with fixed seeds: what was reached once stays reached.
//!
//! Every scenario of `cargo xtask bench balance` runs under every algorithm and is held against
//! all the goals that it has something to say about. Most have fewer and longer requests than
//! there, and end earlier.

use anyhow::{Context as _, Result, ensure};
use lb_tests::simulator::{
    catalogue, chance::Work, outcome::Summary, report::Study, scenario::Scenario, world,
};
use lb_userspace::model::Algorithm;

const SEED: u64 = 1;

/// How much longer requests are than in the scenario, and how much fewer.
const LONGER: f64 = 4.0;

/// The least that each of the instances that are equal and well gets in any 30 s, as a multiple of
/// its fair share, and the most.
const SHARES: (f64, f64) = (0.8, 1.25);

/// The most that goes to an instance that fails at once, from two seconds on.
const CULPRIT: f64 = 0.01;

/// The same with fewer and longer requests, and nothing after this second.
fn light(mut scenario: Scenario, seconds: f64) -> Scenario {
    scenario.seconds = seconds;
    scenario.work = match scenario.work {
        Work::Exponential(mean) => Work::Exponential(mean * LONGER),
        Work::Lognormal { mean, sigma } => Work::Lognormal {
            mean: mean * LONGER,
            sigma,
        },
        Work::Bimodal { short, long, share } => Work::Bimodal {
            short: short * LONGER,
            long: long * LONGER,
            share,
        },
        other => other,
    };
    scenario
}

fn summary(scenario: &Scenario, algorithm: Algorithm) -> Result<Summary> {
    Ok(world::run(scenario, algorithm, SEED)?.summary(scenario))
}

/// Runs a scenario under every algorithm and holds what comes out against the goals: adaptive is
/// within five percent of the best of the others in mean and 99th percentile, with as few errors;
/// equals get their shares.
fn reaches_its_goals(scenario: Scenario) -> Result<Study> {
    let study = Study::run(scenario, &Algorithm::ALL, &[SEED])?;
    let name = study.scenario.name;
    let verdict = study.verdict().context("adaptive was run")?;
    ensure!(
        verdict.p99 <= 1.05 && verdict.mean <= 1.05 && verdict.is_contender,
        "{name}: {verdict:?}"
    );
    for (algorithm, summary) in study.summaries() {
        // Who ignores weights gives small instances more than they can do, while the others have
        // room: those are neither well nor to be spared.
        let ignores = algorithm == Algorithm::RoundRobin && name == "mixed weights";
        let Some((least, most)) = summary.shares.filter(|_| !ignores) else {
            continue;
        };
        ensure!(
            least >= SHARES.0 && most <= SHARES.1,
            "{name}, {algorithm}: shares of {least} to {most}"
        );
    }
    Ok(study)
}

/// The same with fewer and longer requests.
fn reaches_its_goals_lightly(scenario: Scenario, seconds: f64) -> Result<Study> {
    reaches_its_goals(light(scenario, seconds))
}

/// The instance that fails gets next to nothing under these algorithms.
fn leaves_the_culprit_alone(study: &Study, algorithms: &[Algorithm]) -> Result<()> {
    for (algorithm, summary) in study.summaries() {
        if algorithms.contains(&algorithm) {
            let share = summary.culprit.context("a culprit")?;
            ensure!(share <= CULPRIT, "{algorithm}: {share}");
        }
    }
    Ok(())
}

#[test]
fn a_run_can_be_repeated() -> Result<()> {
    let scenario = light(catalogue::slow(), 8.0);
    let run = |seed| -> Result<_> {
        let figures = world::run(&scenario, Algorithm::Adaptive, seed)?;
        Ok(figures.summary(&scenario))
    };
    ensure!(run(1)? == run(1)? && run(1)? != run(2)?);
    Ok(())
}

#[test]
fn queues_are_as_long_as_theory_says() -> Result<()> {
    // One slot, Poisson arrivals, exponential work: the mean time is s / (1 - load), and times
    // are exponential, so that the 99th percentile is ln 100 times the mean.
    let mut scenario = Scenario::alike("M/M/1", 1, 0.5);
    scenario.instances[0].slots = 1;
    scenario.seconds = 605.0;
    let summary = summary(&scenario, Algorithm::RoundRobin)?;
    ensure!((summary.mean / 10.0 - 1.0).abs() < 0.05, "{summary:?}");
    let p99 = 10.0 * 100.0f64.ln();
    ensure!((summary.p99 / p99 - 1.0).abs() < 0.05, "{summary:?}");
    Ok(())
}

#[test]
fn when_nothing_happens() -> Result<()> {
    reaches_its_goals_lightly(catalogue::alike(), 36.0)?;
    reaches_its_goals_lightly(catalogue::calm(), 36.0)?;
    Ok(())
}

#[test]
fn when_instances_are_slow() -> Result<()> {
    reaches_its_goals_lightly(catalogue::slow(), 46.0)?;
    reaches_its_goals_lightly(catalogue::flapping(), 46.0)?;
    reaches_its_goals_lightly(catalogue::cold(), 46.0)?;
    reaches_its_goals_lightly(catalogue::stall(), 46.0)?;
    reaches_its_goals_lightly(catalogue::neighbour(), 46.0)?;
    reaches_its_goals_lightly(catalogue::two(), 46.0)?;
    Ok(())
}

#[test]
fn when_requests_differ() -> Result<()> {
    reaches_its_goals_lightly(catalogue::bimodal(), 36.0)?;
    reaches_its_goals_lightly(catalogue::heavy(), 36.0)?;
    Ok(())
}

/// As it is: with fewer requests chance alone would be more uneven than the goal allows.
#[test]
fn when_a_few_requests_are_huge() -> Result<()> {
    let mut scenario = catalogue::huge();
    scenario.seconds = 36.0;
    reaches_its_goals(scenario)?;
    Ok(())
}

#[test]
fn when_instances_fail() -> Result<()> {
    let alone = reaches_its_goals_lightly(catalogue::failing(), 46.0)?;
    // Turns and hashes cannot know.
    leaves_the_culprit_alone(
        &alone,
        &[
            Algorithm::LeastConnections,
            Algorithm::LeastResponseTime,
            Algorithm::HealthAware,
            Algorithm::Adaptive,
        ],
    )?;
    let ejected = reaches_its_goals_lightly(catalogue::ejected(), 46.0)?;
    leaves_the_culprit_alone(&ejected, &Algorithm::ALL)?;
    reaches_its_goals_lightly(catalogue::failing_some(), 46.0)?;
    reaches_its_goals_lightly(catalogue::loss(), 46.0)?;
    Ok(())
}

#[test]
fn when_instances_differ_come_and_go() -> Result<()> {
    reaches_its_goals_lightly(catalogue::weights(), 36.0)?;
    reaches_its_goals_lightly(catalogue::join(), 46.0)?;
    reaches_its_goals_lightly(catalogue::scale_out(), 46.0)?;
    Ok(())
}

#[test]
fn when_there_are_many_proxies() -> Result<()> {
    reaches_its_goals_lightly(catalogue::many_proxies(), 36.0)?;
    Ok(())
}

/// As it is, for the same reason as with huge requests; too much for a build without optimization.
#[cfg(not(debug_assertions))]
#[test]
fn when_there_are_a_thousand_instances() -> Result<()> {
    let mut scenario = catalogue::thousand();
    scenario.seconds = 36.0;
    reaches_its_goals(scenario)?;
    Ok(())
}

/// Breakers and ejection as they are by default cost nothing when there is too much to do: the
/// errors are those of what cannot be done.
#[test]
fn when_there_is_more_than_can_be_done() -> Result<()> {
    let alone = reaches_its_goals_lightly(catalogue::overload(), 61.0)?;
    let guarded = reaches_its_goals_lightly(catalogue::overload_ejected(), 61.0)?;
    for (plain, guarded) in alone.summaries().iter().zip(guarded.summaries()) {
        let (algorithm, more) = (plain.0, guarded.1.errors - plain.1.errors);
        ensure!(more <= 0.02, "{algorithm}: {more} more errors");
    }
    // In the last step, at 170 %.
    let mut last = light(catalogue::overload_ejected(), 30.0);
    last.load = vec![(0.0, 0.5), (5.0, 1.7)];
    last.warmup = 10.0;
    for algorithm in Algorithm::ALL {
        let share = summary(&last, algorithm)?.goodput / last.capacity();
        ensure!(share >= 0.95, "{algorithm}: {share} of what can be done");
    }
    Ok(())
}

/// Three times what can be done is more than the share of failures that opens a breaker.
#[test]
fn when_there_is_three_times_as_much_as_can_be_done() -> Result<()> {
    let mut scenario = light(catalogue::overload_ejected(), 30.0);
    scenario.load = vec![(0.0, 3.0)];
    for algorithm in Algorithm::ALL {
        let share = summary(&scenario, algorithm)?.goodput / scenario.capacity();
        // By requests in flight alone, an instance that has refused nearly all of a second's
        // requests is left alone for too long.
        let least = match algorithm {
            Algorithm::LeastConnections => 0.9,
            _ => 0.95,
        };
        ensure!(share >= least, "{algorithm}: {share} of what can be done");
    }
    Ok(())
}

/// Who fails a third of its requests is found out by ejection under algorithms that cannot see it.
#[test]
fn when_an_instance_fails_some_requests_it_is_ejected() -> Result<()> {
    let mut scenario = light(catalogue::failing_some(), 46.0);
    scenario.settings = "";
    scenario.culprit = Some((0, 26.0));
    for algorithm in [
        Algorithm::RoundRobin,
        Algorithm::WeightedRoundRobin,
        Algorithm::ConsistentHash,
    ] {
        let share = summary(&scenario, algorithm)?
            .culprit
            .context("a culprit")?;
        ensure!(share <= CULPRIT, "{algorithm}: {share}");
    }
    Ok(())
}
