//! Balancing in virtual time: the daemon's own code against instances that are a model.
//!
//! What decides is real: every proxy of a [`scenario::Scenario`] has a registry, with the balancer,
//! the scorer and the recoveries that the daemon would run, and counts in the daemon's own
//! [`Instance`](lb_userspace::model::Instance)s through the same guards as the HTTP proxy. What is
//! modelled is the rest of the world: when requests come, what they cost, and how long an instance
//! with so many slots and a queue before them takes. Time is a number that jumps from event to
//! event, so a minute takes a second or less, and chance comes from a seed, so the same run gives
//! the same figures to the last digit.
//!
//! Requests are drawn before anybody decides anything about them: under every algorithm the same
//! requests arrive at the same moments and cost the same work ("common random numbers"). What
//! differs between two algorithms is then their doing and not chance's.
//!
//! | module | what |
//! |---|---|
//! | [`chance`] | distributions and the stream of requests |
//! | [`machine`] | an instance: slots, a queue, a speed, ways to fail |
//! | [`proxy`] | the daemon's part |
//! | [`world`] | the loop of events |
//! | [`scenario`], [`catalogue`] | what happens, and the list of it |
//! | [`outcome`], [`verdict`] | figures of a run, and what they are held against |
//! | [`report`], [`plot`] | tables, JSON, SVG |

mod breaker;
pub mod catalogue;
pub mod chance;
pub mod machine;
pub mod outcome;
pub mod plot;
pub mod proxy;
pub mod report;
pub mod scenario;
pub mod verdict;
pub mod world;
