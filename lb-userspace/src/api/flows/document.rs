//! A flow event as a document.

use std::{collections::HashMap, net::SocketAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lb_common::{Counter, CounterKind, EVENT_NEW, FlowKey, PROTOCOL_TCP, PROTOCOL_UDP};

use crate::{
    api::types::FlowEvent,
    l4::{Headers, Report, SeenPacket, TcpFlags, interface_name},
    registry::Snapshot,
};

/// Names of interfaces that are remembered; a machine with more looks the others up each time.
const MOST_NAMES: usize = 256;

/// Makes documents for one stream.
#[derive(Debug)]
pub(super) struct Writer {
    /// Whether packets are shown too.
    bytes: bool,
    names: HashMap<u32, Option<String>>,
    instances: Instances,
}

/// Names of all instances by what the program calls them.
#[derive(Debug, Default)]
struct Instances {
    /// The snapshot that they are of.
    revision: Option<u64>,
    names: HashMap<(u16, u16), String>,
}

impl Instances {
    /// The name of one. A VIP's instance need not be of its service: a fallback may serve it, and its
    /// connections stay when it gets another service.
    fn name(&mut self, snapshot: &Snapshot, index: u16, generation: u16) -> Option<&str> {
        if self.revision != Some(snapshot.revision) {
            let members = snapshot.services.iter().flat_map(|s| s.members.iter());
            let named = members.map(|member| {
                let instance = &member.instance;
                let id = (instance.id.index, instance.id.generation);
                (id, instance.endpoint.name().to_owned())
            });
            self.names = named.collect();
            self.revision = Some(snapshot.revision);
        }
        self.names.get(&(index, generation)).map(String::as_str)
    }
}

impl Writer {
    pub(super) fn new(bytes: bool) -> Self {
        Self {
            bytes,
            names: HashMap::new(),
            instances: Instances::default(),
        }
    }

    /// The document of an event, with names from what is in force now.
    pub(super) fn document(
        &mut self,
        packet: &SeenPacket,
        snapshot: &Snapshot,
        report: &Report,
    ) -> FlowEvent {
        let event = &packet.event;
        let headers = Headers::of(event.packet());
        let counter = packet.counter();
        let vip = packet.vip().and_then(|id| {
            let mut vips = report.vips.iter();
            vips.find(|vip| vip.id == id)
        });
        let (index, generation) = (event.index, event.generation);
        let instance = self.instances.name(snapshot, index, generation);
        let instance = instance.map(str::to_owned);
        let is_message = matches!(headers.protocol, Some(1 | 58)) && !is_answer(counter);
        let tuple = tuple(&event.key).filter(|_| !is_message);
        let (protocol, source, destination) = tuple.unwrap_or_else(|| ends(&headers));
        let flags = headers.flags.unwrap_or_default();
        let flags = TcpFlags::ALL.iter().filter(|(_, flag)| flags & flag.0 != 0);
        FlowEvent {
            timestamp: humantime::format_rfc3339_nanos(packet.at).to_string(),
            verdict: verdict(counter).to_owned(),
            reason: counter.map_or("unknown", Counter::label).to_owned(),
            protocol,
            source,
            destination,
            flags: flags.map(|(name, _)| (*name).to_owned()).collect(),
            new: event.flags & EVENT_NEW != 0,
            vip: vip.map(|vip| vip.vip.to_string()),
            service: vip.map(|vip| vip.vip.service.to_string()),
            instance,
            interface: self.name(event.interface),
            out: self.name(event.out),
            length: event.length,
            bytes: self.bytes.then(|| STANDARD.encode(event.packet())),
        }
    }

    fn name(&mut self, index: u32) -> Option<String> {
        if index == 0 {
            return None;
        }
        if let Some(name) = self.names.get(&index) {
            return name.clone();
        }
        let name = interface_name(index);
        if self.names.len() < MOST_NAMES {
            self.names.insert(index, name.clone());
        }
        name
    }
}

/// Whether a packet is an answer of lb's own: its bytes are not those of what came.
fn is_answer(counter: Option<Counter>) -> bool {
    let answers = [
        Counter::AnsweredTooBig,
        Counter::AnsweredEcho,
        Counter::AnsweredRefused,
    ];
    counter.is_some_and(|counter| answers.contains(&counter))
}

fn verdict(counter: Option<Counter>) -> &'static str {
    match counter.map(Counter::kind) {
        Some(CounterKind::Forwarded) => "forwarded",
        Some(CounterKind::Passed) => "passed",
        _ => "dropped",
    }
}

type Ends = (Option<String>, Option<String>, Option<String>);

/// Protocol, source and destination of a packet as it came; `None` when it has no such tuple.
fn tuple(key: &FlowKey) -> Option<Ends> {
    let protocol = match key.protocol {
        PROTOCOL_TCP => "tcp",
        PROTOCOL_UDP => "udp",
        _ => return None,
    };
    let end = |address: lb_common::Address, port: [u8; 2]| {
        let address = std::net::Ipv6Addr::from(address).to_canonical();
        SocketAddr::new(address, u16::from_be_bytes(port)).to_string()
    };
    Some((
        Some(protocol.to_owned()),
        Some(end(key.source, key.source_port)),
        Some(end(key.destination, key.destination_port)),
    ))
}

