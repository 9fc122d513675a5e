//! `lb algorithm …`.

use super::{
    Context,
    args::AlgorithmCommand,
    client::segment,
    error::CliError,
    format::{Lean, pairs, table},
};
use crate::api::types::{Algorithms, ServiceAlgorithmDetail, SetAlgorithm};

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
            context.show(&detail, |detail| {
                pairs([
                    ("service", detail.service.clone()),
                    ("algorithm", detail.algorithm.clone()),
                    ("chooses", detail.description.clone()),
                    ("hash key", detail.hash_key.clone()),
                    (
                        "hash bound",
                        detail
                            .hash_bound
                            .map_or_else(|| "off".to_owned(), |bound| bound.to_string()),
                    ),
                ])
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
                    Some(previous) => format!(
                        "{service} chooses by {algorithm} (before: {previous}), until lb restarts"
                    ),
                    None => format!("{service} chooses by {algorithm} already"),
                }
            })
        }
    }
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
