//! `lb instances …`.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    Context,
    args::{InstancesCommand, Target},
    breakers,
    client::segment,
    error::CliError,
    format::{self, Lean, maybe, ms, pairs, percent, table},
    recovery, status,
};
use crate::api::types::{Ejected, Instance, Instances};

/// How often a drain is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

pub(super) async fn run(
    context: &mut Context<'_>,
    command: InstancesCommand,
) -> Result<(), CliError> {
    match command {
        InstancesCommand::List { service } => list(context, service.as_deref()).await,
        InstancesCommand::Show(target) => {
            let instance: Instance = context.client.get(&path(&target)).await?;
            context.show(&instance, one)
        }
        InstancesCommand::Drain { target, wait } => drain(context, &target, wait).await,
        InstancesCommand::Enable(target) => {
            let instance = set(context, &target, "enable").await?;
            let text = if instance.available {
                "takes traffic".to_owned()
            } else if let Some(ejected) = &instance.ejected {
                format!("is enabled, but {}", ejection(ejected))
            } else if instance.weight == 0 {
                "is enabled, but its weight is 0".to_owned()
            } else {
                format!(
                    "is enabled, but {}: {}",
                    instance.health, instance.health_detail
                )
            };
            context.show(&instance, |i| format!("{} {text}", i.instance))
        }
        InstancesCommand::Uneject(target) => {
            let instance = set(context, &target, "uneject").await?;
            context.show(&instance, |i| {
                let now = match (&i.recovery, i.available) {
                    (Some(progress), _) => recovery::phrase(progress),
                    (None, true) => "takes traffic".to_owned(),
                    (None, false) => format!("{} and {}", i.admin, i.health),
                };
                format!("{} is not ejected: {now}", i.instance)
            })
        }
        InstancesCommand::Disable(target) => {
            let instance = set(context, &target, "disable").await?;
            context.show(&instance, |i| {
                format!("{} gets nothing any more", i.instance)
            })
        }
    }
}

/// Why and how long an instance is ejected, in a few words.
fn ejection(ejected: &Ejected) -> String {
    format!(
        "ejected for {:.0} s more, for the {}. time: {}",
        ejected.ends_in_seconds, ejected.times, ejected.reason
    )
}

fn path(target: &Target) -> String {
    let (service, instance) = (segment(&target.service), segment(&target.instance));
    format!("/instances/{service}/{instance}")
}

async fn set(context: &Context<'_>, target: &Target, verb: &str) -> Result<Instance, CliError> {
    let path = format!("/api/v1/loadbalancer{}/{verb}", path(target));
    context.client.post(&path).await
}

async fn drain(
    context: &mut Context<'_>,
    target: &Target,
    wait: Option<humantime::Duration>,
) -> Result<(), CliError> {
    let mut instance = set(context, target, "drain").await?;
    if let Some(limit) = wait {
        let end = Instant::now() + *limit;
        context.say(&format!("{} is draining", instance.instance))?;
        while instance.drained != Some(true) {
            if Instant::now() >= end || instance.admin != "draining" {
                return Err(CliError::NotDrained {
                    left: left(&instance),
                    instance: instance.instance,
                    limit,
                });
            }
            sleep(LOOK_AGAIN.min(end - Instant::now())).await;
            instance = context.client.get(&path(target)).await?;
        }
    }
    context.show(&instance, |instance| {
        if instance.drained == Some(true) {
            format!("{} is drained", instance.instance)
        } else {
            format!("{} is draining: {} left", instance.instance, left(instance))
        }
    })
}

/// What a drain waits for.
fn left(instance: &Instance) -> String {
    format!(
        "{} requests, {} connections",
        instance.requests.in_flight, instance.kernel.live_connections
    )
}

async fn list(context: &mut Context<'_>, service: Option<&str>) -> Result<(), CliError> {
    let path = service.map_or_else(
        || "/instances".to_owned(),
        |service| format!("/instances/{}", segment(service)),
    );
    let instances: Instances = context.client.get(&path).await?;
    context.show(&instances, |list| {
        let columns = [
            ("SERVICE", Lean::Left),
            ("INSTANCE", Lean::Left),
            ("ADMIN", Lean::Left),
            ("HEALTH", Lean::Left),
            ("WEIGHT", Lean::Right),
            ("SCORE", Lean::Right),
            ("IN FLIGHT", Lean::Right),
            ("REQUESTS", Lean::Right),
            ("SUCCESS", Lean::Right),
            ("LATENCY", Lean::Right),
            ("CONNECTIONS", Lean::Right),
        ];
        table(&columns, list.instances.iter().map(row))
    })
}

