//! Attaching the program, and keeping it attached.
//!
//! A link is pinned the moment it is made, and no descriptor of it is kept: the pin alone holds the
//! program on the interface. So the daemon may die in any way, and `lb datapath detach` works while
//! it lives.

use aya::programs::{
    Xdp, XdpMode,
    links::{FdLink, LinkError, PinnedLink as AyaLink},
    xdp::XdpLink,
};

use super::pins::{PinnedLink, Pins};
use crate::{
    l4::{AttachMode, L4Error, host},
    model::DatapathMode,
};

/// What became of the interfaces.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Links of earlier daemons, which still run the program of those.
    pub(super) adopted: Vec<PinnedLink>,
    /// Links that were made just now.
    pub(super) made: Vec<PinnedLink>,
    /// Why the mode is not what was asked for, for each interface where it is not.
    pub(super) reasons: Vec<String>,
}

/// Brings `program` onto each of `interfaces`, unless a link of an earlier daemon is there in a mode
/// that will do; takes links off interfaces that are not listed. When one interface fails, those
/// that were attached just now are let go again.
pub(super) fn attach(
    program: &mut Xdp,
    pins: &Pins,
    interfaces: &[String],
    mode: DatapathMode,
) -> Result<Links, L4Error> {
    let mut links = Links::default();
    let result = try_attach(program, pins, interfaces, mode, &mut links);
    if let Err(error) = result {
        for link in &links.made {
            link.remove()?;
        }
        return Err(error);
    }
    Ok(links)
}

fn try_attach(
    program: &mut Xdp,
    pins: &Pins,
    interfaces: &[String],
    mode: DatapathMode,
    links: &mut Links,
) -> Result<(), L4Error> {
    let indices = interfaces
        .iter()
        .map(|name| host::interface_index(name))
        .collect::<Result<Vec<u32>, _>>()?;
    for link in pins.links()? {
        let is_wanted = interfaces
            .iter()
            .zip(&indices)
            .any(|(name, index)| (name.as_str(), *index) == (link.interface.as_str(), link.index));
        if is_wanted && will_do(link.mode, mode) && is_alive(&link) {
            if mode == DatapathMode::Auto && link.mode == AttachMode::Generic {
                let reason = format!(
                    "{} has run the program in generic mode since an earlier start; native mode \
                     is tried again after `lb datapath detach`",
                    link.interface
                );
                tracing::warn!("{reason}");
                links.reasons.push(reason);
            }
            links.adopted.push(link);
        } else {
            let (interface, mode) = (&link.interface, link.mode);
            tracing::info!(interface, %mode, "taking the XDP program off");
            link.remove()?;
        }
    }
    for (name, index) in interfaces.iter().zip(indices) {
        if !links.adopted.iter().any(|link| link.index == index) {
            attach_one(program, pins, name, index, mode, links)?;
        }
    }
    Ok(())
}

const fn will_do(found: AttachMode, wanted: DatapathMode) -> bool {
    match wanted {
        // A generic link may be there because the driver could not do better.
        DatapathMode::Auto => true,
        DatapathMode::Native => matches!(found, AttachMode::Native),
        DatapathMode::Generic => matches!(found, AttachMode::Generic),
        DatapathMode::Relay | DatapathMode::Off => false,
    }
}

/// A pinned link whose interface was deleted is a shell.
fn is_alive(link: &PinnedLink) -> bool {
    host::interface_name(link.index).is_some() && AyaLink::from_pin(&link.path).is_ok()
}

fn attach_one(
    program: &mut Xdp,
    pins: &Pins,
    name: &str,
    index: u32,
    mode: DatapathMode,
    links: &mut Links,
) -> Result<(), L4Error> {
    let modes: &[AttachMode] = match mode {
        DatapathMode::Auto => &[AttachMode::Native, AttachMode::Generic],
        DatapathMode::Native => &[AttachMode::Native],
        DatapathMode::Generic => &[AttachMode::Generic],
        DatapathMode::Relay | DatapathMode::Off => &[],
    };
    let mut refused: Option<String> = None;
    for (position, mode) in modes.iter().enumerate() {
        match attach_as(program, &pins.link(index, name, *mode)) {
            Ok(link) => {
                tracing::info!(interface = name, %mode, "XDP program attached");
                if let Some(why) = refused {
                    let reason = format!(
                        "{name} runs the program in generic mode, at a multiple of the cost of a \
                         packet, because native mode was refused: {why}"
                    );
                    tracing::warn!("{reason}");
                    links.reasons.push(reason);
                }
                links.made.push(link);
                return Ok(());
            }
            Err(why) if position + 1 == modes.len() => {
                return Err(L4Error::Attach {
                    interface: name.to_owned(),
                    mode: *mode,
                    why,
                });
            }
            Err(why) => refused = Some(why),
        }
    }
    Ok(())
}

fn attach_as(program: &mut Xdp, pin: &PinnedLink) -> Result<PinnedLink, String> {
    let mode = match pin.mode {
        AttachMode::Native => XdpMode::Driver,
        AttachMode::Generic => XdpMode::Skb,
    };
    let id = program
        .attach_to_if_index(pin.index, mode)
        .map_err(|error| super::chain(&error))?;
    let link = program
        .take_link(id)
        .map_err(|error| super::chain(&error))?;
    // Where the kernel makes no link, aya attaches without one. Such a program would come off with
    // the daemon, so it is no substitute; dropping it takes it off.
    let link = FdLink::try_from(link)
        .map_err(|_| "the kernel made no link, which takes Linux 5.9 or later".to_owned())?;
    link.pin(&pin.path).map_err(|error| super::chain(&error))?;
    Ok(pin.clone())
}

/// Makes an earlier daemon's link run `program`, atomically: no packet sees neither.
pub(super) fn switch(program: &mut Xdp, pin: &PinnedLink) -> Result<(), String> {
    let mut switched = || -> Result<(), Box<dyn std::error::Error>> {
        let link = FdLink::from(AyaLink::from_pin(&pin.path)?);
        let id = program.attach_to_link(XdpLink::try_from(link)?)?;
        drop(program.take_link(id)?);
        Ok(())
    };
    switched().map_err(|error| super::chain(error.as_ref()))
}

/// The id of the program that runs on a pinned link.
pub(super) fn program_id(pin: &PinnedLink) -> Result<u32, LinkError> {
    let link = FdLink::from(AyaLink::from_pin(&pin.path)?);
    Ok(link.info()?.program_id())
}
