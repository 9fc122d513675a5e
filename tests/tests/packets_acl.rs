//! The source ACL: whose packets for VIPs are dropped, and that nothing else is.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use lb_common::{
    Address, Counter, FORWARD_GUE, FORWARD_IPIP, FORWARD_L2DSR, FORWARD_NAT, PREFIX_ALLOWED,
    PREFIX_DENIED, PROTOCOL_TCP, PROTOCOL_UDP, Settings, VIP_OWNED, VIP_SETTLES, Vip,
};
use lb_ebpf::Verdict;
use lb_tests::packet::kernel::Sizes;
use lb_tests::packet::lab::{Lab, address, instance, run, vip, vip_key};
use lb_tests::packet::network::FRONT_MAC;
use lb_tests::packet::tunnel::IcmpError;
use lb_tests::packet::{Build, pieces};

const SIZES: Sizes = Sizes {
    connections: 4096,
    tables: 4,
};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

const DENIED: Verdict = Verdict::Drop(Counter::DropDenied);

/// A VIP, its instance, and the first 24 or 64 bits of clients.
const NETS: [(&str, &str, &str); 2] = [
    ("10.1.1.1", "10.0.1.11", "10.0.1."),
    ("fd00:f::1", "fd00:1::11", "fd00:1::"),
];

/// Ports of VIPs, and how packets for them are forwarded.
const PORTS: [(u16, u8, u8); 5] = [
    (80, FORWARD_NAT, 0),
    (81, FORWARD_L2DSR, 0),
    (82, FORWARD_L2DSR, VIP_OWNED | VIP_SETTLES),
    (83, FORWARD_IPIP, 0),
    (84, FORWARD_GUE, 0),
];

fn serve(lab: &mut Lab) -> Result<()> {
    for (net, (own, at, _)) in (0..).zip(NETS) {
        lab.set_instance(net as u16 + 1, instance(at, 7000))?;
        for (number, (port, forward, flags)) in (0..).zip(PORTS) {
            let value = Vip {
                forward,
                flags,
                table: net,
                ..vip(net * 16 + number)
            };
            lab.serve(vip_key(own, port, PROTOCOL_TCP), value, &[net as u16 + 1])?;
            if flags == 0 {
                let id = net * 16 + number + 8;
                lab.serve(
                    vip_key(own, port, PROTOCOL_UDP),
                    Vip { id, ..value },
                    &[net as u16 + 1],
                )?;
            }
        }
    }
    Ok(())
}

fn end(host: &str, port: u16) -> Result<SocketAddr> {
    let ip: IpAddr = host.parse().with_context(|| host.to_owned())?;
    Ok(SocketAddr::new(ip, port))
}

/// A packet of the client whose address ends so.
fn packet(net: usize, client: u8, port: u16, flags: u8) -> Result<Vec<u8>> {
    let (own, _, beginning) = NETS[net];
    let client = end(&format!("{beginning}{client}"), 7000)?;
    Ok(Build::tcp(client, end(own, port)?, flags).bytes())
}

fn goes(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Transmit | Verdict::Redirect(_))
}

/// All clients but one of each family may not send.
fn rules() -> Vec<(Address, u32, u32)> {
    vec![
        (address("10.0.1.0"), 120, PREFIX_DENIED),
        (address("10.0.1.3"), 128, PREFIX_ALLOWED),
        (address("fd00:1::"), 64, PREFIX_DENIED),
        (address("fd00:1::3"), 128, PREFIX_ALLOWED),
        (address("0.0.0.0"), 96, PREFIX_ALLOWED),
    ]
}

#[test]
fn a_rule_holds_for_every_packet_of_every_flow_in_all_forwardings() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab)?;
        // For two clients' connections to the same instance.
        lab.set_settings(Settings {
            nat_port_last: 40_009,
            ..lab.settings()
        })?;
        let both = [2, 3];
        let each = || (0..2).flat_map(|net| PORTS.map(|(port, ..)| (net, port)));
        // Twice each: packets after the first find copies.
        for (net, port) in each() {
            for (client, flags) in both.iter().flat_map(|c| [(c, SYN), (c, ACK), (c, ACK)]) {
                let seen = lab.send(&packet(net, *client, port, flags)?)?;
                ensure!(
                    goes(seen.verdict),
                    "{net} {port} {client}: {:?}",
                    seen.verdict
                );
            }
        }
        lab.set_rules(&rules())?;
        for (net, port) in each() {
            for flags in [ACK, ACK, SYN] {
                let seen = lab.send(&packet(net, 2, port, flags)?)?;
                ensure!(seen.verdict == DENIED, "{net} {port}: {:?}", seen.verdict);
                let seen = lab.send(&packet(net, 3, port, flags)?)?;
                ensure!(goes(seen.verdict), "{net} {port}: {:?}", seen.verdict);
            }
            let frame = Build::udp(
                end(&format!("{}2", NETS[net].2), 9)?,
                end(NETS[net].0, port)?,
                b"hello",
            );
            let expected = match port {
                82 => Verdict::Pass(Counter::PassedNotVip),
                _ => DENIED,
            };
            ensure!(
                lab.send(&frame.bytes())?.verdict == expected,
                "UDP {net} {port}"
            );
        }
        for net in 0..2 {
            lab.check_traffic(net * 16, net as u16 + 1)?;
        }
        lab.set_rules(&[])?;
        for (net, port) in each() {
            let seen = lab.send(&packet(net, 2, port, ACK)?)?;
            ensure!(goes(seen.verdict), "{net} {port}: {:?}", seen.verdict);
        }
        Ok(())
    })
}

