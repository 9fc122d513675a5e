//! Interfaces that are VLANs of others.
//!
//! The kernel's routes lead to them, but XDP can send by the interface below only; so the program is
//! told which that is, and with which tags: one of 802.1Q or 802.1ad, or two where a VLAN is within a VLAN.

use std::{collections::BTreeMap, io, path::Path};

use lb_common::{Subinterface, TAG_CUSTOMER, TAG_SERVICE, tag};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkInfo, LinkMessage, VlanProtocol,
};

use super::netlink;

/// What the kernel has where there can be VLANs at all: nobody else has to wait for a list of interfaces.
const KNOWN: &str = "/proc/net/vlan";

/// The VLANs of this network namespace, by the index of their interface.
///
/// # Errors
/// When the kernel does not tell.
pub(crate) fn all() -> io::Result<BTreeMap<u32, Subinterface>> {
    if !Path::new(KNOWN).exists() {
        return Ok(BTreeMap::new());
    }
    let links = netlink::links(InfoKind::Vlan)?;
    let vlans = links
        .iter()
        .filter_map(|link| Some((link.header.index, Vlan::of(link)?)))
        .collect();
    Ok(subinterfaces(&vlans))
}

/// A VLAN as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Vlan {
    tag: u32,
    /// Index of the interface below.
    below: u32,
    /// Whether that is in another network namespace, where nothing can be sent by it.
    is_away: bool,
}

impl Vlan {
    /// Reads what is known of an interface; `None` when it is no VLAN.
    fn of(link: &LinkMessage) -> Option<Self> {
        let data = netlink::infos(link).iter().find_map(|info| match info {
            LinkInfo::Data(InfoData::Vlan(data)) => Some(data),
            _ => None,
        })?;
        let (mut id, mut ether_type) = (None, TAG_CUSTOMER);
        for info in data {
            match info {
                InfoVlan::Id(found) => id = Some(*found),
                InfoVlan::Protocol(VlanProtocol::Ieee8021Ad) => ether_type = TAG_SERVICE,
                _ => {}
            }
        }
        let (mut below, mut is_away) = (None, false);
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::Link(index) => below = Some(*index),
                LinkAttribute::LinkNetNsId(_) => is_away = true,
                _ => {}
            }
        }
        Some(Self {
            tag: tag(ether_type, id?),
            below: below?,
            is_away,
        })
    }
}

/// What the program is to know. Where more than two tags would be needed, more than lb reads of a frame, or where the
/// interface below is elsewhere, there is none: nothing is sent there.
fn subinterfaces(vlans: &BTreeMap<u32, Vlan>) -> BTreeMap<u32, Subinterface> {
    let known = vlans.iter().map(|(index, vlan)| {
        let outside = vlans.get(&vlan.below).filter(|_| !vlan.is_away);
        let (last, outer, inner) = match outside {
            Some(outside) => (outside, outside.tag, vlan.tag),
            None => (vlan, vlan.tag, 0),
        };
        let is_within_more = vlans.contains_key(&last.below);
        let of = Subinterface {
            parent: last.below,
            outer: if last.is_away || is_within_more {
                0
            } else {
                outer
            },
            inner,
        };
        (*index, of)
    });
    known.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, below: u32, info: Vec<InfoVlan>) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = vec![
            LinkAttribute::IfName("eth0.9".to_owned()),
            LinkAttribute::Link(below),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(info)),
            ]),
        ];
        link
    }

    #[test]
    fn reads_what_the_kernel_tells() {
        let q = link(7, 2, vec![InfoVlan::Id(9)]);
        let found = |tag, below, is_away| {
            Some(Vlan {
                tag,
                below,
                is_away,
            })
        };
        assert_eq!(Vlan::of(&q), found(0x8100_0009, 2, false));
        let protocol = InfoVlan::Protocol(VlanProtocol::Ieee8021Ad);
        let mut ad = link(8, 3, vec![protocol, InfoVlan::Id(4094)]);
        assert_eq!(Vlan::of(&ad), found(0x88a8_0ffe, 3, false));
        ad.attributes.push(LinkAttribute::LinkNetNsId(0));
        assert_eq!(Vlan::of(&ad), found(0x88a8_0ffe, 3, true));
        assert_eq!(Vlan::of(&LinkMessage::default()), None);
        assert_eq!(Vlan::of(&link(9, 2, Vec::new())), None);
    }

    #[test]
    fn a_vlan_within_a_vlan_has_two_tags() {
        let (q, ad) = (0x8100_0009, 0x88a8_0007);
        let vlan = |tag, below| Vlan {
            tag,
            below,
            is_away: false,
        };
        let away = Vlan {
            is_away: true,
            ..vlan(q, 10)
        };
        let vlans = BTreeMap::from([
            (10, vlan(q, 2)),
            (11, vlan(ad, 2)),
            (12, vlan(q, 11)),
            (13, vlan(q, 12)),
            // 10 is the number of something else there.
            (14, away),
            (15, vlan(q, 14)),
        ]);
        let of = |parent, outer, inner| Subinterface {
            parent,
            outer,
            inner,
        };
        let found = subinterfaces(&vlans);
        let expected = [
            (10, of(2, q, 0)),
            (11, of(2, ad, 0)),
            (12, of(2, ad, q)),
            (13, of(11, 0, q)),
            (14, of(10, 0, 0)),
            (15, of(10, 0, q)),
        ];
        assert_eq!(found, BTreeMap::from(expected));
        // A way has room for one tag of 802.1Q; of others it names the interface.
        let ways = [10, 11, 12, 13].map(|index| found[&index].way(index));
        assert_eq!(ways, [Some((2, 0x92)), Some((11, 2)), Some((12, 2)), None]);
    }
}
