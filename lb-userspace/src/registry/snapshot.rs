//! What readers see.

use std::{collections::BTreeSet, sync::Arc};

use super::{limits::RateLimits, outage::Outage};
use crate::{
    affinity::Quota,
    balance::{self, Balancer, Choice, Random, Tried},
    model::{
        Acl, AdminState, AffinityStats, BreakerState, Exclusion, GatewaySpec, Health, InstanceId,
        IntegrationSpec, ListenerSpec, Member, RouteSpec, Served, ServiceGuard, ServiceName,
        ServiceSpec, ServiceStats, Timestamp, VipSpec,
    },
    resilience::{Admission, Budget, Ejection, Factors, Hedging, Progress, Ramp, WHOLE},
};

/// One consistent picture of everything, immutable.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Grows by one with each change.
    pub revision: u64,
    /// The revision at which services, routes, VIPs or listeners were last configured. While it
    /// stays, positions in `services` stay.
    pub configured: u64,
    /// The revision at which what was learned was last forgotten; 0 when it never was.
    pub reset: u64,
    /// Services by name, in order.
    pub services: Vec<Arc<Service>>,
    /// Services that have nobody to take new traffic, and those that serve in their place: positions
    /// in `services`. Mostly there are none.
    pub diverted: Box<[(usize, usize)]>,
    /// Routes.
    pub routes: Arc<[RouteSpec]>,
    /// VIPs.
    pub vips: Arc<[VipSpec]>,
    /// Listeners.
    pub listeners: Arc<[ListenerSpec]>,
    /// Limits of client connections.
    pub gateway: Arc<GatewaySpec>,
    /// Systems beside lb.
    pub integration: Arc<IntegrationSpec>,
    /// Who may send to VIPs.
    pub acl: Arc<Acl>,
    /// Rate limits at work; those of routes in the order of `routes`.
    pub rate_limits: Arc<RateLimits>,
}

/// A service in a snapshot.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its settings; `spec.algorithm` is the one in force.
    pub spec: Arc<ServiceSpec>,
    /// All its instances with their effective weights, in the order of the configuration.
    pub members: Arc<[Member]>,
    /// What the control plane knows of each member; same positions.
    pub statuses: Arc<[InstanceStatus]>,
    /// The algorithm at work on `members`.
    pub balancer: Arc<dyn Balancer>,
    /// Counters that belong to no instance.
    pub stats: Arc<ServiceStats>,
    /// What retries may cost.
    pub budget: Arc<Budget>,
    /// How long its answers take, as far as hedging needs to know.
    pub hedging: Arc<Hedging>,
    /// Who is inside, and who waits.
    pub admission: Arc<Admission>,
    /// Whether anything limits how many requests are in flight: without it nobody asks `admission`.
    pub limited: bool,
    /// Its circuit breaker.
    pub guard: Arc<ServiceGuard>,
    /// What decides which of its instances' breakers may open.
    pub outage: Arc<Outage>,
    /// What the guard does, as last heard; its gate knows better.
    pub breaker: BreakerState,
    /// Why traffic goes to instances that should not have any; `None` when it does not.
    pub fail_open: Option<FailOpen>,
    /// What sessions need to know, while the service has affinity.
    pub sessions: Arc<Pins>,
    /// Counters of the affinity.
    pub affinity: Arc<AffinityStats>,
    /// What its clients have seen.
    pub served: Arc<Served>,
}

/// Why a service fails open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailOpen {
    /// Nobody but instances that wait for their recovery is left, and so they do not wait.
    OnlyRecovering,
    /// Nobody is left: all that the operator wants get traffic, ejected or unhealthy.
    NoneLeft,
    /// Fewer are left than the service's threshold asks for: as above.
    TooFew,
}

impl FailOpen {
    /// All reasons.
    pub const ALL: [Self; 3] = [Self::OnlyRecovering, Self::NoneLeft, Self::TooFew];

    /// The name in API, log and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OnlyRecovering => "only_recovering",
            Self::NoneLeft => "none_left",
            Self::TooFew => "too_few",
        }
    }
}

