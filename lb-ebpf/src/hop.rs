//! The next hop.
//!
//! The kernel's tables are asked with a helper that costs more than all the rest of the path, so
//! its answer is kept for a time that the settings give: per instance in an array, per client in a
//! small direct-mapped cache. Both belong to one processor and need no synchronisation.
//!
//! A stale answer is better than none: when the kernel has forgotten a neighbour (nothing but this
//! program may be talking to it) the old MAC address is used on.

use lb_common::{
    Address, CLIENT_HOPS, ClientHop, Counter, FORWARD_L2DSR, HOP_GATEWAY, InstanceEntry, NextHop,
};

use crate::{Route, Tables, hash};

/// The way to an instance.
///
/// # Errors
///
/// The drop reason.
#[inline(always)]
pub fn to_instance<T: Tables>(
    tables: &T,
    interface: u32,
    index: u16,
    now: u64,
    source: &Address,
    forward: u8,
) -> Result<NextHop, Counter> {
    let instance = tables.instance(index).ok_or(Counter::DropNoInstance)?;
    let cached = tables.instance_hop(index).ok_or(Counter::DropNoRoute)?;
    let hop = if now < cached.fresh_until && cached.generation == instance.generation {
        cached
    } else {
        refresh_instance(tables, interface, index, now, source)?;
        tables.instance_hop(index).ok_or(Counter::DropNoRoute)?
    };
    if forward == FORWARD_L2DSR && hop.flags & HOP_GATEWAY != 0 {
        return Err(Counter::DropNotOnLink);
    }
    Ok(hop)
}

/// Writes the way to an instance into the cache. Out of line and without a large result, to spare
/// the stack of the path that does not need it.
#[inline(never)]
fn refresh_instance<T: Tables>(
    tables: &T,
    interface: u32,
    index: u16,
    now: u64,
    source: &Address,
) -> Result<(), Counter> {
    let instance: InstanceEntry = tables.instance(index).ok_or(Counter::DropNoInstance)?;
    let stale = tables
        .instance_hop(index)
        .filter(|hop| hop.generation == instance.generation && hop.fresh_until != 0);
    let mut hop = ask(tables, interface, now, source, &instance.address, stale)?;
    hop.generation = instance.generation;
    tables.cache_instance_hop(index, &hop);
    Ok(())
}

/// The way to a client.
///
/// # Errors
///
/// The drop reason.
#[inline(always)]
pub fn to_client<T: Tables>(
    tables: &T,
    interface: u32,
    now: u64,
    source: &Address,
    client: &Address,
) -> Result<NextHop, Counter> {
    let place = hash::address(client) as u32 & (CLIENT_HOPS - 1);
    let cached = tables.client_hop(place).ok_or(Counter::DropNoRoute)?;
    if now < cached.hop.fresh_until && cached.address == *client {
        return Ok(cached.hop);
    }
    refresh_client(tables, interface, now, source, client)?;
    tables
        .client_hop(place)
        .map(|cached| cached.hop)
        .ok_or(Counter::DropNoRoute)
}

/// Writes the way to a client into the cache.
#[inline(never)]
fn refresh_client<T: Tables>(
    tables: &T,
    interface: u32,
    now: u64,
    source: &Address,
    client: &Address,
) -> Result<(), Counter> {
    let place = hash::address(client) as u32 & (CLIENT_HOPS - 1);
    let stale = tables
        .client_hop(place)
        .filter(|cached| cached.address == *client && cached.hop.fresh_until != 0)
        .map(|cached| cached.hop);
    let hop = ask(tables, interface, now, source, client, stale)?;
    tables.cache_client_hop(
        place,
        &ClientHop {
            address: *client,
            hop,
        },
    );
    Ok(())
}

#[inline(always)]
fn ask<T: Tables>(
    tables: &T,
    interface: u32,
    now: u64,
    source: &Address,
    destination: &Address,
    stale: Option<NextHop>,
) -> Result<NextHop, Counter> {
    tables.count(Counter::RouteLookups);
    let mut hop = match tables.route(source, destination, interface) {
        Route::Found(hop) => hop,
        Route::NoNeighbour => stale.ok_or(Counter::DropNoNeighbour)?,
        Route::NoRoute => return Err(Counter::DropNoRoute),
        Route::ForwardingDisabled => return Err(Counter::DropForwardingDisabled),
    };
    let ttl = tables
        .settings()
        .map_or(0, |settings| settings.next_hop_ttl_ms);
    // Above zero even then: zero means that the entry was never filled.
    hop.fresh_until = now + u64::from(ttl) * 1_000_000;
    Ok(hop)
}
