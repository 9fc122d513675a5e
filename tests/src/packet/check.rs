//! A second opinion: checksums as the `etherparse` crate computes them.

use anyhow::{Context, Result, bail, ensure};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

/// Checks every checksum of a frame that is whole.
///
/// # Errors
/// When one is not what it should be, or the frame cannot be read.
pub fn checksums(frame: &[u8]) -> Result<()> {
    let packet = SlicedPacket::from_ethernet(frame).context("not a whole packet")?;
    match (&packet.net, &packet.transport) {
        (Some(NetSlice::Ipv4(ip)), Some(transport)) => {
            let header = ip.header();
            let expected = header.to_header().calc_header_checksum();
            let found = header.header_checksum();
            ensure!(
                expected == found,
                "expected the IPv4 header checksum {expected:#06x}, found {found:#06x}"
            );
            let (source, destination) = (header.source(), header.destination());
            match transport {
                TransportSlice::Tcp(tcp) => same(
                    "TCP",
                    tcp.calc_checksum_ipv4(source, destination)?,
                    tcp.checksum(),
                ),
                TransportSlice::Udp(udp) if udp.checksum() == 0 => Ok(()),
                TransportSlice::Udp(udp) => {
                    let header = udp.to_header();
                    let sum = header.calc_checksum_ipv4_raw(source, destination, udp.payload())?;
                    same("UDP", sum, udp.checksum())
                }
                other => bail!("expected TCP or UDP, found {other:?}"),
            }
        }
        (Some(NetSlice::Ipv6(ip)), Some(transport)) => {
            let header = ip.header();
            let (source, destination) = (header.source(), header.destination());
            match transport {
                TransportSlice::Tcp(tcp) => same(
                    "TCP",
                    tcp.calc_checksum_ipv6(source, destination)?,
                    tcp.checksum(),
                ),
                TransportSlice::Udp(udp) => {
                    let header = udp.to_header();
                    let sum = header.calc_checksum_ipv6_raw(source, destination, udp.payload())?;
                    same("UDP", sum, udp.checksum())
                }
                other => bail!("expected TCP or UDP, found {other:?}"),
            }
        }
        _ => bail!("expected an IP packet with a transport header"),
    }
}

fn same(protocol: &str, expected: u16, found: u16) -> Result<()> {
    ensure!(
        expected == found,
        "expected the {protocol} checksum {expected:#06x}, found {found:#06x}"
    );
    Ok(())
}
