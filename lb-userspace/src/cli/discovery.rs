//! `lb discovery …`.

use super::{
    Context,
    args::DiscoveryCommand,
    error::CliError,
    format::{Lean, table},
};
use crate::api::types::{Discovery, Source};

pub(super) async fn run(
    context: &mut Context<'_>,
    command: Option<DiscoveryCommand>,
) -> Result<(), CliError> {
    let list: Discovery = match command {
        None | Some(DiscoveryCommand::List) => context.client.get("/discovery").await?,
        Some(DiscoveryCommand::Refresh) => {
            let path = "/api/v1/loadbalancer/discovery/refresh";
            let list = context.client.post(path).await?;
            context.say("every source is asked now")?;
            list
        }
    };
    context.show(&list, text)
}

fn text(list: &Discovery) -> String {
    if list.sources.is_empty() {
        return "no service has a source of instances".to_owned();
    }
    let columns = [
        ("SERVICE", Lean::Left),
        ("KIND", Lean::Left),
        ("SOURCE", Lean::Left),
        ("STATE", Lean::Left),
        ("INSTANCES", Lean::Right),
        ("ANSWERED", Lean::Right),
        ("NEXT", Lean::Right),
        ("FAILED", Lean::Right),
    ];
    let mut text = table(&columns, list.sources.iter().map(row));
    let problems = list.sources.iter().filter_map(|source| {
        let problem = source.problem.as_ref()?;
        Some(format!("! {} {}: {problem}\n", source.kind, source.source))
    });
    let leaving = list.leaving.iter().map(|one| {
        let (service, instance, left) = (&one.service, &one.instance, one.in_flight);
        format!("  {instance} of {service} leaves, requests in flight: {left}\n")
    });
    let refused = list
        .refused
        .iter()
        .map(|one| format!("! {}: {}\n", one.service, one.why));
    let notes: String = problems.chain(leaving).chain(refused).collect();
    if !notes.is_empty() {
        text = format!("{}\n\n{notes}", text.trim_end());
    }
    text
}

fn row(source: &Source) -> Vec<String> {
    let seconds = |time: Option<f64>| time.map(|time| format!("{time:.0} s"));
    let answered = seconds(source.good_seconds_ago).map(|time| time + " ago");
    let next = seconds(source.next_in_seconds).unwrap_or_else(|| "on change".to_owned());
    vec![
        source.service.clone(),
        source.kind.clone(),
        source.source.clone(),
        source.state.clone(),
        source.instances.len().to_string(),
        answered.unwrap_or_else(|| "never".to_owned()),
        next,
        source.failures.to_string(),
    ]
}
