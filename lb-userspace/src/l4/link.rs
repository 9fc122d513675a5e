//! What an interface is.
//!
//! Two things are to be known before a program is attached. Whether frames on it begin with an Ethernet header:
//! a program would see nothing that it knows on others, and lb would run and serve nobody. And whether it is one
//! end of a veth pair, where XDP is the wrong choice: it copies each packet, and what it sends back is lost unless
//! the other end has a program too.

use std::io;

use netlink_packet_route::link::{InfoKind, LinkLayerType};

use super::{L4Error, host, netlink};

/// An interface whose frames the programs can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Framed {
    /// Its index.
    pub(crate) index: u32,
    /// Whether it is known to be one end of a veth pair.
    pub(crate) is_pair: bool,
}

impl Framed {
    /// Looks at the interface of this name. One of which the kernel tells nothing is taken as it comes.
    ///
    /// # Errors
    /// When the programs cannot read its frames, or it is not there.
    pub(crate) fn named(name: &str) -> Result<Self, L4Error> {
        let index = host::interface_index(name)?;
        let link = Link::of(index);
        let link = link.inspect_err(|error| tracing::warn!(%error, name, "its kind is not known"));
        match link {
            Ok(link) if !link.has_frames() => Err(L4Error::NoFrames {
                name: name.to_owned(),
                found: link.describe(),
            }),
            link => Ok(Self {
                index,
                is_pair: link.is_ok_and(|link| link.is_pair()),
            }),
        }
    }
}

/// What is known of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Link {
    layer: LinkLayerType,
    kind: Option<InfoKind>,
}

impl Link {
    /// Asks the kernel for the interface with this index.
    fn of(index: u32) -> io::Result<Self> {
        let link = netlink::link(index)?;
        Ok(Self {
            layer: link.header.link_layer_type,
            kind: netlink::kind(&link).cloned(),
        })
    }

    /// Whether its frames begin with an Ethernet header; those of the loopback interface do, too.
    const fn has_frames(&self) -> bool {
        matches!(self.layer, LinkLayerType::Ether | LinkLayerType::Loopback)
    }

    /// What it is, for people.
    fn describe(&self) -> String {
        let kind = self.kind.as_ref().map(|kind| format!(" ({kind})"));
        format!(
            "an interface of type {}{}",
            self.layer,
            kind.unwrap_or_default()
        )
    }

    /// Whether it is one end of a veth pair.
    const fn is_pair(&self) -> bool {
        matches!(self.kind, Some(InfoKind::Veth))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_has_frames_and_is_no_pair() {
        let index = host::interface_index("lo").unwrap();
        let link = Link::of(index).unwrap();
        assert!(link.has_frames() && !link.is_pair(), "{link:?}");
    }

    #[test]
    fn interfaces_are_told_apart() {
        let link = |layer, kind| Link { layer, kind };
        let pair = link(LinkLayerType::Ether, Some(InfoKind::Veth));
        assert!(pair.has_frames() && pair.is_pair());
        let bridge = link(LinkLayerType::Ether, Some(InfoKind::Bridge));
        assert!(bridge.has_frames() && !bridge.is_pair());
        let tunnel = link(LinkLayerType::None, Some(InfoKind::Wireguard));
        assert!(!tunnel.has_frames());
        assert_eq!(tunnel.describe(), "an interface of type NONE (wireguard)");
        assert_eq!(
            link(LinkLayerType::Ppp, None).describe(),
            "an interface of type PPP"
        );
    }
}
