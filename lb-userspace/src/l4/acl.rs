//! The source ACL in the kernel: the difference to what is there, in as few writes as it takes.
//!
//! A rule that changes is one write, whatever the others are, and one more tells the program that it
//! has: what is known of all rules together, with a new epoch. In between a packet may meet the old
//! or the new rule; afterwards all meet the new one.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use lb_common::{
    Acl as Whole, FAR_WORDS, NEAR_WORDS, PREFIX_ALLOWED, PREFIX_DENIED, PrefixKey, from_v4,
};

use super::{
    datapath::{Datapath, DatapathError},
    plan::address,
};
use crate::model::{Acl, AclAction, IpPrefix};

/// The prefix of all IPv4 addresses, as the kernel has it.
const ALL_V4: PrefixKey = PrefixKey::new(&from_v4([0; 4]), 96);

/// The rules that are in the kernel.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    present: BTreeMap<PrefixKey, u32>,
    /// What they were last made of; `None` after a failure.
    made_of: Option<Arc<Acl>>,
    epoch: u64,
}

impl Rules {
    /// Brings the rules to what `acl` says.
    ///
    /// # Errors
    /// When a map cannot be written; the next call goes on from there.
    pub(crate) fn apply(
        &mut self,
        acl: &Arc<Acl>,
        datapath: &mut dyn Datapath,
    ) -> Result<(), DatapathError> {
        if self
            .made_of
            .as_ref()
            .is_some_and(|made| Arc::ptr_eq(made, acl))
        {
            return Ok(());
        }
        let wanted = wanted(acl);
        // A kernel that has never had a rule need not be told that there is none.
        if wanted != self.present || (self.made_of.is_none() && self.epoch > 0) {
            self.made_of = None;
            self.epoch += 1;
            self.write(&wanted, datapath)?;
            datapath.put_acl(&whole(acl, self.epoch))?;
        }
        self.made_of = Some(Arc::clone(acl));
        Ok(())
    }

    fn write(
        &mut self,
        wanted: &BTreeMap<PrefixKey, u32>,
        datapath: &mut dyn Datapath,
    ) -> Result<(), DatapathError> {
        let put: Vec<(PrefixKey, u32)> = wanted
            .iter()
            .filter(|(key, rule)| self.present.get(key) != Some(rule))
            .map(|(key, rule)| (*key, *rule))
            .collect();
        let gone = self.present.keys().filter(|key| !wanted.contains_key(key));
        let gone: Vec<PrefixKey> = gone.copied().collect();
        if !put.is_empty() {
            // Some of them may be there after an error: what is put again does no harm, and what is
            // not wanted any more by then is removed.
            self.present
                .extend(put.iter().map(|(key, _)| (*key, u32::MAX)));
            datapath.put_prefixes(&put)?;
            self.present.extend(put);
        }
        if !gone.is_empty() {
            datapath.remove_prefixes(&gone)?;
            for key in gone {
                self.present.remove(&key);
            }
        }
        Ok(())
    }
}

fn key(prefix: IpPrefix) -> PrefixKey {
    let length = match prefix.address() {
        IpAddr::V4(_) => u32::from(prefix.length()) + 96,
        IpAddr::V6(_) => u32::from(prefix.length()),
    };
    PrefixKey::new(&address(prefix.address()), length)
}

/// The elements of the trie for these rules.
fn wanted(acl: &Acl) -> BTreeMap<PrefixKey, u32> {
    let mut wanted = BTreeMap::new();
    if acl.rules.is_empty() {
        return wanted;
    }
    // To the kernel an IPv4 address is one of IPv6, but no prefix of IPv6 is meant to hold it.
    wanted.insert(ALL_V4, PREFIX_ALLOWED);
    wanted.extend(acl.rules.iter().map(|(prefix, rule)| {
        let rule = match rule.action {
            AclAction::Allow => PREFIX_ALLOWED,
            AclAction::Deny => PREFIX_DENIED,
        };
        (key(*prefix), rule)
    }));
    wanted
}

/// What is known of these rules together.
fn whole(acl: &Acl, epoch: u64) -> Box<Whole> {
    let mut whole = Box::new(Whole {
        epoch,
        flags: 0,
        near: [0; NEAR_WORDS],
        far: [0; FAR_WORDS],
    });
    for prefix in acl.rules.keys() {
        whole.note(&address(prefix.address()), key(*prefix).length);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{l4::datapath::memory::Memory, model::AclSpec};

    fn acl(rules: &[(&str, AclAction)]) -> Arc<Acl> {
        let rules = rules
            .iter()
            .map(|(prefix, action)| (prefix.parse().unwrap(), *action));
        let spec = AclSpec {
            rules: rules.collect(),
            files: Vec::new(),
        };
        Arc::new(Acl::new(spec, Vec::new()))
    }

    const DENY: AclAction = AclAction::Deny;
    const ALLOW: AclAction = AclAction::Allow;

    #[test]
    fn a_change_writes_what_differs_and_no_rules_write_nothing() {
        let (mut rules, mut memory) = (Rules::default(), Memory::new(2));
        rules.apply(&acl(&[]), &mut memory).unwrap();
        assert_eq!(memory.take_log(), [""; 0]);
        let many: Vec<(String, AclAction)> = (0..200_u16)
            .map(|third| (format!("10.0.{third}.0/24"), DENY))
            .collect();
        let mut many: Vec<(&str, AclAction)> = many
            .iter()
            .map(|(text, action)| (text.as_str(), *action))
            .collect();
        let first = acl(&many);
        rules.apply(&first, &mut memory).unwrap();
        assert_eq!(memory.take_log(), ["201 prefixes", "acl"]);
        rules.apply(&first, &mut memory).unwrap();
        rules.apply(&acl(&many), &mut memory).unwrap();
        assert_eq!(memory.take_log(), [""; 0]);
        many[3].1 = ALLOW;
        many.pop();
        many.push(("2001:db8::/32", DENY));
        rules.apply(&acl(&many), &mut memory).unwrap();
        assert_eq!(
            memory.take_log(),
            ["2 prefixes", "remove 1 prefixes", "acl"]
        );
        assert_eq!(memory.kernel().prefixes().len(), 201);
        rules.apply(&acl(&[]), &mut memory).unwrap();
        assert_eq!(memory.take_log(), ["remove 201 prefixes", "acl"]);
        assert_eq!(memory.kernel().acl().unwrap().flags, 0);
    }

    #[test]
    fn a_failure_is_made_up_for_by_the_next_pass() {
        for writes in 0..3 {
            let (mut rules, mut memory) = (Rules::default(), Memory::new(2));
            rules
                .apply(&acl(&[("10.0.0.0/8", DENY), ("::/0", DENY)]), &mut memory)
                .unwrap();
            memory.fail_after(Some(writes));
            let wanted = acl(&[("10.0.0.0/8", ALLOW)]);
            rules.apply(&wanted, &mut memory).unwrap_err();
            rules.apply(&wanted, &mut memory).unwrap();
            let kernel = memory.kernel();
            let expected = [
                (ALL_V4, PREFIX_ALLOWED),
                (key("10.0.0.0/8".parse().unwrap()), PREFIX_ALLOWED),
            ];
            assert_eq!(kernel.prefixes(), expected.into());
            assert_eq!(kernel.acl().unwrap().epoch, 3);
        }
    }
}
