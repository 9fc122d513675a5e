//! `lb log`: what the daemon logs.

use super::{Context, args::LogCommand, error::CliError};
use crate::api::types::{Log, SetLog};

const PATH: &str = "/api/v1/admin/loadbalancer/log";

pub(super) async fn run(context: &mut Context<'_>, command: LogCommand) -> Result<(), CliError> {
    let log: Log = match command {
        LogCommand::Level { level: None } => context.client.get_at(PATH).await?,
        LogCommand::Level { level: Some(level) } => {
            context.client.put_at(PATH, &SetLog { level }).await?
        }
        LogCommand::Reset => context.client.delete_at(PATH).await?,
    };
    context.show(&log, |log| {
        let Log { level, configured } = log;
        if level == configured {
            format!("{level}, as configured")
        } else {
            format!("{level}, until lb restarts; configured is {configured}")
        }
    })
}
