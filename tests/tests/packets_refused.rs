//! A VIP without instances: dropped, or refused by a reset or a message. Each packet runs in the kernel
//! and in the library, which must agree.

use anyhow::{Result, ensure};
use lb_common::{
    Counter, FORWARD_L2DSR, INSTANCE_DOWN, InstanceEntry, PROTOCOL_TCP, PROTOCOL_UDP, Settings,
    VIP_OWNED, VIP_REFUSES, VIP_SETTLES, Vip,
};
use lb_ebpf::Verdict;
use lb_tests::packet::build::tcp;
use lb_tests::packet::kernel::Sizes;
use lb_tests::packet::lab::{Lab, at, instance, run, vip, vip_key};
use lb_tests::packet::tunnel::IcmpError;
use lb_tests::packet::{Build, check};

const V4: (&str, &str) = ("10.0.1.2:5000", "10.1.1.1:80");
const V6: (&str, &str) = ("[fd00:1::2]:5000", "[fd00:f::1]:80");
const REFUSED: Verdict = Verdict::Answer(Counter::AnsweredRefused);

/// Serves a VIP of both families and protocols, without instances.
fn serve(lab: &mut Lab, flags: u8) -> Result<()> {
    lab.set_settings(Settings {
        icmp_rate: 1000,
        ..lab.settings()
    })?;
    for (id, address) in [(1, "10.1.1.1"), (3, "fd00:f::1")] {
        for (id, protocol) in [(id, PROTOCOL_TCP), (id + 1, PROTOCOL_UDP)] {
            let vip = Vip { flags, ..vip(id) };
            lab.serve(vip_key(address, 80, protocol), vip, &[])?;
        }
    }
    Ok(())
}

/// Sequence and acknowledgement number and flags of a segment behind an IP header.
fn segment(frame: &[u8], l4: usize) -> (u32, u32, u8) {
    let number = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| frame[l4 + at + i]));
    (number(4), number(8), frame[l4 + 13])
}

#[test]
fn segments_are_reset_as_by_a_host_without_a_listener() -> Result<()> {
    run(Sizes::default(), |lab| {
        serve(lab, VIP_REFUSES)?;
        for ((from, to), l4) in [(V4, 34), (V6, 54)] {
            for flags in [
                tcp::SYN,
                tcp::ACK,
                tcp::ACK | tcp::FIN,
                tcp::FIN,
                tcp::PSH | tcp::ACK,
            ] {
                let sent = Build::tcp(at(from), at(to), flags).bytes();
                let seen = lab.send(&sent)?;
                ensure!(seen.verdict == REFUSED, "{:?}", seen.verdict);
                check::checksums(&seen.frame)?;
                ensure!(seen.frame.len() == l4 + 20);
                ensure!(seen.frame[..6] == sent[6..12] && seen.frame[6..12] == sent[..6]);
                let (number, acknowledged, _) = segment(&sent, l4);
                let (answer, confirmed, bits) = segment(&seen.frame, l4);
                if flags & tcp::ACK != 0 {
                    ensure!((answer, bits) == (acknowledged, tcp::RST));
                } else {
                    let data = (sent.len() - l4 - usize::from(sent[l4 + 12] >> 4) * 4) as u32;
                    ensure!(
                        confirmed == number.wrapping_add(data + 1),
                        "{confirmed} {number}"
                    );
                    ensure!(bits == tcp::RST | tcp::ACK && answer == 0);
                }
                let ports = [&sent[l4 + 2..l4 + 4], &sent[l4..l4 + 2]].concat();
                ensure!(seen.frame[l4..l4 + 4] == ports);
            }
            // A reset is not answered by another.
            let seen = lab.send(&Build::tcp(at(from), at(to), tcp::RST).bytes())?;
            ensure!(seen.verdict == Verdict::Drop(Counter::DropStrayReset));
        }
        ensure!(lab.flows()? == 0);
        Ok(())
    })
}

#[test]
fn datagrams_are_answered_by_a_message() -> Result<()> {
    run(Sizes::default(), |lab| {
        serve(lab, VIP_REFUSES)?;
        for ((from, to), header, head) in [(V4, 20, [3, 3]), (V6, 40, [1, 4])] {
            for length in [0, 1, 30, 900] {
                let sent = Build::udp(at(from), at(to), &vec![7; length]).bytes();
                let seen = lab.send(&sent)?;
                ensure!(seen.verdict == REFUSED, "{:?}", seen.verdict);
                let mac = |at: usize| std::array::from_fn(|byte| sent[at + byte]);
                let expected = IcmpError {
                    macs: (mac(6), mac(0)),
                    ends: (at(to).ip(), at(from).ip()),
                    class: 0xc0,
                    ttl: 64,
                    head,
                    rest: [0; 4],
                    quoted: sent[14..14 + header + 8].to_vec(),
                };
                ensure!(seen.frame == expected.bytes(), "{:02x?}", seen.frame);
            }
        }
        Ok(())
    })
}

#[test]
fn nobody_is_told_more_than_there_may_be_nor_unasked() -> Result<()> {
    run(Sizes::default(), |lab| {
        serve(lab, 0)?;
        let syn = Build::tcp(at(V4.0), at(V4.1), tcp::SYN);
        let dropped = Verdict::Drop(Counter::DropNoInstance);
        ensure!(lab.send(&syn.bytes())?.verdict == dropped);
        serve(lab, VIP_REFUSES)?;
        lab.set_settings(Settings {
            icmp_rate: 0,
            ..lab.settings()
        })?;
        ensure!(lab.send(&syn.bytes())?.verdict == dropped);
        lab.set_settings(Settings {
            icmp_rate: 1000,
            ..lab.settings()
        })?;
        let from_nobody = syn.with(|packet| packet.source = at("224.0.0.1:5000"));
        ensure!(lab.send(&from_nobody.bytes())?.verdict == dropped);
        let mut to_many = syn.bytes();
        to_many[0] |= 1;
        ensure!(lab.send(&to_many)?.verdict == dropped);
        // An instance that is down is none, and its flows are told, too.
        let down = InstanceEntry {
            state: INSTANCE_DOWN,
            ..instance("10.0.1.11", 80)
        };
        lab.set_instance(1, down)?;
        let settling = Vip {
            forward: FORWARD_L2DSR,
            flags: VIP_OWNED | VIP_SETTLES | VIP_REFUSES,
            ..vip(1)
        };
        lab.serve(vip_key("10.1.1.1", 80, PROTOCOL_TCP), settling, &[1])?;
        for flags in [tcp::SYN, tcp::ACK] {
            let sent = Build::tcp(at(V4.0), at(V4.1), flags).bytes();
            ensure!(lab.send(&sent)?.verdict == REFUSED);
        }
        Ok(())
    })
}
