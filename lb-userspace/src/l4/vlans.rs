//! Interfaces that are VLANs of others.
//!
//! The kernel's routes lead to them, but XDP can send by the interface below only; so the program is
//! told which that is, and with which tag (IEEE 802.1Q).

use std::{collections::BTreeMap, fs};

use lb_common::Subinterface;

use super::host;

/// Where the kernel lists them. It is not there when there can be none.
const LIST: &str = "/proc/net/vlan/config";

/// The VLANs of this network namespace, by the index of their interface.
pub(crate) fn all() -> BTreeMap<u32, Subinterface> {
    let text = fs::read_to_string(LIST).unwrap_or_default();
    parse(&text, |name| host::interface_index(name).ok())
}

/// Reads the list, whose lines are `eth0.9 | 9 | eth0` below two of headings. A VLAN within a VLAN
/// would take two tags, which no frame is given: it gets the id 0, which nothing is sent to.
fn parse(text: &str, index: impl Fn(&str) -> Option<u32>) -> BTreeMap<u32, Subinterface> {
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.split('|').map(str::trim);
        let (name, id, parent) = (fields.next()?, fields.next()?, fields.next()?);
        Some((name, id.parse::<u16>().ok()?, parent))
    });
    let lines: Vec<_> = lines.collect();
    let is_vlan = |of: &str| lines.iter().any(|(name, ..)| *name == of);
    let known = lines.iter().filter_map(|(name, id, parent)| {
        let of = Subinterface {
            parent: index(parent)?,
            vlan: if is_vlan(parent) { 0 } else { *id },
            ..Subinterface::default()
        };
        Some((index(name)?, of))
    });
    known.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_lists() {
        let text = "VLAN Dev name\t | VLAN ID\n\
                    Name-Type: VLAN_NAME_TYPE_RAW_PLUS_VID_NO_PAD\n\
                    eth0.9         | 9  | eth0\n\
                    backend        | 4094  | eth1\n\
                    eth0.9.10      | 10  | eth0.9\n\
                    gone.1         | 1  | gone\n";
        let index = |name: &str| match name {
            "eth0" => Some(2),
            "eth1" => Some(3),
            "eth0.9" => Some(7),
            "backend" => Some(8),
            "eth0.9.10" => Some(9),
            _ => None,
        };
        let of = |parent, vlan| Subinterface {
            parent,
            vlan,
            ..Subinterface::default()
        };
        let expected = BTreeMap::from([(7, of(2, 9)), (8, of(3, 4094)), (9, of(7, 0))]);
        assert_eq!(parse(text, index), expected);
        assert!(parse("", index).is_empty());
    }
}
