//! Limits of new connections in the kernel.

use std::net::SocketAddr;
use std::thread;

use anyhow::{Context, Result, ensure};
use lb_common::{
    Arrivals, Counter, FORWARD_L2DSR, PROTOCOL_TCP, PROTOCOL_UDP, SOURCE_UNIT_NS, VIP_LIMITED,
    VIP_OWNED, VIP_SETTLES, Vip,
};
use lb_ebpf::Verdict;
use lb_tests::packet::Build;
use lb_tests::packet::kernel::{Sizes, pin};
use lb_tests::packet::lab::{Lab, address, at, instance, run, vip, vip_key};
use lb_tests::packet::network::FRONT;

const SIZES: Sizes = Sizes {
    connections: 16_384,
    tables: 4,
};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// What a full bucket is worth, less than the most that it may be; so a bucket of a thousand gets
/// another token after 14 seconds.
const FULL: u64 = 14_400_000_000_000;

/// So many connections at once, of the service and of each source; 0 is no limit.
fn bursts(service: u64, source: u64) -> Arrivals {
    let of = |burst: u64, unit: u64| match burst {
        0 => (0, 0),
        burst => (FULL / unit / burst, FULL / unit / burst * burst),
    };
    let (interval, window) = of(service, 1);
    let (source_interval, source_window) = of(source, SOURCE_UNIT_NS);
    Arrivals {
        interval,
        window,
        source_interval,
        source_window,
        seed: 5,
        mask_v4: address("255.255.255.0"),
        mask_v6: address("ffff:ffff:ffff:ffff::"),
        ..Arrivals::default()
    }
}

const NETS: [(&str, &str, &str); 2] = [
    ("10.1.1.1", "10.0.1.11", "10.0.1."),
    ("fd00:f::1", "fd00:1::11", "fd00:1::"),
];

/// `l2dsr` VIPs on port 80 that remember, TCP and UDP, and on port 81 that does not.
fn serve(lab: &mut Lab, limit: Arrivals) -> Result<()> {
    for (net, (own, at, _)) in (0..).zip(NETS) {
        lab.set_instance(net as u16 + 1, instance(at, 80))?;
        for (number, port, protocol, flags) in [
            (0, 80, PROTOCOL_TCP, 0),
            (1, 80, PROTOCOL_UDP, 0),
            (2, 81, PROTOCOL_TCP, VIP_OWNED | VIP_SETTLES),
        ] {
            let id = net * 4 + number;
            let value = Vip {
                forward: FORWARD_L2DSR,
                flags: flags | VIP_LIMITED,
                table: net,
                ..vip(id)
            };
            lab.serve(vip_key(own, port, protocol), value, &[net as u16 + 1])?;
            lab.set_arrivals(
                id,
                Arrivals {
                    bucket: id,
                    ..limit
                },
            )?;
        }
    }
    Ok(())
}

fn client(net: usize, host: u32, port: u16) -> Result<SocketAddr> {
    let beginning = NETS[net].2;
    let ip = if net == 0 {
        format!("10.0.{}.{}:{port}", 1 + host / 250, 2 + host % 250)
    } else {
        format!("[{beginning}{:x}]:{port}", host + 2)
    };
    ip.parse().with_context(|| ip)
}

fn target(net: usize, port: u16) -> SocketAddr {
    let own = NETS[net].0;
    at(&if net == 0 {
        format!("{own}:{port}")
    } else {
        format!("[{own}]:{port}")
    })
}

fn goes(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Transmit | Verdict::Redirect(_))
}

