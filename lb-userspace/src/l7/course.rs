//! The course of a request over instances: what it has tried, and whether it may try again.
//!
//! Every retry is asked for here, so that the rules hold for all of them: never an instance that
//! was tried already, never a request that an instance may have acted upon unless its method
//! allows that, never beyond the request's limit of time, never beyond the service's budget. What
//! is asked of time and chance is in [`crate::resilience::retry`]; this is the part that knows
//! requests and instances.
//!
//! Where there is a choice, the next instance is one that has not failed its last request. A request
//! of which nothing was sent goes there without the budget: no instance gets more than one time of
//! it, and when all fail there is nowhere to go for free. So one that refuses connections costs its
//! clients nothing, however much of the traffic is its share.
//!
//! The next instance is picked, and the budget asked, while the answer that is to be replaced is
//! still at hand: when there is no retry, the client gets that answer.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hyper::{
    HeaderMap, Request, StatusCode,
    body::Body as _,
    header::{self, HeaderValue},
};

use super::{
    admission::{self, Place, Stay},
    affinity::{self, Following},
    connection::Client,
    exchange::{Failure, Pending, unless_stopped},
    forward::Answered,
    pool::Pool,
    proxy::Exchanged,
    room::{self, Way},
    spare::Spare,
    trace::Traced,
    upload::Upload,
};
use crate::{
    balance::{Choice, Tried},
    model::{Instance, InstanceId, Priority, Reason, RetryCause, RetryRefusal, Timestamp},
    registry::Service,
    resilience::{
        Seat,
        retry::{self, Failed},
    },
};

/// How much of the body of an answer that nobody will get is read, and for how long, to keep its
/// connection: closing one for each retry would make an outage dearer.
const DISCARD_BYTES: u64 = 16 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// How often a request looks for another place that has waited for a connection in vain, where there is no
/// queue: each time somebody else had a use for it.
const RACES: u32 = 8;

/// What is known of a request before an instance is chosen for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    /// When it came.
    pub(super) now: Timestamp,
    /// For consistent hashing.
    pub(super) key: u64,
    /// How urgent it is.
    pub(super) priority: Priority,
    /// Its session.
    pub(super) following: Option<&'a Following>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Course<'a> {
    pub(super) client: &'a Client,
    pub(super) service: &'a Service,
    spare: Result<Spare, RetryRefusal>,
    known: Known<'a>,
    /// Its trace, if lb takes part in it.
    pub(super) traced: Option<Rc<Traced>>,
    tried: Tried,
    retries: u8,
    /// The request's seat in the service, whichever instance it is sent to.
    seat: Option<Seat>,
}

impl<'a> Course<'a> {
    /// The course of a request that has been sent nowhere.
    pub(super) fn new(
        client: &'a Client,
        service: &'a Service,
        known: Known<'a>,
        traced: Option<Rc<Traced>>,
        request: &mut Request<Upload>,
    ) -> Self {
        let (worker, retry) = (&client.worker, &service.spec.retry);
        service.budget.request(known.now, worker.index);
        Self {
            client,
            service,
            spare: Spare::new(request, retry, &worker.buffers),
            known,
            traced,
            tried: Tried::default(),
            retries: 0,
            seat: None,
        }
    }

    /// Chooses an instance for the first try, and takes a place there.
    pub(super) async fn enter(&mut self) -> Result<Place, Reason> {
        let known = &self.known;
        let choice = self.choice(known.now);
        let entered = admission::enter(self.client, self.service, known, &choice).await;
        let (mut place, seat) = entered?;
        self.seat = seat;
        if place.way.is_soon() {
            place = Box::pin(self.enter_soon(place)).await?;
        }
        Ok(place)
    }

