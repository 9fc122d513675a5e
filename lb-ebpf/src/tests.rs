//! Properties of the whole path, over packets and events at random.

mod accounting;
mod acl;
mod affinity;
mod bytes;
mod echo;
mod limits;
mod opening;
mod settled;
mod translation;
mod unfinished;

use std::sync::Arc;

use lb_common::{
    Address, FORWARD_NAT, INSTANCE_ACTIVE, InstanceEntry, NextHop, PROTOCOL_TCP, SELECT_HASH,
    Settings, Table, Vip, from_v4,
};

use crate::memory::{Frame, MemoryTables};
use crate::{Packet, Route, Scratch, Verdict, process};

/// The interface that packets come in by and, by the one route that there is, leave by.
const INTERFACE: u32 = 3;

/// Maps with room for `capacity` connection entries, `nat` for both families, and a route to
/// everywhere.
fn tables(capacity: usize) -> MemoryTables {
    let tables = MemoryTables::new(capacity, 7);
    tables.set_settings(Settings {
        nat_source_v4: from_v4([10, 0, 0, 1]),
        nat_source_v6: v6(1),
        nat_port_first: 40_000,
        nat_port_last: 49_999,
        next_hop_ttl_ms: 1000,
        ..Settings::default()
    });
    tables.set_default_route(way());
    tables
}

/// The one route.
fn way() -> Route {
    Route::Found(NextHop {
        macs: [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1],
        interface: INTERFACE,
        mtu_and_epoch: 1500,
        ..NextHop::default()
    })
}

fn v6(host: u8) -> Address {
    let mut address = [0; 16];
    address[0] = 0xfd;
    address[15] = host;
    address
}

fn vip(id: u32) -> Vip {
    Vip {
        id,
        forward: FORWARD_NAT,
        select: SELECT_HASH,
        ..Vip::default()
    }
}

fn instance(address: Address) -> InstanceEntry {
    InstanceEntry {
        address,
        port: 8080_u16.to_be_bytes(),
        generation: 1,
        weight: 1,
        state: INSTANCE_ACTIVE,
        ..InstanceEntry::default()
    }
}

/// A table with these instances in turn.
fn table(instances: &[u16]) -> Arc<Table> {
    Arc::new(Table::settled(std::array::from_fn(|slot| {
        instances
            .get(slot % instances.len().max(1))
            .copied()
            .unwrap_or(0)
    })))
}

fn send(tables: &MemoryTables, frame: &mut Vec<u8>) -> Verdict {
    send_as(tables, &mut Frame(frame))
}

fn send_as<P: Packet>(tables: &MemoryTables, packet: &mut P) -> Verdict {
    process(packet, tables, &mut Scratch::default(), INTERFACE)
}

/// A well-formed packet without checksums or payload; addresses of one family.
fn packet(
    (source, source_port): (Address, u16),
    (destination, destination_port): (Address, u16),
    protocol: u8,
    flags: u8,
) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let header: u8 = if protocol == PROTOCOL_TCP { 20 } else { 8 };
    if lb_common::is_v4(&source) {
        frame.extend_from_slice(&[
            8,
            0,
            0x45,
            0,
            0,
            20 + header,
            0,
            0,
            0x40,
            0,
            64,
            protocol,
            0,
            0,
        ]);
        frame.extend_from_slice(&source[12..]);
        frame.extend_from_slice(&destination[12..]);
    } else {
        frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, header, protocol, 64]);
        frame.extend_from_slice(&source);
        frame.extend_from_slice(&destination);
    }
    frame.extend_from_slice(&source_port.to_be_bytes());
    frame.extend_from_slice(&destination_port.to_be_bytes());
    if protocol == PROTOCOL_TCP {
        frame.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 1, 0, 0, 0, 0, 0]);
    } else {
        frame.extend_from_slice(&[0, 8, 0, 0]);
    }
    frame
}
