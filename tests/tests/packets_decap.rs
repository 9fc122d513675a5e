//! The far end of tunnels: what it unpacks, what it refuses, what it says to clients.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use lb_common::{DecapCounter, DecapSettings};
use lb_ebpf::decap::Fate;
use lb_tests::packet::build::tcp;
use lb_tests::packet::far_end::FarEnd;
use lb_tests::packet::hook::Hook;
use lb_tests::packet::lab::{address, at, missing};
use lb_tests::packet::tunnel::Outer;
use lb_tests::packet::{Build, check, kernel};

const VIPS: [&str; 2] = ["10.1.1.1", "fd00:f::1"];
const OWN: [&str; 2] = ["10.0.1.11", "fd00:1::11"];
const LB: [&str; 2] = ["10.0.1.1", "fd00:1::1"];

const SETTINGS: DecapSettings = DecapSettings {
    gue_port: 6080_u16.to_be_bytes(),
    mtu: 1500,
    from_anywhere: 0,
    pad: [0; 3],
};

#[expect(clippy::print_stderr, reason = "says why a test was skipped")]
fn run(settings: DecapSettings, test: impl Fn(&FarEnd) -> Result<()>) -> Result<()> {
    if let Some(reason) = missing() {
        eprintln!("skipped: {reason}");
        return Ok(());
    }
    kernel::pin(0)?;
    let addresses = |texts: &[&str]| texts.iter().map(|text| address(text)).collect::<Vec<_>>();
    let local = [addresses(&VIPS), addresses(&OWN)].concat();
    Hook::each(|hook| test(&FarEnd::new(hook, settings, &local, &addresses(&LB))?))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or(IpAddr::from([0, 0, 0, 0]))
}

fn outer(end: usize, gue: bool) -> Outer {
    Outer {
        macs: ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]),
        ends: (ip(LB[end]), ip(OWN[end])),
        class: 0,
        label: 0x12345,
        ports: gue.then_some((0xc123, 6080)),
        checksum: true,
    }
}

fn to_vip(vip: usize, flags: u8) -> Build {
    let (client, vip) = [
        ("10.0.9.2:5000", "10.1.1.1:80"),
        ("[fd00:9::2]:5000", "[fd00:f::1]:80"),
    ][vip];
    Build::tcp(at(client), at(vip), flags)
}

#[test]
fn every_tunnel_is_unpacked() -> Result<()> {
    run(SETTINGS, |end| {
        for (vip, own, gue) in
            (0..2).flat_map(|v| [(v, 0, false), (v, 1, false), (v, 0, true), (v, 1, true)])
        {
            let syn = to_vip(vip, tcp::SYN);
            let udp = Build::udp(syn.source, syn.destination, b"an odd number");
            for packet in [
                syn.clone(),
                syn.with(|packet| packet.payload = vec![7; 1300]),
                syn.with(|packet| {
                    // By traffic control the kernel takes tags out of the bytes, but not here.
                    if end.hook() == Hook::Xdp {
                        packet.tags = vec![(0x88a8, 7), (0x8100, 100)];
                    }
                }),
                udp.clone(),
            ] {
                let mut frame = outer(own, gue).around(&packet.bytes());
                // What Ethernet has padded stays behind the packet.
                frame.extend_from_slice(&[0xee; 3]);
                let (fate, found) = end.receive(&frame)?;
                let counter = if gue {
                    DecapCounter::UnpackedGue
                } else {
                    DecapCounter::UnpackedIpip
                };
                ensure!(fate == Fate::Pass(counter), "{vip} {own} {gue}: {fate:?}");
                let mut expected = packet.bytes();
                expected.extend_from_slice(&[0xee; 3]);
                ensure!(found == expected, "found {found:02x?}");
            }
        }
        ensure!(end.counters().get_decap(DecapCounter::Received) == 32);
        Ok(())
    })
}

#[test]
fn what_is_not_for_this_host_is_not_unpacked() -> Result<()> {
    run(SETTINGS, |end| {
        let syn = to_vip(0, tcp::SYN);
        let good = outer(0, false).around(&syn.bytes());
        let changed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut frame = good.clone();
            change(&mut frame);
            frame
        };
        let gue = outer(0, true).around(&syn.bytes());
        let stranger = syn.with(|packet| packet.destination = at("10.1.1.2:80"));
        let from = |source: &str| Outer {
            ends: (ip(source), ip(OWN[0])),
            ..outer(0, false)
        };
        let to = Outer {
            ends: (ip(LB[0]), ip("10.0.1.12")),
            ..outer(0, false)
        };
        let port = Outer {
            ports: Some((6080, 6081)),
            ..outer(0, true)
        };
        use DecapCounter as C;
        for (name, frame, fate) in [
            ("not in a tunnel", syn.bytes(), Fate::Pass(C::PassedPlain)),
            (
                "UDP to another port",
                port.around(&syn.bytes()),
                Fate::Pass(C::PassedPlain),
            ),
            ("ARP", changed(&|f| f[13] = 6), Fate::Pass(C::PassedPlain)),
            (
                "a tunnel to another host",
                to.around(&syn.bytes()),
                Fate::Pass(C::PassedNotOurs),
            ),
            (
                "a fragment",
                changed(&|f| f[20] = 0x20),
                Fate::Pass(C::PassedFragment),
            ),
            (
                "a tunnel from anybody",
                from("10.0.1.2").around(&syn.bytes()),
                Fate::Drop(C::DropStranger),
            ),
            (
                "for another host inside",
                outer(0, false).around(&stranger.bytes()),
                Fate::Drop(C::DropInnerNotOurs),
            ),
            (
                "IPv6 in what should hold IPv4",
                changed(&|f| f[34] = 0x60),
                Fate::Drop(C::DropMalformed),
            ),
            (
                "neither IPv4 nor IPv6",
                gue.iter()
                    .copied()
                    .enumerate()
                    .map(|(i, b)| if i == 42 { 0 } else { b })
                    .collect(),
                Fate::Drop(C::DropMalformed),
            ),
            (
                "longer inside than outside",
                changed(&|f| f[37] += 1),
                Fate::Drop(C::DropMalformed),
            ),
            (
                "longer outside than the frame",
                changed(&|f| f[17] += 1),
                Fate::Drop(C::DropMalformed),
            ),
            (
                "cut off inside",
                good[..40].to_vec(),
                Fate::Drop(C::DropMalformed),
            ),
            (
                "congestion for who does not know it",
                changed(&|f| f[15] = 3),
                Fate::Drop(C::DropCongestion),
            ),
        ] {
            let (found, after) = end.receive(&frame).context(name)?;
            ensure!(found == fate, "{name}: {found:?}");
            ensure!(after == frame, "{name}: changed");
        }
        Ok(())
    })?;
    let anywhere = DecapSettings {
        from_anywhere: 1,
        ..SETTINGS
    };
    run(anywhere, |end| {
        let tunnel = Outer {
            ends: (ip("10.66.6.6"), ip(OWN[0])),
            ..outer(0, false)
        };
        let (fate, _) = end.receive(&tunnel.around(&to_vip(0, tcp::SYN).bytes()))?;
        ensure!(fate == Fate::Pass(DecapCounter::UnpackedIpip));
        Ok(())
    })
}

