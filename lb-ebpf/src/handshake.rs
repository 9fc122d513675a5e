//! Connections that begin with a SYN cookie.
//!
//! Where connections are remembered a SYN costs an entry, with `nat` two and a source port, and it costs
//! its sender nothing. So while SYNs come [too fast](crate::pace) lb answers them itself, with a
//! [cookie] as the number of its SYN-ACK, and remembers nothing. Only what acknowledges
//! such a number begins a connection: it becomes the SYN that its client has sent before, and goes the way
//! of all SYNs, to an instance that shakes hands a second time. What lies between the two handshakes is
//! the business of [`crate::splice`].
//!
//! The SYN-ACK offers a window of nothing, as that of Linux' SYNPROXY does. So a client that has
//! something to say keeps it until the instance has answered, and nothing of it is lost on the way. What
//! it asks meanwhile is whether it may go on, which is the acknowledgement once more, so it becomes the
//! SYN once more, should that have been lost. Whoever asks does so with the number before the next one,
//! so that is tried as well.
//!
//! A packet that shows no cookie, while cookies are about, is what it would have been without any.

use lb_common::{Arrivals, COOKIE_TIMES, Counter, FORWARD_SPLICED, FlowKey, Vip};

use crate::{
    Packet, Scratch, Stage, Step, Tables, Verdict, cookie,
    echo::is_one_host,
    hash, mss, pace,
    parse::{TCP_ACK, TCP_RST, TCP_SYN, is_opening},
    rewrite::{
        outer::Outer,
        segment::{Bound, Segment, Tail},
    },
    step::Handover,
};

/// Nanoseconds for which the note that a cookie was sent is left alone. Rewriting it for each would
/// send its cache line from processor to processor.
const NOTE_AFTER: u64 = 1_000_000_000;

/// Bytes that every way takes of which nothing else is known.
const USUAL_MTU: u32 = 1500;

/// What is known of a packet's cookie.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The cookie, once it was accepted.
    pub cookie: u32,
    /// Bits of what was found: [`Self::ACCEPTED`], or [`Self::REFUSED`], or nothing yet.
    pub found: u32,
}

impl Shown {
    /// Nothing was looked for.
    pub(crate) const NONE: Self = Self {
        cookie: 0,
        found: 0,
    };
    /// It is good, and the packet has become a SYN.
    pub const ACCEPTED: u32 = 1;
    /// It is none.
    pub const REFUSED: u32 = 2;

    /// Whether the packet begins a connection by a cookie.
    #[inline(always)]
    pub(crate) const fn is_accepted(&self) -> bool {
        self.found == Self::ACCEPTED
    }
}

/// Whether a packet of no known connection is for [`answer_or_check`]: a SYN when SYNs come too fast, or
/// what may show a cookie when some are about.
#[inline(never)]
pub(crate) fn asks<T: Tables>(tables: &T, vip: u32, tcp_flags: u8) -> bool {
    let limit = tables.arrivals(vip);
    let key = tables.cookie_key(tables.cookie_key_in_use());
    if limit.cookie_interval == 0 || !cookie::is_key(&key) {
        return false;
    }
    if is_opening(tcp_flags) {
        let Arrivals {
            bucket,
            cookie_interval,
            cookie_window,
            ..
        } = limit;
        return pace::is_above(tables, bucket, cookie_interval, cookie_window);
    }
    // Where the program has sent none so far, the one before it may have.
    let is_sent =
        |at: u64| at == 0 || tables.now().wrapping_sub(at) < cookie::LIFETIME + NOTE_AFTER;
    tcp_flags & (TCP_SYN | TCP_RST | TCP_ACK) == TCP_ACK
        && is_sent(tables.bucket(limit.bucket.wrapping_add(COOKIE_TIMES)))
}

/// Answers a SYN with a cookie, or makes a SYN of a packet that shows one. The packet is for the VIP
/// [`Scratch::asked`], or of a connection that waits for its instance.
#[inline(always)]
pub fn answer_or_check<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
) -> Step {
    if is_opening(scratch.handover.tcp_flags) {
        let verdict = answer(packet, tables, scratch);
        if let Verdict::Drop(reason) = verdict {
            tables.vip_dropped(scratch.asked.id, reason);
        }
        return Step::Done(verdict);
    }
    let is_waiting = scratch.handover.forward & FORWARD_SPLICED != 0;
    let Some((cookie, syn)) = check(packet, tables, scratch) else {
        if is_waiting {
            tables.vip_dropped(u32::from(scratch.handover.vip), Counter::DropUnspliced);
            return Step::Done(Verdict::Drop(Counter::DropUnspliced));
        }
        tables.count(Counter::CookiesRefused);
        scratch.shown.found = Shown::REFUSED;
        return Step::Next(Stage::Admit);
    };
    if become_syn(packet, scratch, cookie, syn).is_none() {
        return Step::Done(Verdict::Drop(Counter::DropRewrite));
    }
    if is_waiting {
        return Step::Next(Stage::Splice);
    }
    tables.count(Counter::CookiesAccepted);
    scratch.shown = Shown {
        cookie,
        found: Shown::ACCEPTED,
    };
    Step::Next(Stage::Admit)
}

/// Whether a packet has no more headers than it must have, and they are all there is of it.
#[inline(always)]
const fn is_plain(handover: &Handover) -> bool {
    let header = Outer::length(handover.v4 != 0) as u32;
    handover.l4.wrapping_sub(handover.l3) == header && handover.is_unsummed == 0
}

