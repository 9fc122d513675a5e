//! Socket buffers: packets as traffic control has them.
//!
//! The kernel keeps some of such a packet beside its bytes. What an XDP program would find among them, or
//! would never see, is here:
//!
//! * **Bytes in pieces.** Only the first piece can be read in place. The headers of nearly all packets lie in
//!   it as a whole; where they may not, it is made longer before anything else.
//! * **VLAN tags** are taken out of the bytes, the outermost at least.
//! * **Checksums** are still to be made (by the card that sends the packet at last; what a veth pair or a virtual
//!   machine's card delivers is like that), or have been made by the card over all of the packet, and then want
//!   to be told of each change. The kernel's helpers know which it is and do not tell, so changes go through them;
//!   where a checksum is made anew, a change and its undoing tell ([`SocketBuffer::is_unfinished`]).
//! * **Several packets in one**, which are made several when they are sent: a change of headers is a change of
//!   all, and what has to fit a link is one of them.

use core::{arch::asm, mem::offset_of, ptr};

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
        BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::generated::{
        bpf_csum_update, bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_head,
        bpf_skb_change_tail, bpf_skb_pull_data, bpf_skb_vlan_pop, bpf_skb_vlan_push,
    },
    programs::TcContext,
};
use lb_common::{PROTOCOL_TCP, PROTOCOL_UDP};
use lb_ebpf::{Header, Packet, checksum::Difference};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};

use crate::{bytes, hook::Depth};

/// `BPF_F_IPV6` of `linux/bpf.h`, known since Linux 6.16: the addresses of IPv6 are in the sum that the card has
/// made, and their change and that of the checksum make up for each other.
const OF_IPV6: u64 = 1 << 7;
/// `EINVAL` of `asm-generic/errno-base.h`.
const EINVAL: i64 = -22;
/// No headers that are read end further behind: two tags, IPv6, all extension headers that are walked, TCP; and what
/// an ICMP message quotes of a packet.
const HEADERS: usize = 640;
/// The headers of a plain packet, without the options of TCP, of which nothing is read in the first stage.
const PLAIN_V4: usize = EthHdr::LEN + Ipv4Hdr::LEN + TcpHdr::LEN;
const PLAIN_V6: usize = EthHdr::LEN + Ipv6Hdr::LEN + TcpHdr::LEN;
/// Tags that are taken off.
const MAX_TAGS: usize = 3;

/// The packet that a program of traffic control was called for.
///
/// Where its bytes are is asked for each access, which is two loads: to keep it would take room on the stack, where
/// there is none.
pub(crate) struct SocketBuffer {
    context: *mut __sk_buff,
}

/// Reads a field of the context. The verifier wants its place to be in the instruction, where the compiler would
/// not always leave it.
macro_rules! field {
    ($context:expr, $field:ident) => {{
        let value: u64;
        // SAFETY: a field of the context, which the kernel passes to the program.
        unsafe {
            asm!(
                "{value} = *(u32 *)({context} + {place})",
                context = in(reg) $context,
                place = const offset_of!(__sk_buff, $field),
                value = out(reg) value,
                options(pure, readonly, nostack),
            );
        }
        value as u32
    }};
}
pub(crate) use field;

impl SocketBuffer {
    #[inline(always)]
    pub(crate) fn new(context: &TcContext, depth: Depth) -> Self {
        let packet = Self {
            context: context.skb.skb,
        };
        let (start, end) = bounds(packet.context);
        let (linear, wanted) = (end - start, HEADERS.min(packet.length()));
        if linear < wanted && (depth == Depth::All || !packet.is_plain(linear)) {
            // SAFETY: a helper on the program's context.
            unsafe { bpf_skb_pull_data(packet.context, wanted as u32) };
        }
        packet
    }

    /// Whether all headers of a packet lie in its first piece, of this length, for all that is read of them at first.
    #[inline(always)]
    fn is_plain(&self, linear: usize) -> bool {
        let Some([e0, e1, version, _]): Option<[u8; 4]> = self.read(EthHdr::LEN - 2) else {
            return false;
        };
        let ether_type = u16::from_ne_bytes([e0, e1]);
        if ether_type == EtherType::Ipv4 as u16 {
            return version == 0x45 && linear >= PLAIN_V4;
        }
        let Some([next, _]) = self.read::<[u8; 2]>(EthHdr::LEN + offset_of!(Ipv6Hdr, next_hdr))
        else {
            return false;
        };
        let is_known = next == PROTOCOL_TCP || next == PROTOCOL_UDP;
        ether_type == EtherType::Ipv6 as u16 && is_known && linear >= PLAIN_V6
    }

    /// The address of `H` at `offset`, if it lies in the first piece as a whole.
    #[inline(always)]
    fn at<H: Header>(&self, offset: usize) -> Option<*mut H> {
        let (start, end) = bounds(self.context);
        bytes::place(start, end, offset)
    }

