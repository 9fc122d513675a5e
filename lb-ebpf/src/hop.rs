//! The next hop.
//!
//! The kernel's tables are asked with a helper that costs more than all the rest of the path, so
//! its answer is kept for a time that the settings give: per instance in an array, per client in a
//! small direct-mapped cache. Both belong to one processor and need no synchronisation.
//!
//! With the way to an instance it is kept for up to a second that the instance takes new connections, and in which
//! epoch that was found: as long as the daemon has changed no instance, whoever has the way needs not look at
//! the instance.
//!
//! A stale answer is better than none: when the kernel has forgotten a neighbour (nothing but this
//! program may be talking to it) the old MAC address is used on.

use lb_common::{
    Address, CLIENT_HOPS, ClientHop, Counter, FORWARD_L2DSR, HOP_ACTIVE, HOP_GATEWAY, HOP_PATH,
    InstanceEntry, NextHop, is_v4, same_address,
};

use crate::{Flow, Hop, Route, Tables, hash};

/// The way to an instance of this generation.
///
/// # Errors
///
/// The drop reason.
#[inline(always)]
pub fn to_instance<T: Tables>(
    tables: &T,
    interface: u32,
    index: u16,
    generation: u16,
    now: u64,
    forward: u8,
) -> Result<NextHop, Counter> {
    let cached = tables.instance_hop(index).ok_or(Counter::DropNoRoute)?;
    let hop = if now < cached.fresh_until && cached.generation == generation {
        cached
    } else {
        refresh_instance(tables, interface, index, now)?;
        tables.instance_hop(index).ok_or(Counter::DropNoRoute)?
    };
    suits(&hop, forward)?;
    Ok(hop)
}

/// Whether packets can take a way that are forwarded so: a router makes nothing of a frame whose
/// destination is still the VIP.
///
/// # Errors
///
/// The drop reason.
#[inline(always)]
pub(crate) const fn suits(hop: &NextHop, forward: u8) -> Result<(), Counter> {
    if forward == FORWARD_L2DSR && hop.flags & HOP_GATEWAY != 0 {
        return Err(Counter::DropNotOnLink);
    }
    Ok(())
}

/// The way to an instance of which is kept that it takes new connections in this epoch.
#[inline(always)]
pub(crate) fn to_active<T: Tables>(tables: &T, index: u16, epoch: u64, now: u64) -> Option<T::Hop> {
    let hop = tables.hop_in_place(index)?;
    hop.get().leads_on(epoch, now).then_some(hop)
}

/// What [`note_active`] says of an instance that takes no new connections.
pub(crate) const NOT_ACTIVE: u32 = u32::MAX;

/// The generation of an instance that takes new connections, which is kept with the way to it, if that is fresh.
/// The epoch was read before.
#[inline(never)]
pub(crate) fn note_active<T: Tables>(tables: &T, index: u16, epoch: u64, now: u64) -> u32 {
    let Some(instance) = tables.instance(index) else {
        return NOT_ACTIVE;
    };
    if !instance.takes_new() {
        return NOT_ACTIVE;
    }
    if let Some(mut hop) = tables.instance_hop(index)
        && now < hop.fresh_until
        && hop.generation == instance.generation
    {
        hop.note_active(epoch, now);
        tables.cache_instance_hop(index, &hop);
    }
    u32::from(instance.generation)
}

/// Writes the way to an instance into the cache. Out of line and without a large result, to spare
/// the stack of the path that does not need it.
#[inline(never)]
fn refresh_instance<T: Tables>(
    tables: &T,
    interface: u32,
    index: u16,
    now: u64,
) -> Result<(), Counter> {
    let instance: InstanceEntry = tables.instance(index).ok_or(Counter::DropNoInstance)?;
    let stale = tables.hop_in_place(index).filter(|hop| {
        let hop = hop.get();
        hop.generation == instance.generation && hop.fresh_until != 0
    });
    // The answer is for all packets to the instance, so it is asked for from lb's own address.
    let source = tables.settings().map_or([0; 16], |settings| {
        settings.nat_source(is_v4(&instance.address))
    });
    let mut hop = ask(tables, interface, now, &source, &instance.address, stale)?;
    hop.generation = instance.generation;
    // An old answer may say so of an old epoch, and of what was known of the path then.
    hop.flags &= !(HOP_ACTIVE | HOP_PATH);
    tables.cache_instance_hop(index, &hop);
    Ok(())
}

/// The way to the client of a reply's connection.
///
/// # Errors
///
/// The drop reason.
#[inline(always)]
pub fn to_client<T: Tables>(
    tables: &T,
    interface: u32,
    now: u64,
    flow: &T::Flow,
) -> Result<NextHop, Counter> {
    let client = flow.entry().destination;
    let place = place(&client);
    let cached = tables.client_hop(place).ok_or(Counter::DropNoRoute)?;
    if now < cached.hop.fresh_until && same_address(&cached.address, &client) {
        return Ok(cached.hop);
    }
    refresh_client(tables, interface, now, flow)?;
    tables
        .client_hop(place)
        .map(|cached| cached.hop)
        .ok_or(Counter::DropNoRoute)
}

/// As [`to_client`], for whoever knows the addresses: those of packets from the VIP to the client.
///
/// # Errors
///
/// As [`to_client`].
#[inline(always)]
pub fn to_address<T: Tables>(
    tables: &T,
    interface: u32,
    now: u64,
    vip: &Address,
    client: &Address,
) -> Result<NextHop, Counter> {
    let place = place(client);
    let cached = tables.client_hop(place).ok_or(Counter::DropNoRoute)?;
    if now < cached.hop.fresh_until && same_address(&cached.address, client) {
        return Ok(cached.hop);
    }
    refresh_address(tables, interface, now, vip, client)?;
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
    flow: &T::Flow,
) -> Result<(), Counter> {
    let entry = flow.entry();
    refresh_address(tables, interface, now, &entry.source, &entry.destination)
}

#[inline(always)]
fn refresh_address<T: Tables>(
    tables: &T,
    interface: u32,
    now: u64,
    source: &Address,
    client: &Address,
) -> Result<(), Counter> {
    let place = place(client);
    let stale = tables
        .client_hop(place)
        .filter(|cached| same_address(&cached.address, client) && cached.hop.fresh_until != 0)
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

/// Where a client is in the cache.
#[inline(always)]
const fn place(client: &Address) -> u32 {
    hash::address(client) as u32 & (CLIENT_HOPS - 1)
}

#[inline(always)]
fn ask<T: Tables, H: Hop>(
    tables: &T,
    interface: u32,
    now: u64,
    source: &Address,
    destination: &Address,
    stale: Option<H>,
) -> Result<NextHop, Counter> {
    tables.count(Counter::RouteLookups);
    let mut hop = match tables.route(source, destination, interface) {
        Route::Found(hop) => hop,
        Route::NoNeighbour => stale.ok_or(Counter::DropNoNeighbour)?.get(),
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
