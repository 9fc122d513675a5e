//! The source ACL: who may send to VIPs.
//!
//! A rule is a prefix and what it means. Of all rules that hold a source the one with the longest
//! prefix decides, and a source that no rule holds may send. Rules stand in the configuration, one
//! by one, and in *lists*, files of prefixes that others write. What the configuration says of a
//! prefix holds against every list.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::IpPrefix;

/// What a rule means for the sources that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AclAction {
    /// They may send to VIPs.
    Allow,
    /// All their packets to VIPs are dropped.
    Deny,
}

impl AclAction {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Allow, Self::Deny];

    /// The name in configuration, API and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// What a configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AclSpec {
    /// Rules.
    pub rules: BTreeMap<IpPrefix, AclAction>,
    /// Files of prefixes.
    pub files: Vec<PathBuf>,
}

/// A file of prefixes, as it was last read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AclList {
    /// The file.
    pub file: Arc<Path>,
    /// What it says, or said when it was last without faults.
    pub rules: Arc<BTreeMap<IpPrefix, AclAction>>,
    /// What is wrong with it now; empty when nothing is.
    pub faults: Vec<String>,
}

/// A rule in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AclRule {
    /// What it means.
    pub action: AclAction,
    /// Place in [`Acl::lists`] of the list that it is from; `None`: from the configuration.
    pub list: Option<usize>,
}

/// All rules, and where they are from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acl {
    /// What the configuration says.
    pub spec: AclSpec,
    /// The rules by prefix.
    pub rules: BTreeMap<IpPrefix, AclRule>,
    /// The lists that were read, in the order of the configuration.
    pub lists: Vec<AclList>,
}

impl Acl {
    /// Puts together what the configuration and its lists say. Where two lists contradict each
    /// other the first one holds; reading them finds that (see [`crate::config`]).
    #[must_use]
    pub fn new(spec: AclSpec, lists: Vec<AclList>) -> Self {
        let own = spec.rules.iter().map(|(prefix, action)| {
            let rule = AclRule {
                action: *action,
                list: None,
            };
            (*prefix, rule)
        });
        let mut rules: BTreeMap<IpPrefix, AclRule> = own.collect();
        for (place, list) in lists.iter().enumerate() {
            for (prefix, action) in list.rules.iter() {
                if let Entry::Vacant(free) = rules.entry(*prefix) {
                    free.insert(AclRule {
                        action: *action,
                        list: Some(place),
                    });
                }
            }
        }
        Self { spec, rules, lists }
    }

    /// How many rules mean this.
    #[must_use]
    pub fn count(&self, action: AclAction) -> usize {
        let rules = self.rules.values();
        rules.filter(|rule| rule.action == action).count()
    }

    /// The rule that decides over `address`; `None` when no rule holds it, and it may send.
    #[must_use]
    pub fn decides(&self, address: IpAddr) -> Option<(IpPrefix, AclRule)> {
        let mut prefix = Some(IpPrefix::of(address));
        while let Some(holding) = prefix {
            if let Some(rule) = self.rules.get(&holding) {
                return Some((holding, *rule));
            }
            prefix = holding.shortened();
        }
        None
    }

    /// Whether `address` may not send.
    #[must_use]
    pub fn denies(&self, address: IpAddr) -> bool {
        let rule = self.decides(address);
        rule.is_some_and(|(_, rule)| rule.action == AclAction::Deny)
    }

    /// The list that a rule is from; `None`: from the configuration.
    #[must_use]
    pub fn list_of(&self, rule: &AclRule) -> Option<&AclList> {
        self.lists.get(rule.list?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> BTreeMap<IpPrefix, AclAction> {
        let words = text.split_whitespace().map(|word| {
            let (action, prefix) = match word.strip_prefix('+') {
                Some(prefix) => (AclAction::Allow, prefix),
                None => (AclAction::Deny, word),
            };
            (prefix.parse().unwrap(), action)
        });
        words.collect()
    }

    fn list(name: &str, text: &str) -> AclList {
        AclList {
            file: Path::new(name).into(),
            rules: Arc::new(rules(text)),
            faults: Vec::new(),
        }
    }

    #[test]
    fn the_longest_prefix_decides_and_the_configuration_before_lists() {
        let spec = AclSpec {
            rules: rules("10.0.0.0/8 +10.1.0.0/16 fd00::/8 +192.0.2.0/24"),
            files: Vec::new(),
        };
        let lists = vec![
            list("one", "192.0.2.0/24 198.51.100.0/24 +203.0.113.7"),
            list("two", "+198.51.100.0/24 0.0.0.0/0 203.0.113.7"),
        ];
        let acl = Acl::new(spec, lists);
        for (address, prefix, action, from) in [
            ("10.2.3.4", "10.0.0.0/8", AclAction::Deny, None),
            ("10.1.3.4", "10.1.0.0/16", AclAction::Allow, None),
            ("::ffff:10.1.3.4", "10.1.0.0/16", AclAction::Allow, None),
            ("192.0.2.9", "192.0.2.0/24", AclAction::Allow, None),
            (
                "198.51.100.1",
                "198.51.100.0/24",
                AclAction::Deny,
                Some("one"),
            ),
            ("203.0.113.7", "203.0.113.7", AclAction::Allow, Some("one")),
            ("203.0.113.8", "0.0.0.0/0", AclAction::Deny, Some("two")),
            ("fd12::1", "fd00::/8", AclAction::Deny, None),
        ] {
            let (holding, rule) = acl.decides(address.parse().unwrap()).unwrap();
            let list = acl.list_of(&rule).map(|list| list.file.to_str().unwrap());
            let expected = (prefix.parse().unwrap(), action, from);
            assert_eq!((holding, rule.action, list), expected, "{address}");
        }
        assert_eq!(acl.decides("2001:db8::1".parse().unwrap()), None);
        assert_eq!(
            (acl.count(AclAction::Allow), acl.count(AclAction::Deny)),
            (3, 4)
        );
    }
}
