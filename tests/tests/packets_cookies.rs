//! SYN cookies, packet by packet, in the kernel and in the library: who gets one, what it is good for, and
//! what becomes of packets that show none.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use lb_common::{
    Arrivals, CookieKeys, Counter, FORWARD_SPLICED, PROTOCOL_TCP, VIP_COOKIES, VIP_LIMITED,
    VIP_REFUSES, Vip,
};
use lb_ebpf::Verdict;
use lb_tests::packet::build::{extension, tcp};
use lb_tests::packet::handshake::{
    ALWAYS, CLIENTS, FIRST_KEY, Handshake, NETS, SIZES, V4, goes, in_each, l4, mss, number, serve,
};
use lb_tests::packet::lab::{Lab, at, at_each_hook, run, vip, vip_key};
use lb_tests::packet::network::FRONT;
use lb_tests::packet::{Build, check};

#[test]
fn the_first_packet_may_have_data_and_the_clients_segment_size_is_kept() -> Result<()> {
    in_each(|lab, net| {
        for (number, said, told) in [
            (1, mss(9000), net.fits),
            (
                2,
                mss(1399),
                1380 - if net.client.contains(':') { 0 } else { 20 },
            ),
            (
                3,
                mss(600),
                if net.client.contains(':') { 1220 } else { 536 },
            ),
            (4, vec![], if net.client.contains(':') { 1220 } else { 536 }),
            (
                5,
                vec![3, 0, 2, 4],
                if net.client.contains(':') { 1220 } else { 536 },
            ),
        ] {
            let mut side = Handshake::new(net, 5000 + number);
            let syn = side.syn().with(|packet| packet.tcp_options = said);
            let seen = lab.send(&syn.bytes())?;
            side.cookie = self::number(&seen.frame, 4)?;
            check::checksums(&seen.frame)?;
            let data = side
                .request(tcp::ACK)
                .with(|packet| packet.payload = vec![7; 1000]);
            let seen = lab.send(&data.bytes())?;
            ensure!(goes(&seen), "{:?}", seen.verdict);
            check::checksums(&seen.frame)?;
            let l4 = l4(&seen.frame)?;
            ensure!(
                seen.frame[l4 + 20..] == mss(told),
                "{number}: expected {told}, found {:?}",
                &seen.frame[l4 + 20..]
            );
        }
        Ok(())
    })
}

#[test]
fn cookies_are_good_for_their_time_and_their_keys() -> Result<()> {
    in_each(|lab, net| {
        let mut port = 5000;
        let mut held = || {
            port += 1;
            Handshake::new(net, port)
        };
        let (mut one, mut two, mut three) = (held(), held(), held());
        for side in [&mut one, &mut two, &mut three] {
            side.ask(lab)?;
        }
        let second = FIRST_KEY.prepared([3, 4]).turned(0);
        lab.set_cookie_keys(second, 7)?;
        one.show(lab)?;
        ensure!(lab.counters().get(Counter::CookiesAccepted) == 1);
        // While it waits it has to show the cookie again, which is too old by now.
        lab.set_cookie_keys(second, 8)?;
        let seen = lab.send(&one.request(tcp::ACK).bytes())?;
        ensure!(seen.verdict == Verdict::Drop(Counter::DropUnspliced));
        // Two slots later it is as good as none: what comes is of no connection.
        two.show(lab)?;
        ensure!(lab.counters().get(Counter::CookiesRefused) == 1);
        lab.set_cookie_keys(second.prepared([5, 6]).turned(0), 7)?;
        three.show(lab)?;
        ensure!(lab.counters().get(Counter::CookiesRefused) == 2);
        ensure!(lab.counters().get(Counter::CookiesAccepted) == 1);
        // Without a key there are none.
        lab.set_cookie_keys(CookieKeys::default(), 7)?;
        let seen = lab.send(&held().syn().bytes())?;
        ensure!(goes(&seen), "{:?}", seen.verdict);
        ensure!(lab.counters().adds_up());
        Ok(())
    })
}

#[test]
fn forged_ones_are_what_they_were_without_cookies() -> Result<()> {
    in_each(|lab, net| {
        // The program before may have sent some.
        let side = Handshake::new(net, 4999);
        ensure!(goes(&lab.send(&side.request(tcp::ACK).bytes())?));
        ensure!(lab.counters().get(Counter::CookiesRefused) == 1);
        let mut real = Handshake::new(net, 5000);
        real.ask(lab)?;
        let forgeries: [fn(&mut Build); 4] = [
            |packet| packet.acknowledged ^= 0x100,
            |packet| packet.acknowledged = packet.acknowledged.wrapping_add(1),
            |packet| packet.number = packet.number.wrapping_add(1),
            |packet| packet.source.set_port(5001),
        ];
        for (count, forge) in forgeries.into_iter().enumerate() {
            let forged = real.request(tcp::ACK).with(forge);
            let seen = lab.send(&forged.bytes())?;
            ensure!(goes(&seen), "{count}: {:?}", seen.verdict);
            // The numbers are what they were.
            ensure!(number(&seen.frame, 4)? == forged.number);
            ensure!(number(&seen.frame, 8)? == forged.acknowledged);
            ensure!(lab.counters().get(Counter::CookiesRefused) == count as u64 + 2);
            let plain = lab.kernel().flows()?;
            ensure!(
                plain
                    .iter()
                    .all(|(_, entry)| entry.forward & FORWARD_SPLICED == 0)
            );
            // It opens no way for a SYN, whether it is reset or not.
            if count % 2 == 0 {
                lab.send(&forged.with(|packet| packet.flags = tcp::RST).bytes())?;
            }
            let seen = lab.send(&forged.with(|packet| packet.flags = tcp::SYN).bytes())?;
            ensure!(
                seen.verdict == Verdict::Answer(Counter::AnsweredCookie),
                "{count}: {:?}",
                seen.verdict
            );
        }
        lab.flows()?;
        Ok(())
    })
}

