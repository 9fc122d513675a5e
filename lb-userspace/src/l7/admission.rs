//! What may enter, and what must wait: between the routing of a request and its way to an instance.
//!
//! Nothing here costs more than a branch for a service without limits.

mod rate;
mod wait;

use std::num::NonZeroU32;

use super::{
    affinity::{self, Following},
    connection::Client,
    course::Known,
    room::{self, Way},
};
use crate::{
    balance::Choice,
    model::{InFlight, Instance, MostConnections, Priority, Reason, UNLIMITED},
    registry::Service,
    resilience::{Permit, Seat},
};

pub(super) use rate::{RateTable, TooEarly};
pub(super) use wait::priority;

/// How often an instance is chosen that another worker fills up in the same moment, before the
/// service counts as full: each time somebody else got on.
const RACES: usize = 8;

/// A try's place at an instance.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) in_flight: InFlight,
    /// The permit of the instance's breaker, if the try is a probe.
    pub(super) probe: Option<Permit<Instance>>,
    /// How it comes by its connection, and how many there may be.
    pub(super) way: Way,
    pub(super) most_connections: MostConnections,
}

/// What a request holds to the end of its answer: its place at an instance and its seat in the
/// service.
#[derive(Debug)]
#[expect(dead_code, reason = "it is held for its end")]
pub(super) struct Stay {
    // Given back in this order: whoever is told of a free seat finds the instance free, too.
    pub(super) in_flight: InFlight,
    pub(super) seat: Option<Seat>,
}

/// Takes a seat in the service, if it has limits, and a place at one of its instances; waits for
/// them where requests may wait.
///
/// # Errors
/// Why there is none.
pub(super) async fn enter(
    client: &Client,
    service: &Service,
    known: &Known<'_>,
    choice: &Choice<'_>,
) -> Result<(Place, Option<Seat>), Reason> {
    let waits = service.limited && service.spec.queue.is_some();
    // Nobody overtakes those who wait already.
    let entered = if waits && service.admission.queue().waiting() > 0 {
        Err(Reason::AtCapacity)
    } else {
        enter_now(client, service, known, choice)
    };
    match entered {
        Err(reason) if waits && is_lack_of_room(reason) => {
            Box::pin(wait::wait(client, service.name(), known)).await
        }
        entered => entered,
    }
}

/// Whether there will be room once somebody else is done.
const fn is_lack_of_room(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::AtCapacity | Reason::ConnectionLimit | Reason::Overloaded
    )
}

/// The same without waiting.
fn enter_now(
    client: &Client,
    service: &Service,
    known: &Known<'_>,
    choice: &Choice<'_>,
) -> Result<(Place, Option<Seat>), Reason> {
    let seat = if service.limited {
        Some(take_seat(client, service, known.priority)?)
    } else {
        None
    };
    match choose(client, service, known.following, choice, None) {
        Ok(place) => Ok((place, seat)),
        Err(reason) => {
            if let Some(seat) = seat {
                seat.unused();
            }
            Err(reason)
        }
    }
}

/// Takes a seat in a service that has limits: one that was asked for, or one that follows what the
/// service can do, or both.
fn take_seat(client: &Client, service: &Service, priority: Priority) -> Result<Seat, Reason> {
    let (spec, admission) = (&service.spec, &service.admission);
    let fixed = spec.limits.service.map_or(UNLIMITED, NonZeroU32::get);
    let adaptive = spec.concurrency.as_ref().map_or(UNLIMITED, |concurrency| {
        // Those who wait are in the order of their urgency; without a queue it is a matter of who
        // is refused.
        match spec.queue {
            Some(_) => admission.concurrency().limit(concurrency),
            None => admission.concurrency().limit_for(concurrency, priority),
        }
    });
    let seat = admission.enter(fixed.min(adaptive), &client.worker.clock);
    seat.ok_or(if adaptive < fixed {
        Reason::Overloaded
    } else {
        Reason::AtCapacity
    })
}

/// Takes a place for a request that is inside the service: at the instance that was `picked`, or at
/// another one.
pub(super) fn choose(
    client: &Client,
    service: &Service,
    following: Option<&Following>,
    choice: &Choice<'_>,
    mut picked: Option<usize>,
) -> Result<Place, Reason> {
    let worker = &client.worker;
    let mut lacking = Reason::AtCapacity;
    for _ in 0..RACES {
        let next = picked
            .take()
            .or_else(|| affinity::pick(following, worker, service, choice));
        let (position, probe) = service.admit(worker.around(), choice, next)?;
        let member = &service.members[position];
        let (instance, algorithm) = (&member.instance, service.spec.algorithm);
        let begun = instance.try_begin(member.most, algorithm, worker.index, &worker.clock);
        let Some(in_flight) = begun else {
            continue;
        };
        let Some(way) = room::way(worker, member) else {
            lacking = Reason::ConnectionLimit;
            continue;
        };
        affinity::settle(following, worker, service, choice, position);
        return Ok(Place {
            in_flight,
            probe,
            way,
            most_connections: member.most_connections,
        });
    }
    Err(lacking)
}
