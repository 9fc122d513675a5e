//! Packets that are followed: what is told of each, to whom, and that nothing else becomes of it. Each runs
//! in the kernel and in the library, which must agree whether anybody follows or not.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_common::{
    Counter, EVENT_NEW, FOLLOW_ALL_VIPS, FOLLOW_NEW, FORWARD_IPIP, FORWARD_L2DSR, FlowEvent,
    Follower, MAX_FOLLOWERS, PROTOCOL_TCP, PROTOCOL_UDP, Settings, VIP_OWNED, VIP_REFUSES,
    VIP_SETTLES, Vip,
};
use lb_tests::packet::Build;
use lb_tests::packet::build::tcp;
use lb_tests::packet::kernel::Sizes;
use lb_tests::packet::lab::{Lab, address, at, instance, run, vip, vip_key};
use lb_tests::packet::network::{BACK, FRONT};

const CLIENT: &str = "10.0.1.2:5000";
/// `nat`, to an instance on the other interface.
const NAT: &str = "10.1.1.1:80";
/// `l2dsr`, without memory.
const DSR: &str = "10.1.1.2:80";
/// Without instances, which clients are told.
const REFUSES: &str = "10.1.1.3:80";
/// In a tunnel.
const TUNNEL: &str = "10.1.1.4:80";
/// Without instances, in silence.
const EMPTY: &str = "10.1.1.5:80";

const SIZES: Sizes = Sizes {
    connections: 4096,
    tables: 16,
};

fn serve(lab: &mut Lab) -> Result<()> {
    lab.set_settings(Settings {
        icmp_rate: 1000,
        ..lab.settings()
    })?;
    lab.set_instance(1, instance("10.0.2.21", 8080))?;
    lab.set_instance(2, instance("10.0.1.11", 80))?;
    let mut serve = |id: u32, flags: u8, forward: u8, instances: &[u16]| {
        let vip = Vip {
            table: id,
            flags,
            forward,
            ..vip(id)
        };
        let address = format!("10.1.1.{id}");
        lab.serve(vip_key(&address, 80, PROTOCOL_TCP), vip, instances)?;
        Ok::<_, anyhow::Error>(vip)
    };
    let nat = serve(1, 0, vip(1).forward, &[1])?;
    serve(2, VIP_OWNED | VIP_SETTLES, FORWARD_L2DSR, &[2])?;
    serve(3, VIP_REFUSES, nat.forward, &[])?;
    serve(4, 0, FORWARD_IPIP, &[2])?;
    serve(5, 0, nat.forward, &[])?;
    lab.serve(
        vip_key("10.1.1.1", 80, PROTOCOL_UDP),
        Vip { id: 6, ..nat },
        &[1],
    )
}

fn everything() -> Follower {
    Follower {
        counters: u64::MAX,
        flags: FOLLOW_ALL_VIPS,
        ..Follower::default()
    }
}

fn follow(lab: &mut Lab, follower: &Follower) -> Result<()> {
    lab.kernel().set_follower(0, follower)?;
    lab.kernel().set_followed(u64::MAX)
}

fn segment(to: &str, flags: u8) -> Vec<u8> {
    Build::tcp(at(CLIENT), at(to), flags).bytes()
}

fn datagram(to: &str) -> Vec<u8> {
    Build::udp(at(CLIENT), at(to), &[7; 9]).bytes()
}

/// Sends a frame and returns its event.
fn told(lab: &mut Lab, frame: &[u8]) -> Result<Option<FlowEvent>> {
    let seen = lab.send(frame)?;
    let event = lab.kernel().event();
    if let Some(event) = &event {
        ensure!(event.counter == seen.verdict.counter() as u32, "{event:?}");
        let bytes = &seen.frame[..seen.frame.len().min(lb_common::EVENT_BYTES)];
        ensure!(event.packet() == bytes, "{event:?}");
        ensure!(event.length as usize == seen.frame.len(), "{event:?}");
        ensure!(lab.kernel().event().is_none(), "two events of one packet");
    }
    Ok(event)
}

fn recorded(lab: &mut Lab) -> Result<(u64, u64)> {
    let counters = lab.kernel().counters()?;
    let of = |counter| counters.get(counter);
    Ok((of(Counter::FlowsRecorded), of(Counter::FlowsLost)))
}

#[test]
fn nothing_is_recorded_while_nobody_follows() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab)?;
        lab.kernel().set_follower(0, &everything())?;
        for frame in [segment(NAT, tcp::SYN), segment(EMPTY, tcp::SYN)] {
            ensure!(told(lab, &frame)?.is_none());
        }
        ensure!(lab.kernel().followed()? == 0);
        ensure!(recorded(lab)? == (0, 0));
        Ok(())
    })
}