/// A service's members as sessions see them; empty for a service without affinity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pins {
    /// Fingerprints of the instances and their positions, in order.
    pub(super) places: Box<[(u64, u16)]>,
    /// Members that take no new requests but keep the sessions that are pinned to them.
    pub(super) keeps: Box<[u16]>,
    /// Members that recover.
    pub quotas: Box<[Quota]>,
}

/// What the control plane knows of an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceStatus {
    /// Configured weight.
    pub weight: u16,
    /// Admin state.
    pub admin: AdminState,
    /// Health.
    pub health: Health,
    /// Why the health is what it is.
    pub detail: Arc<str>,
    /// How far it is on its way back after it was down; `None` when it has its whole weight.
    pub recovery: Option<Progress>,
    /// What its circuit breaker does, as last heard; the instance's gate knows better.
    pub breaker: BreakerState,
    /// Why and until when it is ejected; `None` when it is not.
    pub ejected: Option<Ejection>,
    /// How far its slow start is; `None` when it is over or never was.
    pub ramp: Option<Ramp>,
    /// Factors of the weight that are in force.
    pub factors: Factors,
}

impl Snapshot {
    /// The service of that name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Arc<Service>> {
        self.position(name).map(|position| &self.services[position])
    }

    /// The position of a service in `services`.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.services
            .binary_search_by(|service| service.spec.name.as_str().cmp(name))
            .ok()
    }

    /// The position of the service that serves the traffic of the one at `position` now: its own,
    /// unless it has nobody and its fallback has.
    #[must_use]
    pub fn serving(&self, position: usize) -> usize {
        let found = self.diverted.iter().find(|(from, _)| *from == position);
        found.map_or(position, |(_, to)| *to)
    }

    /// The service that serves the traffic of the one of that name now, when that is another one.
    #[must_use]
    pub fn instead_of(&self, name: &str) -> Option<&Arc<Service>> {
        let position = self.position(name)?;
        let serving = self.serving(position);
        (serving != position).then(|| &self.services[serving])
    }

    /// The services that VIPs lead to, and those that may serve in their place; each once.
    #[must_use]
    pub fn behind_vips(&self) -> Vec<&Arc<Service>> {
        let named = |name: &ServiceName| self.position(name.as_str());
        let own = self.vips.iter().filter_map(|vip| named(&vip.service));
        let instead = |position: usize| {
            let fallback = self.services[position].spec.fallback.as_ref();
            fallback.and_then(named)
        };
        let all = own.flat_map(|position| [Some(position), instead(position)]);
        let all: BTreeSet<usize> = all.flatten().collect();
        all.into_iter()
            .map(|position| &self.services[position])
            .collect()
    }

    /// What [`Snapshot::diverted`] is of these services, which are in the order of their names.
    pub(super) fn divert(services: &[Arc<Service>]) -> Box<[(usize, usize)]> {
        let diverted = |(position, service): (usize, &Arc<Service>)| {
            let fallback = service.spec.fallback.as_ref()?;
            if service.serves() {
                return None;
            }
            let found = services.binary_search_by(|other| other.name().cmp(fallback));
            let found = found.ok().filter(|found| services[*found].serves())?;
            Some((position, found))
        };
        services.iter().enumerate().filter_map(diverted).collect()
    }

    /// The names of all services, for messages.
    #[must_use]
    pub fn service_names(&self) -> String {
        let names: Vec<&str> = self.services.iter().map(|s| s.spec.name.as_str()).collect();
        names.join(", ")
    }
}

impl Service {
    /// Whether any of its instances takes new traffic, as far as the control plane is concerned.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.members.iter().any(|member| member.weight > 0)
    }

    /// The names of its instances, for messages.
    #[must_use]
    pub fn instance_names(&self) -> String {
        let names = self.members.iter().map(|one| one.instance.endpoint.name());
        names.collect::<Vec<_>>().join(", ")
    }
}

