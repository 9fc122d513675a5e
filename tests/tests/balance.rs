//! Balancing in the simulator, with fixed seeds: what was reached once stays reached.
//!
//! The scenarios are those of `cargo xtask bench balance` with fewer and longer requests, because
//! these tests run in debug builds too.

use anyhow::{Context as _, Result, ensure};
use lb_tests::simulator::{
    catalogue, chance::Work, outcome::Summary, report::Study, scenario::Scenario, world,
};
use lb_userspace::model::Algorithm;

const SEED: u64 = 1;

/// How much longer requests are than in the scenario, and how much fewer.
const LONGER: f64 = 4.0;

/// Those that may be best of the fixed ones: in turn, by load, by latency.
const CONTENDERS: [Algorithm; 4] = [
    Algorithm::WeightedRoundRobin,
    Algorithm::LeastConnections,
    Algorithm::LeastResponseTime,
    Algorithm::Adaptive,
];

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

/// Adaptive is within five percent of the best of the others, in mean and 99th percentile.
fn adaptive_is_as_good_as_the_best(scenario: Scenario, seconds: f64) -> Result<()> {
    let study = Study::run(light(scenario, seconds), &CONTENDERS, &[SEED])?;
    let verdict = study.verdict().context("adaptive was run")?;
    let name = study.scenario.name;
    ensure!(
        verdict.p99 <= 1.05 && verdict.mean <= 1.05 && verdict.is_contender,
        "{name}: {verdict:?}"
    );
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
fn equal_instances_get_four_fifths_of_their_share_in_any_30_s() -> Result<()> {
    for scenario in [catalogue::calm(), catalogue::bimodal()] {
        let scenario = light(scenario, 40.0);
        for algorithm in Algorithm::ALL {
            let (least, most) = summary(&scenario, algorithm)?.shares.context("shares")?;
            let name = scenario.name;
            ensure!(
                least >= 0.8 && most <= 1.25,
                "{name}, {algorithm}: {least} to {most}"
            );
        }
    }
    Ok(())
}

#[test]
fn the_others_keep_their_shares_while_one_is_in_trouble() -> Result<()> {
    for scenario in [catalogue::flapping(), catalogue::stall()] {
        let scenario = light(scenario, 45.0);
        for algorithm in [
            Algorithm::LeastConnections,
            Algorithm::LeastResponseTime,
            Algorithm::Adaptive,
        ] {
            let (least, _) = summary(&scenario, algorithm)?.shares.context("shares")?;
            ensure!(least >= 0.8, "{}, {algorithm}: {least}", scenario.name);
        }
    }
    Ok(())
}

#[test]
fn who_fails_at_once_gets_nothing_from_algorithms_that_look() -> Result<()> {
    let scenario = light(catalogue::failing(), 35.0);
    for algorithm in [
        Algorithm::LeastConnections,
        Algorithm::LeastResponseTime,
        Algorithm::HealthAware,
        Algorithm::Adaptive,
    ] {
        let share = summary(&scenario, algorithm)?
            .culprit
            .context("a culprit")?;
        ensure!(share <= 0.01, "{algorithm}: {share}");
    }
    Ok(())
}

#[test]
fn who_fails_at_once_is_ejected_under_every_algorithm() -> Result<()> {
    let scenario = light(catalogue::ejected(), 35.0);
    for algorithm in Algorithm::ALL {
        let share = summary(&scenario, algorithm)?
            .culprit
            .context("a culprit")?;
        ensure!(share <= 0.01, "{algorithm}: {share}");
    }
    Ok(())
}

#[test]
fn adaptive_is_as_good_as_the_best_when_one_is_slow() -> Result<()> {
    adaptive_is_as_good_as_the_best(catalogue::slow(), 40.0)?;
    adaptive_is_as_good_as_the_best(catalogue::flapping(), 40.0)?;
    adaptive_is_as_good_as_the_best(catalogue::cold(), 40.0)?;
    adaptive_is_as_good_as_the_best(catalogue::stall(), 30.0)?;
    adaptive_is_as_good_as_the_best(catalogue::two(), 40.0)
}

#[test]
fn adaptive_is_as_good_as_the_best_when_requests_differ() -> Result<()> {
    adaptive_is_as_good_as_the_best(catalogue::bimodal(), 30.0)?;
    adaptive_is_as_good_as_the_best(catalogue::heavy(), 30.0)?;
    adaptive_is_as_good_as_the_best(catalogue::huge(), 40.0)?;
    adaptive_is_as_good_as_the_best(catalogue::overload(), 61.0)
}

#[test]
fn adaptive_is_as_good_as_the_best_when_instances_differ_come_and_go() -> Result<()> {
    adaptive_is_as_good_as_the_best(catalogue::weights(), 30.0)?;
    adaptive_is_as_good_as_the_best(catalogue::join(), 40.0)?;
    adaptive_is_as_good_as_the_best(catalogue::scale_out(), 40.0)?;
    adaptive_is_as_good_as_the_best(catalogue::loss(), 45.0)?;
    adaptive_is_as_good_as_the_best(catalogue::failing(), 30.0)
}

#[test]
fn adaptive_is_as_good_as_the_best_among_others() -> Result<()> {
    adaptive_is_as_good_as_the_best(catalogue::neighbour(), 40.0)?;
    adaptive_is_as_good_as_the_best(catalogue::many_proxies(), 25.0)
}
