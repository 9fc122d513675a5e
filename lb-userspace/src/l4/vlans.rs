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

/// What the kernel has where there can be VLANs at all.
const KNOWN: &str = "/proc/net/vlan";

/// The VLANs of this network namespace, by the index of their interface.
///
/// # Errors
/// When the kernel does not tell.
pub(crate) fn all() -> io::Result<BTreeMap<u32, Subinterface>> {
    if !Path::new(KNOWN).try_exists()? {
        return Ok(BTreeMap::new());
    }
    let links = netlink::links(&InfoKind::Vlan)?;
    let vlans = links
        .iter()
        .filter_map(|link| Some((link.header.index, Vlan::of(link)?)))
        .collect();
    Ok(subinterfaces(&vlans))
}

/// A VLAN of an interface of this namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Vlan {
    tag: u32,
    /// Index of the interface below.
    below: u32,
}

impl Vlan {
    /// Reads what is known of an interface; `None` when it is no VLAN. Nor is one whose interface below is in another
    /// namespace, as containers have them: here it is where packets leave.
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
        let mut below = None;
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::Link(index) => below = Some(*index),
                LinkAttribute::LinkNetNsId(_) => return None,
                _ => {}
            }
        }
        Some(Self {
            tag: tag(ether_type, id?),
            below: below?,
        })
    }
}

/// What the program is to know. Where more than two tags would be needed, more than lb reads of a frame, there is
/// none: nothing is sent there.
fn subinterfaces(vlans: &BTreeMap<u32, Vlan>) -> BTreeMap<u32, Subinterface> {
    let known = vlans.iter().map(|(index, vlan)| {
        let (last, outer, inner) = match vlans.get(&vlan.below) {
            Some(outside) => (outside, outside.tag, vlan.tag),
            None => (vlan, vlan.tag, 0),
        };
        let is_within_more = vlans.contains_key(&last.below);
        let of = Subinterface {
            parent: last.below,
            outer: if is_within_more { 0 } else { outer },
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
        let found = |tag, below| Some(Vlan { tag, below });
        assert_eq!(Vlan::of(&q), found(0x8100_0009, 2));
        let protocol = InfoVlan::Protocol(VlanProtocol::Ieee8021Ad);
        let mut ad = link(8, 3, vec![protocol, InfoVlan::Id(4094)]);
        assert_eq!(Vlan::of(&ad), found(0x88a8_0ffe, 3));
        // Below is the host's, and this is a container.
        ad.attributes.push(LinkAttribute::LinkNetNsId(0));
        assert_eq!(Vlan::of(&ad), None);
        assert_eq!(Vlan::of(&LinkMessage::default()), None);
        assert_eq!(Vlan::of(&link(9, 2, Vec::new())), None);
    }

    /// An attribute; lengths and most numbers are in this machine's order.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// A message of a list.
    fn message(kind: u16, content: &[u8]) -> Vec<u8> {
        let mut bytes = (16 + content.len() as u32).to_ne_bytes().to_vec();
        bytes.extend([kind, 2].map(u16::to_ne_bytes).concat());
        bytes.extend([1_u32, 0].map(u32::to_ne_bytes).concat());
        bytes.extend(content);
        bytes
    }

    #[test]
    fn reads_it_as_the_kernel_writes_it() {
        // Of `ip link add link eth0 name p type vlan proto 802.1ad id 7` what is asked for here. The protocol is in the
        // network's order.
        let protocol = attribute(5, &[0x88, 0xa8]);
        let data = [protocol, attribute(1, &7_u16.to_ne_bytes())].concat();
        let info = [attribute(1, b"vlan\0"), attribute(2, &data)].concat();
        // An Ethernet interface with the index 9.
        let mut link = [0; 16].to_vec();
        link[2..4].copy_from_slice(&1_u16.to_ne_bytes());
        link[4..8].copy_from_slice(&9_u32.to_ne_bytes());
        link.extend(attribute(3, b"p\0"));
        link.extend(attribute(5, &2_u32.to_ne_bytes()));
        link.extend(attribute(18, &info));
        let (new_link, done) = (message(16, &link), message(3, &[0; 4]));
        let mut links = Vec::new();
        assert!(netlink::read(&[new_link.clone(), done].concat(), &mut links).unwrap());
        let expected = Vlan {
            tag: 0x88a8_0007,
            below: 2,
        };
        let found: Vec<_> = links.iter().map(Vlan::of).collect();
        assert_eq!((found, links[0].header.index), (vec![Some(expected)], 9));
        // The kernel has given up.
        let done = message(3, &(-libc::ENOMEM).to_ne_bytes());
        let error = netlink::read(&[new_link, done].concat(), &mut links).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
    }

    #[test]
    fn a_vlan_within_a_vlan_has_two_tags() {
        let (q, ad) = (0x8100_0009, 0x88a8_0007);
        let vlan = |tag, below| Vlan { tag, below };
        let vlans = BTreeMap::from([
            (10, vlan(q, 2)),
            (11, vlan(ad, 2)),
            (12, vlan(q, 11)),
            (13, vlan(q, 12)),
            (14, vlan(tag(TAG_CUSTOMER, 0), 2)),
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
            (14, of(2, 0x8100_0000, 0)),
        ];
        assert_eq!(found, BTreeMap::from(expected));
        // A way has room for one tag of 802.1Q; of others it names the interface.
        let way = |index: u32| found[&index].way(index);
        assert_eq!(way(10), Some((2, 0x92)));
        assert_eq!(
            [11, 12, 14].map(way),
            [11, 12, 14].map(|own| Some((own, 2)))
        );
        assert_eq!(way(13), None);
    }
}
