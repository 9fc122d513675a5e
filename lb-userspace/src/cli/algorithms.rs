//! `lb algorithm …`.

use super::{
    Context,
    args::AlgorithmCommand,
    client::segment,
    error::CliError,
    format::{self, Lean, duration, maybe, pairs, percent, table},
};
use crate::api::types::{Algorithms, Keys, ServiceAlgorithmDetail, SetAlgorithm};

pub(super) async fn run(
    context: &mut Context<'_>,
    command: AlgorithmCommand,
) -> Result<(), CliError> {
    match command {
        AlgorithmCommand::List => {
            let algorithms: Algorithms = context.client.get("/algorithms").await?;
            context.show(&algorithms, list)
        }
        AlgorithmCommand::Get { service } => {
            let path = format!("/algorithms/{}", segment(&service));
            let detail: ServiceAlgorithmDetail = context.client.get(&path).await?;
            context.show(&detail, one)
        }
        AlgorithmCommand::Keys { service, without } => {
            let mut path = format!("/algorithms/{}/keys?", segment(&service));
            let names = without
                .iter()
                .map(|name| format!("without={}", segment(name)));
            path += &names.collect::<Vec<_>>().join("&");
            let keys: Keys = context.client.get(&path).await?;
            context.show(&keys, |keys| {
                format!(
                    "{} of the keys of {} would go to another instance, {} have to",
                    percent(keys.moved),
                    keys.service,
                    percent(keys.needed)
                )
            })
        }
        AlgorithmCommand::Reset { service } => {
            let path = format!("/algorithms/{}/reset", segment(&service));
            let path = format!("/api/v1/loadbalancer{path}");
            let detail: ServiceAlgorithmDetail = context.client.post(&path).await?;
            context.show(&detail, |detail| {
                format!("what was learned of {} is forgotten", detail.service)
            })
        }
        AlgorithmCommand::Set { service, algorithm } => {
            let path = format!("/algorithms/{}", segment(&service));
            let wanted = SetAlgorithm { algorithm };
            let detail: ServiceAlgorithmDetail = context.client.put(&path, &wanted).await?;
            context.show(&detail, |detail| {
                let (service, algorithm) = (&detail.service, &detail.algorithm);
                match detail
                    .previous
                    .as_ref()
                    .filter(|previous| *previous != algorithm)
                {
                    Some(previous) => {
                        format!("{service} chooses by {algorithm} (before: {previous})")
                    }
                    None => format!("{service} chooses by {algorithm} already"),
                }
            })
        }
    }
}

fn one(detail: &ServiceAlgorithmDetail) -> String {
    let bound = detail.hash_bound.map(|bound| bound.to_string());
    let head = pairs([
        ("service", detail.service.clone()),
        ("algorithm", detail.algorithm.clone()),
        ("chooses", detail.description.clone()),
        ("hash key", detail.hash_key.clone()),
        ("hash bound", bound.unwrap_or_else(|| "off".to_owned())),
    ]);
    let columns = [
        ("INSTANCE", Lean::Left),
        ("WEIGHT", Lean::Right),
        ("OF", Lean::Right),
        ("MEASURED", Lean::Right),
        ("LEARNED", Lean::Right),
        ("EVIDENCE", Lean::Right),
        ("REPORTED", Lean::Right),
        ("LOAD", Lean::Right),
    ];
    let factor = |factor: f32| format!("{factor:.2}");
    let rows = detail.weights.iter().map(|weight| {
        let (learned, report) = (weight.learned, weight.report);
        vec![
            weight.instance.clone(),
            format::weight(weight.effective_weight),
            weight.weight.to_string(),
            factor(weight.factor),
            maybe(learned, |learned| factor(learned.factor)),
            maybe(learned, |learned| {
                duration(learned.evidence_seconds_ago) + " ago"
            }),
            maybe(report, |report| factor(report.factor)),
            maybe(report, |report| percent(f64::from(report.utilization))),
        ]
    });
    format!("{head}\n{}", table(&columns, rows))
}

fn list(list: &Algorithms) -> String {
    let columns = [
        ("ALGORITHM", Lean::Left),
        ("CHOOSES", Lean::Left),
        ("USED BY", Lean::Left),
    ];
    let rows = list.algorithms.iter().map(|algorithm| {
        let users = list
            .services
            .iter()
            .filter(|s| s.algorithm == algorithm.name);
        let users: Vec<&str> = users.map(|s| s.service.as_str()).collect();
        vec![
            algorithm.name.clone(),
            algorithm.description.clone(),
            if users.is_empty() {
                "-".to_owned()
            } else {
                users.join(", ")
            },
        ]
    });
    table(&columns, rows)
}