/// The same from the packet's own headers.
fn ends(headers: &Headers) -> Ends {
    let protocol = headers.protocol.map(Headers::name);
    let Some((source, destination)) = headers.addresses else {
        return (protocol, None, None);
    };
    let (source, destination) = match headers.ports {
        Some((from, to)) => (
            SocketAddr::new(source, from).to_string(),
            SocketAddr::new(destination, to).to_string(),
        ),
        None => (source.to_string(), destination.to_string()),
    };
    (protocol, Some(source), Some(destination))
}

#[cfg(test)]
mod tests {
    use lb_common::{EVENT_BYTES, from_v4};

    use super::*;

    fn seen(counter: Counter, key: FlowKey, frame: &[u8]) -> SeenPacket {
        let mut bytes = [0; EVENT_BYTES];
        bytes[..frame.len()].copy_from_slice(frame);
        SeenPacket {
            at: std::time::UNIX_EPOCH + std::time::Duration::new(1_768_473_000, 123_456_789),
            event: lb_common::FlowEvent {
                time: 1,
                key,
                counter: counter as u32,
                followers: 1,
                interface: 0,
                out: 0,
                length: 1500,
                captured: frame.len() as u32,
                vip: 0,
                index: 0,
                generation: 0,
                flags: EVENT_NEW,
                bytes,
            },
        }
    }

    fn key() -> FlowKey {
        FlowKey {
            source: from_v4([198, 51, 100, 7]),
            destination: from_v4([192, 0, 2, 10]),
            source_port: 40_000_u16.to_be_bytes(),
            destination_port: [0, 80],
            protocol: PROTOCOL_TCP,
            ..FlowKey::default()
        }
    }

    fn document(bytes: bool, packet: &SeenPacket) -> FlowEvent {
        let world = crate::api::tests::World::new();
        Writer::new(bytes).document(packet, &world.registry.snapshot(), &Report::default())
    }

    #[test]
    fn an_event_says_what_came_and_what_became_of_it() {
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 9], 64)
            .tcp(30_000, 8080, 7, 1000)
            .syn()
            .write(&mut frame, &[])
            .unwrap();
        let packet = seen(Counter::Redirected, key(), &frame);
        let event = document(false, &packet);
        assert_eq!(event.timestamp, "2026-01-15T10:30:00.123456789Z");
        let told = (event.verdict.as_str(), event.reason.as_str());
        assert_eq!(told, ("forwarded", "redirected"));
        // As it came, not as it left.
        assert_eq!(event.source.as_deref(), Some("198.51.100.7:40000"));
        assert_eq!(event.destination.as_deref(), Some("192.0.2.10:80"));
        assert_eq!((event.flags, event.new), (vec!["syn".to_owned()], true));
        assert_eq!((event.length, event.bytes), (1500, None));
        let bytes = document(true, &packet).bytes.unwrap();
        assert_eq!(STANDARD.decode(bytes).unwrap(), frame);
    }

    #[test]
    fn an_instance_is_found_whatever_service_it_is_of() {
        use crate::{
            api::tests::{A, B, World},
            registry::Change,
        };
        let world = World::new();
        let report = world.state.report();
        let vip = &report.vips[0];
        assert_eq!(vip.vip.service.as_str(), "ocr-service");
        let mut packet = seen(Counter::Redirected, key(), &[7; 20]);
        packet.event.vip = vip.id as u16 + 1;
        let mut writer = Writer::new(false);
        let mut told = |packet: &SeenPacket| {
            let event = writer.document(packet, &world.registry.snapshot(), &report);
            (event.service, event.instance)
        };
        let snapshot = world.registry.snapshot();
        let other = snapshot.service("main-backend").unwrap();
        let service = Some("ocr-service".to_owned());
        // No instance at all.
        assert_eq!(told(&packet), (service.clone(), None));
        for (member, name) in other.members.iter().zip([A, B]) {
            let id = member.instance.id;
            (packet.event.index, packet.event.generation) = (id.index, id.generation);
            assert_eq!(told(&packet), (service.clone(), Some(name.to_owned())));
            packet.event.generation += 1;
            assert_eq!(told(&packet), (service.clone(), None));
        }
        packet.event.generation -= 1;
        assert_eq!(told(&packet).1.as_deref(), Some(B));
        let nothing = Change::Configure(Box::default());
        world.registry.apply(nothing).unwrap();
        assert_eq!(told(&packet), (service, None));
    }

    #[test]
    fn what_has_no_tuple_is_told_by_its_headers() {
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([198, 51, 100, 7], [192, 0, 2, 10], 64)
            .icmpv4_echo_request(1, 1)
            .write(&mut frame, &[])
            .unwrap();
        for key in [FlowKey::default(), key()] {
            let event = document(false, &seen(Counter::DropNoRoute, key, &frame));
            let told = (event.verdict.as_str(), event.reason.as_str());
            assert_eq!(told, ("dropped", "no_route"));
            assert_eq!(event.protocol.as_deref(), Some("icmp"));
            assert_eq!(event.source.as_deref(), Some("198.51.100.7"));
            assert_eq!(event.destination.as_deref(), Some("192.0.2.10"));
        }
        // The message is lb's; what came was the client's.
        let event = document(false, &seen(Counter::AnsweredTooBig, key(), &frame));
        assert_eq!(event.protocol.as_deref(), Some("tcp"));
        assert_eq!(event.source.as_deref(), Some("198.51.100.7:40000"));
        let nothing = document(
            false,
            &seen(Counter::PassedNotIp, FlowKey::default(), &[7; 20]),
        );
        let ends = (nothing.protocol, nothing.source, nothing.destination);
        assert_eq!(
            (nothing.verdict.as_str(), ends),
            ("passed", (None, None, None))
        );
    }
}
