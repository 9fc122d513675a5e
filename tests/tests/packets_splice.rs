//! Connections that were begun by a SYN cookie, packet by packet, in the kernel and in the library: two
//! handshakes, and what comes after them in both directions.

use anyhow::{Result, ensure};
use lb_common::{
    Counter, FORWARD_NAT, INSTANCE_DOWN, InstanceEntry, PROTOCOL_TCP, VIP_COOKIES, VIP_LIMITED, Vip,
};
use lb_ebpf::Verdict;
use lb_tests::packet::Build;
use lb_tests::packet::build::tcp;
use lb_tests::packet::handshake::{
    ALWAYS, CLIENTS, Handshake, INSTANCE_MAC, INSTANCES, SIZES, V4, expect, goes, in_each, mss,
    number, same, serve,
};
use lb_tests::packet::lab::{instance, run, vip, vip_key};
use lb_tests::packet::network::FRONT_MAC;
use lb_tests::packet::tunnel::IcmpError;

#[test]
fn two_handshakes_become_one_connection() -> Result<()> {
    in_each(|lab, net| {
        let mut side = Handshake::new(net, 5000);
        let asked = side.ask(lab)?;
        let synack = Build::tcp(side.vip, side.client, tcp::SYN | tcp::ACK).with(|packet| {
            (packet.number, packet.acknowledged) = (side.cookie, CLIENTS.wrapping_add(1));
            packet.macs = (packet.macs.1, packet.macs.0);
            packet.window = 0;
            (packet.id, packet.label) = (0, 0);
            packet.tcp_options = mss(net.fits);
        });
        same(&asked.frame, &synack)?;
        // Once more is the same, and nothing is remembered of either.
        ensure!(lab.send(&side.syn().bytes())?.frame == asked.frame);
        ensure!(lab.flows()? == 0 && lab.live(net.index)? == 0);

        let begun = side.show(lab)?;
        same(&begun.frame, &side.second_syn(1234))?;
        ensure!(lab.flows()? == 2 && lab.live(net.index)? == 1);
        // Whatever the client sends before the instance has answered is the SYN again: data, and the
        // question whether the window is open.
        let data = side.request(tcp::ACK | tcp::PSH).with(|packet| {
            packet.payload = b"GET / HTTP/1.1\r\n\r\n".to_vec();
            packet.window = 99;
        });
        expect(lab, &data, &side.second_syn(99))?;
        let asks = side
            .request(tcp::ACK)
            .with(|packet| packet.number = CLIENTS);
        expect(lab, &asks, &side.second_syn(1234))?;
        let ends = side.request(tcp::ACK | tcp::FIN);
        expect(lab, &ends, &side.second_syn(1234))?;
        ensure!(lab.flows()? == 2 && lab.live(net.index)? == 1);

        // As often as the instance says it.
        for _ in 0..2 {
            expect(lab, &side.answer(), &side.opening())?;
        }
        let data = data.with(|packet| packet.window = 1234);
        let expected = side.at_instance(&data);
        let expected = expected.with(|packet| packet.acknowledged = INSTANCES + 1);
        for _ in 0..2 {
            expect(lab, &data, &expected)?;
        }
        expect(lab, &side.answer(), &side.opening())?;
        let reply = side.reply(tcp::ACK | tcp::PSH).with(|packet| {
            packet.acknowledged = CLIENTS.wrapping_add(19);
            packet.payload = vec![0x55; 1001];
        });
        let expected = side.at_client(&reply);
        let expected = expected.with(|packet| packet.number = side.cookie.wrapping_add(1));
        for _ in 0..2 {
            expect(lab, &reply, &expected)?;
        }
        // Both end.
        let end = reply.with(|packet| {
            packet.flags = tcp::ACK | tcp::FIN;
            packet.number = INSTANCES + 1002;
            packet.payload.clear();
        });
        let expected = side.at_client(&end);
        let expected = expected.with(|packet| packet.number = side.cookie.wrapping_add(1002));
        expect(lab, &end, &expected)?;
        ensure!(lab.live(net.index)? == 1);
        let end = side.request(tcp::ACK | tcp::FIN).with(|packet| {
            packet.number = CLIENTS.wrapping_add(19);
            packet.acknowledged = side.cookie.wrapping_add(1003);
        });
        let expected = side.at_instance(&end);
        let expected = expected.with(|packet| packet.acknowledged = INSTANCES + 1003);
        expect(lab, &end, &expected)?;
        ensure!(lab.live(net.index)? == 0 && lab.flows()? == 2);
        // What comes late still finds its way, and the same client begins again.
        expect(lab, &end, &expected)?;
        let mut again = Handshake::new(net, 5000);
        again.ask(lab)?;
        ensure!(lab.flows()? == 0);
        again.show(lab)?;
        ensure!(lab.live(net.index)? == 1 && lab.flows()? == 2);
        let counters = lab.counters();
        ensure!(counters.get(Counter::CookiesAccepted) == 2);
        ensure!(counters.get(Counter::AnsweredCookie) == 3);
        ensure!(counters.get(Counter::ConnectionsOpened) == 2);
        ensure!(counters.get(Counter::CookiesRefused) == 0);
        lab.check_traffic(net.id, net.index)
    })
}

