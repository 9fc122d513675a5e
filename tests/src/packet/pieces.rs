//! Datagrams in fragments, and whole again: what a router and a receiver do.

use super::build::{checksum, extension};

/// Bytes of a frame's link header; frames here have no tags.
const L3: usize = 14;

/// A frame cut into fragments of so many bytes each (a multiple of eight), the first one first.
///
/// # Panics
/// When the frame holds no plain IP packet.
#[must_use]
pub fn cut(frame: &[u8], id: u32, size: usize) -> Vec<Vec<u8>> {
    assert!(size.is_multiple_of(8), "fragments are multiples of eight");
    let v4 = frame[L3] >> 4 == 4;
    let (head, data) = frame.split_at(L3 + if v4 { 20 } else { 40 });
    let count = data.len().div_ceil(size);
    let pieces = data.chunks(size).enumerate();
    pieces
        .map(|(number, piece)| {
            let place = (number * size) as u16;
            let more = number + 1 < count;
            let mut fragment = head.to_vec();
            if v4 {
                let length = 20 + piece.len() as u16;
                let flags = (place / 8) | if more { 0x2000 } else { 0 };
                fragment[L3 + 2..L3 + 4].copy_from_slice(&length.to_be_bytes());
                fragment[L3 + 4..L3 + 6].copy_from_slice(&(id as u16).to_be_bytes());
                fragment[L3 + 6..L3 + 8].copy_from_slice(&flags.to_be_bytes());
                seal(&mut fragment);
            } else {
                let length = 8 + piece.len() as u16;
                let flags = place | u16::from(more);
                fragment[L3 + 4..L3 + 6].copy_from_slice(&length.to_be_bytes());
                let next = std::mem::replace(&mut fragment[L3 + 6], extension::FRAGMENT);
                fragment.extend([next, 0]);
                fragment.extend(flags.to_be_bytes());
                fragment.extend(id.to_be_bytes());
            }
            fragment.extend(piece);
            fragment
        })
        .collect()
}

/// Puts fragments together, in whatever order they are; the id of an IPv4 packet becomes that of
/// [`super::Build`].
///
/// # Panics
/// When they are no fragments of one datagram, or not all of them.
#[must_use]
pub fn join(fragments: &[Vec<u8>]) -> Vec<u8> {
    let v4 = fragments[0][L3] >> 4 == 4;
    let head = L3 + if v4 { 20 } else { 40 };
    let place = |fragment: &[u8]| {
        let at = if v4 { L3 + 6 } else { head + 2 };
        let word = u16::from_be_bytes([fragment[at], fragment[at + 1]]);
        usize::from(if v4 {
            (word & 0x1fff) * 8
        } else {
            word & 0xfff8
        })
    };
    let mut sorted: Vec<&Vec<u8>> = fragments.iter().collect();
    sorted.sort_by_key(|fragment| place(fragment));
    let mut whole = sorted[0][..head].to_vec();
    for fragment in sorted {
        assert_eq!(place(fragment), whole.len() - head, "a hole or an overlap");
        assert_eq!(fragment[..12], whole[..12], "on another way");
        whole.extend(&fragment[if v4 { head } else { head + 8 }..]);
    }
    let length = (whole.len() - head) as u16;
    if v4 {
        whole[L3 + 2..L3 + 4].copy_from_slice(&(20 + length).to_be_bytes());
        whole[L3 + 4..L3 + 8].copy_from_slice(&[0x12, 0x34, 0, 0]);
        seal(&mut whole);
    } else {
        whole[L3 + 4..L3 + 6].copy_from_slice(&length.to_be_bytes());
        whole[L3 + 6] = fragments[0][head];
    }
    whole
}

/// Writes the checksum of an IPv4 header.
fn seal(frame: &mut [u8]) {
    frame[L3 + 10..L3 + 12].fill(0);
    let sum = checksum(&frame[L3..L3 + 20]);
    frame[L3 + 10..L3 + 12].copy_from_slice(&sum);
}
