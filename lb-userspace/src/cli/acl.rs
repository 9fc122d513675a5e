//! `lb acl …`.

use hyper::Method;
use serde_json::json;

use super::{
    Context,
    args::AclCommand,
    change,
    client::segment,
    error::CliError,
    format::{Lean, pairs, table},
};
use crate::api::types::{Acl, AclMatch, AclRule};

pub(super) async fn run(
    context: &mut Context<'_>,
    command: Option<AclCommand>,
) -> Result<(), CliError> {
    let path = |prefix: &str| format!("/acl/rules/{}", segment(prefix));
    let (prefix, action, trial) = match command {
        None => return show(context, "/acl?limit=0").await,
        Some(AclCommand::List { limit, after }) => {
            let after = after.map(|after| format!("&after={}", segment(&after)));
            let path = format!("/acl?limit={limit}{}", after.unwrap_or_default());
            return show(context, &path).await;
        }
        Some(AclCommand::Match { address }) => {
            let path = format!("/acl/match?address={}", segment(&address));
            let found: AclMatch = context.client.get(&path).await?;
            return context.show(&found, decision);
        }
        Some(AclCommand::Remove { prefix, trial }) => {
            return change::make(context, Method::DELETE, &path(&prefix), None, trial).await;
        }
        Some(AclCommand::Allow { prefix, trial }) => (prefix, "allow", trial),
        Some(AclCommand::Deny { prefix, trial }) => (prefix, "deny", trial),
    };
    let body = json!({ "action": action });
    change::make(context, Method::PUT, &path(&prefix), Some(body), trial).await
}

async fn show(context: &mut Context<'_>, path: &str) -> Result<(), CliError> {
    let acl: Acl = context.client.get(path).await?;
    context.show(&acl, text)
}

fn text(acl: &Acl) -> String {
    let mut text = pairs([
        ("rules", format!("{} deny, {} allow", acl.deny, acl.allow)),
        ("packets denied", acl.denied_packets.to_string()),
    ]);
    for list in &acl.lists {
        text += &format!("{}: {} prefixes\n", list.file, list.prefixes);
        for fault in &list.faults {
            text += &format!("! {fault}\n");
        }
    }
    if !acl.rules.is_empty() {
        let columns = [
            ("PREFIX", Lean::Left),
            ("ACTION", Lean::Left),
            ("FROM", Lean::Left),
        ];
        let rows = acl.rules.iter().map(|rule| {
            let from = from(rule).to_owned();
            vec![rule.prefix.clone(), rule.action.clone(), from]
        });
        text += "\n";
        text += &table(&columns, rows);
        if let (true, Some(last)) = (acl.more, acl.rules.last()) {
            text += &format!("\nmore with --after {}", last.prefix);
        }
    }
    text
}

fn from(rule: &AclRule) -> &str {
    rule.list.as_deref().unwrap_or("configuration")
}

fn decision(found: &AclMatch) -> String {
    let AclMatch {
        address,
        action,
        rule,
    } = found;
    match rule {
        Some(rule) => format!("{address}: {action}, by {} of {}", rule.prefix, from(rule)),
        None => format!("{address}: {action}, no rule holds it"),
    }
}