#[test]
fn resets_reach_both_sides_before_and_after() -> Result<()> {
    in_each(|lab, net| {
        // The instance refuses.
        let mut side = Handshake::new(net, 5000);
        side.ask(lab)?;
        side.show(lab)?;
        let refusal = side
            .reply(tcp::RST | tcp::ACK)
            .with(|packet| packet.number = 0);
        let expected = side.at_client(&refusal);
        let expected = expected.with(|packet| packet.number = side.cookie.wrapping_add(1));
        expect(lab, &refusal, &expected)?;
        ensure!(lab.live(net.index)? == 0);
        // The client gives up before the instance has answered.
        let mut side = Handshake::new(net, 5001);
        side.ask(lab)?;
        side.show(lab)?;
        let reset = side.request(tcp::RST);
        expect(lab, &reset, &side.at_instance(&reset))?;
        ensure!(lab.live(net.index)? == 0);
        // Afterwards: one that acknowledges, and one that does not.
        let mut side = Handshake::new(net, 5002);
        side.connect(lab)?;
        let reset = side.reply(tcp::RST);
        let expected = side.at_client(&reset);
        let expected = expected.with(|packet| packet.number = side.cookie.wrapping_add(1));
        expect(lab, &reset, &expected)?;
        let mut side = Handshake::new(net, 5003);
        side.connect(lab)?;
        let reset = side.request(tcp::RST | tcp::ACK);
        let expected = side.at_instance(&reset);
        let expected = expected.with(|packet| packet.acknowledged = INSTANCES + 1);
        expect(lab, &reset, &expected)?;
        ensure!(lab.live(net.index)? == 0);
        ensure!(lab.counters().get(Counter::ConnectionsClosed) == 4);
        Ok(())
    })
}

#[test]
fn an_instance_that_knows_an_older_connection_is_made_to_forget_it() -> Result<()> {
    in_each(|lab, net| {
        let mut side = Handshake::new(net, 5000);
        side.ask(lab)?;
        side.show(lab)?;
        let stale = side.reply(tcp::ACK).with(|packet| {
            (packet.number, packet.acknowledged) = (42, 4711);
            packet.payload = vec![1; 30];
        });
        let seen = lab.send(&stale.bytes())?;
        ensure!(seen.verdict == Verdict::Answer(Counter::AnsweredStale));
        let reset = Build::tcp(side.seen_as, side.instance, tcp::RST).with(|packet| {
            (packet.number, packet.acknowledged) = (4711, 0);
            packet.macs = (packet.macs.1, packet.macs.0);
            packet.window = 0;
            (packet.id, packet.label) = (0, 0);
        });
        same(&seen.frame, &reset)?;
        let nothing = side.reply(0);
        let seen = lab.send(&nothing.bytes())?;
        ensure!(seen.verdict == Verdict::Drop(Counter::DropUnspliced));
        // Then it begins anew.
        expect(lab, &side.request(tcp::ACK), &side.second_syn(1234))?;
        expect(lab, &side.answer(), &side.opening())?;
        lab.check_traffic(net.id, net.index)
    })
}

