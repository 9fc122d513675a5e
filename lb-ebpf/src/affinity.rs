//! Clients that stay with their instance, whatever their service's algorithm.
//!
//! Where a service asks for it, the instance of a client's connection is remembered by the client's
//! address, and its next connections go there as well, until it has begun none for a time. Connections
//! themselves do not depend on it, so it is looked at where they begin and nowhere else, by the stage
//! that looks at other things of new connections too: packets of others pay nothing.
//!
//! Anyone can send packets with the addresses of others, which must not fill the memory or push a client
//! out of it. So a TCP client is remembered when it has sent more than one, in the moment that its
//! connection ceases to be an opening one ([`crate::opening`]). Over UDP there is no such moment. Two
//! connections that a new client opens at once may therefore go to two instances.
//!
//! By then the VIP may be that of another service. So which service an instance is of is looked at when a
//! client is remembered and when it comes again, and nobody is sent to a stranger.

use lb_common::{ClientKey, ClientPin, Counter, FlowKey, InstanceEntry};

use crate::{Flow as _, Insert, Scratch, Tables};

/// The instance that a client's new connection is to go to, if one is remembered and takes new ones.
#[inline(always)]
pub(crate) fn instance<T: Tables>(
    tables: &T,
    vip: u32,
    scratch: &mut Scratch,
) -> Option<(u16, InstanceEntry)> {
    let index = pinned(tables, vip, scratch);
    let instance = tables.instance(index)?;
    (index != 0).then_some((index, instance))
}

/// Its index; 0 is none. In a register, which the entry does not fit.
#[inline(never)]
fn pinned<T: Tables>(tables: &T, vip: u32, scratch: &mut Scratch) -> u16 {
    if tables.affinity(vip).ttl == 0 {
        return 0;
    }
    scratch.client = ClientKey {
        client: scratch.key.source,
        service: tables.affinity(vip).service,
    };
    let Some(pin) = tables.client(&scratch.client) else {
        return 0;
    };
    let holds = tables
        .instance(pin.instance)
        .is_some_and(|instance| instance.generation == pin.generation && instance.takes_new());
    let is_ours = tables.service_of(pin.instance) == scratch.client.service;
    if holds && is_ours && tables.now() < pin.until {
        pin.instance
    } else {
        0
    }
}

/// Remembers the instance of a client's connection, if its VIP asks for that.
///
/// Given the connection's place in the table, not its entry: a copy would take room on the caller's
/// stack, of which there is none to spare.
#[inline(never)]
pub(crate) fn remember<T: Tables>(tables: &T, key: &FlowKey, flow: &T::Flow) {
    let entry = flow.entry();
    let affinity = tables.affinity(entry.vip.into());
    if affinity.ttl == 0 || tables.service_of(entry.instance) != affinity.service {
        return;
    }
    let client = ClientKey {
        client: key.source,
        service: affinity.service,
    };
    let pin = ClientPin {
        until: tables.now().saturating_add(affinity.ttl),
        instance: entry.instance,
        generation: entry.generation,
        pad: 0,
    };
    if tables.pin_client(&client, &pin) == Insert::Full {
        tables.count(Counter::AffinityUnremembered);
    }
}