    /// Whether the card has made a sum of the whole packet.
    #[inline(always)]
    fn is_summed(&self) -> bool {
        // SAFETY: a helper on the program's context; it fails where there is no sum.
        unsafe { bpf_csum_update(self.context, 0) >= 0 }
    }

    /// Forgets the card's sum, if there is one.
    #[inline(always)]
    fn forget_sum(&mut self) {
        if self.is_summed() {
            let length = self.length();
            // What changes the length is for the kernel a packet that was made here.
            let _ = self.change_tail(length + 1);
            let _ = self.change_tail(length);
        }
    }

    #[inline(always)]
    fn change_tail(&mut self, length: usize) -> Option<()> {
        // SAFETY: a helper on the program's context.
        let result = unsafe { bpf_skb_change_tail(self.context, length as u32, 0) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn replace(&mut self, at: usize, change: Difference, flags: u64) -> i64 {
        // SAFETY: as above.
        unsafe {
            bpf_l4_csum_replace(
                self.context,
                at as u32,
                0,
                u64::from(change.word32()),
                flags,
            )
        }
    }
}

/// The first piece's first byte and the one behind its last; as of XDP.
#[inline(always)]
fn bounds(context: *mut __sk_buff) -> (usize, usize) {
    let (start, end);
    // SAFETY: reads two fields of the context, which the verifier makes pointers.
    unsafe {
        asm!(
            "{start} = *(u32 *)({context} + {data})",
            "{end} = *(u32 *)({context} + {data_end})",
            context = in(reg) context,
            data = const offset_of!(__sk_buff, data),
            data_end = const offset_of!(__sk_buff, data_end),
            start = out(reg) start,
            end = out(reg) end,
            options(pure, readonly, nostack),
        );
    }
    (start, end)
}

impl Packet for SocketBuffer {
    #[inline(always)]
    fn length(&self) -> usize {
        field!(self.context, len) as usize
    }

    #[inline(always)]
    fn forget(&mut self, mut value: u64) -> u64 {
        // SAFETY: adds and subtracts the same value, of which the verifier knows nothing.
        unsafe {
            asm!(
                "{copy} = {length}",
                "{value} += {length}",
                "{value} -= {copy}",
                copy = out(reg) _,
                length = in(reg) self.length(),
                value = inout(reg) value,
                options(nostack),
            );
        }
        value
    }

    #[inline(always)]
    fn read<H: Header>(&self, offset: usize) -> Option<H> {
        // SAFETY: `at` has compared with the end; any bytes are a valid `H`.
        self.at(offset)
            .map(|header| unsafe { ptr::read_unaligned(header) })
    }

    #[inline(always)]
    fn write<H: Header>(&mut self, offset: usize, header: H) -> Option<()> {
        // SAFETY: `at` has compared with the end; `H` is plain bytes.
        self.at(offset)
            .map(|place| unsafe { ptr::write_unaligned(place, header) })
    }

    #[inline(always)]
    fn grow(&mut self, bytes: usize) -> Option<()> {
        // SAFETY: a helper on the program's context.
        let result = unsafe { bpf_skb_change_head(self.context, bytes as u32, 0) };
        (result == 0).then_some(())
    }

    // Tags and tunnels are taken off by what knows them.
    #[inline(always)]
    fn strip(&mut self, _bytes: usize) -> Option<()> {
        None
    }

    #[inline(always)]
    fn unwrap(&mut self, bytes: usize, v4: bool) -> Option<()> {
        let version = if v4 {
            BPF_F_ADJ_ROOM_DECAP_L3_IPV4
        } else {
            BPF_F_ADJ_ROOM_DECAP_L3_IPV6
        };
        let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO | version);
        let by = -(bytes as i32);
        // SAFETY: a helper on the program's context.
        let result = unsafe { bpf_skb_adjust_room(self.context, by, BPF_ADJ_ROOM_MAC, flags) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn resize(&mut self, length: usize) -> Option<()> {
        if self.length() == length {
            // So that the card's sum is forgotten, as when the length changes.
            self.change_tail(length + 1)?;
        }
        self.change_tail(length)
    }

    #[inline(always)]
    fn wrap(&mut self, bytes: usize, v4: bool, udp: bool) -> Option<()> {
        self.forget_sum();
        let mut flags = BPF_F_ADJ_ROOM_FIXED_GSO
            | if v4 {
                BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
            } else {
                BPF_F_ADJ_ROOM_ENCAP_L3_IPV6
            };
        if udp {
            flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
        }
        // SAFETY: a helper on the program's context.
        let result = unsafe {
            bpf_skb_adjust_room(
                self.context,
                bytes as i32,
                BPF_ADJ_ROOM_MAC,
                u64::from(flags),
            )
        };
        if result == 0 {
            return Some(());
        }
        // The kernel does not find an IP header behind a tag among the bytes. What is several packets needs it to.
        if self.is_several() {
            return None;
        }
        self.grow(bytes)
    }

    #[inline(always)]
    fn change_checksum(
        &mut self,
        at: usize,
        pseudo: Difference,
        segment: Difference,
        (protocol, v4): (u8, bool),
    ) -> Option<()> {
        let mut udp = 0;
        if protocol == PROTOCOL_UDP {
            udp = u64::from(BPF_F_MARK_MANGLED_0);
            if self.read(at) == Some([0_u8; 2]) {
                // There is none to make up for the changes. The header of IPv4 has one of its own.
                self.resum(segment);
                if !v4 {
                    self.resum(pseudo);
                }
                return Some(());
            }
        }
        if pseudo != Difference::none() {
            let flags = u64::from(BPF_F_PSEUDO_HDR) | udp;
            let result = if v4 {
                self.replace(at, pseudo, flags)
            } else {
                match self.replace(at, pseudo, flags | OF_IPV6) {
                    EINVAL => {
                        let result = self.replace(at, pseudo, flags);
                        self.resum(pseudo);
                        result
                    }
                    result => result,
                }
            };
            if result != 0 {
                return None;
            }
        }
        if segment == Difference::none() {
            return Some(());
        }
        (self.replace(at, segment, udp) == 0).then_some(())
    }

    #[inline(always)]
    fn resum(&mut self, change: Difference) {
        // SAFETY: a helper on the program's context; it fails where there is no sum.
        unsafe { bpf_csum_update(self.context, change.word32()) };
    }

    #[inline(always)]
    fn is_unfinished(&mut self, at: usize) -> bool {
        if self.is_summed() {
            return false;
        }
        let one = Difference::none().word([0xff; 2], 1_u16.to_ne_bytes());
        let Some(before) = self.read::<[u8; 2]>(at) else {
            return false;
        };
        // A checksum goes down when what it covers grows; what is in the place of one grows.
        let is_changed = self.replace(at, one, u64::from(BPF_F_PSEUDO_HDR)) == 0;
        let after = self.read::<[u8; 2]>(at);
        let _ = self.write(at, before);
        let grown = u32::from(u16::from_ne_bytes(before)) + 1;
        let grown = ((grown & 0xffff) + (grown >> 16)) as u16;
        is_changed && after.is_some_and(|after| u16::from_ne_bytes(after) == grown)
    }

    #[inline(always)]
    fn largest(&self, ip_length: u32, l3: usize, l4: usize, protocol: u8) -> u32 {
        let payload = field!(self.context, gso_size);
        if payload == 0 {
            return ip_length;
        }
        let header = if protocol == PROTOCOL_TCP {
            let offset: Option<[u8; 2]> = self.read(l4 + 12);
            offset.map_or(TcpHdr::LEN, |[offset, _]| ((offset >> 4) as usize) << 2)
        } else {
            UdpHdr::LEN
        };
        (l4.wrapping_sub(l3) + header) as u32 + payload
    }

    #[inline(always)]
    fn is_several(&self) -> bool {
        field!(self.context, gso_size) != 0
    }

    #[inline(always)]
    fn is_tagged(&self, l3: usize) -> bool {
        l3 != EthHdr::LEN || field!(self.context, vlan_present) != 0
    }

    #[inline(always)]
    fn retag(&mut self, l3: usize, outer: u32, inner: u32) -> Option<()> {
        let mut priority = 0;
        for tag in 0..MAX_TAGS {
            let is_beside = field!(self.context, vlan_present) != 0;
            if tag == 0 {
                if is_beside {
                    priority = field!(self.context, vlan_tci) as u16 & 0xf000;
                } else if l3 > EthHdr::LEN {
                    let [control, _]: [u8; 2] = self.read(EthHdr::LEN)?;
                    priority = u16::from(control & 0xf0) << 8;
                }
            }
            // The helper takes the next one out of the bytes when it has taken one off.
            if is_beside || tag == 0 && l3 > EthHdr::LEN {
                // SAFETY: a helper on the program's context.
                let result = unsafe { bpf_skb_vlan_pop(self.context) };
                if result != 0 {
                    return None;
                }
            }
        }
        for tag in [inner, outer] {
            if tag != 0 {
                let ether_type = ((tag >> 16) as u16).to_be();
                // SAFETY: as above. It puts the tag that it finds beside the bytes among them.
                let result =
                    unsafe { bpf_skb_vlan_push(self.context, ether_type, priority | tag as u16) };
                if result != 0 {
                    return None;
                }
            }
        }
        Some(())
    }
}
