//! Connections that begin with a SYN cookie, with everything that their packets should become on
//! the way.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use lb_common::{
    Arrivals, CookieKeys, Counter, FORWARD_DNAT, FORWARD_NAT, PROTOCOL_TCP, Settings, VIP_COOKIES,
    VIP_LIMITED, Vip,
};
use lb_ebpf::Verdict;

use super::build::{Build, Mac, tcp};
use super::check;
use super::kernel::Sizes;
use super::lab::{Lab, Seen, at, instance, run, vip, vip_key};
use super::network::FRONT_MAC;

/// Sizes of the maps.
pub const SIZES: Sizes = Sizes {
    connections: 4096,
    tables: 4,
};

/// Of clients.
const CLIENT_MAC: Mac = [2, 0, 0, 0, 1, 2];
/// Of the instances.
pub const INSTANCE_MAC: Mac = [2, 0, 0, 0, 1, 11];

/// The number of a client's SYN.
pub const CLIENTS: u32 = 0xffff_fff0;
/// The number of an instance's.
pub const INSTANCES: u32 = 777_000;

/// The key that there is at first.
pub const FIRST_KEY: CookieKeys = CookieKeys {
    keys: [[1, 2], [0, 0]],
    current: 0,
    since: 0,
    origin: 0,
};

/// All SYNs get cookies.
pub const ALWAYS: Arrivals = Arrivals {
    interval: 0,
    window: 0,
    source_interval: 0,
    source_window: 0,
    cookie_interval: 1,
    cookie_window: 0,
    seed: 3,
    mask_v4: [0xff; 16],
    mask_v6: [0xff; 16],
    bucket: 1,
    pad: 0,
};

/// A client, a VIP, an instance, and how packets get there.
#[derive(Clone, Copy, Debug)]
pub struct Net {
    /// Of the VIP.
    pub id: u32,
    /// The client's address.
    pub client: &'static str,
    /// The VIP's.
    pub vip: &'static str,
    /// The VIP's port.
    pub port: u16,
    /// The instance's address.
    pub instance: &'static str,
    /// The instance's index.
    pub index: u16,
    /// One of `FORWARD_*`.
    pub forward: u8,
    /// What the way from lb to either takes of a segment.
    pub fits: u16,
}

/// `nat` over IPv4.
pub const V4: Net = Net {
    id: 1,
    client: "10.0.1.2",
    vip: "10.1.1.1",
    port: 80,
    instance: "10.0.1.11",
    index: 1,
    forward: FORWARD_NAT,
    fits: 1460,
};
/// `nat` over IPv6.
pub const V6: Net = Net {
    id: 2,
    client: "fd00:1::2",
    vip: "fd00:f::1",
    instance: "fd00:1::11",
    index: 2,
    fits: 1440,
    ..V4
};

/// These, and the same with `dnat`.
pub const NETS: [Net; 4] = [
    V4,
    V6,
    Net {
        id: 3,
        port: 81,
        forward: FORWARD_DNAT,
        ..V4
    },
    Net {
        id: 4,
        port: 81,
        forward: FORWARD_DNAT,
        ..V6
    },
];

fn socket(host: &str, port: u16) -> SocketAddr {
    at(&if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    })
}

/// Serves all of them.
///
/// # Errors
/// When the kernel refuses.
pub fn serve(lab: &mut Lab, limit: Arrivals) -> Result<()> {
    lab.set_settings(Settings {
        nat_port_first: 40_000,
        nat_port_last: 41_999,
        icmp_rate: 1_000_000,
        ..lab.settings()
    })?;
    lab.set_cookie_keys(FIRST_KEY, 6)?;
    for net in NETS {
        lab.set_instance(net.index, instance(net.instance, 8080))?;
        let value = Vip {
            forward: net.forward,
            flags: VIP_COOKIES | VIP_LIMITED,
            table: net.index.into(),
            ..vip(net.id)
        };
        lab.serve(
            vip_key(net.vip, net.port, PROTOCOL_TCP),
            value,
            &[net.index],
        )?;
        lab.set_arrivals(net.id, limit)?;
    }
    Ok(())
}

