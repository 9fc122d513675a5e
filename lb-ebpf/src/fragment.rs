//! Fragments.
//!
//! Only the first fragment of a datagram has ports, so only it says which connection the datagram is
//! of. It goes the way of any packet of that connection, and is noted: source, destination, id and
//! protocol, which all fragments of the datagram share (RFC 791, 3.2; RFC 8200, 4.5), and the tuple
//! that only the first one has. The others find the connection by that, and go the way of its
//! packets: with `nat` and `dnat` with other addresses, for ports they have none.
//!
//! A later fragment that comes before the first one cannot wait here: there is no place to keep a
//! packet. So there is a second note, without the id: the connection of the last datagram in
//! fragments between the two addresses. Whoever sends one sends another, nearly always of the same
//! connection. When the guess is wrong the datagram is lost, as it would be without one; and the
//! instance that gets a piece which it can make nothing of forgets it in half a minute. What comes
//! before any first fragment is dropped under a reason of its own.
//!
//! Notes are in a table that throws away what was not used for longest. Nothing depends on one but
//! its datagram.

use lb_common::{
    Address, Counter, FLOW_FORWARD, FLOW_REPLY, FlowKey, INSTANCE_ABSENT, PROTOCOL_TCP,
    PROTOCOL_UDP, encapsulates, from_v4, translates,
};
use network_types::{
    eth::EtherType,
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    Flow, Packet, Scratch, Stage, Step, Tables, Verdict, acl, hop, icmp,
    parse::{self, Layout, MAX_EXTENSION_BYTES, MAX_EXTENSION_HEADERS},
    process::dispatch,
    rewrite::{l2, nat, tag},
    step::Handover,
    way::Way,
};

/// Notes that there is room for. A datagram is under way for milliseconds, so these are enough for
/// hundreds of thousands in a second.
pub const FRAGMENTS: u32 = 8192;

/// Nanoseconds that a note holds for. No host waits longer for the rest of a datagram than it takes
/// for its id to come round again (RFC 1122, 3.3.2: up to two minutes; Linux: 30 seconds).
const HOLDS: u64 = 30_000_000_000;

/// What the fragments of a datagram have in common.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Identification: four bytes in IPv6, two in IPv4. Zero for the last datagram, whatever its id.
    pub id: [u8; 4],
    /// IANA protocol number.
    pub protocol: u8,
    /// 1 for the note of the last datagram between the two addresses.
    pub any: u8,
    /// Always zero.
    pub pad: [u8; 2],
}

/// What is noted of a datagram.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// `CLOCK_MONOTONIC` nanoseconds of its first fragment.
    pub seen: u64,
    /// The tuple of that.
    pub flow: FlowKey,
}

const _: () = assert!(size_of::<FragmentKey>() == 40 && size_of::<Note>() == 48);

impl Note {
    #[inline(always)]
    const fn holds(&self, now: u64) -> bool {
        now.wrapping_sub(self.seen) < HOLDS
    }
}

/// Sends a fragment where the packets of its connection go.
#[inline(always)]
pub fn forward<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    interface: u32,
) -> Step {
    scratch.fragment = FragmentKey::default();
    let Some(piece) = Piece::read(packet, &mut scratch.fragment) else {
        return Step::Done(Verdict::Pass(Counter::PassedMalformed));
    };
    let protocol = scratch.fragment.protocol;
    if protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP {
        return Step::Done(Verdict::Pass(if piece.is_first {
            Counter::PassedExtensionHeaders
        } else {
            Counter::PassedFragment
        }));
    }
    if piece.is_first {
        first(packet, tables, scratch, interface, &piece)
    } else {
        later(packet, tables, scratch, interface, &piece)
    }
}

/// The first fragment is as good as a whole packet; what follows it finds its way by a note.
#[inline(always)]
fn first<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    interface: u32,
    piece: &Piece,
) -> Step {
    let mut layout = piece.layout();
    scratch.key = FlowKey::default();
    scratch.key.source = scratch.fragment.source;
    scratch.key.destination = scratch.fragment.destination;
    scratch.key.protocol = scratch.fragment.protocol;
    layout.tcp_flags = match parse::parse_l4(packet, &mut scratch.key, &layout) {
        Ok(flags) => flags,
        Err(reason) => return Step::Done(Verdict::Pass(reason)),
    };
    let step = dispatch(packet, tables, scratch, interface, &layout);
    match step {
        Step::Done(Verdict::Transmit | Verdict::Redirect(_))
        | Step::Next(Stage::Encapsulate | Stage::Finish | Stage::Admit | Stage::Splice) => {
            note(tables, scratch);
        }
        Step::Done(Verdict::Pass(_)) => note_host(tables, scratch),
        _ => {}
    }
    step
}

