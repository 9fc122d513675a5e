//! `/acl`: the source ACL.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /acl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Acl {
    /// Rules in force that allow.
    pub allow: usize,
    /// Rules in force that deny.
    pub deny: usize,
    /// Packets for VIPs that were dropped because a rule denies their source, since the packet path
    /// was set up.
    pub denied_packets: u64,
    /// Files of prefixes.
    pub lists: Vec<AclList>,
    /// Rules in force by prefix, as many as were asked for.
    pub rules: Vec<AclRule>,
    /// Whether there are more, after the last one of `rules`.
    pub more: bool,
}

/// A file of prefixes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AclList {
    /// The file.
    pub file: String,
    /// Prefixes that it has.
    pub prefixes: usize,
    /// What is wrong with it now: what it said before holds until nothing is.
    pub faults: Vec<String>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AclRule {
    /// The sources that it holds.
    pub prefix: String,
    /// `allow` or `deny`.
    pub action: String,
    /// The file that it is from; absent for the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<String>,
}

/// `GET /acl/match`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AclMatch {
    /// The address that was asked about.
    pub address: String,
    /// `allow` or `deny`.
    pub action: String,
    /// The rule that decides; absent when none holds the address, and it may send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<AclRule>,
}

/// `PUT /acl/rules/{prefix}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"action": "deny"}))]
pub struct SetAclRule {
    /// `allow` or `deny`.
    pub action: String,
}