/// The option that says how large segments may be.
#[must_use]
pub fn mss(value: u16) -> Vec<u8> {
    let [high, low] = value.to_be_bytes();
    vec![2, 4, high, low]
}

/// A client's connection, seen from all sides.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// Where it is.
    pub net: Net,
    /// The client's end.
    pub client: SocketAddr,
    /// What it connects to.
    pub vip: SocketAddr,
    /// The instance's end.
    pub instance: SocketAddr,
    /// Whom the instance sees.
    pub seen_as: SocketAddr,
    /// What it was given.
    pub cookie: u32,
}

impl Handshake {
    /// One from this port.
    #[must_use]
    pub fn new(net: Net, port: u16) -> Self {
        Self {
            net,
            client: socket(net.client, port),
            vip: socket(net.vip, net.port),
            instance: socket(net.instance, 8080),
            seen_as: socket(net.client, port),
            cookie: 0,
        }
    }

    /// What the client sends.
    #[must_use]
    pub fn request(&self, flags: u8) -> Build {
        Build::tcp(self.client, self.vip, flags).with(|packet| {
            packet.number = CLIENTS.wrapping_add(1);
            packet.acknowledged = self.cookie.wrapping_add(1);
            packet.window = 1234;
        })
    }

    /// Its first packet.
    #[must_use]
    pub fn syn(&self) -> Build {
        self.request(tcp::SYN).with(|packet| {
            packet.number = CLIENTS;
            packet.acknowledged = 0;
            // SACK permitted, timestamps, MSS, window scale.
            packet.tcp_options = vec![
                4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 2, 4, 0x05, 0x8a, 1, 3, 3, 7,
            ];
        })
    }

    /// What the instance sends.
    #[must_use]
    pub fn reply(&self, flags: u8) -> Build {
        Build::tcp(self.instance, self.seen_as, flags).with(|packet| {
            packet.number = INSTANCES + 1;
            packet.acknowledged = CLIENTS.wrapping_add(1);
            packet.window = 65_160;
        })
    }

    /// Its first packet.
    #[must_use]
    pub fn answer(&self) -> Build {
        self.reply(tcp::SYN | tcp::ACK).with(|packet| {
            packet.number = INSTANCES;
            packet.tcp_options = mss(1460);
        })
    }

    /// What is left of the client's packet where the instance is, if nothing else is done with it.
    #[must_use]
    pub fn at_instance(&self, packet: &Build) -> Build {
        packet.with(|packet| {
            (packet.source, packet.destination) = (self.seen_as, self.instance);
            packet.macs = (INSTANCE_MAC, FRONT_MAC);
            packet.ttl -= 1;
        })
    }

    /// What is left of the instance's packet where the client is.
    #[must_use]
    pub fn at_client(&self, packet: &Build) -> Build {
        packet.with(|packet| {
            (packet.source, packet.destination) = (self.vip, self.client);
            packet.macs = (CLIENT_MAC, FRONT_MAC);
            packet.ttl -= 1;
        })
    }

    /// The SYN that the instance gets.
    #[must_use]
    pub fn second_syn(&self, window: u16) -> Build {
        self.at_instance(&self.request(tcp::SYN)).with(|packet| {
            packet.number = CLIENTS;
            packet.acknowledged = 0;
            packet.window = window;
            (packet.id, packet.label) = (0, 0);
            packet.tcp_options = mss(if self.client.is_ipv4() { 1400 } else { 1380 });
        })
    }

    /// What opens the client's window.
    #[must_use]
    pub fn opening(&self) -> Build {
        self.at_client(&self.reply(tcp::ACK)).with(|packet| {
            packet.number = self.cookie;
            (packet.id, packet.label) = (0, 0);
            packet.payload = vec![0];
        })
    }

