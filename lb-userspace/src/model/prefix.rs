//! Ranges of addresses.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// The addresses that share their first bits: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpPrefix {
    address: IpAddr,
    length: u8,
}

/// A text that is no range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected an address or a range such as 10.0.0.0/8 or fd00::/8 without bits beyond its \
     length, found {found:?}"
)]
pub struct PrefixError {
    found: String,
}

impl IpPrefix {
    /// One address alone. An IPv4 address in IPv6 clothes counts as the IPv4 address that it is.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let length = if address.is_ipv4() { 32 } else { 128 };
        Self { address, length }
    }

    /// The range of `length` bits that `address` is in; the address alone where it has no more bits.
    #[must_use]
    pub fn around(address: IpAddr, length: u8) -> Self {
        let alone = Self::of(address);
        let length = length.min(alone.length);
        Self {
            address: masked(alone.address, length),
            length,
        }
    }

    /// Its first address.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// The number of bits that its addresses share.
    #[must_use]
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Whether all addresses of `other` are in it.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// The range of one bit less that holds this one; `None` when there is none.
    #[must_use]
    pub fn shortened(self) -> Option<Self> {
        let length = self.length.checked_sub(1)?;
        Some(Self {
            address: masked(self.address, length),
            length,
        })
    }

    /// Whether `address` is in the range. An IPv4 address in IPv6 clothes (`::ffff:10.0.0.1`)
    /// counts as the IPv4 address that it is.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.length) == self.address
    }
}

/// `address` with all bits beyond the first `length` cleared.
fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX
                .checked_shl(32 - u32::from(length))
                .unwrap_or_default();
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(length))
                .unwrap_or_default();
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

impl FromStr for IpPrefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || PrefixError {
            found: text.to_owned(),
        };
        let (address, length) = match text.split_once('/') {
            Some((address, length)) if length.bytes().all(|b| b.is_ascii_digit()) => {
                (address, Some(length.parse().map_err(|_| error())?))
            }
            Some(_) => return Err(error()),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length = length.unwrap_or(longest);
        if length > longest || masked(address, length) != address {
            return Err(error());
        }
        Ok(Self { address, length })
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(prefix: &str, address: &str) -> bool {
        let prefix: IpPrefix = prefix.parse().unwrap();
        prefix.contains(address.parse().unwrap())
    }

    #[test]
    fn a_range_holds_what_shares_its_bits() {
        for (prefix, inside, outside) in [
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("::/0", "2001:db8::1", "1.2.3.4"),
            ("10.0.0.0/8", "::ffff:10.1.1.1", "::ffff:11.1.1.1"),
        ] {
            assert!(contains(prefix, inside), "{prefix} {inside}");
            assert!(!contains(prefix, outside), "{prefix} {outside}");
        }
    }

    #[test]
    fn a_range_is_found_around_an_address() {
        for (address, length, range) in [
            ("10.1.2.3", 8, "10.0.0.0/8"),
            ("10.1.2.3", 32, "10.1.2.3/32"),
            ("10.1.2.3", 128, "10.1.2.3/32"),
            ("10.1.2.3", 0, "0.0.0.0/0"),
            ("::ffff:10.1.2.3", 24, "10.1.2.0/24"),
            ("fd00:1::1", 16, "fd00::/16"),
        ] {
            let found = IpPrefix::around(address.parse().unwrap(), length);
            assert_eq!(found.to_string(), range, "{address} {length}");
        }
    }

    #[test]
    fn bad_ranges_are_refused() {
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "fd00::/129",
            "10.0.0.0/+8",
            "a/8",
            "10/8",
        ] {
            let error = bad.parse::<IpPrefix>().unwrap_err().to_string();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
        let shown: IpPrefix = "10.0.0.0/8".parse().unwrap();
        assert_eq!(shown.to_string(), "10.0.0.0/8");
    }
}