#[test]
fn what_begins_a_connection_is_counted_and_nothing_else_is() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab, bursts(12, 5))?;
        for net in 0..2 {
            for port in [80, 81] {
                let syn = |host, from| -> Result<Vec<u8>> {
                    Ok(Build::tcp(client(net, host, from)?, target(net, port), SYN).bytes())
                };
                for from in 1000..1010 {
                    let seen = lab.send(&syn(1, from)?)?;
                    let expected = from < 1005;
                    ensure!(
                        goes(seen.verdict) == expected,
                        "{net} {port} {from}: {:?}",
                        seen.verdict
                    );
                    if !expected {
                        ensure!(seen.verdict == Verdict::Drop(Counter::DropSourceArrivals));
                    }
                }
                // The same /24 or /64 is the same source.
                let seen = lab.send(&syn(20, 1)?)?;
                ensure!(seen.verdict == Verdict::Drop(Counter::DropSourceArrivals));
                for from in 1000..1005 {
                    for _ in 0..3 {
                        let known = Build::tcp(client(net, 1, from)?, target(net, port), ACK);
                        let seen = lab.send(&known.bytes())?;
                        ensure!(goes(seen.verdict), "{net} {port}: {:?}", seen.verdict);
                    }
                }
            }
        }
        // Seven are left to other sources of the first net.
        let begun = (0..20_u32).map(|net| {
            let frame = Build::tcp(client(0, 500 + net * 250, 7)?, target(0, 80), SYN).bytes();
            Ok(lab.send(&frame)?.verdict)
        });
        let begun: Vec<Verdict> = begun.collect::<Result<_>>()?;
        let count = begun.iter().filter(|verdict| goes(**verdict)).count();
        ensure!(count == 7, "{begun:?}");
        ensure!(
            begun[19] == Verdict::Drop(Counter::DropArrivals),
            "{begun:?}"
        );
        lab.check_traffic(0, 1)
    })
}

#[test]
fn the_first_datagram_of_a_flow_is_what_counts() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab, bursts(0, 3))?;
        for net in 0..2 {
            for from in 1000..1006 {
                for _ in 0..4 {
                    let frame =
                        Build::udp(client(net, 1, from)?, target(net, 80), b"hello").bytes();
                    let seen = lab.send(&frame)?;
                    ensure!(
                        goes(seen.verdict) == (from < 1003),
                        "{from}: {:?}",
                        seen.verdict
                    );
                }
            }
        }
        Ok(())
    })
}

#[test]
fn processors_that_receive_at_once_give_away_no_more_than_there_is() -> Result<()> {
    run(SIZES, |lab| {
        let processors = thread::available_parallelism()?.get();
        for (round, (limit, reason)) in [
            (bursts(1000, 0), Counter::DropArrivals),
            (bursts(0, 1000), Counter::DropSourceArrivals),
        ]
        .into_iter()
        .enumerate()
        {
            serve(
                lab,
                Arrivals {
                    seed: round as u64,
                    ..limit
                },
            )?;
            let before = lab.kernel().counters()?;
            let kernel = &*lab.kernel();
            let results = thread::scope(|scope| {
                let threads: Vec<_> = (0..processors)
                    .map(|processor| {
                        scope.spawn(move || -> Result<()> {
                            pin(processor)?;
                            for number in 0..3000_u32 {
                                let port = 1000 + (number * 2 + processor as u32 % 2) as u16;
                                // One source, of as many addresses as there are processors.
                                let from = client(0, processor as u32, port)?;
                                let frame = Build::tcp(from, target(0, 81), SYN).bytes();
                                kernel.run(&frame, FRONT)?;
                            }
                            Ok(())
                        })
                    })
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| {
                        thread
                            .join()
                            .map_err(|_| anyhow::anyhow!("a thread panicked"))?
                    })
                    .collect::<Result<Vec<()>>>()
            });
            results?;
            let after = lab.kernel().counters()?;
            let more = |counter| after.get(counter) - before.get(counter);
            let sent = 3000 * processors as u64;
            ensure!(
                more(Counter::ConnectionsOpened) == 1000,
                "{}",
                more(Counter::ConnectionsOpened)
            );
            ensure!(more(reason) == sent - 1000, "{}", more(reason));
            ensure!(after.adds_up());
        }
        Ok(())
    })
}