#[test]
fn what_one_program_has_asked_the_next_one_accepts() -> Result<()> {
    at_each_hook(|hook| {
        for net in NETS {
            let mut side = Handshake::new(net, 5000);
            let mut lab = Lab::new(hook, SIZES)?;
            serve(&mut lab, ALWAYS)?;
            side.ask(&mut lab)?;
            drop(lab);
            let mut lab = Lab::new(hook, SIZES)?;
            serve(&mut lab, ALWAYS)?;
            side.show(&mut lab)?;
            ensure!(lab.counters().get(Counter::CookiesAccepted) == 1);
        }
        Ok(())
    })
}

#[test]
fn who_has_shown_a_cookie_is_refused_with_the_number_that_it_expects() -> Result<()> {
    in_each(|lab, net| {
        let value = Vip {
            forward: net.forward,
            flags: VIP_COOKIES | VIP_LIMITED | VIP_REFUSES,
            table: net.index.into(),
            ..vip(net.id)
        };
        lab.serve(vip_key(net.vip, net.port, PROTOCOL_TCP), value, &[])?;
        let mut side = Handshake::new(net, 5000);
        side.ask(lab)?;
        let seen = lab.send(&side.request(tcp::ACK).bytes())?;
        ensure!(seen.verdict == Verdict::Answer(Counter::AnsweredRefused));
        check::checksums(&seen.frame)?;
        ensure!(number(&seen.frame, 4)? == side.cookie.wrapping_add(1));
        ensure!(seen.frame[l4(&seen.frame)? + 13] == tcp::RST);
        Ok(())
    })
}

#[test]
fn frames_of_all_kinds_are_answered_and_odd_ones_are_not() -> Result<()> {
    in_each(|lab, net| {
        let side = Handshake::new(net, 5000);
        let is_v4 = side.client.is_ipv4();
        type Change = fn(&mut Build);
        let answered: [(&str, Change); 6] = [
            ("no options", |packet| packet.tcp_options.clear()),
            ("padding", |packet| packet.padding = 6),
            ("a tag", |packet| packet.tags.push((0x8100, 7))),
            ("two tags and no options", |packet| {
                packet.tags.extend([(0x88a8, 9), (0x8100, 7)]);
                packet.tcp_options.clear();
            }),
            ("data", |packet| packet.payload = vec![1; 300]),
            ("congestion", |packet| packet.flags |= 0xc0),
        ];
        for (what, change) in answered {
            let syn = side.syn().with(change);
            let seen = lab.send(&syn.bytes()).context(what)?;
            ensure!(
                seen.verdict == Verdict::Answer(Counter::AnsweredCookie),
                "{what}: {:?}",
                seen.verdict
            );
            let l4 = if is_v4 { 34 } else { 54 } + 4 * syn.tags.len();
            ensure!(seen.frame.len() == l4 + 24, "{what}: {:02x?}", seen.frame);
            let expected = Build::tcp(side.vip, side.client, tcp::SYN | tcp::ACK).with(|packet| {
                let number = &seen.frame[l4 + 4..l4 + 8];
                packet.number = u32::from_be_bytes(number.try_into().unwrap_or_default());
                packet.acknowledged = CLIENTS.wrapping_add(1);
                packet.tags.clone_from(&syn.tags);
                packet.macs = (packet.macs.1, packet.macs.0);
                packet.window = 0;
                (packet.id, packet.label) = (0, 0);
                packet.tcp_options = mss(net.fits);
            });
            ensure!(
                seen.frame == expected.bytes(),
                "{what}: {:02x?}",
                seen.frame
            );
        }
        let nobody = if is_v4 { "224.0.0.1:7" } else { "[ff02::1]:7" };
        let mut dropped = vec![
            (
                "a fragment",
                side.syn().with(|packet| packet.fragments = 0x2000),
            ),
            (
                "a sender that is many",
                side.syn().with(|packet| packet.source = at(nobody)),
            ),
            (
                "a frame for many",
                side.syn().with(|packet| packet.macs.0 = [0xff; 6]),
            ),
        ];
        if is_v4 {
            dropped.push((
                "options",
                side.syn().with(|packet| packet.options = vec![1; 4]),
            ));
        } else {
            dropped.remove(0);
            let header = (extension::DESTINATION, vec![0; 7]);
            let odd = side.syn().with(|packet| packet.extensions = vec![header]);
            dropped.push(("a header more", odd));
        }
        for (what, syn) in dropped {
            let seen = lab.send(&syn.bytes()).context(what)?;
            ensure!(
                seen.verdict == Verdict::Drop(Counter::DropUnanswerable),
                "{what}: {:?}",
                seen.verdict
            );
        }
        ensure!(lab.flows()? == 0);
        lab.check_traffic(net.id, net.index)
    })
}

