//! What routers say of tunnels' packets, and what clients are told from then on.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use lb_common::{Counter, FORWARD_GUE, FORWARD_IPIP, FORWARD_NAT, PROTOCOL_TCP, Settings, Vip};
use lb_ebpf::Verdict;
use lb_tests::packet::Build;
use lb_tests::packet::build::tcp;
use lb_tests::packet::kernel::Sizes;
use lb_tests::packet::lab::{Lab, at, instance, run, vip, vip_key};
use lb_tests::packet::network::{FRONT_MAC, NAT_V4, NAT_V6};
use lb_tests::packet::tunnel::{IcmpError, too_big};

const SIZES: Sizes = Sizes {
    connections: 1024,
    tables: 16,
};

/// VIPs and clients of both families, and an instance of each.
const VIPS: [(&str, &str); 2] = [
    ("10.1.1.1:80", "10.0.1.2:5000"),
    ("[fd00:f::1]:80", "[fd00:1::2]:5000"),
];
const INSTANCES: [&str; 2] = ["10.0.1.11", "fd00:1::11"];
const ROUTERS: [&str; 2] = ["203.0.113.9", "2001:db8::9"];

/// Port, index of the instance in [`INSTANCES`], forwarding, bytes of the outer headers.
const WAYS: [(u16, usize, u8, u32); 5] = [
    (80, 0, FORWARD_IPIP, 20),
    (81, 0, FORWARD_GUE, 28),
    (82, 1, FORWARD_IPIP, 40),
    (83, 1, FORWARD_GUE, 48),
    (84, 0, FORWARD_NAT, 0),
];

fn serve(lab: &mut Lab) -> Result<()> {
    // Every packet looks the way up.
    lab.set_settings(Settings {
        icmp_rate: 1_000_000,
        next_hop_ttl_ms: 0,
        ..lab.settings()
    })?;
    for (number, (port, which, forward, _)) in (0..).zip(WAYS) {
        let index = number as u16 + 1;
        lab.set_instance(index, instance(INSTANCES[which], 8080))?;
        for (half, (address, _)) in (0..).zip(VIPS) {
            if forward == FORWARD_NAT && half == 1 {
                continue;
            }
            let value = Vip {
                forward,
                table: number,
                ..vip(2 * number + half + 1)
            };
            let address = at(address).ip().to_string();
            lab.serve(vip_key(&address, port, PROTOCOL_TCP), value, &[index])?;
        }
    }
    Ok(())
}

/// A packet from a client to this port of its VIP, so long without its frame's header.
fn sized(half: usize, port: u16, length: u32) -> Build {
    let (vip, client) = VIPS[half];
    let to = SocketAddr::new(at(vip).ip(), port);
    let headers = if half == 0 { 40 } else { 60 };
    Build::tcp(at(client), to, tcp::ACK)
        .with(|packet| packet.payload = vec![0x55; length as usize - headers])
}

/// What a router says of the outer packet of `frame`, with so many bytes of it; it takes `mtu`.
fn complaint(frame: &[u8], bytes: usize, mtu: u32) -> Result<IcmpError> {
    let four = frame[14] >> 4 == 4;
    let half = usize::from(!four);
    let own: IpAddr = if four { NAT_V4 } else { NAT_V6 }.parse()?;
    Ok(IcmpError {
        macs: (FRONT_MAC, [2, 0, 0, 0, 0, 2]),
        ends: (ROUTERS[half].parse()?, own),
        class: 0,
        ttl: 64,
        head: if four { [3, 4] } else { [2, 0] },
        rest: mtu.to_be_bytes(),
        quoted: frame[14..].iter().copied().take(bytes).collect(),
    })
}

/// Lets a router say something, which the host gets as well; whether anything was learned.
fn tell(lab: &mut Lab, message: &IcmpError) -> Result<bool> {
    let learned = |lab: &Lab| lab.counters().get(Counter::PathMtusLearned);
    let before = learned(lab);
    let seen = lab.send(&message.bytes())?;
    let hosts = Verdict::Pass(Counter::PassedOtherProtocol);
    ensure!(seen.verdict == hosts, "{:?}", seen.verdict);
    Ok(learned(lab) > before)
}

/// The frame that a packet leaves in.
fn sent(lab: &mut Lab, packet: &Build) -> Result<Vec<u8>> {
    let seen = lab.send(&packet.bytes())?;
    ensure!(seen.verdict == Verdict::Transmit, "{:?}", seen.verdict);
    Ok(seen.frame)
}

