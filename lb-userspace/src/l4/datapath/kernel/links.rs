//! Attaching the program, and keeping it attached.
//!
//! A link is pinned the moment it is made, and no descriptor of it is kept: the pin alone holds the
//! program on the interface. So the daemon may die in any way, and `lb datapath detach` works while
//! it lives.

use aya::{
    Ebpf,
    programs::links::{FdLink, LinkError, PinnedLink as AyaLink},
};

use super::{
    hook::Hook,
    pins::{PinnedLink, Pins},
};
use crate::{
    l4::{AttachMode, L4Error, host},
    model::DatapathMode,
};

/// What became of the interfaces.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Links of earlier daemons, which still run the program of those; and links that were made just now on
    /// interfaces where an earlier daemon has the other hook: they pass all packets on to that for now.
    pub(super) adopted: Vec<PinnedLink>,
    /// Links that were made just now.
    pub(super) made: Vec<PinnedLink>,
    /// Links of earlier daemons at the other hook of interfaces that ours are on now: they go on until ours can do
    /// without them.
    pub(super) replaced: Vec<PinnedLink>,
    /// Why the mode is not what was asked for, for each interface where it is not.
    pub(super) reasons: Vec<String>,
}

/// What to attach, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    /// Where the program is called.
    pub(super) hook: Hook,
    /// To what.
    pub(super) interfaces: &'a [String],
    /// How.
    pub(super) mode: DatapathMode,
    /// The mode that `auto` would choose if nothing were there.
    pub(super) best: AttachMode,
    /// Whether something better than the worst way is tried elsewhere, should no driver take the program.
    pub(super) may_fail: bool,
}

impl Wish<'_> {
    /// The modes to be tried, the best first.
    const fn modes(&self) -> &'static [AttachMode] {
        match (self.hook, self.mode) {
            (Hook::Xdp, DatapathMode::Auto) => &[AttachMode::Native, AttachMode::Generic],
            (Hook::Xdp, DatapathMode::Native) => &[AttachMode::Native],
            (Hook::Xdp, DatapathMode::Generic) => &[AttachMode::Generic],
            (Hook::Tc, DatapathMode::Auto | DatapathMode::Tc) => &[AttachMode::Tc],
            _ => &[],
        }
    }
}

/// The hook that links of earlier daemons on these interfaces are at, if there are any.
pub(super) fn hook_in_use(pins: &Pins, interfaces: &[String]) -> Result<Option<Hook>, L4Error> {
    let links = pins.links()?;
    let ours = |link: &&PinnedLink| interfaces.contains(&link.interface) && is_alive(link);
    Ok(links.iter().find(ours).map(|link| Hook::of(link.mode)))
}

/// Brings the program of `object` onto each interface, unless a link of an earlier daemon is there in a mode
/// that will do; takes links off interfaces that are not listed. When one interface fails, those
/// that were attached just now are let go again.
pub(super) fn attach(object: &mut Ebpf, pins: &Pins, wish: &Wish<'_>) -> Result<Links, L4Error> {
    let mut links = Links::default();
    let result = try_attach(object, pins, wish, &mut links);
    if let Err(error) = result {
        for link in &links.made {
            link.remove()?;
        }
        return Err(error);
    }
    Ok(links)
}

fn try_attach(
    object: &mut Ebpf,
    pins: &Pins,
    wish: &Wish<'_>,
    links: &mut Links,
) -> Result<(), L4Error> {
    let indices = wish
        .interfaces
        .iter()
        .map(|name| host::interface_index(name))
        .collect::<Result<Vec<u32>, _>>()?;
    let interfaces = || wish.interfaces.iter().zip(&indices);
    for link in pins.links()? {
        let is_wanted = interfaces()
            .any(|(name, index)| (name.as_str(), *index) == (link.interface.as_str(), link.index));
        if !is_wanted || !is_alive(&link) {
            take_off(&link)?;
        } else if Hook::of(link.mode) != wish.hook {
            links.replaced.push(link);
        } else if wish.modes().contains(&link.mode) {
            if wish.mode == DatapathMode::Auto && link.mode != wish.best {
                let reason = format!(
                    "{} has run the program in {} mode since an earlier start; {} mode, which takes Linux {}, \
                     is tried again after `lb datapath detach`",
                    link.interface,
                    link.mode,
                    wish.best,
                    wish.best.oldest_kernel(),
                );
                tracing::warn!("{reason}");
                links.reasons.push(reason);
            }
            links.adopted.push(link);
        } else {
            take_off(&link)?;
        }
    }
    let mut refused = Vec::new();
    for (name, index) in interfaces() {
        if links.adopted.iter().any(|link| link.index == *index) {
            continue;
        }
        let [best, worse @ ..] = wish.modes() else {
            continue;
        };
        let pin = pins.link(*index, name, *best);
        let stands_by = wish.hook == Hook::Xdp
            && (links.replaced.iter()).any(|replaced| replaced.index == *index);
        match wish.hook.attach(object, &pin, stands_by) {
            Ok(link) if stands_by => links.adopted.push(link),
            Ok(link) => made(link, links),
            Err(why) if worse.is_empty() => return Err(not_attached(name, *best, why)),
            Err(why) => refused.push((name, *index, why, worse)),
        }
    }
    let is_nowhere = links.adopted.is_empty() && links.made.is_empty();
    for (name, index, why, worse) in refused {
        let Some(mode) = worse.first().filter(|_| !wish.may_fail || !is_nowhere) else {
            return Err(not_attached(name, AttachMode::Native, why));
        };
        let link = wish
            .hook
            .attach(object, &pins.link(index, name, *mode), false);
        made(link.map_err(|why| not_attached(name, *mode, why))?, links);
        let reason = format!(
            "{name} runs the program in {mode} mode, at a multiple of the cost of a packet, because \
             native mode was refused: {why}"
        );
        tracing::warn!("{reason}");
        links.reasons.push(reason);
    }
    Ok(())
}

fn made(link: PinnedLink, links: &mut Links) {
    tracing::info!(interface = link.interface, mode = %link.mode, "program attached");
    links.made.push(link);
}

fn take_off(link: &PinnedLink) -> Result<(), L4Error> {
    tracing::info!(interface = link.interface, mode = %link.mode, "taking the program off");
    link.remove()
}

fn not_attached(interface: &str, mode: AttachMode, why: String) -> L4Error {
    L4Error::Attach {
        interface: interface.to_owned(),
        mode,
        why,
    }
}

/// A pinned link whose interface was deleted is a shell.
fn is_alive(link: &PinnedLink) -> bool {
    host::interface_name(link.index).is_some() && AyaLink::from_pin(&link.path).is_ok()
}

/// The id of the program that runs on a pinned link.
pub(super) fn program_id(pin: &PinnedLink) -> Result<u32, LinkError> {
    let link = FdLink::from(AyaLink::from_pin(&pin.path)?);
    Ok(link.info()?.program_id())
}
