//! ICMP errors.
//!
//! A router that cannot forward a packet tells its sender, and quotes the packet's beginning. When
//! the packet was an instance's to a client, its sender is the VIP by name, but only the instance
//! that has sent it can act upon the message: without it, discovery of the path's MTU fails, and
//! connections hang that have passed every check (a "black hole", RFC 2923). When it was lb's own to
//! an instance, on behalf of a client, it is the client that should know.
//!
//! The quote holds addresses and ports. Turned round they are the tuple of the packets that go the
//! other way, and that is how connections are known here: the entry that is found says where the
//! message belongs, and, where addresses are translated, what the message and its quote become. The
//! checksum of the quoted TCP or UDP header stays as it is: the quote is cut off in most messages,
//! so nobody can check it.
//!
//! What a tunnel's outer packet was too big for is for lb itself to know ([`crate::path_mtu`]).

use lb_common::{
    Address, Counter, FLOW_FORWARD, FLOW_REPLY, FORWARD_SPLICED, FlowEntry, FlowKey,
    INSTANCE_ABSENT, SELECT_HASH, encapsulates, from_halves, from_v4, halves, same_address,
    translates,
};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    Flow, Packet, Scratch, Stage, Step, Tables, Verdict, acl,
    checksum::Difference,
    echo, hash, hop, owner,
    rewrite::{l2, nat, tag},
    select, splice, vips,
    way::Way,
};

mod message;

pub(crate) use message::{HEADER, Message};

/// Sends an ICMP error on to who should know, if it is about a connection of a VIP, and answers
/// echo requests for VIPs. Everything else that is neither TCP nor UDP goes to the stack.
#[inline(always)]
pub fn forward<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    interface: u32,
) -> Step {
    const OTHER: Step = Step::Done(Verdict::Pass(Counter::PassedOtherProtocol));
    scratch.key = FlowKey::default();
    let Some(mut message) = Message::read(packet) else {
        return OTHER;
    };
    if is_refused(packet, tables, scratch, &message) {
        return Step::Done(Verdict::Drop(Counter::DropDenied));
    }
    if !message.is_error {
        return echo::answer(packet, tables, scratch, &message).map_or(OTHER, Step::Done);
    }
    if message.read_quote(packet, &mut scratch.key).is_none() {
        return about_none(scratch, &message);
    }
    let flow = tables.flow(&scratch.key);
    // The entry lies in memory from here on: on the stack there is no room for it.
    match &flow {
        Some(flow) => scratch.entry = flow.entry(),
        None if find_unremembered(tables, scratch) => {}
        None => return about_none(scratch, &message),
    }
    let entry = &scratch.entry;
    let owner = tables.instance(entry.instance);
    if !owner.is_some_and(|instance| {
        instance.state != INSTANCE_ABSENT && instance.generation == entry.generation
    }) {
        return OTHER;
    }
    if encapsulates(entry.forward) {
        scratch.handover = message.handover(entry);
        return Step::Next(Stage::Encapsulate);
    }
    let way = Way::new(packet, entry.vip, entry.instance, entry.direction);
    // What a client has got from a spliced connection has other numbers than the instance has sent.
    let by = if entry.forward & FORWARD_SPLICED != 0 && entry.direction == FLOW_FORWARD {
        splice::to_instance(tables, scratch)
    } else {
        0
    };
    let about = (&message, by);
    Step::Done(
        match send(packet, tables, interface, scratch, about, flow.as_ref()) {
            Ok(out) => way.forwarded(tables, out, interface),
            Err(reason) => way.refused(tables, reason),
        },
    )
}

/// An error that is about no connection: about a tunnel's packet, or the host's.
#[inline(always)]
const fn about_none(scratch: &mut Scratch, message: &Message) -> Step {
    scratch.handover.l4 = message.l4 as u32;
    scratch.handover.v4 = message.v4 as u8;
    Step::Next(Stage::PathMtu)
}

