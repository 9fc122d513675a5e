//! `lb breakers …`.

use super::{
    Context,
    args::{BreakerTarget, BreakersCommand},
    client::segment,
    error::CliError,
    format::{Lean, table},
};
use crate::api::types::{Breaker, Breakers, ServiceBreakers};

pub(super) async fn run(
    context: &mut Context<'_>,
    command: BreakersCommand,
) -> Result<(), CliError> {
    match command {
        BreakersCommand::List { service } => list(context, service.as_deref()).await,
        BreakersCommand::Open(target) => order(context, &target, "open").await,
        BreakersCommand::Close(target) => order(context, &target, "close").await,
        BreakersCommand::Reset(target) => order(context, &target, "reset").await,
    }
}

async fn list(context: &mut Context<'_>, service: Option<&str>) -> Result<(), CliError> {
    let list = match service {
        None => context.client.get("/breakers").await?,
        Some(service) => {
            let path = format!("/breakers/{}", segment(service));
            let services = vec![context.client.get(&path).await?];
            Breakers { services }
        }
    };
    context.show(&list, |list| {
        let columns = [
            ("SERVICE", Lean::Left),
            ("INSTANCE", Lean::Left),
            ("STATE", Lean::Left),
            ("FAILURES", Lean::Right),
            ("PROBE IN", Lean::Right),
            ("OPENED", Lean::Right),
        ];
        table(&columns, list.services.iter().flat_map(rows))
    })
}

/// A row for the service when it has a breaker, and one for each instance.
fn rows(of: &ServiceBreakers) -> impl Iterator<Item = Vec<String>> {
    let refused = of.refused_for_seconds.is_some();
    let whole = of.rules.is_some() || of.breaker.held || of.breaker.state != "closed" || refused;
    let whole = whole.then(|| {
        let mut row = row(&of.service, "(all)", &of.breaker, true);
        if refused {
            row[2] = "open, says the backend".to_owned();
        }
        row
    });
    let own = of.instance_rules.is_some();
    let instances = of.instances.iter();
    whole.into_iter().chain(instances.map(move |one| {
        let mut row = row(&of.service, &one.instance, &one.breaker, own);
        if one.spared {
            row[STATE].push_str(", spared");
        }
        row
    }))
}

/// The column of the state.
const STATE: usize = 2;

fn row(service: &str, instance: &str, breaker: &Breaker, is_on: bool) -> Vec<String> {
    let dash = || "-".to_owned();
    let window = breaker.window.as_ref();
    vec![
        service.to_owned(),
        instance.to_owned(),
        phrase(breaker, is_on),
        window.map_or_else(dash, |w| format!("{}/{}", w.failures, w.requests)),
        breaker
            .probe_in_seconds
            .map_or_else(dash, |seconds| format!("{seconds:.1} s")),
        breaker.transitions.open.to_string(),
    ]
}

/// A breaker's state in a few words.
pub(super) fn phrase(breaker: &Breaker, is_on: bool) -> String {
    let state = breaker.state.replace('_', "-");
    match (breaker.held, is_on) {
        (true, _) => format!("held {state}"),
        (false, true) => state,
        (false, false) => "off".to_owned(),
    }
}

async fn order(
    context: &mut Context<'_>,
    target: &BreakerTarget,
    verb: &str,
) -> Result<(), CliError> {
    let mut path = format!("/api/v1/loadbalancer/breakers/{}", segment(&target.service));
    if let Some(instance) = &target.instance {
        path = format!("{path}/{}", segment(instance));
    }
    let after: ServiceBreakers = context.client.post(&format!("{path}/{verb}")).await?;
    let whose = match &target.instance {
        Some(instance) => format!("instance {instance} of {}", after.service),
        None => format!("service {}", after.service),
    };
    let what = match verb {
        "open" => "held open",
        "close" => "held closed",
        _ => "closed, and goes by its rules",
    };
    context.show(&after, |_| {
        format!("the circuit breaker of {whose} is {what}")
    })
}
