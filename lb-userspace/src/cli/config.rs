//! `lb config …`.

use std::{fs, path::Path};

use hyper::Method;
use serde_json::{Map, Value};

use super::{
    Context,
    args::{ConfigCommand, Trial},
    change,
    client::segment,
    error::CliError,
    format::{Lean, table},
};
use crate::{
    api::types::{Config, RevisionDiff, Revisions, Runtime, Setting},
    config::document::{get, keyed, natural, pointer_text},
};

pub(super) async fn run(context: &mut Context<'_>, command: ConfigCommand) -> Result<(), CliError> {
    match command {
        ConfigCommand::Show { origin } => {
            let config: Config = context.client.get("/config").await?;
            context.show(&config, |config| {
                let lines = config.settings.iter().map(|setting| line(setting, origin));
                lines.collect()
            })
        }
        ConfigCommand::Schema => super::local::schema(context.out),
        ConfigCommand::Get { key } => look_up(context, key.as_deref()).await,
        ConfigCommand::Apply { file, trial } => {
            let body = read(&file)?;
            change::make(context, Method::PUT, "/config", Some(body), trial).await
        }
        ConfigCommand::Set { key, value, trial } => {
            let mut body = Value::Object(Map::new());
            change::put(&mut body, &change::key(&key)?, change::value(&value));
            change::make(context, Method::PATCH, "/config", Some(body), trial).await
        }
        ConfigCommand::Unset { key, trial } => unset(context, key.as_deref(), trial).await,
        ConfigCommand::Runtime => runtime(context).await,
        ConfigCommand::Revisions => revisions(context).await,
        ConfigCommand::Diff { from, to } => {
            let to = to.map_or_else(String::new, |to| format!("?to={to}"));
            let path = format!("/config/revisions/{from}/diff{to}");
            let found: RevisionDiff = context.client.get(&path).await?;
            context.show(&found, |found| {
                if found.diff.is_empty() {
                    format!("revisions {} and {} are the same", found.from, found.to)
                } else {
                    change::differences(&found.diff)
                }
            })
        }
        ConfigCommand::Rollback { revision, trial } => {
            let path = format!("/config/revisions/{revision}/rollback");
            change::make(context, Method::POST, &path, None, trial).await
        }
    }
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

async fn look_up(context: &mut Context<'_>, key: Option<&str>) -> Result<(), CliError> {
    let config: Config = context.client.get("/config").await?;
    let mut at = key.map_or_else(|| Ok(Vec::new()), change::key)?;
    let whole = keyed(config.document, &mut Vec::new());
    let Some(found) = get(&whole, &at) else {
        return Err(CliError::Setting {
            expected: "a key that somebody has set; \"lb config show\" lists all with their values",
            found: key.unwrap_or_default().to_owned(),
        });
    };
    let found = natural(found, &mut at);
    context.show(&found, change::pretty)
}

/// A configuration from a file.
fn read(file: &Path) -> Result<Value, CliError> {
    let wrong = |why: String| CliError::File {
        path: file.to_owned(),
        why,
    };
    let text = fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    if file
        .extension()
        .is_some_and(|extension| extension == "json")
    {
        return serde_json::from_str(&text).map_err(|error| wrong(error.to_string()));
    }
    let table: toml::Table = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    serde_json::to_value(table).map_err(|error| wrong(error.to_string()))
}

async fn unset(context: &mut Context<'_>, key: Option<&str>, trial: Trial) -> Result<(), CliError> {
    let path = match key {
        None => "/config/runtime".to_owned(),
        Some(key) => {
            let pointer = pointer_text(&change::key(key)?);
            format!("/config/runtime?pointer={}", segment(&pointer))
        }
    };
    change::make(context, Method::DELETE, &path, None, trial).await
}

async fn runtime(context: &mut Context<'_>) -> Result<(), CliError> {
    let set: Runtime = context.client.get("/config/runtime").await?;
    context.show(&set, |set| {
        if set.set.is_empty() {
            return "nothing is set at run time".to_owned();
        }
        let columns = [
            ("SINCE", Lean::Right),
            ("WHEN", Lean::Left),
            ("WHO", Lean::Left),
            ("WHERE", Lean::Left),
            ("WHAT", Lean::Left),
        ];
        let rows = set.set.iter().map(|one| {
            let what = one.value.as_ref().map(ToString::to_string);
            vec![
                one.config_revision.to_string(),
                one.timestamp.clone(),
                one.who.clone(),
                one.pointer.clone(),
                what.unwrap_or_else(|| "(removed)".to_owned()),
            ]
        });
        table(&columns, rows)
    })
}

async fn revisions(context: &mut Context<'_>) -> Result<(), CliError> {
    let list: Revisions = context.client.get("/config/revisions").await?;
    context.show(&list, |list| {
        let columns = [
            ("REVISION", Lean::Right),
            ("WHEN", Lean::Left),
            ("WHO", Lean::Left),
            ("WHAT", Lean::Left),
        ];
        let rows = list.revisions.iter().map(|one| {
            vec![
                one.config_revision.to_string(),
                one.timestamp.clone(),
                one.who.clone(),
                one.summary.clone(),
            ]
        });
        table(&columns, rows)
    })
}