    /// Waits for the connection that another worker is to give up, and looks for another place when
    /// that has found a use for it: who has not been sent anywhere may still go, or wait, elsewhere.
    async fn enter_soon(&mut self, mut place: Place) -> Result<Place, Reason> {
        let (client, service) = (self.client, self.service);
        let limit = service.spec.timeouts.connect;
        let most = if service.spec.queue.is_some() {
            u32::MAX
        } else {
            RACES
        };
        for _ in 0..most {
            if !place.way.is_soon() {
                return Ok(place);
            }
            let instance = Arc::clone(place.in_flight.instance());
            match room::wait(client, &instance, &place.most_connections, limit).await {
                Ok(opened) => {
                    place.way = Way::New(opened);
                    return Ok(place);
                }
                Err(failure) if failure.reason != Reason::ConnectionLimit => {
                    return Err(failure.reason);
                }
                Err(_) => {
                    drop((place, self.seat.take()));
                    let choice = self.choice(client.worker.clock.now());
                    let entered = admission::enter(client, service, &self.known, &choice).await;
                    (place, self.seat) = entered?;
                }
            }
        }
        Err(Reason::ConnectionLimit)
    }

    /// Takes a place at the instance of a retry, or at another one if it has filled up since it
    /// was chosen.
    pub(super) fn enter_at(&self, position: usize) -> Result<Place, Reason> {
        self.freed();
        let choice = self.choice(self.client.worker.clock.now());
        let following = self.known.following;
        admission::choose(
            self.client,
            self.service,
            following,
            &choice,
            Some(position),
        )
    }

    /// Tells whoever waits that the place of a try at its instance is free again, though the
    /// request's seat in the service is not.
    pub(super) fn freed(&self) {
        if self.seat.is_some() {
            let queue = self.service.admission.queue();
            queue.released(&self.client.worker.clock);
        }
    }

    /// Whether the request belongs to no session.
    pub(super) const fn follows_nothing(&self) -> bool {
        self.known.following.is_none()
    }

    /// An answer with what the request holds to its end.
    pub(super) fn ends(&mut self, answered: Answered) -> Exchanged {
        if let Some(spec) = &self.service.spec.concurrency
            && !answered.answer.status().is_server_error()
        {
            let now = self.client.worker.clock.now();
            let latency = now - answered.in_flight.began();
            let waits = self.service.spec.queue.is_some();
            self.service.admission.answered(spec, now, latency, waits);
        }
        Exchanged {
            answer: answered.answer,
            lease: answered.lease,
            stay: Stay {
                in_flight: answered.in_flight,
                seat: self.seat.take(),
            },
        }
    }

    /// The request once more, as long as that is possible and allowed.
    pub(super) fn repeat(&self) -> Pending {
        self.spare.as_ref().ok().and_then(Spare::request)
    }

    /// Whether the request may be sent again although it was.
    pub(super) const fn repeats(&self) -> bool {
        self.spare.is_ok()
    }

    /// Why [`Course::repeat`] gives nothing.
    fn why_not(&self) -> RetryRefusal {
        self.spare
            .as_ref()
            .err()
            .copied()
            .unwrap_or(RetryRefusal::Body)
    }

    /// The position of an instance that the request has not been sent to.
    fn pick(&self, now: Timestamp) -> Option<usize> {
        let worker = &self.client.worker;
        affinity::pick(
            self.known.following,
            worker,
            self.service,
            &self.choice(now),
        )
    }

    /// Whether nothing has failed so far.
    pub(super) const fn is_first(&self) -> bool {
        self.retries == 0
    }

    /// The instances that the request has been sent to in vain.
    pub(super) const fn tried(&self) -> &Tried {
        &self.tried
    }

    /// The request has been sent to this instance, too.
    pub(super) fn has_tried(&mut self, id: InstanceId) {
        self.tried.insert(id);
    }