fn row(instance: &Instance) -> Vec<String> {
    let requests = &instance.requests;
    let admin = if instance.drained == Some(true) && instance.admin == "draining" {
        "drained"
    } else {
        &instance.admin
    };
    vec![
        instance.service.clone(),
        instance.instance.clone(),
        admin.to_owned(),
        match &instance.recovery {
            _ if instance.health == "unhealthy" => instance.health.clone(),
            _ if instance.ejected.is_none() && instance.breaker.state != "closed" => {
                format!("breaker {}", breakers::phrase(&instance.breaker, true))
            }
            _ if instance.ejected.is_some() => "ejected".to_owned(),
            Some(progress) => recovery::phrase(progress),
            None => match &instance.slow_start {
                Some(start) => format!("starting {}", percent(start.share)),
                None => instance.health.clone(),
            },
        },
        format!(
            "{}/{}",
            format::weight(instance.effective_weight),
            instance.weight
        ),
        format!("{:.2}", instance.score),
        requests.in_flight.to_string(),
        requests.total.to_string(),
        maybe(requests.last_60s.success_rate, percent),
        maybe(requests.ewma_latency_ms, ms),
        instance.kernel.live_connections.to_string(),
    ]
}

fn one(instance: &Instance) -> String {
    let mut lines = vec![
        ("service", instance.service.clone()),
        ("instance", instance.instance.clone()),
        ("address", instance.address.clone()),
        ("id", instance.id.clone()),
        ("admin", instance.admin.clone()),
    ];
    if let Some(drained) = instance.drained {
        let drained = if drained {
            "yes".to_owned()
        } else {
            left(instance) + " left"
        };
        lines.push(("drained", drained));
    }
    lines.push((
        "health",
        format!("{} ({})", instance.health, instance.health_detail),
    ));
    if let Some(ejected) = &instance.ejected {
        lines.push(("ejected", ejection(ejected)));
    }
    if let Some(start) = &instance.slow_start {
        lines.push(("slow start", percent(start.share)));
    }
    if let Some(progress) = &instance.recovery {
        let text = format!(
            "{}, relapses so far: {}",
            recovery::phrase(progress),
            progress.relapses
        );
        lines.push(("recovery", text));
    }
    let breaker = &instance.breaker;
    if breaker.held || breaker.state != "closed" {
        let mut text = breakers::phrase(breaker, true);
        if let Some(seconds) = breaker.probe_in_seconds {
            text = format!("{text}, probe in {seconds:.1} s");
        }
        lines.push(("circuit breaker", text));
    }
    lines.extend([
        (
            "takes traffic",
            if instance.available { "yes" } else { "no" }.to_owned(),
        ),
        (
            "weight",
            format!(
                "{} of {} configured, factor {:.2}",
                format::weight(instance.effective_weight),
                instance.weight,
                instance.factor
            ),
        ),
        ("score", format!("{:.2}", instance.score)),
    ]);
    if let Some(report) = &instance.report {
        let text = format!(
            "{}, factor {:.2}, {} ago",
            percent(f64::from(report.utilization)),
            report.factor,
            format::duration(report.seconds_ago)
        );
        lines.push(("reported load", text));
    }
    lines.extend(status::requests(&instance.requests));
    let connections = &instance.connections;
    let most = instance.max_connections.map(|most| format!(" of {most}"));
    lines.push((
        "proxy sockets",
        format!(
            "{}{}, {} idle",
            connections.open,
            most.unwrap_or_default(),
            connections.idle
        ),
    ));
    lines.extend([
        (
            "latency",
            maybe(instance.requests.ewma_latency_ms, ms) + " (peak moving average)",
        ),
        ("check latency", maybe(instance.probe_latency_ms, ms)),
    ]);
    lines.extend(status::kernel(&instance.kernel));
    pairs(lines)
}
