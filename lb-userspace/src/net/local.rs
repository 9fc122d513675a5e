//! Whether packets for an address are delivered to sockets of this host.

use std::{
    fs,
    net::{IpAddr, Ipv6Addr, UdpSocket},
};

/// `RTF_LOCAL` of `linux/ipv6_route.h`.
const LOCAL: u32 = 0x8000_0000;

/// Whether packets for `address` are delivered to sockets of this host: it is one of its addresses,
/// or a route of the kind `local` has it (`ip route add local 192.0.2.0/24 dev lo`). `None` when the
/// system does not say.
pub(crate) fn is_delivered(address: IpAddr) -> Option<bool> {
    match address {
        // The system looks for a local route when a socket asks for an address.
        IpAddr::V4(_) => Some(UdpSocket::bind((address, 0)).is_ok()),
        // Here it looks at the interfaces' addresses alone; the routes are in a file.
        IpAddr::V6(address) => {
            let routes = fs::read_to_string("/proc/net/ipv6_route").ok()?;
            Some(routes.lines().any(|line| has(line, address)))
        }
    }
}

/// Whether a line of `/proc/net/ipv6_route` is a local route for `address`: destination and length
/// in front, flags in the ninth field, all hexadecimal.
fn has(line: &str, address: Ipv6Addr) -> bool {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (Some(to), Some(length), Some(flags)) = (fields.first(), fields.get(1), fields.get(8))
    else {
        return false;
    };
    let (Ok(to), Ok(length), Ok(flags)) = (
        u128::from_str_radix(to, 16),
        u32::from_str_radix(length, 16),
        u32::from_str_radix(flags, 16),
    ) else {
        return false;
    };
    let differing = (to ^ address.to_bits())
        .checked_shr(128_u32.saturating_sub(length))
        .unwrap_or(0);
    flags & LOCAL != 0 && differing == 0
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn loopback_is_delivered_and_the_addresses_of_examples_are_not() {
        assert_eq!(is_delivered(Ipv4Addr::new(127, 1, 2, 3).into()), Some(true));
        assert_eq!(
            is_delivered(Ipv4Addr::new(192, 0, 2, 1).into()),
            Some(false)
        );
        assert_ne!(is_delivered("2001:db8::1".parse().unwrap()), Some(true));
    }

    #[test]
    fn routes_are_read() {
        let line = |to: &str, length: &str, flags: &str| {
            format!(
                "{to} {length} 00000000000000000000000000000000 00 \
                 00000000000000000000000000000000 00000000 00000002 00000000 {flags}       lo"
            )
        };
        let net = "20010db8000000010000000000000000";
        let inside: Ipv6Addr = "2001:db8:0:1::7".parse().unwrap();
        let outside: Ipv6Addr = "2001:db8:0:2::7".parse().unwrap();
        let local = line(net, "40", "80200001");
        assert!(has(&local, inside) && !has(&local, outside));
        assert!(!has(&line(net, "40", "00000001"), inside));
        assert!(has(&line(net, "00", "80000001"), outside));
        assert!(!has("", inside) && !has("x y", inside));
    }
}