/// Whether the way of a packet takes so much: who sends more is told so.
fn takes(lab: &mut Lab, half: usize, port: u16, length: u32) -> Result<()> {
    sent(lab, &sized(half, port, length)).context("what fits")?;
    let more = sized(half, port, length + 1);
    let seen = lab.send(&more.bytes())?;
    let answer = Verdict::Answer(Counter::AnsweredTooBig);
    ensure!(seen.verdict == answer, "{:?}", seen.verdict);
    // No host of IPv6 has to believe less than 1280.
    let told = if half == 1 { length.max(1280) } else { length };
    ensure!(
        seen.frame == too_big(&more.bytes(), told),
        "{:02x?}",
        seen.frame
    );
    Ok(())
}

#[test]
fn clients_are_told_what_a_router_has_told_lb() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab)?;
        // Each message says less than the one before, since it is about the same two instances.
        let mut mtu = 1480;
        for (port, _, forward, overhead) in WAYS {
            if forward == FORWARD_NAT {
                continue;
            }
            for half in [0, 1] {
                for quoted in [usize::MAX, if port > 81 { 48 } else { 28 }] {
                    let what = format!("{port} from {} about {quoted} bytes", VIPS[half].1);
                    let frame = sent(lab, &sized(half, port, mtu - overhead))?;
                    mtu -= 4;
                    let message = complaint(&frame, quoted, mtu)?;
                    ensure!(tell(lab, &message)?, "{what}");
                    takes(lab, half, port, mtu - overhead).context(what)?;
                }
            }
        }
        ensure!(lab.counters().adds_up());
        Ok(())
    })
}

#[test]
fn the_path_is_the_instances_whatever_tunnel_goes_there() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab)?;
        let frame = sent(lab, &sized(0, 80, 1400))?;
        ensure!(tell(lab, &complaint(&frame, 64, 1360)?)?);
        // By another tunnel, and from the other family.
        takes(lab, 0, 81, 1360 - 28)?;
        takes(lab, 1, 80, 1360 - 20)?;
        // The other instance is another one.
        sent(lab, &sized(0, 82, 1400))?;
        // Where packets are rewritten routers tell the client, or make fragments.
        let syn = Build::tcp(at(VIPS[0].1), at("10.1.1.1:84"), tcp::SYN);
        sent(lab, &syn)?;
        sent(lab, &sized(0, 84, 1500))?;
        Ok(())
    })
}

#[test]
fn not_everything_is_believed() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab)?;
        let frame = sent(lab, &sized(0, 80, 1400))?;
        let good = complaint(&frame, 64, 1360)?;
        let with = |change: &dyn Fn(&mut IcmpError)| {
            let mut message = good.clone();
            change(&mut message);
            message
        };
        let vip = at(VIPS[0].0).ip();
        let other: IpAddr = "10.0.1.2".parse()?;
        for (what, message) in [
            ("about something else", with(&|m| m.head = [3, 1])),
            (
                "not smaller than the packet",
                with(&|m| m.rest = 1420_u32.to_be_bytes()),
            ),
            ("too small", with(&|m| m.rest = 1327_u32.to_be_bytes())),
            ("nothing", with(&|m| m.rest = [0; 4])),
            ("to a VIP", with(&|m| m.ends.1 = vip)),
            ("to somebody else", with(&|m| m.ends.1 = other)),
            ("of another sender", with(&|m| m.quoted[15] ^= 1)),
            ("to no instance", with(&|m| m.quoted[19] ^= 1)),
            ("no tunnel", with(&|m| m.quoted[9] = 47)),
            ("with options", with(&|m| m.quoted[0] = 0x46)),
            ("cut off", with(&|m| m.quoted.truncate(22))),
        ] {
            ensure!(!tell(lab, &message)?, "{what}");
        }
        sent(lab, &sized(0, 80, 1480))?;
        // UDP to another port than that of tunnels.
        let gue = sent(lab, &sized(0, 81, 1400))?;
        let mut other = complaint(&gue, 64, 1360)?;
        other.quoted[23] ^= 1;
        ensure!(!tell(lab, &other)?, "another port");
        // More than is known comes too late.
        ensure!(tell(lab, &good)?);
        ensure!(!tell(lab, &complaint(&frame, 64, 1361)?)?);
        takes(lab, 0, 80, 1340)?;
        ensure!(tell(lab, &complaint(&frame, 64, 1328)?)?);
        takes(lab, 0, 80, 1308)?;
        // Without an address of its own there is no packet of lb's.
        let six = sent(lab, &sized(0, 82, 1400))?;
        let mut message = complaint(&six, 64, 1400)?;
        lab.set_settings(Settings {
            nat_source_v6: [0; 16],
            ..lab.settings()
        })?;
        message.ends.1 = "::".parse()?;
        message.quoted[8..24].fill(0);
        ensure!(!tell(lab, &message)?, "of nobody");
        Ok(())
    })
}