    /// Sends a SYN, and takes note of the cookie.
    ///
    /// # Errors
    /// When anything else becomes of a packet.
    pub fn ask(&mut self, lab: &mut Lab) -> Result<Seen> {
        let seen = lab.send(&self.syn().bytes())?;
        ensure!(
            seen.verdict == Verdict::Answer(Counter::AnsweredCookie),
            "{:?}",
            seen.verdict
        );
        self.cookie = number(&seen.frame, 4)?;
        Ok(seen)
    }

    /// Sends the acknowledgement, and takes note of whom the instance sees.
    ///
    /// # Errors
    /// When anything else becomes of a packet.
    pub fn show(&mut self, lab: &mut Lab) -> Result<Seen> {
        let seen = lab.send(&self.request(tcp::ACK).bytes())?;
        ensure!(goes(&seen), "{:?}", seen.verdict);
        if self.net.forward == FORWARD_NAT {
            let lb = if self.client.is_ipv4() {
                "10.0.1.1"
            } else {
                "fd00:1::1"
            };
            let l4 = l4(&seen.frame)?;
            let port = u16::from_be_bytes([seen.frame[l4], seen.frame[l4 + 1]]);
            self.seen_as = socket(lb, port);
        }
        Ok(seen)
    }

    /// Both handshakes.
    ///
    /// # Errors
    /// When anything else becomes of a packet.
    pub fn connect(&mut self, lab: &mut Lab) -> Result<()> {
        self.ask(lab)?;
        self.show(lab)?;
        expect(lab, &self.answer(), &self.opening())?;
        let last = self.request(tcp::ACK);
        let expected = self.at_instance(&last).with(|packet| {
            packet.acknowledged = INSTANCES + 1;
        });
        expect(lab, &last, &expected)
    }
}

/// Whether a packet was sent on.
#[must_use]
pub const fn goes(seen: &Seen) -> bool {
    matches!(seen.verdict, Verdict::Transmit | Verdict::Redirect(_))
}

/// Where the TCP header is, behind a tag or two or none.
///
/// # Errors
/// When the frame ends before.
pub fn l4(frame: &[u8]) -> Result<usize> {
    let mut at = 12;
    while [[0x81, 0], [0x88, 0xa8]]
        .contains(&frame.get(at..at + 2).context("no ether type")?.try_into()?)
    {
        at += 4;
    }
    let header = if frame[at] == 0x08 { 20 } else { 40 };
    Ok(at + 2 + header)
}

/// Four bytes of the TCP header.
///
/// # Errors
/// When the frame ends before.
pub fn number(frame: &[u8], field: usize) -> Result<u32> {
    let at = l4(frame)? + field;
    let bytes = frame.get(at..at + 4).context("no TCP header")?;
    Ok(u32::from_be_bytes(bytes.try_into()?))
}

/// Sends a packet and expects it to leave as another one.
///
/// # Errors
/// When it does not.
pub fn expect(lab: &mut Lab, sent: &Build, expected: &Build) -> Result<()> {
    let seen = lab.send(&sent.bytes())?;
    ensure!(goes(&seen), "{:?}", seen.verdict);
    same(&seen.frame, expected)
}

/// Whether a frame is the one that was expected, with checksums that are right.
///
/// # Errors
/// When it is not.
pub fn same(found: &[u8], expected: &Build) -> Result<()> {
    let expected = expected.bytes();
    ensure!(
        found == expected,
        "expected\n {expected:02x?}, found\n {found:02x?}"
    );
    check::checksums(found)
}

/// Runs a test in each of the nets, with cookies for all SYNs.
///
/// # Errors
/// Whatever it finds wrong.
pub fn in_each(test: impl Fn(&mut Lab, Net) -> Result<()> + Send + Sync) -> Result<()> {
    for net in NETS {
        run(SIZES, |lab| {
            serve(lab, ALWAYS)?;
            test(lab, net)
        })
        .with_context(|| format!("{net:?}"))?;
    }
    Ok(())
}