#[test]
fn answers_and_what_is_for_no_vip_pass_whatever_the_rules_say() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab)?;
        let all = [
            (address("0.0.0.0"), 96, PREFIX_DENIED),
            (address("::"), 0, PREFIX_DENIED),
            (address("10.0.1.2"), 128, PREFIX_ALLOWED),
            (address("fd00:1::2"), 128, PREFIX_ALLOWED),
        ];
        lab.set_rules(&all)?;
        for (net, (_, at, beginning)) in NETS.into_iter().enumerate() {
            ensure!(lab.send(&packet(net, 9, 80, SYN)?)?.verdict == DENIED);
            ensure!(goes(lab.send(&packet(net, 2, 80, SYN)?)?.verdict));
            // The lab's `nat` has one port.
            let answer = Build::tcp(end(at, 7000)?, end(&format!("{beginning}1"), 40_000)?, ACK);
            let seen = lab.send(&answer.bytes())?;
            ensure!(goes(seen.verdict), "{:?}", seen.verdict);
            let host = Build::tcp(end(at, 9)?, end(&format!("{beginning}1"), 22)?, SYN);
            let seen = lab.send(&host.bytes())?;
            ensure!(
                seen.verdict == Verdict::Pass(Counter::PassedNotVip),
                "{:?}",
                seen.verdict
            );
        }
        Ok(())
    })
}

#[test]
fn fragments_and_messages_have_no_ports_and_are_held_against_the_rules_too() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab)?;
        lab.set_rules(&rules())?;
        for (net, (own, instance, beginning)) in NETS.into_iter().enumerate() {
            let from = |client: u8| -> Result<Vec<Vec<u8>>> {
                let client = end(&format!("{beginning}{client}"), 7000)?;
                let whole = Build::udp(client, end(own, 81)?, &[7; 3000]).bytes();
                Ok(pieces::cut(&whole, u32::from(u8::MAX), 1000))
            };
            for piece in from(2)? {
                let seen = lab.send(&piece)?;
                ensure!(seen.verdict == DENIED, "{:?}", seen.verdict);
            }
            for piece in from(3)? {
                let seen = lab.send(&piece)?;
                ensure!(goes(seen.verdict), "{:?}", seen.verdict);
            }
            for (client, to, expected) in [
                (2, own, DENIED),
                (3, own, Verdict::Pass(Counter::PassedOtherProtocol)),
                (2, instance, Verdict::Pass(Counter::PassedOtherProtocol)),
            ] {
                let ping = IcmpError {
                    macs: (FRONT_MAC, [2, 0, 0, 0, 1, 2]),
                    ends: (
                        end(&format!("{beginning}{client}"), 0)?.ip(),
                        end(to, 0)?.ip(),
                    ),
                    class: 0,
                    ttl: 9,
                    head: if net == 0 { [8, 0] } else { [128, 0] },
                    rest: [0, 1, 0, 1],
                    quoted: vec![1; 32],
                };
                let seen = lab.send(&ping.bytes())?;
                ensure!(
                    seen.verdict == expected,
                    "{client} {to}: {:?}",
                    seen.verdict
                );
            }
        }
        Ok(())
    })
}

#[test]
fn the_kernels_trie_says_what_the_model_says_for_many_prefixes() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab)?;
        let mut random = 7_u64;
        let mut next = |below: u32| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) as u32 % below
        };
        let (mut denied, mut sent) = (0, 0);
        for _ in 0..4 {
            let mut rules = vec![(address("0.0.0.0"), 96, PREFIX_ALLOWED)];
            for _ in 0..500 {
                let rule = if next(3) == 0 {
                    PREFIX_ALLOWED
                } else {
                    PREFIX_DENIED
                };
                let (length, bits) = (next(25) + 8, (10 << 24) | next(1 << 12) << 12 | next(4096));
                let first = bits & u32::MAX.checked_shl(32 - length).unwrap_or(0);
                let prefix = (lb_common::from_v4(first.to_be_bytes()), 96 + length, rule);
                rules.retain(|(a, l, _)| (*a, *l) != (prefix.0, prefix.1));
                rules.push(prefix);
            }
            // A few that hold nearly everything would leave nothing to the others.
            rules.retain(|(_, length, rule)| *length >= 96 + 14 || *rule == PREFIX_ALLOWED);
            lab.set_rules(&rules)?;
            for _ in 0..1000 {
                let host = (10 << 24) | next(1 << 12) << 12 | next(4096);
                let client = SocketAddr::from((host.to_be_bytes(), 7000));
                let frame = Build::tcp(client, end(NETS[0].0, 82)?, ACK).bytes();
                // The lab compares both halves.
                let seen = lab.send(&frame)?;
                denied += u32::from(seen.verdict == DENIED);
                sent += 1;
            }
        }
        ensure!(denied > sent / 50 && denied < sent, "{denied} of {sent}");
        Ok(())
    })
}