    /// What a pick goes by.
    pub(super) fn choice(&self, now: Timestamp) -> Choice<'_> {
        let worker = &self.client.worker;
        Choice {
            key: self.known.key,
            worker: worker.index,
            now,
            random: &worker.random,
            tried: &self.tried,
        }
    }

    /// Whether an answer may be one that is not for the client, or says something about the
    /// instance's next ones.
    pub(super) fn is_worth_a_look(&self, status: StatusCode) -> bool {
        status.as_u16() >= 400
            && (self.service.spec.retry.statuses.contains(&status.as_u16()) || rests(status))
    }

    /// Where the request goes after an answer of `instance`, or the answer, when that is for the
    /// client after all.
    pub(super) async fn after_answer(
        &mut self,
        answered: Answered,
        pending: &mut Pending,
    ) -> Result<Result<usize, Box<Exchanged>>, Reason> {
        let now = self.client.worker.clock.now();
        let instance = &Arc::clone(answered.in_flight.instance());
        let (status, spec) = (answered.answer.status(), &self.service.spec.retry);
        if rests(status)
            && let Some(asked) = retry_after(answered.answer.headers())
        {
            instance.rest(now + retry::rest(spec, asked));
        }
        if !spec.statuses.contains(&status.as_u16()) || spec.max == 0 {
            return Ok(Err(Box::new(self.ends(answered))));
        }
        *pending = self.repeat();
        match self.again(instance, RetryCause::Status, pending, now) {
            Ok((next, wait)) => {
                self.discard(answered, now);
                self.wait(next, wait).await.map(Ok)
            }
            Err(_) => Ok(Err(Box::new(self.ends(answered)))),
        }
    }

    /// Where the request goes after a try on `instance` that has come to nothing, or what the
    /// client is told.
    pub(super) async fn after_failure(
        &mut self,
        instance: &Arc<Instance>,
        failure: Failure,
        pending: &mut Pending,
    ) -> Result<usize, Reason> {
        let (pulse, retries) = (&self.client.pulse, self.service.spec.retry.max > 0);
        let (Some(cause), true, true) = (failure.cause(), retries, pulse.stop().lets_retry())
        else {
            return Err(failure.reason);
        };
        if pending.is_none() {
            *pending = self.repeat();
        }
        pulse.resume();
        let now = self.client.worker.clock.now();
        let next = self.again(instance, cause, pending, now);
        let (next, wait) = next.map_err(|_| failure.reason)?;
        self.wait(next, wait).await
    }

    /// Allows a retry on another connection to the instance that has closed one: no instance is
    /// at fault, but what was sent may have been work.
    pub(super) fn replaces_kept_connection(&self) -> bool {
        let allowed = self.pays(self.client.worker.clock.now());
        self.note(if allowed {
            Ok(RetryCause::KeptConnection)
        } else {
            Err(RetryRefusal::Budget)
        });
        allowed
    }

    /// Decides about a retry and pays for it: where it goes, and after what wait.
    fn again(
        &mut self,
        instance: &Arc<Instance>,
        cause: RetryCause,
        pending: &Pending,
        now: Timestamp,
    ) -> Result<(usize, Duration), RetryRefusal> {
        self.tried.insert(instance.id);
        let decided = self.decide(cause, pending, now);
        self.note(decided.map(|_| cause));
        if decided.is_ok() {
            self.retries += 1;
        }
        decided
    }

    fn decide(
        &mut self,
        cause: RetryCause,
        pending: &Pending,
        now: Timestamp,
    ) -> Result<(usize, Duration), RetryRefusal> {
        let spec = &self.service.spec.retry;
        let chance = self.client.worker.random.bits();
        let failed = Failed {
            cause,
            retries: self.retries,
            again: pending.as_ref().map_or(Err(self.why_not()), |_| Ok(())),
            deadline: self.client.pulse.deadline(),
        };
        let mut wait = retry::wait(spec, &failed, now, chance)?;
        let mut free = false;
        let next = match self.pick_next(now) {
            Some((next, well)) => {
                free = well && cause.nothing_sent();
                next
            }
            None if spec.same_instance && cause.nothing_sent() => {
                wait = retry::wait_for_same(spec, self.retries, chance);
                self.tried = Tried::default();
                let next = self.pick(now).ok_or(RetryRefusal::NoInstance)?;
                if now + wait >= failed.deadline {
                    return Err(RetryRefusal::Deadline);
                }
                next
            }
            None => return Err(RetryRefusal::NoInstance),
        };
        (free || self.pays(now))
            .then_some((next, wait))
            .ok_or(RetryRefusal::Budget)
    }

    /// Picks an instance for a retry, and says whether it has not failed its last request, as it
    /// has not when there is one.
    fn pick_next(&mut self, now: Timestamp) -> Option<(usize, bool)> {
        // What is set here holds for the picks until the next try, too.
        [true, false].into_iter().find_map(|well| {
            self.tried.set_only_well(well);
            self.pick_rested(now).map(|position| (position, well))
        })
    }

    /// Picks an instance that was not tried and has not asked to be left alone.
    fn pick_rested(&mut self, now: Timestamp) -> Option<usize> {
        for _ in 0..=Tried::MOST {
            let position = self.pick(now)?;
            let instance = &self.service.members[position].instance;
            if !instance.rests(now) {
                return Some(position);
            }
            self.tried.insert(instance.id);
        }
        None
    }

    fn pays(&self, now: Timestamp) -> bool {
        let (spec, worker) = (&self.service.spec.retry, self.client.worker.index);
        let budget = &self.service.budget;
        budget.retry(now, worker, spec.budget, spec.floor)
    }

    fn note(&self, decided: Result<RetryCause, RetryRefusal>) {
        let stats = &self.service.stats.retries;
        match decided {
            Ok(cause) => stats.made(cause),
            Err(refusal) => stats.refused(refusal),
        }
    }

    /// Waits, and picks anew when that took time: the instance of before may be gone by then.
    async fn wait(&self, next: usize, wait: Duration) -> Result<usize, Reason> {
        if wait.is_zero() {
            return Ok(next);
        }
        let pulse = &self.client.pulse;
        if unless_stopped(pulse, tokio::time::sleep(wait))
            .await
            .is_none()
        {
            return Err(pulse.stopped().0);
        }
        Ok(self.pick(self.client.worker.clock.now()).unwrap_or(next))
    }

    /// Reads what is left of an answer, if that is little, so that its connection can be kept.
    fn discard(&self, answered: Answered, now: Timestamp) {
        let Answered { answer, lease, .. } = answered;
        let mut body = answer.into_body();
        let pool = Rc::clone(&self.client.worker.pool);
        if body.is_end_stream() {
            Pool::give_back(&pool, lease, now);
        } else if body
            .size_hint()
            .upper()
            .is_some_and(|most| most <= DISCARD_BYTES)
        {
            tokio::task::spawn_local(async move {
                let read = async {
                    use http_body_util::BodyExt as _;
                    while let Some(Ok(_)) = body.frame().await {}
                    body.is_end_stream()
                };
                if matches!(tokio::time::timeout(DISCARD_TIME, read).await, Ok(true)) {
                    Pool::give_back(&pool, lease, now);
                }
            });
        }
    }
}

/// Whether `Retry-After` of an answer of this status is about the instance's load
/// (RFC 9110, 10.2.3 and 15.6.4; RFC 6585, 4).
fn rests(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
    )
}

/// The time in `Retry-After`: seconds, or a date that has not passed.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER).map(HeaderValue::to_str)?;
    let value = value.ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    date.duration_since(SystemTime::now()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_a_number_or_a_date() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        let soon = SystemTime::now() + Duration::from_secs(60);
        let rest = read(&httpdate::fmt_http_date(soon)).unwrap();
        assert!(rest > Duration::from_secs(50) && rest <= Duration::from_secs(60));
        for nothing in ["", "-1", "soon", "Sun, 06 Nov 1994 08:49:37 GMT"] {
            assert_eq!(read(nothing), None, "{nothing}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
