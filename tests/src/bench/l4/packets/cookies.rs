//! Packets that depend on what the program has answered or sent before.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};

use super::{
    rows::{ACK, SYN, client},
    vips::COOKIED,
};
use crate::packet::{Build, Kernel, handshake, network::FRONT};

/// The number of the instance's SYN.
const INSTANCES: u32 = 777_000;
/// `XDP_TX`.
const TRANSMITTED: u32 = 3;
/// `XDP_REDIRECT`.
const REDIRECTED: u32 = 4;

/// What a client sends that was answered with a cookie.
pub(super) fn shown(kernel: &mut Kernel, syn: &Build) -> Result<Build> {
    let answer = sent(kernel, syn)?;
    let cookie = handshake::number(&answer, 4)?;
    Ok(syn.with(|packet| {
        packet.flags = ACK;
        packet.number = syn.number.wrapping_add(1);
        packet.acknowledged = cookie.wrapping_add(1);
    }))
}

/// A packet of a client that has shown its cookie and whose instance has answered.
pub(super) fn spliced(kernel: &mut Kernel) -> Result<Vec<u8>> {
    let syn = client(1, COOKIED, SYN);
    let shown = shown(kernel, &syn)?;
    let answer = answer_to(kernel, &shown.bytes(), SYN | ACK)?.with(|packet| {
        packet.number = INSTANCES;
        packet.acknowledged = shown.number;
        packet.tcp_options = handshake::mss(1460);
    });
    sent(kernel, &answer)?;
    sent(kernel, &shown)?;
    Ok(shown.bytes())
}

/// The packet as the program sends it on.
fn sent(kernel: &mut Kernel, packet: &Build) -> Result<Vec<u8>> {
    let outcome = kernel.run(&packet.bytes(), FRONT)?;
    ensure!(
        [TRANSMITTED, REDIRECTED].contains(&outcome.action),
        "expected a packet that is sent, found action {} for {packet:?}",
        outcome.action
    );
    Ok(outcome.frame)
}

/// What the instance would answer to a request by `nat`, once the program has forwarded it.
pub(super) fn answer_to(kernel: &mut Kernel, request: &[u8], flags: u8) -> Result<Build> {
    let forwarded = kernel.run(request, FRONT)?.frame;
    ensure!(
        forwarded[26..34] != request[26..34],
        "expected nat to rewrite addresses"
    );
    let address = |at: usize| {
        let octets = [
            forwarded[at],
            forwarded[at + 1],
            forwarded[at + 2],
            forwarded[at + 3],
        ];
        Ipv4Addr::from(octets)
    };
    let port = |at: usize| u16::from_be_bytes([forwarded[at], forwarded[at + 1]]);
    let lb = SocketAddr::from((address(26), port(34)));
    let instance = SocketAddr::from((address(30), port(36)));
    Ok(Build::tcp(instance, lb, flags))
}
