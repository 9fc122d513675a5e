//! Echo requests: answered for VIPs, within a limit; all others are the host's.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use lb_common::{Counter, PROTOCOL_TCP, Settings};
use lb_ebpf::Verdict;
use lb_tests::packet::kernel::Sizes;
use lb_tests::packet::lab::{Lab, instance, run, vip, vip_key};
use lb_tests::packet::network::{FRONT, FRONT_MAC};
use lb_tests::packet::tunnel::IcmpError;

const SIZES: Sizes = Sizes {
    connections: 1024,
    tables: 4,
};

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];

/// A client, a VIP, another address of the host, and the types of request and answer.
const NETS: [(&str, &str, &str, [u8; 2]); 2] = [
    ("10.0.1.2", "10.1.1.1", "10.0.1.1", [8, 0]),
    ("fd00:1::2", "fd00:f::1", "fd00:1::1", [128, 129]),
];

fn serve(lab: &mut Lab, rate: u16) -> Result<()> {
    lab.set_settings(Settings {
        echo_rate: rate,
        ..lab.settings()
    })?;
    for (number, (_, address, own, _)) in (0..).zip(NETS) {
        lab.set_instance(number as u16 + 1, instance(own, 8080))?;
        let key = vip_key(address, 80, PROTOCOL_TCP);
        lab.serve(key, vip(number), &[number as u16 + 1])?;
    }
    Ok(())
}

fn ip(text: &str) -> Result<IpAddr> {
    text.parse().with_context(|| text.to_owned())
}

/// A request for an address, and its answer.
fn ping(net: usize, to: &str, length: usize) -> Result<(IcmpError, IcmpError)> {
    let (client, _, _, [request, reply]) = NETS[net];
    let sent = IcmpError {
        macs: (FRONT_MAC, CLIENT_MAC),
        ends: (ip(client)?, ip(to)?),
        class: 0x28,
        ttl: 7,
        head: [request, 0],
        rest: [0x12, 0x34, 0, 1],
        quoted: (0..length).map(|byte| byte as u8).collect(),
    };
    let answer = IcmpError {
        macs: (CLIENT_MAC, FRONT_MAC),
        ends: (ip(to)?, ip(client)?),
        ttl: 64,
        head: [reply, 0],
        ..sent.clone()
    };
    Ok((sent, answer))
}

/// `frame` with a VLAN tag.
fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, 9], &frame[12..]].concat()
}

#[test]
fn vips_answer() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab, 1000)?;
        for (net, (_, vip, ..)) in NETS.iter().enumerate() {
            for length in [0, 56, 57, 1400] {
                let (sent, answer) = ping(net, vip, length)?;
                for (frame, expected) in [
                    (sent.bytes(), answer.bytes()),
                    (tagged(&sent.bytes()), tagged(&answer.bytes())),
                ] {
                    let seen = lab.send(&frame)?;
                    ensure!(
                        seen.verdict == Verdict::Answer(Counter::AnsweredEcho),
                        "{vip} {length}: {:?}",
                        seen.verdict
                    );
                    ensure!(
                        seen.frame == expected,
                        "{vip} {length}: expected\n {expected:02x?}, found\n {:02x?}",
                        seen.frame
                    );
                }
            }
        }
        Ok(())
    })
}

#[test]
fn beyond_the_limit_there_is_silence_with_a_reason() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab, 1)?;
        let (sent, _) = ping(0, NETS[0].1, 56)?;
        let frame = sent.bytes();
        let began = Instant::now();
        // The kernel's clock moves on, and with each of its seconds there is one answer more.
        let kernel = lab.kernel();
        for _ in 0..50 {
            kernel.run(&frame, FRONT)?;
        }
        let counters = kernel.counters()?;
        let (answered, silent) = (
            counters.get(Counter::AnsweredEcho),
            counters.get(Counter::DropEchoLimit),
        );
        let most = 2 + began.elapsed().as_secs();
        ensure!((1..=most).contains(&answered), "answered {answered}");
        ensure!(answered + silent == 50, "{answered} and {silent}");
        ensure!(counters.adds_up());
        Ok(())
    })
}

#[test]
fn what_is_not_a_vips_is_the_hosts() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab, 1000)?;
        let mut cases = Vec::new();
        for (net, (_, vip, own, [_, reply])) in NETS.iter().enumerate() {
            let (sent, _) = ping(net, vip, 56)?;
            let of = |change: &dyn Fn(&mut IcmpError)| {
                let mut changed = sent.clone();
                change(&mut changed);
                changed.bytes()
            };
            cases.push(("for the host", ping(net, own, 56)?.0.bytes()));
            cases.push(("an answer", of(&|sent| sent.head[0] = *reply)));
            cases.push(("another code", of(&|sent| sent.head[1] = 1)));
            cases.push((
                "for everybody on the link",
                of(&|sent| sent.macs.0 = [0xff; 6]),
            ));
            let nobody = if vip.contains(':') { "::" } else { "0.0.0.0" };
            let nobody = ip(nobody)?;
            cases.push(("from nobody", of(&|sent| sent.ends.0 = nobody)));
            let many = if vip.contains(':') {
                "ff02::1"
            } else {
                "224.0.0.1"
            };
            let many = ip(many)?;
            cases.push(("from many", of(&|sent| sent.ends.0 = many)));
            let mut cut = sent.bytes();
            cut.truncate(cut.len() - 1);
            cases.push(("cut off", cut));
        }
        let (sent, _) = ping(0, NETS[0].1, 56)?;
        let mut fragment = sent.bytes();
        fragment[20] = 0x20;
        cases.push(("a fragment", fragment));
        let mut options = sent.bytes();
        options[14] = 0x46;
        cases.push(("with options", options));
        for (name, frame) in &cases {
            passes(lab, frame).context(*name)?;
        }
        lab.withdraw(&vip_key(NETS[0].1, 80, PROTOCOL_TCP))?;
        passes(lab, &sent.bytes()).context("of a VIP that has gone")?;
        serve(lab, 0)?;
        passes(lab, &sent.bytes()).context("with a limit of none")
    })
}

fn passes(lab: &mut Lab, frame: &[u8]) -> Result<()> {
    let seen = lab.send(frame)?;
    ensure!(
        seen.verdict == Verdict::Pass(Counter::PassedOtherProtocol),
        "{:?}",
        seen.verdict
    );
    ensure!(seen.frame == frame, "changed: {:02x?}", seen.frame);
    Ok(())
}
