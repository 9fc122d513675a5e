//! `lb recovery …`.

use super::{
    Context,
    args::RecoveryCommand,
    client::segment,
    error::CliError,
    format::{self, Lean, percent, table},
};
use crate::api::types::{Instance, Recoveries, RecoveringInstance, Recovery};

pub(super) async fn run(
    context: &mut Context<'_>,
    command: RecoveryCommand,
) -> Result<(), CliError> {
    match command {
        RecoveryCommand::List => {
            let list: Recoveries = context.client.get("/recovery").await?;
            context.show(&list, |list| match list.recoveries.as_slice() {
                [] => "every instance has its whole weight".to_owned(),
                all => text(all),
            })
        }
        RecoveryCommand::Force(target) => {
            let (service, instance) = (segment(&target.service), segment(&target.instance));
            let path = format!("/api/v1/loadbalancer/recovery/{service}/{instance}/force");
            let instance: Instance = context.client.post(&path).await?;
            context.show(&instance, |i| match i.available {
                true => format!("{} has its whole weight", i.instance),
                false => format!(
                    "{} is to have its whole weight at once, but it is {} and {}: {}",
                    i.instance, i.admin, i.health, i.health_detail
                ),
            })
        }
    }
}

fn text(all: &[RecoveringInstance]) -> String {
    let columns = [
        ("SERVICE", Lean::Left),
        ("INSTANCE", Lean::Left),
        ("HEALTH", Lean::Left),
        ("STATE", Lean::Left),
        ("SHARE", Lean::Right),
        ("WEIGHT", Lean::Right),
        ("NEXT", Lean::Right),
        ("RELAPSES", Lean::Right),
    ];
    table(&columns, all.iter().map(row))
}

fn row(one: &RecoveringInstance) -> Vec<String> {
    let recovery = &one.recovery;
    vec![
        one.service.clone(),
        one.instance.clone(),
        one.health.clone(),
        recovery.state.clone(),
        percent(recovery.share),
        format!("{}/{}", format::weight(one.effective_weight), one.weight),
        format!("{:.0} s", recovery.due_in_seconds),
        recovery.relapses.to_string(),
    ]
}

/// How far a recovery is, in a few words.
pub(super) fn phrase(recovery: &Recovery) -> String {
    if recovery.share > 0.0 {
        format!("recovering {:.0} %", recovery.share * 100.0)
    } else {
        "waiting to recover".to_owned()
    }
}