#[inline(always)]
fn answer<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &Scratch) -> Verdict {
    let (key, handover) = (&scratch.key, &scratch.handover);
    let has_frame = packet.read(0).is_some_and(|[to, _]: [u8; 2]| to & 1 == 0);
    if !is_plain(handover) || !has_frame || !is_one_host(&key.source) {
        return Verdict::Drop(Counter::DropUnanswerable);
    }
    // What comes from memory has no limit that the verifier would know.
    let l3 = packet.blur(handover.l3 as usize);
    let v4 = handover.v4 != 0;
    match synack(packet, tables, key, &scratch.asked, (l3, v4)) {
        Some(()) => {
            note_sent(tables, scratch.asked.id);
            Verdict::Answer(Counter::AnsweredCookie)
        }
        None => Verdict::Drop(Counter::DropRewrite),
    }
}

/// Makes the SYN-ACK of a SYN.
#[inline(always)]
fn synack<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    key: &FlowKey,
    vip: &Vip,
    (l3, v4): (usize, bool),
) -> Option<()> {
    let l4 = packet.blur(l3 + Outer::length(v4));
    let syn = u32::from_be_bytes(packet.read(l4 + 4)?);
    // Who says nothing takes the least that everybody has to.
    let mss = mss::of_syn(packet, l4, v4).map_or(0, u16::from_be_bytes);
    let which = tables.cookie_key_in_use();
    let size = cookie::size_of_mss(mss, v4);
    let number = cookie::make(
        tables.cookie_key(which),
        which,
        key,
        syn,
        tables.cookie_time(),
        size,
    );
    let answer = Segment {
        number,
        acknowledged: syn.wrapping_add(1),
        flags: TCP_SYN | TCP_ACK,
        window: 0,
        tail: Tail::Mss(fitting_mss(tables, key, vip, v4)),
    };
    answer.replace(packet, key, (l3, v4), Bound::Back)
}

/// How large a client's segments may be: what fits the way to the instance that its flow would have, as
/// far as that is known. What is said here cannot depend on what the instance says.
#[inline(always)]
fn fitting_mss<T: Tables>(tables: &T, key: &FlowKey, vip: &Vip, v4: bool) -> u16 {
    let slot = tables.slot(vip.table, hash::slot(hash::flow(key)));
    let known = tables.instance_hop(slot.index()).map_or(0, |hop| hop.mtu());
    let mtu = if known == 0 { USUAL_MTU } else { known };
    let headers = Outer::length(v4) as u32 + 20;
    let fits = mtu
        .saturating_sub(headers)
        .max(u32::from(cookie::mss_of_size(0, v4)));
    fits.min(u32::from(cookie::largest(v4))) as u16
}

/// Notes that cookies are about.
#[inline(always)]
fn note_sent<T: Tables>(tables: &T, vip: u32) {
    let place = tables.arrivals(vip).bucket.wrapping_add(COOKIE_TIMES);
    let (now, before) = (tables.now(), tables.bucket(place));
    if before == 0 || now.wrapping_sub(before) > NOTE_AFTER {
        // Another processor that is faster does the same.
        tables.change_bucket(place, before, now);
    }
}

/// The cookie that a packet shows, and the number of the SYN that it was made for.
#[inline(always)]
fn check<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &Scratch,
) -> Option<(u32, u32)> {
    let (key, handover) = (&scratch.key, &scratch.handover);
    if !is_plain(handover) {
        return None;
    }
    // What comes from memory has no limit that the verifier would know.
    let l4 = packet.blur(handover.l4 as usize);
    let [a, b, c, d, e, f, g, h]: [u8; 8] = packet.read(l4 + 4)?;
    let cookie = u32::from_be_bytes([e, f, g, h]).wrapping_sub(1);
    let secret = tables.cookie_key(cookie::key_of(cookie));
    if !cookie::is_key(&secret) {
        return None;
    }
    let (number, now) = (u32::from_be_bytes([a, b, c, d]), tables.cookie_time());
    let is_of = |syn: u32| cookie::check(secret, key, syn, now, cookie).is_some();
    let before = number.wrapping_sub(1);
    if is_of(before) {
        Some((cookie, before))
    } else if is_of(number) {
        Some((cookie, number))
    } else {
        None
    }
}

/// Makes the SYN of a packet that its client has sent before, as far as the cookie tells of that.
#[inline(always)]
fn become_syn<P: Packet>(
    packet: &mut P,
    scratch: &mut Scratch,
    cookie: u32,
    syn: u32,
) -> Option<()> {
    // What comes from memory has no limit that the verifier would know.
    let l3 = packet.blur(scratch.handover.l3 as usize);
    let l4 = packet.blur(scratch.handover.l4 as usize);
    let v4 = scratch.handover.v4 != 0;
    let segment = Segment {
        number: syn,
        acknowledged: 0,
        flags: TCP_SYN,
        window: u16::from_be_bytes(packet.read(l4 + 14)?),
        tail: Tail::Mss(cookie::mss_of_size(cookie::size_of(cookie), v4)),
    };
    segment.replace(packet, &scratch.key, (l3, v4), Bound::On)?;
    let length = (Outer::length(v4) + segment.length()) as u32;
    scratch.layout.tcp_flags = TCP_SYN;
    scratch.layout.ip_length = length;
    scratch.handover.tcp_flags = TCP_SYN;
    scratch.handover.ip_length = length;
    Some(())
}
