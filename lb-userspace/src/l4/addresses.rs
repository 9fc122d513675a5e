//! Addresses of the host's interfaces.

use std::net::IpAddr;

/// The addresses of `interface`, in the order in which the system lists them; none when there is no
/// such interface or the system does not say.
pub(crate) fn of(interface: Option<&str>) -> Vec<IpAddr> {
    let Some(name) = interface else {
        return Vec::new();
    };
    if_addrs::get_if_addrs()
        .unwrap_or_default()
        .into_iter()
        .filter(|found| found.name == name)
        .map(|found| found.ip())
        .collect()
}

/// The addresses of all interfaces; none when the system does not say.
pub(crate) fn all() -> Vec<IpAddr> {
    if_addrs::get_if_addrs()
        .unwrap_or_default()
        .into_iter()
        .map(|found| found.ip())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    #[test]
    fn loopback_has_its_address_and_nothing_has_none() {
        assert!(super::of(Some("lo")).contains(&Ipv4Addr::LOCALHOST.into()));
        assert!(super::of(Some("no-such-interface")).is_empty());
        assert!(super::all().contains(&Ipv4Addr::LOCALHOST.into()));
        assert!(super::of(None).is_empty());
    }
}
