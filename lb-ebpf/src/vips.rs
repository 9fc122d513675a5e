//! Which VIP a packet is for.
//!
//! A VIP of its very port comes first. Only when there is none, and only while there are VIPs of
//! several ports at all, the ranges of its address are looked at, the narrowest first; so who has no
//! such VIP does not pay for them, and the traffic of others pays for one look-up.

use lb_common::Vip;

use crate::{Scratch, Tables};

/// Finds the VIP that packets with the tuple [`Scratch::key`] are for; its key is then
/// [`Scratch::vip`].
#[inline(always)]
pub fn find<T: Tables>(tables: &T, scratch: &mut Scratch) -> Option<Vip> {
    scratch.vip = scratch.key.vip();
    let vip = tables.vip(&scratch.vip);
    let has_ranges = |tables: &T| tables.settings().is_some_and(|s| s.has_ranges != 0);
    if vip.is_some() || !has_ranges(tables) || !tables.widen(&mut scratch.vip) {
        return vip;
    }
    tables.vip(&scratch.vip)
}