/// The client has gone and another one, or the same, comes from its port.
#[test]
fn a_new_connection_is_held_up_by_an_old_one_for_one_syn_at_most() -> Result<()> {
    in_each(|lab, net| {
        for (port, is_answered) in [(5000, false), (5001, true)] {
            let mut old = Handshake::new(net, port);
            if is_answered {
                old.connect(lab)?;
            } else {
                old.ask(lab)?;
                old.show(lab)?;
            }
            let syn = old.syn().with(|packet| packet.number = 99);
            for _ in 0..2 {
                // The instance says what it knows.
                ensure!(goes(&lab.send(&syn.bytes())?));
                // A client that goes on has sent it late.
                ensure!(goes(&lab.send(&old.request(tcp::ACK).bytes())?));
            }
            ensure!(goes(&lab.send(&syn.bytes())?));
            ensure!(lab.live(net.index)? == 1);
            let seen = lab.send(&syn.bytes())?;
            ensure!(
                seen.verdict == Verdict::Answer(Counter::AnsweredCookie),
                "{:?}",
                seen.verdict
            );
            ensure!(lab.live(net.index)? == 0);
        }
        Ok(())
    })
}

#[test]
fn an_instance_that_goes_down_before_it_answers_is_replaced() -> Result<()> {
    run(SIZES, |lab| {
        serve(lab, ALWAYS)?;
        let mut side = Handshake::new(V4, 5000);
        side.ask(lab)?;
        side.show(lab)?;
        lab.set_instance(
            1,
            InstanceEntry {
                state: INSTANCE_DOWN,
                ..instance("10.0.1.11", 8080)
            },
        )?;
        lab.set_instance(3, instance("10.0.1.12", 8080))?;
        let value = Vip {
            flags: VIP_COOKIES | VIP_LIMITED,
            table: 3,
            ..vip(1)
        };
        lab.serve(vip_key(V4.vip, V4.port, PROTOCOL_TCP), value, &[3])?;
        let seen = lab.send(&side.request(tcp::ACK).bytes())?;
        ensure!(goes(&seen) && seen.frame[..6] == [2, 0, 0, 0, 1, 12]);
        ensure!(number(&seen.frame, 4)? == CLIENTS);
        ensure!(lab.live(1)? == 0 && lab.live(3)? == 1 && lab.flows()? == 2);
        Ok(())
    })
}

#[test]
fn what_is_said_of_an_instances_packets_has_the_instances_numbers() -> Result<()> {
    in_each(|lab, net| {
        let mut side = Handshake::new(net, 5000);
        side.connect(lab)?;
        let (router, head) = if side.client.is_ipv4() {
            ("203.0.113.9", [3, 4])
        } else {
            ("2001:db8::9", [2, 0])
        };
        let quote = |from, to, number| {
            let packet = Build::tcp(from, to, tcp::ACK).with(|packet| packet.number = number);
            packet.bytes()[14..]
                .iter()
                .copied()
                .take(48)
                .collect::<Vec<u8>>()
        };
        let old = quote(side.vip, side.client, side.cookie.wrapping_add(5001));
        let mut new = quote(side.instance, side.seen_as, INSTANCES + 5001);
        // Nobody can tell what the checksum would be of what is cut off.
        if side.client.is_ipv4() {
            new[36..38].copy_from_slice(&old[36..38]);
        }
        let sent = IcmpError {
            macs: (FRONT_MAC, [2, 0, 0, 0, 0, 2]),
            ends: (router.parse()?, side.vip.ip()),
            class: 0,
            ttl: 64,
            head,
            rest: [0, 0, 5, 0],
            quoted: old,
        };
        let mut expected = sent.clone();
        expected.macs = (INSTANCE_MAC, FRONT_MAC);
        expected.ends.1 = side.instance.ip();
        expected.ttl = 63;
        expected.quoted = new;
        let seen = lab.send(&sent.bytes())?;
        ensure!(goes(&seen), "{:?}", seen.verdict);
        ensure!(seen.frame == expected.bytes(), "{:02x?}", seen.frame);
        // The client's own numbers are the same on both sides.
        let quoted = |from, to| quote(from, to, CLIENTS.wrapping_add(1));
        let mut sent = sent;
        sent.ends = (router.parse()?, side.seen_as.ip());
        if net.forward == FORWARD_NAT {
            sent.quoted = quoted(side.seen_as, side.instance);
            let seen = lab.send(&sent.bytes())?;
            ensure!(goes(&seen), "{:?}", seen.verdict);
            let inner = if side.client.is_ipv4() { 20 } else { 40 };
            let at = seen.frame.len() - sent.quoted.len() + inner + 4;
            ensure!(seen.frame[at..at + 4] == CLIENTS.wrapping_add(1).to_be_bytes());
        }
        Ok(())
    })
}
