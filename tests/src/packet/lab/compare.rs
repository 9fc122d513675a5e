//! What both halves have counted and remembered, which has to be the same.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Result, ensure};
use lb_common::{Address, ClientKey, ClientPin, Counter, Counters, EVENT_BYTES, names};
use lb_ebpf::{Tables, Verdict};

use super::{Lab, Seen, words::from_ip};
use crate::packet::network;

impl Lab {
    /// Compares which clients are remembered, and where; returns how many.
    ///
    /// # Errors
    /// When the halves differ.
    pub fn compare_clients(&mut self) -> Result<usize> {
        let of = |clients: Vec<(ClientKey, ClientPin)>| -> BTreeMap<(Address, u64), (u16, u16)> {
            let place = |(key, pin): (ClientKey, ClientPin)| {
                ((key.client, key.service), (pin.instance, pin.generation))
            };
            clients.into_iter().map(place).collect()
        };
        let (kernel, library) = (of(self.kernel.clients()?), of(self.memory.clients()));
        ensure!(
            kernel == library,
            "expected the clients {library:?}, found {kernel:?}"
        );
        Ok(kernel.len())
    }

    /// Holds what was recorded of a packet, if there was room for it, against what became of it.
    pub(super) fn compare_event(&mut self, sent: &[u8], seen: &Seen, interface: u32) -> Result<()> {
        let Some(event) = self.kernel.event() else {
            return Ok(());
        };
        let bytes = seen.frame.get(..EVENT_BYTES).unwrap_or(&seen.frame);
        let out = match seen.verdict {
            Verdict::Pass(_) | Verdict::Drop(_) => 0,
            Verdict::Transmit | Verdict::Answer(_) => interface,
            Verdict::Redirect(out) => out,
        };
        ensure!(
            event.counter == seen.verdict.counter() as u32
                && (event.interface, event.out) == (interface, out)
                && (event.length as usize, event.packet()) == (seen.frame.len(), bytes)
                && event.followers == 1 << 3,
            "expected an event of {:?} for {sent:02x?}, found {event:?}",
            seen.verdict
        );
        ensure!(self.kernel.event().is_none(), "a packet has two events");
        Ok(())
    }

    /// Compares what was counted.
    ///
    /// # Errors
    /// When the halves differ, or the counters do not add up.
    pub fn compare_counters(&self) -> Result<()> {
        let (mut counters, modelled) = (self.kernel.counters()?, self.memory.counters());
        // The library records nothing.
        for counter in [Counter::FlowsRecorded, Counter::FlowsLost] {
            counters.values[counter as usize] = 0;
        }
        ensure!(
            counters == modelled,
            "expected the library's counters {:?}, found {:?}",
            nonzero(&modelled),
            nonzero(&counters)
        );
        ensure!(counters.adds_up(), "counters do not add up: {counters:?}");
        Ok(())
    }

    /// Tells the library's half the kernel's route to the sender of a frame.
    pub fn know_way_back(&self, sender: IpAddr) {
        let address = from_ip(sender);
        if let Some(route) = network::way_to(sender) {
            self.memory.set_route(address, route);
        }
    }

    /// The counters, which are the same in both halves.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.memory.counters()
    }

    /// Live connections of an instance.
    ///
    /// # Errors
    /// When the halves differ.
    pub fn live(&mut self, index: u16) -> Result<u64> {
        let (kernel, memory) = (self.kernel.live(index)?, self.memory.live(index));
        ensure!(
            kernel == memory,
            "expected {memory} live connections of {index} as in the library, found {kernel}"
        );
        Ok(kernel)
    }

    /// Entries in the connection table.
    ///
    /// # Errors
    /// When the halves differ.
    pub fn flows(&mut self) -> Result<usize> {
        let (mut kernel, mut memory) = (self.kernel.flows()?, self.memory.flows());
        for flows in [&mut kernel, &mut memory] {
            flows.iter_mut().for_each(|(_, entry)| entry.last_seen = 0);
            flows.sort_by_key(|(key, _)| {
                (
                    key.source,
                    key.destination,
                    key.source_port,
                    key.destination_port,
                    key.protocol,
                )
            });
        }
        ensure!(
            kernel == memory,
            "expected the library's connections {memory:?}, found {kernel:?}"
        );
        Ok(kernel.len())
    }

    /// The traffic of a VIP and of an instance, checked against the library's.
    ///
    /// # Errors
    /// When the halves differ.
    pub fn check_traffic(&self, vip: u32, index: u16) -> Result<()> {
        let kernel = self.kernel.traffic(names::MAP_VIP_TRAFFIC, vip)?;
        let memory = self.memory.traffic_of_vip(vip);
        ensure!(kernel == memory, "VIP {vip}: {memory:?} is not {kernel:?}");
        let (drops, reasons) = (self.kernel.drops(vip)?, self.memory.drops_of_vip(vip));
        ensure!(drops == reasons, "VIP {vip}: {reasons:?} is not {drops:?}");
        let sum: u64 = drops.values.iter().sum();
        ensure!(
            sum == kernel.dropped,
            "VIP {vip} has dropped {}, for reasons {sum}",
            kernel.dropped
        );
        let kernel = self
            .kernel
            .traffic(names::MAP_INSTANCE_TRAFFIC, u32::from(index))?;
        let memory = self.memory.traffic_of_instance(index);
        ensure!(
            kernel == memory,
            "instance {index}: {memory:?} is not {kernel:?}"
        );
        Ok(())
    }
}

pub(super) fn nonzero(counters: &Counters) -> Vec<(&'static str, u64)> {
    Counter::ALL
        .iter()
        .map(|counter| (counter.label(), counters.get(*counter)))
        .filter(|(_, value)| *value != 0)
        .collect()
}
