//! The share of an instance that recovers, while sessions are pinned.
//!
//! An instance that comes back is to get a certain share of the requests: no more, so that it can
//! warm up, and no less, so that there is evidence of how it does. A balancer that is asked for
//! every request sees to that. With affinity it is asked only for new sessions, and neither holds:
//! where sessions are long, all of them stay with the others and the instance gets nothing; and
//! sessions that were pinned to it before it went down, and come back all at once, give it more
//! than its share.
//!
//! So each worker keeps an account for every recovering instance of a service. With each request
//! the instance is owed its share of one; with each request that it gets, one less. While what it
//! is owed stays within the slack, sessions stay where they are. Above it, the next request goes to
//! the instance whatever its session is pinned to, and the session moves along. Below, a request
//! whose session is pinned there goes elsewhere, and so does the session. As every request can be
//! turned either way, the account never leaves the slack by more than one request, and so the
//! number of requests that the instance gets, in a second or any other time, differs from its exact
//! share by two slacks and two requests at most, for each worker.
//!
//! The slack is [`SLACK`] of the requests of a second: twice that is 1.5 points. Sessions move until
//! those that are pinned to the instance bring about its share; from then on only chance makes one
//! move now and then. An instance with its whole weight has no account, and nothing here is asked.

use crate::model::Timestamp;

/// What an account may be off, in requests of a second.
const SLACK: f64 = 0.0075;

/// The least slack, in requests: a balancer that takes turns is up to one ahead or behind.
const LEAST: f64 = 1.5;

/// An instance that recovers and takes requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quota {
    /// Its position among the members.
    pub position: usize,
    /// Its fingerprint.
    pub identity: u64,
    /// Its part of the service's requests, 0 to 1.
    pub share: f64,
}

/// The accounts of one service at one worker.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    accounts: Vec<Account>,
    second: u64,
    asked: u32,
    rate: u32,
}

#[derive(Clone, Copy, Debug)]
struct Account {
    identity: u64,
    owed: f64,
}

impl Ledger {
    /// A request is about to be sent: every instance of `quotas` is owed its share of it.
    pub fn ask(&mut self, quotas: &[Quota], now: Timestamp) {
        self.follow(quotas);
        if now.seconds() != self.second {
            let follows = now.seconds() == self.second + 1;
            self.rate = if follows { self.asked } else { 0 };
            self.second = now.seconds();
            self.asked = 0;
        }
        self.asked += 1;
        // Where every pick is by hash, nobody turns a request; then accounts must not grow for ever.
        let most = 2.0 * self.slack();
        for (account, quota) in self.accounts.iter_mut().zip(quotas) {
            account.owed = (account.owed + quota.share).clamp(-most, most);
        }
    }

    /// Whether the member at `position` recovers and has had its share for now.
    #[must_use]
    pub fn refuses(&self, quotas: &[Quota], position: usize) -> bool {
        let account = self.account(quotas, position);
        account.is_some_and(|account| account.owed - 1.0 < -self.slack())
    }

    /// The members that recover and must have the next request for their share, those first that
    /// are owed the most.
    #[must_use]
    pub fn demands(&self, quotas: &[Quota], may: impl Fn(usize) -> bool) -> Option<usize> {
        let accounts = quotas.iter().zip(&self.accounts);
        let owed =
            accounts.filter(|(quota, account)| account.owed > self.slack() && may(quota.position));
        let most = owed.max_by(|(_, one), (_, other)| one.owed.total_cmp(&other.owed));
        most.map(|(quota, _)| quota.position)
    }

    /// The member at `position` gets the request.
    pub fn give(&mut self, quotas: &[Quota], position: usize) {
        let mut accounts = quotas.iter().zip(&mut self.accounts);
        if let Some((_, account)) = accounts.find(|(quota, _)| quota.position == position) {
            account.owed -= 1.0;
        }
    }

    fn account(&self, quotas: &[Quota], position: usize) -> Option<&Account> {
        let at = quotas.iter().position(|quota| quota.position == position)?;
        self.accounts.get(at)
    }

    fn slack(&self) -> f64 {
        (SLACK * f64::from(self.rate.max(self.asked))).max(LEAST)
    }

