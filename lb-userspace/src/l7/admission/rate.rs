//! Rate limits on the way of a request.
//!
//! A request may be subject to several: of the gateway, of the service, of the route. Limits by
//! key are asked first, so that a client above its own rate uses up nobody else's budget; then the
//! narrower ones. Each that is asked and allows the request has counted it, also when a later one
//! refuses it.

use std::{hash::Hash, sync::Arc, time::Duration};

use hyper::{Request, Response, header::HeaderValue};

use crate::{
    l7::{answer, body::Answer, connection::Client, headers::value},
    model::{IpPrefix, RateKey, Reason, Timestamp},
    registry::Snapshot,
    resilience::RateLimiter,
};

/// The limits of one route in the order in which they are asked.
type Limits = Box<[Arc<RateLimiter>]>;

/// The limits of a snapshot, by route.
#[derive(Debug)]
pub(in crate::l7) struct RateTable {
    routes: Box<[Limits]>,
    /// What holds for requests that no route matches.
    elsewhere: Limits,
}

/// A request that came too early.
#[derive(Debug)]
pub(in crate::l7) struct TooEarly {
    limiter: Arc<RateLimiter>,
    wait: Duration,
}

impl RateTable {
    /// Compiles the limits of `snapshot`.
    pub(in crate::l7) fn new(snapshot: &Snapshot) -> Self {
        let limits = &snapshot.rate_limits;
        let ordered = |parts: &[&Limits]| -> Limits {
            let all = || parts.iter().flat_map(|part| part.iter().cloned());
            let keyed = all().filter(|limiter| limiter.is_keyed());
            keyed.chain(all().filter(|l| !l.is_keyed())).collect()
        };
        let none = Limits::default();
        let routes = snapshot.routes.iter().zip(&limits.routes);
        Self {
            routes: routes
                .map(|(route, own)| {
                    let service = limits.services.get(&route.service).unwrap_or(&none);
                    ordered(&[own, service, &limits.gateway])
                })
                .collect(),
            elsewhere: ordered(&[&limits.gateway]),
        }
    }

    /// Whether a request that the route at `position` matches, or none does, may pass. A branch
    /// where nothing is limited.
    pub(in crate::l7) fn check<B>(
        &self,
        position: Option<usize>,
        client: &Client,
        request: &Request<B>,
        proxies: &[IpPrefix],
        now: Timestamp,
    ) -> Result<(), TooEarly> {
        let of_route = |position: usize| self.routes.get(position);
        let limits = position.and_then(of_route).unwrap_or(&self.elsewhere);
        for limiter in limits {
            let taken = limiter.take(now, || key(&limiter.spec.key, client, request, proxies));
            if let Err(wait) = taken {
                return Err(TooEarly {
                    limiter: Arc::clone(limiter),
                    wait,
                });
            }
        }
        Ok(())
    }
}

impl TooEarly {
    pub(in crate::l7) const REASON: Reason = Reason::RateLimited;

    /// Says when to come again, and by which rule (draft-ietf-httpapi-ratelimit-headers-10).
    pub(in crate::l7) fn tell(&self, response: &mut Response<Answer>) {
        answer::again_in(response, self.wait);
        for (name, value) in self.limiter.fields(self.wait) {
            if let Ok(value) = HeaderValue::try_from(value) {
                response.headers_mut().insert(name, value);
            }
        }
    }
}

/// What a budget is found by.
#[derive(Hash)]
enum Key<'a> {
    Nothing,
    V4(u32),
    V6(u64),
    Value(&'a [u8]),
}

fn key<'a, B>(
    key: &RateKey,
    client: &Client,
    request: &'a Request<B>,
    proxies: &[IpPrefix],
) -> impl Hash + use<'a, B> {
    let value = match key {
        RateKey::All => return Key::Nothing,
        RateKey::Client => None,
        RateKey::Header(name) => value(request.headers(), name),
    };
    if let Some(value) = value {
        return Key::Value(value.as_bytes());
    }
    match client
        .peer
        .client(request.headers(), proxies)
        .to_canonical()
    {
        std::net::IpAddr::V4(address) => Key::V4(address.to_bits()),
        std::net::IpAddr::V6(address) => Key::V6((address.to_bits() >> 64) as u64),
    }
}
