//! `/acl`: who may send to VIPs.
//!
//! Rules of the configuration are made and removed here one by one, as changes of the configuration
//! like any other. Rules of lists belong to whoever writes the file.

use std::{net::IpAddr, ops::Bound};

use axum::{
    extract::State,
    response::{IntoResponse as _, Response},
};
use lb_common::Counter;
use serde_json::{Value, json};

use super::{
    answer::Answer,
    body::{Nothing, Strict},
    configuration::{Asked, Sent, described, etag, tag as with_tag},
    document::{Unchanged, tag},
    error::ApiError,
    path::OfPrefix,
    query::{Parameters, unexpected},
    state::ApiState,
    types::{Acl, AclList, AclMatch, AclRule, Change, Envelope, SetAclRule},
};
use crate::{
    config::{self, Document, document},
    model::{self, AclAction, IpPrefix},
};

/// Rules that are shown when nobody says how many.
const RULES: usize = 100;
/// The most rules that are shown at once.
const MOST_RULES: usize = 10_000;

/// Who may send to VIPs
///
/// How many rules the source ACL has, what it has dropped, its files, and its rules by prefix.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/acl",
    tag = tag::PACKET_PATH,
    operation_id = "getAcl",
    params(
        ("limit" = Option<u32>, Query, description = "Rules to show, 0 to 10000; 100 when nothing is said"),
        ("after" = Option<String>, Query, description = "Show those that follow this prefix")
    ),
    responses((status = OK, body = Envelope<Acl>, description = "The source ACL"))
)]
pub(super) async fn acl(
    State(state): State<ApiState>,
    mut parameters: Parameters,
) -> Result<Answer<Acl>, ApiError> {
    let limit = match parameters.one("limit")? {
        None => RULES,
        Some(text) => {
            let limit = text.parse().ok().filter(|limit| *limit <= MOST_RULES);
            let expected = format!("a number from 0 to {MOST_RULES}");
            limit.ok_or_else(|| unexpected("limit", &expected, &text))?
        }
    };
    let after = parameters.one("after")?;
    let after =
        after.map(|text| prefix(&text).map_err(|expected| unexpected("after", expected, &text)));
    let after = after.transpose()?;
    parameters.end("limit and after")?;
    let report = state.fresh_report().await;
    let acl = &state.snapshot().acl;
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut rules = acl.rules.range((from, Bound::Unbounded));
    let shown = rules.by_ref().take(limit);
    let shown = shown.map(|(prefix, rule)| shown_rule(acl, *prefix, rule));
    Ok(Answer::ok(Acl {
        allow: acl.count(AclAction::Allow),
        deny: acl.count(AclAction::Deny),
        denied_packets: report.counters.get(Counter::DropDenied),
        lists: acl.lists.iter().map(list).collect(),
        rules: shown.collect(),
        more: rules.next().is_some(),
    }))
}

/// Whether an address may send to VIPs
///
/// And the rule that decides: the one with the longest prefix that holds it.
#[utoipa::path(
    get,
    path = "/api/v1/loadbalancer/acl/match",
    tag = tag::PACKET_PATH,
    operation_id = "matchAcl",
    params(("address" = String, Query, description = "An address", example = "192.0.2.7")),
    responses((status = OK, body = Envelope<AclMatch>, description = "What the rules say of it"))
)]
pub(super) async fn matching(
    State(state): State<ApiState>,
    mut parameters: Parameters,
) -> Result<Answer<AclMatch>, ApiError> {
    let text = parameters.one("address")?.unwrap_or_default();
    parameters.end("address")?;
    let address: IpAddr = text
        .parse()
        .map_err(|_| unexpected("address", "an IPv4 or IPv6 address", &text))?;
    let acl = &state.snapshot().acl;
    let rule = acl.decides(address);
    let action = rule.map_or(AclAction::Allow, |(_, rule)| rule.action);
    Ok(Answer::ok(AclMatch {
        address: address.to_string(),
        action: action.as_str().to_owned(),
        rule: rule.map(|(prefix, rule)| shown_rule(acl, prefix, &rule)),
    }))
}