#[test]
fn congestion_that_was_marked_outside_is_marked_inside() -> Result<()> {
    run(SETTINGS, |end| {
        for vip in 0..2 {
            let mut inner = to_vip(vip, tcp::ACK).bytes();
            if vip == 0 {
                // ECT(0), and the sum that goes with it.
                inner[15] = 2;
                inner[25] = inner[25].wrapping_sub(2);
            } else {
                inner[15] |= 0x20;
            }
            let tunnel = Outer {
                class: 3,
                ..outer(0, false)
            };
            let (fate, found) = end.receive(&tunnel.around(&inner))?;
            ensure!(fate == Fate::Pass(DecapCounter::UnpackedIpip));
            ensure!(if vip == 0 {
                found[15] == 3
            } else {
                found[15] & 0x30 == 0x30
            });
            check::checksums(&found)?;
        }
        Ok(())
    })
}

/// A SYN or its answer with options before the MSS.
fn answer(vip: usize, flags: u8, before: &[u8], mss: u16) -> Vec<u8> {
    let way = to_vip(vip, 0);
    let options = [before, &[2, 4], &mss.to_be_bytes()].concat();
    let mut packet = Build::tcp(way.destination, way.source, flags);
    packet.tcp_options = options;
    packet
        .tcp_options
        .resize(packet.tcp_options.len().next_multiple_of(4), 0);
    packet.bytes()
}

#[test]
fn answers_say_what_fits_through_the_tunnel() -> Result<()> {
    run(SETTINGS, |end| {
        // Before any tunnel was seen there is nothing to leave room for.
        let plain = answer(0, tcp::SYN | tcp::ACK, &[], 1460);
        ensure!(end.send(&plain)? == plain);
        for (own, gue, overhead) in [(0, false, 20), (0, true, 28), (1, false, 40), (1, true, 48)] {
            for (vip, headers) in [(0, 40), (1, 60)] {
                end.receive(&outer(own, gue).around(&to_vip(vip, tcp::SYN).bytes()))?;
                let fits = 1500 - overhead - headers;
                for before in [
                    &[][..],
                    &[1],
                    &[8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
                    &[1, 1, 3, 3, 7],
                ] {
                    let sent = answer(vip, tcp::SYN | tcp::ACK, before, 1460);
                    let found = end.send(&sent)?;
                    check::checksums(&found)?;
                    let expected = answer(vip, tcp::SYN | tcp::ACK, before, fits);
                    ensure!(found == expected, "{before:?}: found {found:02x?}");
                }
                let smaller = answer(vip, tcp::SYN | tcp::ACK, &[], fits - 1);
                ensure!(end.send(&smaller)? == smaller);
            }
        }
        // Only what begins a connection says anything, and only what comes from a VIP is meant.
        let data = answer(0, tcp::ACK, &[], 1460);
        ensure!(end.send(&data)? == data);
        let own = Build::tcp(at("10.0.1.11:80"), at("10.0.9.2:5000"), tcp::SYN)
            .with(|packet| packet.tcp_options = vec![2, 4, 5, 0xb4]);
        ensure!(end.send(&own.bytes())? == own.bytes());
        for options in [vec![0, 0, 0, 0], vec![8, 1, 2, 4], vec![2, 4, 5, 0xb4]] {
            let is_mss = options[0] == 2;
            let odd = Build::tcp(at("10.1.1.1:80"), at("10.0.9.2:5000"), tcp::SYN)
                .with(|packet| packet.tcp_options = options);
            ensure!((end.send(&odd.bytes())? == odd.bytes()) != is_mss);
        }
        Ok(())
    })?;
    run(DecapSettings { mtu: 0, ..SETTINGS }, |end| {
        end.receive(&outer(0, false).around(&to_vip(0, tcp::SYN).bytes()))?;
        let plain = answer(0, tcp::SYN | tcp::ACK, &[], 1460);
        ensure!(end.send(&plain)? == plain, "nobody has asked for it");
        Ok(())
    })
}