/// Notes that a datagram for an address of VIPs is the host's, or what follows would be taken for theirs: a tuple
/// without a protocol.
#[inline(never)]
fn note_host<T: Tables>(tables: &T, scratch: &mut Scratch) {
    if !tables.is_vip_address(&scratch.fragment.destination) {
        return;
    }
    scratch.note = Note {
        seen: tables.now(),
        flow: FlowKey::default(),
    };
    tables.note(&scratch.fragment, &scratch.note);
}

/// Notes whose fragments the datagram's are, and those between the same addresses.
#[inline(never)]
fn note<T: Tables>(tables: &T, scratch: &mut Scratch) {
    scratch.note = Note {
        seen: tables.now(),
        flow: scratch.key,
    };
    tables.note(&scratch.fragment, &scratch.note);
    scratch.fragment.id = [0; 4];
    scratch.fragment.any = 1;
    tables.note(&scratch.fragment, &scratch.note);
}

/// A later fragment goes where the first one says. It begins no connection and ends none.
#[inline(always)]
fn later<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    interface: u32,
    piece: &Piece,
) -> Step {
    let Scratch {
        prefix, fragment, ..
    } = scratch;
    if acl::refuses_between(tables, prefix, &fragment.source, &fragment.destination) {
        return Step::Done(Verdict::Drop(Counter::DropDenied));
    }
    if !find_note(tables, scratch) {
        let is_vip = tables.is_vip_address(&scratch.fragment.destination);
        return Step::Done(if is_vip {
            Verdict::Drop(Counter::DropFragmentEarly)
        } else {
            Verdict::Pass(Counter::PassedFragment)
        });
    }
    if scratch.key.protocol == 0 {
        return Step::Done(Verdict::Pass(Counter::PassedFragment));
    }
    let flow = tables.flow(&scratch.key);
    match &flow {
        Some(flow) => scratch.entry = flow.entry(),
        None if icmp::find_unremembered(tables, scratch) => {}
        None => return Step::Done(Verdict::Drop(Counter::DropFragmentLost)),
    }
    let entry = &scratch.entry;
    let way = Way::new(packet, entry.vip, entry.instance, entry.direction);
    let is_owner = tables.instance(entry.instance).is_some_and(|instance| {
        // The answers of one that is down are still answers.
        let answers = entry.direction == FLOW_REPLY
            && instance.state != INSTANCE_ABSENT
            && instance.generation == entry.generation;
        answers || instance.keeps_flow(entry)
    });
    if !is_owner {
        return Step::Done(way.refused(tables, Counter::DropFragmentLost));
    }
    if encapsulates(entry.forward) {
        scratch.handover = Handover {
            l3: piece.l3 as u32,
            l4: piece.l4 as u32,
            ip_length: piece.ip_length,
            vip: entry.vip,
            index: entry.instance,
            generation: entry.generation,
            forward: entry.forward,
            v4: u8::from(piece.v4),
            direction: FLOW_FORWARD,
            is_unsummed: 1,
            is_unanswered: 1,
            ..Handover::default()
        };
        return Step::Next(Stage::Encapsulate);
    }
    Step::Done(
        match send(packet, tables, interface, scratch, piece, flow.as_ref()) {
            Ok(out) => way.forwarded(tables, out, interface),
            Err(reason) => way.refused(tables, reason),
        },
    )
}

/// Writes the tuple of the datagram's connection into [`Scratch::key`]: the one that is noted, or that
/// of the last datagram between its addresses.
#[inline(never)]
fn find_note<T: Tables>(tables: &T, scratch: &mut Scratch) -> bool {
    let now = tables.now();
    if let Some(note) = tables.noted(&scratch.fragment).filter(|n| n.holds(now)) {
        scratch.key = note.flow;
        return true;
    }
    scratch.fragment.id = [0; 4];
    scratch.fragment.any = 1;
    if let Some(note) = tables.noted(&scratch.fragment).filter(|n| n.holds(now)) {
        scratch.key = note.flow;
        return true;
    }
    false
}

