//! `lb config`.

use super::{Context, args::ConfigCommand, error::CliError};
use crate::api::types::{Config, Setting};

pub(super) async fn run(context: &mut Context<'_>, command: ConfigCommand) -> Result<(), CliError> {
    let origin = match command {
        ConfigCommand::Show { origin } => origin,
        ConfigCommand::Schema => return super::local::schema(context.out),
    };
    let config: Config = context.client.get("/config").await?;
    context.show(&config, |config| {
        let lines = config.settings.iter().map(|setting| line(setting, origin));
        lines.collect()
    })
}

fn line(setting: &Setting, origin: bool) -> String {
    let mut text = format!("{} = {}", setting.path, setting.value);
    let mut notes = Vec::new();
    if origin {
        notes.push(setting.origin.clone());
    }
    notes.extend(
        setting
            .configured
            .as_ref()
            .map(|value| format!("configured: {value}")),
    );
    let waiting = setting.waiting.as_ref();
    notes.extend(waiting.map(|value| format!("after a restart: {value}")));
    if !notes.is_empty() {
        text = format!("{text:<60}  # {}", notes.join("; "));
    }
    text + "\n"
}