#[test]
fn syns_below_the_threshold_go_to_instances_and_others_do_not() -> Result<()> {
    // What is left of a bucket like that does not change while a test runs.
    const FULL: u64 = 14_400_000_000_000;
    run(SIZES, |lab| {
        let limit = Arrivals {
            cookie_interval: FULL / 10,
            cookie_window: FULL,
            ..ALWAYS
        };
        serve(lab, limit)?;
        for number in 0..40 {
            // The VIPs of a service share a bucket.
            let side = Handshake::new(NETS[number % 4], 5000 + number as u16);
            let seen = lab.send(&side.syn().bytes())?;
            if number < 10 {
                ensure!(goes(&seen), "{number}: {:?}", seen.verdict);
                let seen = lab.send(&side.request(tcp::ACK).bytes())?;
                ensure!(goes(&seen), "{number}: {:?}", seen.verdict);
            } else {
                ensure!(seen.verdict == Verdict::Answer(Counter::AnsweredCookie));
            }
        }
        ensure!(lab.flows()? == 20);
        ensure!(lab.counters().get(Counter::CookiesRefused) == 0);
        // A service that says nothing of it is as ever.
        lab.set_arrivals(
            1,
            Arrivals {
                cookie_interval: 0,
                ..ALWAYS
            },
        )?;
        let seen = lab.send(&Handshake::new(V4, 7000).syn().bytes())?;
        ensure!(goes(&seen), "{:?}", seen.verdict);
        Ok(())
    })
}

#[test]
fn a_connection_by_a_cookie_counts_where_connections_are_limited() -> Result<()> {
    const FULL: u64 = 14_400_000_000_000;
    run(SIZES, |lab| {
        serve(
            lab,
            Arrivals {
                interval: FULL / 3,
                window: FULL,
                ..ALWAYS
            },
        )?;
        for number in 0..5 {
            let mut side = Handshake::new(V4, 5000 + number);
            side.ask(lab)?;
            let seen = lab.send(&side.request(tcp::ACK).bytes())?;
            let expected = number < 3;
            ensure!(goes(&seen) == expected, "{number}: {:?}", seen.verdict);
            ensure!(expected || seen.verdict == Verdict::Drop(Counter::DropArrivals));
        }
        ensure!(lab.flows()? == 6 && lab.live(1)? == 3);
        lab.set_arrivals(1, ALWAYS)?;
        lab.set_ceiling(1, 3)?;
        let mut side = Handshake::new(V4, 6000);
        side.ask(lab)?;
        let seen = lab.send(&side.request(tcp::ACK).bytes())?;
        ensure!(seen.verdict == Verdict::Drop(Counter::DropConnectionLimit));
        // Who is refused may show it again.
        lab.set_ceiling(1, 4)?;
        side.show(lab)?;
        ensure!(lab.live(1)? == 4);
        lab.check_traffic(1, 1)
    })
}

#[test]
fn a_flood_makes_no_entries_and_keeps_nobody_out() -> Result<()> {
    const FLOOD: u32 = 200_000;
    run(SIZES, |lab| {
        serve(lab, ALWAYS)?;
        let kernel = &*lab.kernel();
        let send = |build: &Build| kernel.run(&build.bytes(), FRONT);
        let (mut random, mut connected) = (1_u64, 0);
        for sent in 0..FLOOD {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let bits = (random >> 16).to_be_bytes();
            // Nobody in particular, but not many and not oneself.
            let source = [bits[2] % 100 + 11, bits[3], bits[4], bits[5]];
            let port = u16::from_be_bytes([bits[6], bits[7]]) | 1024;
            let mut syn = Handshake::new(V4, 5000).syn();
            syn.source = SocketAddr::from((source, port));
            ensure!(send(&syn)?.is_sent);
            if sent % 200 == 0 {
                let mut side = Handshake::new(V4, 10_000 + (sent / 200) as u16);
                side.cookie = number(&send(&side.syn())?.frame, 4)?;
                let begun = send(&side.request(tcp::ACK))?;
                if begun.is_sent && number(&begun.frame, 4)? == CLIENTS {
                    connected += 1;
                }
            }
        }
        let counters = kernel.counters()?;
        ensure!(counters.adds_up());
        ensure!(connected == FLOOD / 200, "{connected}");
        let begun = counters.get(Counter::ConnectionsOpened);
        ensure!(begun == u64::from(connected), "{begun}");
        ensure!(counters.get(Counter::OpeningsForgotten) == 0);
        let entries = lab.kernel().flows()?.len();
        ensure!(entries == 2 * connected as usize, "{entries}");
        Ok(())
    })
}