impl InstanceStatus {
    /// Whether the operator wants it to take traffic.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.admin == AdminState::Enabled && self.weight > 0
    }

    /// Share of its weight that recovery and slow start leave it, in percent.
    #[must_use]
    pub fn share(&self) -> u8 {
        let recovery = self.recovery.map_or(WHOLE, |progress| progress.share);
        recovery.min(self.ramp.map_or(WHOLE, |ramp| ramp.share))
    }

    /// It has nothing from the moment on that nothing else is wrong with it, until its recovery
    /// begins; what the relapses were is kept. A slow start is overtaken.
    pub(super) fn relapse(&mut self) {
        let before = self.recovery.unwrap_or_default();
        self.recovery = Some(Progress { share: 0, ..before });
        self.ramp = None;
    }

    /// Whether it takes traffic by its own right, however few others do.
    #[must_use]
    pub fn stands(&self) -> bool {
        self.is_wanted()
            && self.health != Health::Unhealthy
            && self.ejected.is_none()
            && self.share() > 0
    }
}

impl Service {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &ServiceName {
        &self.spec.name
    }

    /// The weights that packets go by, in the order of the members. The kernel sees no answers and
    /// cannot probe, so it sends nothing to an instance whose breaker is not closed. When that
    /// leaves nobody, it sends to all as before: who only sees packets may find them well.
    ///
    /// A member that recovers has its share of all packets, whatever was measured: see `quotas`.
    #[must_use]
    pub fn packet_weights(&self) -> Vec<u32> {
        let closed = |status: &InstanceStatus| status.breaker == BreakerState::Closed;
        let all = || self.members.iter().zip(self.statuses.iter());
        let takes =
            |(member, status): (&Member, &InstanceStatus)| closed(status) && member.weight > 0;
        let nobody = !all().any(takes);
        let members: Vec<(u32, u32, bool)> = all()
            .map(|(member, status)| match nobody || closed(status) {
                true => (member.weight, member.base, member.recovering),
                false => (0, 0, false),
            })
            .collect();
        quotas(&members)
    }

    /// The position of the instance that `text` names. See [`crate::model::Endpoint::matches`].
    #[must_use]
    pub fn find(&self, text: &str) -> Option<usize> {
        self.members
            .iter()
            .position(|member| member.instance.endpoint.matches(text))
    }

    /// The position of an instance by its fingerprint; `None` also for a service without affinity.
    #[must_use]
    pub fn place(&self, identity: u64) -> Option<usize> {
        let places = &self.sessions.places;
        let found = places.binary_search_by_key(&identity, |(identity, _)| *identity);
        found.ok().map(|at| usize::from(places[at].1))
    }

    /// Whether the member at `position` takes no new requests and yet keeps its sessions: it is
    /// draining, and would be taking requests if it were not.
    #[must_use]
    pub fn keeps_sessions(&self, position: usize) -> bool {
        let keeps = |kept: &u16| usize::from(*kept) == position;
        self.sessions.keeps.iter().any(keeps)
    }

    /// The position of an instance by id.
    #[must_use]
    pub fn position(&self, id: InstanceId) -> Option<usize> {
        self.members
            .iter()
            .position(|member| member.instance.id == id)
    }

    /// A balancer like the service's own that serves nobody, to try picks on. For one thread.
    #[must_use]
    pub fn rehearsal(&self) -> Arc<dyn Balancer> {
        balance::build_bounded(self.spec.algorithm, &self.members, 1, self.spec.bound())
    }

    /// Why the member at `position` gets no new traffic; `None` when it does.
    #[must_use]
    pub fn exclusion(&self, position: usize, now: Timestamp) -> Option<Exclusion> {
        let choice = Choice {
            key: 0,
            worker: 0,
            now,
            random: &Random::new(1),
            tried: &Tried::default(),
        };
        match balance::exclusion(&self.members[position], &choice)? {
            Exclusion::Weightless => Some(self.statuses[position].exclusion()),
            why => Some(why),
        }
    }
}

/// The most that a weight is scaled to where shares have to be mixed: fine enough for a table of 65,537
/// slots.
const FINE: u128 = 1 << 20;

