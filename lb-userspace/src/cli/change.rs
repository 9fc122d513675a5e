//! What all commands that change the configuration have in common.

use hyper::Method;
use serde_json::{Map, Value};

use super::{Context, args::Trial, error::CliError};
use crate::api::types::{Change, Difference, Part};

/// Asks for a change and says what it did.
pub(super) async fn make(
    context: &mut Context<'_>,
    method: Method,
    path: &str,
    body: Option<Value>,
    trial: Trial,
) -> Result<(), CliError> {
    let path = match (trial.dry_run, path.contains('?')) {
        (false, _) => path.to_owned(),
        (true, false) => format!("{path}?dry_run=true"),
        (true, true) => format!("{path}&dry_run=true"),
    };
    let done: Change = context.client.change(method, &path, body.as_ref()).await?;
    context.show(&done, text)
}

/// Changes settings of what has this path.
pub(super) async fn set(
    context: &mut Context<'_>,
    path: &str,
    list: &[String],
    trial: Trial,
) -> Result<(), CliError> {
    let body = settings(list)?;
    make(context, Method::PATCH, path, Some(body), trial).await
}

/// Removes what has this path.
pub(super) async fn remove(
    context: &mut Context<'_>,
    path: &str,
    trial: Trial,
) -> Result<(), CliError> {
    make(context, Method::DELETE, path, None, trial).await
}

/// Shows what is configured of something.
pub(super) async fn part(context: &mut Context<'_>, path: &str) -> Result<(), CliError> {
    let part: Part = context.client.get(path).await?;
    context.show(&part, |part| pretty(&part.config))
}

/// A document for people, who write it back the same way.
pub(super) fn pretty(value: &Value) -> String {
    // A value can always be written.
    serde_json::to_string_pretty(value).unwrap_or_default()
}

fn text(done: &Change) -> String {
    let number = done.config_revision;
    let mut text = match (done.diff.is_empty(), done.dry_run) {
        (true, _) => format!("nothing to change, revision {number} of the configuration\n"),
        (false, true) => "dry run, nothing has changed; this would:\n".to_owned(),
        (false, false) => format!("changed, revision {number} of the configuration\n"),
    };
    for change in &done.changes {
        text += &format!("  {change}\n");
    }
    // The phrases say what it means; what was changed needs saying where they do not.
    if done.dry_run || done.changes.is_empty() {
        text += &differences(&done.diff);
    }
    for setting in &done.needs_restart {
        text += &format!("! {setting} waits for a restart\n");
    }
    for notice in &done.notices {
        text += &format!("note: {notice}\n");
    }
    if !done.persisted && !done.dry_run && !done.diff.is_empty() {
        text += "! lost when lb restarts: no state file is configured (state.file)\n";
    }
    text
}

/// Places that differ, one a line.
pub(super) fn differences(list: &[Difference]) -> String {
    let shown = list.iter().map(|one| match (&one.before, &one.after) {
        (None, Some(after)) => format!("+ {} = {after}\n", one.pointer),
        (Some(before), None) => format!("- {} = {before}\n", one.pointer),
        (Some(before), Some(after)) => format!("~ {}: {before} → {after}\n", one.pointer),
        (None, None) => String::new(),
    });
    shown.collect()
}

/// The document that `KEY=VALUE` settings make. An empty value is null, which gives a setting back.
pub(super) fn settings(list: &[String]) -> Result<Value, CliError> {
    let mut body = Value::Object(Map::new());
    for setting in list {
        let Some((key, value)) = setting.split_once('=') else {
            return Err(CliError::Setting {
                expected: "a setting as KEY=VALUE",
                found: setting.clone(),
            });
        };
        put(&mut body, &self::key(key)?, self::value(value));
    }
    Ok(body)
}

/// Puts `value` at the place that `key` leads to.
pub(super) fn put(body: &mut Value, key: &[String], value: Value) {
    let place = key.iter().fold(body, |place, segment| {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        &mut place[segment.as_str()]
    });
    *place = value;
}

/// The parts of a dotted key; what has dots itself stands in double quotes.
pub(super) fn key(text: &str) -> Result<Vec<String>, CliError> {
    let wrong = || CliError::Setting {
        expected: "a key such as services.web.timeouts.connect, in which what has dots stands in \
                   double quotes",
        found: text.to_owned(),
    };
    let mut parts = Vec::new();
    let mut rest = text.trim();
    loop {
        let (part, after) = if let Some(quoted) = rest.strip_prefix('"') {
            quoted.split_once('"').ok_or_else(wrong)?
        } else {
            rest.split_at(rest.find('.').unwrap_or(rest.len()))
        };
        if part.is_empty() {
            return Err(wrong());
        }
        parts.push(part.to_owned());
        match after.strip_prefix('.') {
            Some(more) => rest = more,
            None if after.is_empty() => return Ok(parts),
            None => return Err(wrong()),
        }
    }
}

/// A value as it would stand in the file; what is none of those is text, so that nobody has to
/// quote for two readers.
pub(super) fn value(text: &str) -> Value {
    if text.is_empty() {
        return Value::Null;
    }
    let parsed = toml::from_str::<toml::Table>(&format!("value = {text}"));
    let parsed = parsed.ok().and_then(|mut table| table.remove("value"));
    match parsed {
        Some(toml::Value::Datetime(_)) | None => text.into(),
        Some(value) => serde_json::to_value(value).unwrap_or_else(|_| text.into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_written_as_in_the_file() {
        let list = [
            "timeouts.connect=1s",
            "weight=5",
            "retry.enabled=false",
            "affinity.sources=[\"own\", \"jwt\"]",
            "instances.\"http://10.0.0.1:80\".weight=0.5",
            "hash_key=",
            "health_check.path=/a=b",
        ];
        let list: Vec<String> = list.map(str::to_owned).to_vec();
        let expected = json!({
            "timeouts": {"connect": "1s"},
            "weight": 5,
            "retry": {"enabled": false},
            "affinity": {"sources": ["own", "jwt"]},
            "instances": {"http://10.0.0.1:80": {"weight": 0.5}},
            "hash_key": null,
            "health_check": {"path": "/a=b"},
        });
        assert_eq!(settings(&list).unwrap(), expected);
        for wrong in ["weight", "=5", "a..b=1", "\"a=1", "a.=1", "\"a\"b=1"] {
            assert!(settings(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
        assert_eq!(value("10.0.0.1"), json!("10.0.0.1"));
        assert_eq!(value("2026-01-15"), json!("2026-01-15"));
    }
}