    /// One account for each quota, in the same order. Who is new begins with nothing.
    fn follow(&mut self, quotas: &[Quota]) {
        let fits = self.accounts.len() == quotas.len()
            && std::iter::zip(&self.accounts, quotas).all(|(a, q)| a.identity == q.identity);
        if fits {
            return;
        }
        let before = std::mem::take(&mut self.accounts);
        let owed = |identity| {
            let known = before.iter().find(|account| account.identity == identity);
            known.map_or(0.0, |account| account.owed)
        };
        self.accounts = quotas
            .iter()
            .map(|quota| Account {
                identity: quota.identity,
                owed: owed(quota.identity),
            })
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Random;

    /// Sessions that are pinned, at one service with three instances of which the first recovers.
    struct Scene {
        pins: Vec<usize>,
        ledgers: Vec<Ledger>,
        random: Random,
        moves: usize,
    }

    impl Scene {
        /// `own` of the sessions are pinned to the instance that recovers.
        fn new(sessions: usize, own: usize, workers: usize) -> Self {
            let pins = (0..sessions).map(|at| if at < own { 0 } else { 1 + at % 2 });
            Self {
                pins: pins.collect(),
                ledgers: vec![Ledger::default(); workers],
                random: Random::new(7),
                moves: 0,
            }
        }

        /// One request of a random session; whether the recovering instance got it.
        fn request(&mut self, share: f64, now: Timestamp) -> bool {
            let quotas = [Quota {
                position: 0,
                identity: 9,
                share,
            }];
            // Some sessions send far more than others.
            let among = [self.pins.len(), 1 + self.pins.len() / 10];
            let session = self.random.below(among[self.random.below(2)]);
            let session = (session * 7919) % self.pins.len();
            let worker = self.random.below(self.ledgers.len());
            let ledger = &mut self.ledgers[worker];
            ledger.ask(&quotas, now);
            let pinned = self.pins[session];
            let goes = match ledger.demands(&quotas, |_| true) {
                Some(position) => position,
                None if ledger.refuses(&quotas, pinned) => 1,
                None => pinned,
            };
            self.moves += usize::from(goes != pinned);
            self.pins[session] = goes;
            ledger.give(&quotas, goes);
            goes == 0
        }

        /// Requests of a whole second, evenly spread; the share of the recovering instance.
        fn second(&mut self, second: u64, rate: u64, share: f64) -> f64 {
            let own = (0..rate)
                .filter(|n| {
                    self.request(share, Timestamp(second * 1_000_000 + n * 1_000_000 / rate))
                })
                .count();
            own as f64 / rate as f64
        }
    }

    #[test]
    fn the_share_holds_in_every_second_whoever_is_pinned_where() {
        for workers in [1, 2, 4] {
            for sessions in [50, 1000, 20_000] {
                // None of the sessions, as many as there should be, and far too many.
                for own in [0, sessions / 20, sessions / 2, sessions] {
                    let mut scene = Scene::new(sessions, own, workers);
                    for second in 0..40 {
                        // A step every ten seconds, as weights would say: 10, 20, … of 210, 220, …
                        let weight = 10.0 * (1 + second / 10) as f64;
                        let share = weight / (200.0 + weight);
                        let got = scene.second(second, 1200, share);
                        assert!(
                            (got - share).abs() <= 0.02,
                            "{workers} workers, {sessions} sessions, {own} own: \
                             {got} instead of {share} in second {second}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn sessions_move_until_the_share_is_there_and_then_hardly_any_more() {
        let mut scene = Scene::new(2000, 0, 1);
        let share = 0.1;
        for second in 0..20 {
            scene.second(second, 1000, share);
        }
        let climbing = std::mem::take(&mut scene.moves);
        for second in 20..60 {
            scene.second(second, 1000, share);
        }
        // A balancer alone would move nine of ten sessions with every request.
        assert!(climbing < 1000, "{climbing}");
        assert!(scene.moves < 40 * 1000 / 50, "{}", scene.moves);
    }

    #[test]
    fn accounts_follow_the_instances_and_stay_within_bounds() {
        let quota = |identity, position, share| Quota {
            position,
            identity,
            share,
        };
        let mut ledger = Ledger::default();
        let first = [quota(1, 0, 0.5)];
        (0..100).for_each(|_| ledger.ask(&first, Timestamp(0)));
        assert_eq!(ledger.demands(&first, |_| true), Some(0));
        assert_eq!(ledger.demands(&first, |_| false), None);
        assert!(!ledger.refuses(&first, 0));
        // It has moved; another one is new and is owed nothing.
        let both = [quota(2, 0, 0.1), quota(1, 1, 0.5)];
        ledger.ask(&both, Timestamp(0));
        assert_eq!(ledger.demands(&both, |_| true), Some(1));
        for _ in 0..100 {
            ledger.give(&both, 1);
        }
        ledger.ask(&both, Timestamp(0));
        assert!(ledger.refuses(&both, 1));
        assert!(!ledger.refuses(&both, 2), "it does not recover");
        // Within two slacks, however much it was.
        for _ in 0..8 {
            ledger.ask(&both, Timestamp(0));
        }
        assert!(!ledger.refuses(&both, 1));
        ledger.ask(&[], Timestamp(0));
        assert_eq!(ledger.demands(&[], |_| true), None);
    }
}