/// Make a rule, or change what it means
///
/// In the configuration, where it holds against what files of prefixes say.
#[utoipa::path(
    put,
    path = "/api/v1/loadbalancer/acl/rules/{prefix}",
    tag = tag::CONFIGURATION,
    operation_id = "putAclRule",
    params(
        OfPrefix,
        ("dry_run" = Option<bool>, Query, description = "Only say what would change")
    ),
    request_body = SetAclRule,
    responses(
        (status = OK, body = Envelope<Change>, description = "What that changed"),
        Unchanged
    )
)]
pub(super) async fn put_rule(
    State(state): State<ApiState>,
    OfPrefix { prefix }: OfPrefix,
    asked: Asked,
    Strict(wanted): Strict<SetAclRule>,
) -> Result<Response, ApiError> {
    change(&state, asked, &prefix, Some(json!(wanted.action))).await
}

/// Remove a rule
///
/// From the configuration. What a file says of the prefix holds again.
#[utoipa::path(
    delete,
    path = "/api/v1/loadbalancer/acl/rules/{prefix}",
    tag = tag::CONFIGURATION,
    operation_id = "deleteAclRule",
    params(
        OfPrefix,
        ("dry_run" = Option<bool>, Query, description = "Only say what would change")
    ),
    responses(
        (status = OK, body = Envelope<Change>, description = "What that changed"),
        Unchanged
    )
)]
pub(super) async fn delete_rule(
    State(state): State<ApiState>,
    OfPrefix { prefix }: OfPrefix,
    asked: Asked,
    _: Nothing,
) -> Result<Response, ApiError> {
    change(&state, asked, &prefix, None).await
}

/// Where the rules of the configuration stand.
const PLACE: [&str; 3] = ["datapath", "acl", "rules"];

/// Makes of a rule of the configuration what is wanted, or removes it.
async fn change(
    state: &ApiState,
    mut asked: Asked,
    named: &str,
    wanted: Option<Value>,
) -> Result<Response, ApiError> {
    asked.end()?;
    let prefix = prefix(named);
    // What is no prefix the reading of the configuration finds out.
    let name = prefix.map_or_else(|_| named.to_owned(), |prefix| prefix.to_string());
    let sent = Sent {
        around: place(&name),
        body: wanted.clone().unwrap_or_default(),
    };
    let condition = asked.condition.clone();
    let tagged = |document: &Document, name: &str| document.at(&place(name)).map(etag);
    let lists = state.snapshot();
    let shown = name.clone();
    let done = state
        .change(&asked, sent, move |now| {
            let name = written(now, &name);
            condition.check(tagged(now, &name).as_deref())?;
            if wanted.is_none() && now.at(&place(&name)).is_none() {
                let known = prefix.ok().and_then(|prefix| lists.acl.rules.get(&prefix));
                let list = known.and_then(|rule| lists.acl.list_of(rule));
                return Err(missing(&name, list));
            }
            let mut target = now.whole.clone();
            document::put(&mut target, &place(&name), wanted);
            Ok(target)
        })
        .await?;
    let document = &done.config.document;
    let tag = tagged(document, &written(document, &shown));
    let mut response = Answer::ok(described(&done, asked.dry)).into_response();
    with_tag(&mut response, tag.as_deref());
    Ok(response)
}

fn place(name: &str) -> Vec<String> {
    let names = PLACE.into_iter().chain([name]);
    names.map(str::to_owned).collect()
}

/// The name that a prefix goes by in the document: a file may write one in its own way.
fn written(document: &Document, name: &str) -> String {
    let rules = document.at(&PLACE).and_then(Value::as_object);
    let wanted = prefix(name);
    let same = |written: &&String| wanted.is_ok() && prefix(written) == wanted;
    let known = rules.and_then(|rules| rules.keys().find(same));
    known.cloned().unwrap_or_else(|| name.to_owned())
}

fn missing(name: &str, list: Option<&model::AclList>) -> ApiError {
    let Some(list) = list else {
        return ApiError::NoRule(name.to_owned());
    };
    let file = list.file.display();
    ApiError::Conflict(format!(
        "expected a rule of the configuration, found one of {file}: PUT gives the prefix a rule of \
         the configuration, which holds against it"
    ))
}

fn prefix(text: &str) -> Result<IpPrefix, &'static str> {
    config::prefix(text).map_err(|(expected, _)| expected)
}

fn shown_rule(acl: &model::Acl, prefix: IpPrefix, rule: &model::AclRule) -> AclRule {
    AclRule {
        prefix: prefix.to_string(),
        action: rule.action.as_str().to_owned(),
        list: acl
            .list_of(rule)
            .map(|list| list.file.display().to_string()),
    }
}

fn list(list: &model::AclList) -> AclList {
    AclList {
        file: list.file.display().to_string(),
        prefixes: list.rules.len(),
        faults: list.faults.clone(),
    }
}
