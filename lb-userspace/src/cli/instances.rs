//! `lb instances …`.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    Context,
    args::{InstancesCommand, Target, Trial},
    breakers, change,
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
        InstancesCommand::Add {
            target,
            weight,
            max_requests,
            trial,
        } => {
            let mut body = limits(weight, max_requests);
            body["endpoint"] = target.instance.clone().into();
            let path = format!("/instances/{}", segment(&target.service));
            change::make(context, Method::POST, &path, Some(body), trial).await
        }
        InstancesCommand::Set {
            target,
            weight,
            max_requests,
            trial,
        } => {
            let body = limits(weight, max_requests);
            change::make(context, Method::PATCH, &path(&target), Some(body), trial).await
        }
        InstancesCommand::Remove {
            target,
            drain: Some(time),
            trial: Trial { dry_run: false },
        } => {
            // Whole units of the shortest that is understood.
            let time = format!("{}ms", time.as_millis());
            let path = format!("{}?drain={time}", path(&target));
            let instance: Instance = context.client.change(Method::DELETE, &path, None).await?;
            context.show(&instance, |instance| {
                let left = left(instance);
                format!(
                    "{} is draining and will be removed: {left} left",
                    instance.instance
                )
            })
        }
        InstancesCommand::Remove { target, trial, .. } => {
            change::make(context, Method::DELETE, &path(&target), None, trial).await
        }
        InstancesCommand::Drain {
            target,
            deadline,
            wait,
        } => drain(context, &target, deadline, wait).await,
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

fn limits(weight: Option<u16>, max_requests: Option<u32>) -> Value {
    let mut body = json!({});
    if let Some(weight) = weight {
        body["weight"] = weight.into();
    }
    if let Some(most) = max_requests {
        body["max_requests"] = most.into();
    }
    body
}

async fn drain(
    context: &mut Context<'_>,
    target: &Target,
    deadline: Option<humantime::Duration>,
    wait: Option<humantime::Duration>,
) -> Result<(), CliError> {
    let body = deadline.map(|time| json!({"deadline": format!("{}ms", time.as_millis())}));
    let drain = format!("{}/drain", path(target));
    let mut instance: Instance = context
        .client
        .change(Method::POST, &drain, body.as_ref())
        .await?;
    // Who names a deadline waits for it, and a moment longer.
    let wait = wait.map(|wait| match deadline {
        Some(deadline) => (*deadline + LOOK_AGAIN * 8).into(),
        None => wait,
    });
    if let Some(limit) = wait {
        let end = Instant::now() + *limit;
        context.say(&format!("{} is draining", instance.instance))?;
        while instance.drained != Some(true) {
            if deadline.is_some() && instance.admin == "disabled" {
                break;
            }
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
        let name = &instance.instance;
        if instance.drained == Some(true) {
            format!("{name} is drained")
        } else if instance.admin == "disabled" {
            format!(
                "{name} is disabled, the time is over: {} left",
                left(instance)
            )
        } else {
            format!("{name} is draining: {} left", left(instance))
        }
    })
}

/// What a drain waits for.
fn left(instance: &Instance) -> String {
    let (requests, connections) = (
        instance.requests.in_flight,
        instance.kernel.live_connections,
    );
    let mut text = format!("{requests} requests, {connections} connections");
    if let Some(drain) = &instance.drain {
        if drain.sessions > 0 {
            text += &format!(", {} sessions", drain.sessions);
        }
        if let Some(seconds) = drain.seconds_left {
            text += &format!(" and {seconds:.0} s");
        } else if let Some(silence) = drain.silence_seconds {
            text += &format!(
                ", and connections that the kernel does not remember, which are believed to be over \
                 after {silence:.0} s (datapath.tcp_idle_timeout); --deadline ends the drain before"
            );
        }
    }
    text
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