#[test]
fn each_packet_is_told_with_its_verdict() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab)?;
        follow(lab, &everything())?;
        let large = Build::udp(at(CLIENT), at(NAT), &[7; 1000]).bytes();
        let mut last = 0;
        // Frame, counter, interface that it leaves by, VIP, instance, whether it begins a connection.
        for (frame, counter, out, vip, index, new) in [
            (
                segment(NAT, tcp::SYN),
                Counter::Redirected,
                BACK,
                1,
                1,
                true,
            ),
            (
                segment(NAT, tcp::ACK),
                Counter::Redirected,
                BACK,
                1,
                1,
                false,
            ),
            (
                segment(DSR, tcp::SYN),
                Counter::Transmitted,
                FRONT,
                2,
                2,
                true,
            ),
            (
                segment(DSR, tcp::ACK),
                Counter::Transmitted,
                FRONT,
                2,
                2,
                false,
            ),
            (
                segment(REFUSES, tcp::SYN),
                Counter::AnsweredRefused,
                FRONT,
                3,
                0,
                false,
            ),
            (
                segment(TUNNEL, tcp::SYN),
                Counter::Transmitted,
                FRONT,
                4,
                2,
                true,
            ),
            (
                segment(EMPTY, tcp::SYN),
                Counter::DropNoInstance,
                0,
                5,
                0,
                false,
            ),
            (datagram(NAT), Counter::Redirected, BACK, 6, 1, true),
            (datagram(NAT), Counter::Redirected, BACK, 6, 1, false),
            (large, Counter::Redirected, BACK, 6, 1, false),
            (
                datagram("10.0.1.1:53"),
                Counter::PassedNotVip,
                0,
                0,
                0,
                false,
            ),
            // Too short to have a tuple, and for no VIP that the last one was for.
            (vec![7; 20], Counter::PassedNotIp, 0, 0, 0, false),
        ] {
            let event = told(lab, &frame)?.with_context(|| format!("{counter:?} is not told"))?;
            ensure!(event.counter == counter as u32, "{counter:?}: {event:?}");
            ensure!((event.interface, event.out) == (FRONT, out), "{event:?}");
            let whose = (
                u32::from(event.vip),
                event.index,
                event.flags & EVENT_NEW != 0,
            );
            let id = if vip == 0 { 0 } else { vip + 1 };
            ensure!(whose == (id, index, new), "{counter:?}: {event:?}");
            ensure!(event.generation == u16::from(index != 0), "{event:?}");
            ensure!(event.followers == 1 && event.time > last, "{event:?}");
            last = event.time;
            if counter != Counter::PassedNotIp {
                // As it came, not as it leaves.
                ensure!(event.key.source == address("10.0.1.2"), "{event:?}");
            }
        }
        ensure!(recorded(lab)? == (12, 0));
        Ok(())
    })
}

#[test]
fn each_follower_gets_what_it_wants() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab)?;
        let mut wishes: [Follower; 5] = std::array::from_fn(|_| everything());
        wishes[0].counters = 0;
        wishes[0].want(Counter::DropNoInstance);
        wishes[1].flags = 0;
        wishes[1].want_vip(2);
        wishes[2].flags |= FOLLOW_NEW;
        wishes[3].want_source(&address("10.0.1.0"), 96 + 24);
        wishes[4].want_source(&address("10.0.1.3"), 128);
        // The last places, too.
        for (place, wish) in (MAX_FOLLOWERS - 5..).zip(&wishes) {
            lab.kernel().set_follower(place, wish)?;
        }
        lab.kernel().set_followed(u64::MAX)?;
        for (frame, expected) in [
            (segment(EMPTY, tcp::SYN), 0b01101),
            (segment(NAT, tcp::SYN), 0b01100),
            (segment(NAT, tcp::ACK), 0b01000),
            (segment(DSR, tcp::SYN), 0b01110),
            (segment(DSR, tcp::ACK), 0b01010),
        ] {
            let event = told(lab, &frame)?.context("nothing is told")?;
            ensure!(
                event.followers >> (MAX_FOLLOWERS - 5) == expected,
                "{event:?}"
            );
        }
        // Nobody wants to see what comes from elsewhere.
        for place in 0..MAX_FOLLOWERS {
            lab.kernel().set_follower(place, &wishes[4])?;
        }
        ensure!(told(lab, &segment(NAT, tcp::ACK))?.is_none());
        let sample = Follower {
            sample: 8,
            ..everything()
        };
        for place in 0..MAX_FOLLOWERS {
            lab.kernel().set_follower(place, &Follower::default())?;
        }
        follow(lab, &sample)?;
        let mut count = 0;
        for _ in 0..800 {
            count += u32::from(told(lab, &segment(DSR, tcp::ACK))?.is_some());
        }
        // A hundred; that they are fewer than 30 or more than 250 comes never.
        ensure!((30..250).contains(&count), "{count} of 800");
        Ok(())
    })
}

#[test]
fn recording_ends_by_itself() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab)?;
        follow(lab, &everything())?;
        ensure!(told(lab, &segment(DSR, tcp::SYN))?.is_some());
        // Long ago.
        lab.kernel().set_followed(1)?;
        ensure!(told(lab, &segment(DSR, tcp::ACK))?.is_none());
        ensure!(lab.kernel().followed()? == 0, "it is still on");
        Ok(())
    })
}

#[test]
fn what_finds_the_ring_full_is_counted_and_goes_its_way() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab)?;
        follow(lab, &everything())?;
        let frame = segment(DSR, tcp::ACK);
        let sent = 2500;
        for _ in 0..sent {
            lab.forward(&frame, FRONT)?;
        }
        lab.compare_counters()?;
        let (recorded, lost) = recorded(lab)?;
        ensure!(
            recorded + lost == sent && lost > 0 && recorded > 1000,
            "{recorded} were recorded, {lost} lost"
        );
        let mut read = 0;
        while lab.kernel().event().is_some() {
            read += 1;
        }
        ensure!(read == recorded, "{read} of {recorded}");
        // In another second, for the processor's budget begins anew.
        std::thread::sleep(Duration::from_millis(1001));
        ensure!(told(lab, &frame)?.is_some(), "the ring has room again");
        Ok(())
    })
}