/// On an error the packet is as it was, or not to be sent.
#[inline(always)]
fn send<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    interface: u32,
    scratch: &Scratch,
    piece: &Piece,
    flow: Option<&T::Flow>,
) -> Result<u32, Counter> {
    let now = tables.now();
    let entry = &scratch.entry;
    let hop = match flow {
        Some(flow) if entry.direction == FLOW_REPLY => {
            hop::to_client(tables, interface, now, flow)?
        }
        _ => hop::to_instance(
            tables,
            interface,
            entry.instance,
            entry.generation,
            now,
            entry.forward,
        )?,
    };
    // Nobody is told of it: an ICMP error is about a first fragment only (RFC 1122, 3.2.2).
    if hop.mtu() != 0 && piece.ip_length > hop.mtu() {
        return Err(Counter::DropTooBig);
    }
    if translates(entry.forward) {
        nat::rewrite_addresses(packet, &scratch.key, &piece.layout(), entry)?;
    }
    l2::rewrite(packet, &hop).ok_or(Counter::DropRewrite)?;
    let way = (hop.interface, hop.flags);
    tag::rewrite(packet, tables, piece.l3, way, interface)
}

/// Where the parts of a fragment are.
struct Piece {
    l3: usize,
    /// Where the piece of the datagram begins.
    l4: usize,
    ip_length: u32,
    v4: bool,
    is_first: bool,
}

impl Piece {
    #[inline(always)]
    const fn layout(&self) -> Layout {
        Layout {
            l3: self.l3,
            l4: self.l4,
            ip_length: self.ip_length,
            v4: self.v4,
            fragment: true,
            tcp_flags: 0,
        }
    }

    /// Reads a fragment; what it has in common with others goes into `key`, which must be all zero.
    /// `None` when it is none, or not whole.
    #[inline(always)]
    fn read<P: Packet>(packet: &mut P, key: &mut FragmentKey) -> Option<Self> {
        let (l3, ether_type) = parse::link(packet)?;
        let mut piece = if ether_type == EtherType::Ipv4 as u16 {
            Self::read_v4(packet, l3, key)?
        } else if ether_type == EtherType::Ipv6 as u16 {
            Self::read_v6(packet, l3, key)?
        } else {
            return None;
        };
        let end = piece.l3 + piece.ip_length as usize;
        if end > packet.length() || end <= piece.l4 {
            return None;
        }
        piece.l4 = packet.blur(piece.l4);
        Some(piece)
    }

    #[inline(always)]
    fn read_v4<P: Packet>(packet: &P, l3: usize, key: &mut FragmentKey) -> Option<Self> {
        let ip: Ipv4Hdr = packet.read(l3)?;
        let header = ((ip.vihl & 0x0f) as usize) << 2;
        if header < Ipv4Hdr::LEN {
            return None;
        }
        key.source = from_v4(ip.src_addr);
        key.destination = from_v4(ip.dst_addr);
        key.id = [ip.id[0], ip.id[1], 0, 0];
        key.protocol = ip.proto;
        Some(Self {
            l3,
            l4: l3 + header,
            ip_length: u32::from(u16::from_be_bytes(ip.tot_len)),
            v4: true,
            is_first: u16::from_be_bytes(ip.frags) & 0x1fff == 0,
        })
    }

    /// Whatever follows the fragment header is part of the datagram, extension headers too; those are
    /// not walked.
    #[inline(always)]
    fn read_v6<P: Packet>(packet: &P, l3: usize, key: &mut FragmentKey) -> Option<Self> {
        let ip: Ipv6Hdr = packet.read(l3)?;
        let mut next = ip.next_hdr;
        let mut extension = 0;
        let mut header = [0; 8];
        for _ in 0..MAX_EXTENSION_HEADERS {
            header = packet.read(l3 + Ipv6Hdr::LEN + extension)?;
            if next == IpProto::Ipv6Frag as u8 {
                break;
            }
            next = header[0];
            extension += (header[1] as usize + 1) << 3;
            if extension > MAX_EXTENSION_BYTES {
                return None;
            }
        }
        if next != IpProto::Ipv6Frag as u8 {
            return None;
        }
        key.source = ip.src_addr;
        key.destination = ip.dst_addr;
        key.id = [header[4], header[5], header[6], header[7]];
        key.protocol = header[0];
        Some(Self {
            l3,
            l4: l3 + Ipv6Hdr::LEN + extension + header.len(),
            ip_length: u32::from(u16::from_be_bytes(ip.payload_len)) + Ipv6Hdr::LEN as u32,
            v4: false,
            is_first: u16::from_be_bytes([header[2], header[3]]) & 0xfff8 == 0,
        })
    }
}