/// Whether the ACL refuses a message because of its sender. It has no ports, so it is for a VIP if its
/// address is one's.
#[inline(always)]
fn is_refused<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    scratch: &mut Scratch,
    message: &Message,
) -> bool {
    let Scratch {
        prefix, partner, ..
    } = scratch;
    let read = if message.v4 {
        packet.read(message.l3).map(|ip: Ipv4Hdr| {
            partner.source = from_v4(ip.src_addr);
            partner.destination = from_v4(ip.dst_addr);
        })
    } else {
        packet.read(message.l3).map(|ip: Ipv6Hdr| {
            partner.source = ip.src_addr;
            partner.destination = ip.dst_addr;
        })
    };
    read.is_some() && acl::refuses_between(tables, prefix, &partner.source, &partner.destination)
}

/// Writes into [`Scratch::entry`] what the connection of packets with this tuple would be, when it is
/// one that works without an entry.
#[inline(never)]
pub(crate) fn find_unremembered<T: Tables>(tables: &T, scratch: &mut Scratch) -> bool {
    let Some(vip) = vips::find(tables, scratch) else {
        return false;
    };
    let owner = owner::of(tables, &vip, &scratch.key).owner;
    let mut forward = vip.forward;
    let (index, instance) = if let Some(instance) = owner::keeping(tables, owner) {
        forward = vip.forward_of_owners();
        (owner, instance)
    } else if vip.select == SELECT_HASH && !translates(forward) {
        let hash = hash::flow(&scratch.key);
        // What is selected here has begun long ago.
        let (take, mut full) = (|_| true, false);
        match select::select(tables, &vip, &scratch.key, hash, take, &mut full) {
            Some(selected) => selected,
            None => return false,
        }
    } else {
        return false;
    };
    scratch.entry = FlowEntry {
        instance: index,
        generation: instance.generation,
        vip: vip.id as u16,
        direction: FLOW_FORWARD,
        forward,
        ..FlowEntry::default()
    };
    true
}

/// On an error the packet is as it was, or not to be sent.
#[inline(always)]
fn send<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    interface: u32,
    scratch: &Scratch,
    (message, by): (&Message, u32),
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
    if translates(entry.forward) {
        translate(packet, scratch, message, by)?;
    }
    l2::rewrite(packet, &hop).ok_or(Counter::DropRewrite)?;
    let way = (hop.interface, hop.flags);
    tag::rewrite(packet, tables, message.l3, way, interface)
}

/// Gives message and quote the addresses and ports that they have on the other side of lb.
///
/// A packet (a → b) that leaves as (c → d) is answered by (d → c): that is what is quoted on the
/// other side, and its sender d is told.
///
/// The number of the quoted segment grows by `by`: an instance that finds none of its own there takes the
/// message for a forgery (RFC 5927, 4.1).
///
/// Out of line, as asking for a way takes as much stack. On an error the packet is as it was.
#[inline(never)]
fn translate<P: Packet>(
    packet: &mut P,
    scratch: &Scratch,
    message: &Message,
    by: u32,
) -> Result<(), Counter> {
    let (key, entry) = (&scratch.key, &scratch.entry);
    let addresses = Difference::none()
        .address(&key.destination, &entry.destination)
        .address(&key.source, &entry.source);
    let ports = addresses
        .word(key.destination_port, entry.destination_port)
        .word(key.source_port, entry.source_port);
    let check_at = message.l4 + 2;
    let check: [u8; 2] = packet.read(check_at).ok_or(Counter::DropRewrite)?;
    let change = if message.v4 {
        translate_v4(packet, scratch, message, addresses, ports)?
    } else {
        translate_v6(packet, scratch, message, ports)?
    };
    let (s, d) = (entry.destination_port, entry.source_port);
    // Messages that quote less than eight bytes of it have none.
    let number: Option<[u8; 4]> = packet.read(message.quoted_l4 + 4);
    let change = match number {
        Some(old) if by != 0 => {
            let new = splice::added(old, by);
            packet
                .write(message.quoted_l4 + 4, new)
                .ok_or(Counter::DropRewrite)?;
            change.plus(splice::changed(old, new))
        }
        _ => change,
    };
    packet
        .write(message.quoted_l4, [s[0], s[1], d[0], d[1]])
        .and_then(|()| packet.write(check_at, change.apply(check)))
        .ok_or(Counter::DropRewrite)
}