/// Weights in which members that recover have exactly the part of all that their weight without
/// measured factor says, as in the proxy's turns, and the others share the rest by what was measured.
/// A member is its weight, the same without the factor, and whether it recovers.
///
/// With `B` and `W` for the sums of the others' weights without and with it, a member that recovers
/// gets `base · W` and another one `weight · B`.
fn quotas(members: &[(u32, u32, bool)]) -> Vec<u32> {
    let weights = || members.iter().map(|(weight, ..)| *weight).collect();
    let measured = members.iter().any(|(weight, base, _)| weight != base);
    let others = || members.iter().filter(|(.., recovers)| !recovers);
    let with: u128 = others().map(|(weight, ..)| u128::from(*weight)).sum();
    let without: u128 = others().map(|(_, base, _)| u128::from(*base)).sum();
    if !measured || members.iter().all(|(.., recovers)| !recovers) {
        return weights();
    }
    if with == 0 {
        // All of them recover: their weights without the factors are their shares.
        return members.iter().map(|(_, base, _)| *base).collect();
    }
    let exact = |(weight, base, recovers): &(u32, u32, bool)| match recovers {
        true => u128::from(*base) * with,
        false => u128::from(*weight) * without,
    };
    let most = members.iter().map(exact).max().unwrap_or(1).max(1);
    let scaled = |exact: u128| match exact {
        0 => 0,
        // At most FINE, which is a u32.
        _ => u32::try_from((exact * FINE).div_ceil(most)).unwrap_or(u32::MAX),
    };
    members.iter().map(exact).map(scaled).collect()
}

impl InstanceStatus {
    /// Why an instance of this status, if it has no weight, has none.
    #[must_use]
    pub fn exclusion(&self) -> Exclusion {
        match self.admin {
            AdminState::Disabled => Exclusion::Disabled,
            AdminState::Draining => Exclusion::Draining,
            AdminState::Enabled if self.weight == 0 => Exclusion::NoWeight,
            AdminState::Enabled if self.health == Health::Unhealthy => Exclusion::Unhealthy,
            AdminState::Enabled if self.ejected.is_some() => Exclusion::Ejected,
            AdminState::Enabled if self.recovery.is_some() => Exclusion::Recovering,
            AdminState::Enabled => Exclusion::Weightless,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_factors_or_recoveries_weights_stay_what_they_are() {
        assert_eq!(quotas(&[(3, 3, true), (7, 7, false)]), [3, 7]);
        assert_eq!(quotas(&[(3, 9, false), (7, 7, false)]), [3, 7]);
        assert_eq!(quotas(&[(3, 9, true), (7, 7, true)]), [9, 7]);
        assert_eq!(quotas(&[(0, 0, false), (2, 8, true)]), [0, 8]);
        assert!(quotas(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn who_recovers_has_its_step_and_the_others_their_factors(
            members in prop::collection::vec((1u32..65_536, 1u32..=16, 0u32..=100), 1..8),
        ) {
            // Weight, steps of the factor, percent of the share.
            let members: Vec<(u32, u32, bool)> = members
                .into_iter()
                .map(|(weight, steps, share)| {
                    let base = weight * 16 * share;
                    (base / 16 * steps, base, share < 100)
                })
                .collect();
            let got = quotas(&members);
            let sum = got.iter().map(|w| f64::from(*w)).sum::<f64>();
            let base = members.iter().map(|(_, base, _)| f64::from(*base)).sum::<f64>();
            for (at, (weight, own, recovers)) in members.iter().enumerate() {
                prop_assert_eq!(got[at] == 0, *own == 0);
                let share = f64::from(got[at]) / sum;
                if *recovers && *own > 0 {
                    let exact = f64::from(*own) / base;
                    prop_assert!((share - exact).abs() < 1e-4, "{share} {exact}");
                } else if *own > 0 {
                    // In proportion to the first of its kind.
                    let first = members.iter().position(|m| !m.2 && m.1 > 0).unwrap();
                    let (a, b) = (f64::from(got[at]), f64::from(got[first]));
                    let exact = f64::from(*weight) / f64::from(members[first].0);
                    prop_assert!((a - b * exact).abs() <= 1.0 + exact, "{a} {b} {exact}");
                }
            }
        }
    }
}
