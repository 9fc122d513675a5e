//! Who may not send to VIPs.
//!
//! Every packet from a source that the ACL denies is dropped if it is for a VIP, whatever flow it
//! belongs to, and nothing else is touched: what is for the host is the host's to judge, and replies
//! of instances are for no VIP.
//!
//! Asking the kernel's trie for every packet would cost more than all the rest of its way. Three
//! things keep that away from nearly all packets:
//!
//! - without rules, one word says so;
//! - a source whose beginning no prefix has is told by two bits, the *marks*
//!   ([`lb_common::Acl`]);
//! - what the trie has said of a source is kept by the processor that has asked, in a small
//!   direct-mapped array, until a rule changes.
//!
//! A change of rules holds for the next packet of every flow: it moves the epoch by which copies are
//! void, and no flow remembers what was once said of its source.

use lb_common::{Address, Counter, PrefixKey, halves, same_address};

use crate::{Scratch, Tables, vips};

/// Places for what the trie has said; a power of two.
pub const JUDGED: u32 = 1024;

/// What the trie has said of a source.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Judged {
    /// Whom of.
    pub source: Address,
    /// The epoch of the rules, read before the trie was; 0: nothing was said.
    pub epoch: u64,
    /// 1: it is denied.
    pub denied: u64,
}

/// The place of what was said of a source.
#[inline(always)]
#[must_use]
pub const fn place(source: &Address) -> u32 {
    let [a, b] = halves(source);
    ((a ^ b).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as u32
}

const _: () = assert!(JUDGED == 1 << (64 - 54));

/// Whether a packet, whose tuple is [`Scratch::key`], is to be dropped because of its source. It is
/// counted as its VIP's then.
#[inline(always)]
pub(crate) fn refuses<T: Tables>(tables: &T, scratch: &mut Scratch) -> bool {
    tables.is_suspect(&scratch.key.source) && refuses_suspect(tables, scratch)
}

/// Out of line: few packets get here.
#[inline(never)]
fn refuses_suspect<T: Tables>(tables: &T, scratch: &mut Scratch) -> bool {
    scratch.prefix = PrefixKey::new(&scratch.key.source, 128);
    if !is_denied(tables, &scratch.key.source, &scratch.prefix) {
        return false;
    }
    let Some(vip) = vips::find(tables, scratch) else {
        return false;
    };
    tables.vip_dropped(vip.id, Counter::DropDenied);
    true
}

/// The same of a packet that has no ports, from a source to a destination.
#[inline(always)]
pub(crate) fn refuses_between<T: Tables>(
    tables: &T,
    prefix: &mut PrefixKey,
    source: &Address,
    destination: &Address,
) -> bool {
    if !tables.is_suspect(source) {
        return false;
    }
    *prefix = PrefixKey::new(source, 128);
    is_denied(tables, source, prefix) && tables.is_vip_address(destination)
}

/// What the trie says, or has said. `key` is the source's.
#[inline(always)]
fn is_denied<T: Tables>(tables: &T, source: &Address, key: &PrefixKey) -> bool {
    let (place, epoch) = (place(source), tables.acl_epoch());
    let judged = tables.judged(place);
    if judged.epoch == epoch && same_address(&judged.source, source) {
        return judged.denied != 0;
    }
    let denied = tables.denies(key);
    tables.keep_judged(
        place,
        &Judged {
            source: *source,
            epoch,
            denied: u64::from(denied),
        },
    );
    denied
}