/// Who says it on the other side: whoever complains about packets to himself has the name there that
/// packets to him have.
#[inline(always)]
fn speaker(source: &Address, scratch: &Scratch) -> Address {
    let [a, b] = halves(source);
    let [c, d] = halves(&scratch.entry.source);
    // Chosen by a mask, as in `Settings::nat_source`.
    let mask = u64::from(same_address(source, &scratch.key.source)).wrapping_neg();
    from_halves([(c & mask) | (a & !mask), (d & mask) | (b & !mask)])
}

#[inline(always)]
fn translate_v4<P: Packet>(
    packet: &mut P,
    scratch: &Scratch,
    message: &Message,
    addresses: Difference,
    ports: Difference,
) -> Result<Difference, Counter> {
    let entry = &scratch.entry;
    let mut ip: Ipv4Hdr = packet.read(message.l3).ok_or(Counter::DropRewrite)?;
    if ip.ttl <= 1 {
        return Err(Counter::DropTtl);
    }
    let mut quoted: Ipv4Hdr = packet.read(message.quote).ok_or(Counter::DropRewrite)?;
    let sum = addresses.apply(quoted.check);
    let change = ports.word(quoted.check, sum);
    quoted.check = sum;
    quoted.src_addr = last(&entry.destination);
    quoted.dst_addr = last(&entry.source);
    let old = from_v4(ip.src_addr);
    let source = speaker(&old, scratch);
    let ttl = ip.ttl - 1;
    ip.check = Difference::none()
        .address(&old, &source)
        .address(&from_v4(ip.dst_addr), &entry.destination)
        .word([ip.ttl, ip.proto], [ttl, ip.proto])
        .apply(ip.check);
    ip.ttl = ttl;
    ip.src_addr = last(&source);
    ip.dst_addr = last(&entry.destination);
    packet
        .write(message.quote, quoted)
        .and_then(|()| packet.write(message.l3, ip))
        .ok_or(Counter::DropRewrite)?;
    Ok(change)
}

#[inline(always)]
fn translate_v6<P: Packet>(
    packet: &mut P,
    scratch: &Scratch,
    message: &Message,
    ports: Difference,
) -> Result<Difference, Counter> {
    let entry = &scratch.entry;
    let mut ip: Ipv6Hdr = packet.read(message.l3).ok_or(Counter::DropRewrite)?;
    if ip.hop_limit <= 1 {
        return Err(Counter::DropTtl);
    }
    let mut quoted: Ipv6Hdr = packet.read(message.quote).ok_or(Counter::DropRewrite)?;
    quoted.src_addr = entry.destination;
    quoted.dst_addr = entry.source;
    let source = speaker(&ip.src_addr, scratch);
    // Only ICMPv6 covers the message's own addresses.
    let change = ports
        .address(&ip.src_addr, &source)
        .address(&ip.dst_addr, &entry.destination);
    packet.resum(nat::HOP);
    ip.hop_limit -= 1;
    ip.src_addr = source;
    ip.dst_addr = entry.destination;
    packet
        .write(message.quote, quoted)
        .and_then(|()| packet.write(message.l3, ip))
        .ok_or(Counter::DropRewrite)?;
    Ok(change)
}

/// The four bytes of a mapped IPv4 address.
#[inline(always)]
const fn last(address: &Address) -> [u8; 4] {
    [address[12], address[13], address[14], address[15]]
}
