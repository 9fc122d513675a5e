//! What may enter, and what must wait: between the routing of a request and its way to an instance.
//!
//! Nothing here costs more than a branch for a service without limits.

mod rate;

use std::num::NonZeroU32;

use super::{affinity, breaker, course::Course};
use crate::{
    balance::Choice,
    model::{InFlight, Instance, Member, Reason, UNLIMITED},
    resilience::{Permit, Seat},
};

pub(super) use rate::{RateTable, TooEarly};

/// How often an instance is chosen that another worker fills up in the same moment, before the
/// service counts as full: each time somebody else got on.
const RACES: usize = 8;

/// A try's place at an instance.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) in_flight: InFlight,
    /// The permit of the instance's breaker, if the try is a probe.
    pub(super) probe: Option<Permit<Instance>>,
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

/// Takes a seat in the service, if it has limits, and a place at one of its instances, or says why
/// there is none.
pub(super) fn enter(
    course: &Course<'_>,
    choice: &Choice<'_>,
) -> Result<(Place, Option<Seat>), Reason> {
    let service = course.service;
    let seat = if service.limited {
        let limit = service.spec.limits.service;
        let most = limit.map_or(UNLIMITED, NonZeroU32::get);
        Some(service.admission.enter(most).ok_or(Reason::AtCapacity)?)
    } else {
        None
    };
    Ok((choose(course, choice, None)?, seat))
}

/// Takes a place for a request that is inside the service: at the instance that was `picked`, or at
/// another one.
pub(super) fn choose(
    course: &Course<'_>,
    choice: &Choice<'_>,
    mut picked: Option<usize>,
) -> Result<Place, Reason> {
    let Course {
        client,
        service,
        following,
        ..
    } = *course;
    let worker = &client.worker;
    for _ in 0..RACES {
        let next = picked
            .take()
            .or_else(|| affinity::pick(following, worker, service, choice));
        let (position, probe) = breaker::enter(client, service, choice, next)?;
        let Member { instance, most, .. } = &service.members[position];
        let algorithm = service.spec.algorithm;
        let begun = instance.try_begin(*most, algorithm, worker.index, &worker.clock);
        if let Some(in_flight) = begun {
            affinity::settle(following, worker, service, choice, position);
            return Ok(Place { in_flight, probe });
        }
    }
    Err(Reason::AtCapacity)
}
