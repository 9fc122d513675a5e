//! Which limit strikes when, by a clock of the test's own.

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

/// Limits of 10 s, but for those that are off by default.
fn timeouts() -> TimeoutSpec {
    TimeoutSpec {
        request: LIMIT,
        upload: LIMIT,
        response: LIMIT,
        idle: LIMIT,
        ..TimeoutSpec::default()
    }
}

/// The default: 30 s for a head, 75 s to the next one.
fn pulse(seconds: f64) -> Pulse {
    Pulse::new(at(seconds), &GatewaySpec::default())
}

fn at(seconds: f64) -> Timestamp {
    Timestamp((seconds * 1e6) as u64)
}

#[test]
fn a_head_must_come_within_its_limit() {
    let pulse = pulse(5.0);
    assert_eq!(pulse.look(at(34.9)), Look::Again(at(35.0)));
    assert_eq!(pulse.look(at(35.0)), Look::Close(Closed::Head));
}

#[test]
fn an_answer_must_come_within_its_limit_and_only_the_guilty_is_blamed() {
    let pulse = pulse(0.0);
    pulse.arrived(at(20.0), &timeouts());
    assert!(!pulse.is_idle());
    assert_eq!(pulse.look(at(29.0)), Look::Again(at(30.0)));
    assert_eq!(pulse.stop(), Stop::No);
    assert_eq!(pulse.look(at(30.0)), Look::Again(at(60.0)));
    assert_eq!(pulse.stop(), Stop::Request);
    assert_eq!(pulse.stopped(), (Reason::RequestTimeout, true));
    pulse.arrived(at(40.0), &timeouts());
    pulse.set_upload(Upload::Waiting);
    pulse.look(at(50.0));
    assert_eq!(pulse.stopped(), (Reason::ClientTimeout, false));
    pulse.end();
    assert_eq!(pulse.stopped(), (Reason::ShuttingDown, false));
}

#[test]
fn an_upload_that_moves_keeps_its_request_alive() {
    let pulse = pulse(0.0);
    pulse.arrived(at(0.0), &timeouts());
    pulse.set_upload(Upload::Waiting);
    pulse.uploaded(at(9.0));
    assert_eq!(pulse.look(at(10.0)), Look::Again(at(19.0)));
    pulse.upload_over(at(15.0));
    assert_eq!(pulse.look(at(24.0)), Look::Again(at(25.0)));
    assert_eq!(pulse.look(at(25.0)), Look::Again(at(55.0)));
}

#[test]
fn a_silent_body_is_cut_and_a_slow_one_is_not() {
    let pulse = pulse(0.0);
    pulse.arrived(at(0.0), &timeouts());
    pulse.answering(at(1.0), LIMIT);
    let mut now = pulse.due();
    for _ in 0..100 {
        pulse.progressed();
        let Look::Again(next) = pulse.look(now) else {
            panic!("cut although it moved");
        };
        now = next;
    }
    let silent_since = now;
    while let Look::Again(next) = pulse.look(now) {
        now = next;
    }
    let silence = now - silent_since;
    assert!(
        silence >= LIMIT && silence <= LIMIT.mul_f64(1.25),
        "{silence:?}"
    );
}

#[test]
fn a_client_that_still_drains_an_answer_is_not_idle() {
    let pulse = pulse(0.0);
    pulse.arrived(at(0.0), &timeouts());
    pulse.answering(at(1.0), LIMIT);
    pulse.answered(at(2.0));
    pulse.set_blocked(true);
    pulse.progressed();
    assert!(matches!(pulse.look(at(40.0)), Look::Again(_)));
    pulse.set_blocked(false);
    assert_eq!(pulse.look(pulse.due()), Look::Close(Closed::KeepAlive));
}

#[test]
fn an_upload_that_outlives_its_answer_is_watched() {
    let pulse = pulse(0.0);
    pulse.arrived(at(0.0), &timeouts());
    pulse.set_upload(Upload::Passing);
    pulse.answering(at(1.0), LIMIT);
    pulse.answered(at(2.0));
    assert!(!pulse.is_idle());
    pulse.upload_over(at(3.0));
    assert!(pulse.is_idle());
    assert_eq!(pulse.due(), at(78.0));
}

#[test]
fn a_head_that_has_begun_must_end_and_silence_between_requests_may_last() {
    let pulse = pulse(0.0);
    pulse.arrived(at(0.0), &timeouts());
    pulse.answered(at(1.0));
    assert_eq!(pulse.look(at(40.0)), Look::Again(at(76.0)));
    assert!(!pulse.has_begun() && !pulse.is_within_head());
    pulse.read();
    assert!(pulse.has_begun() && !pulse.has_begun());
    pulse.begins(at(40.0));
    assert!(pulse.is_within_head());
    assert_eq!(pulse.look(at(41.0)), Look::Again(at(70.0)));
    assert_eq!(pulse.look(at(70.0)), Look::Close(Closed::Head));
}

#[test]
fn a_try_ends_before_its_request_does() {
    let pulse = pulse(0.0);
    let spec = TimeoutSpec {
        attempt: Some(Duration::from_secs(3)),
        response: Duration::from_secs(4),
        ..timeouts()
    };
    pulse.arrived(at(0.0), &spec);
    pulse.tries(at(0.0));
    pulse.look(at(3.0));
    assert_eq!(pulse.stopped(), (Reason::TryTimeout, true));
    pulse.resume();
    // Nothing ends while the next one is waited for, but the request.
    assert_eq!(pulse.look(at(3.5)), Look::Again(at(10.0)));
    pulse.tries(at(4.0));
    assert_eq!(pulse.due(), at(7.0));
    assert_eq!((pulse.stop(), pulse.deadline()), (Stop::No, at(10.0)));
    assert_eq!(pulse.look(at(5.0)), Look::Again(at(7.0)));
    pulse.look(at(7.0));
    pulse.resume();
    pulse.tries(at(8.0));
    assert_eq!(pulse.look(at(8.0)), Look::Again(at(10.0)));
    pulse.look(at(10.0));
    assert_eq!(pulse.stopped(), (Reason::RequestTimeout, true));
}

#[test]
fn an_instance_that_has_everything_must_begin_to_answer() {
    let pulse = pulse(0.0);
    let spec = TimeoutSpec {
        response: Duration::from_secs(2),
        ..timeouts()
    };
    pulse.arrived(at(0.0), &spec);
    pulse.set_upload(Upload::Passing);
    pulse.uploaded(at(5.0));
    assert_eq!(pulse.look(at(6.0)), Look::Again(at(15.0)));
    pulse.tries(at(5.0));
    pulse.upload_over(at(7.0));
    assert_eq!(pulse.due(), at(9.0));
    pulse.look(at(9.0));
    assert_eq!(pulse.stopped(), (Reason::ResponseTimeout, true));
}

#[test]
fn a_whole_exchange_has_its_limit_even_if_everything_moves() {
    let pulse = pulse(0.0);
    let spec = TimeoutSpec {
        total: Some(Duration::from_secs(15)),
        ..timeouts()
    };
    pulse.arrived(at(0.0), &spec);
    assert_eq!(pulse.deadline(), at(10.0));
    pulse.answering(at(9.0), LIMIT);
    let mut now = pulse.due();
    while let Look::Again(next) = pulse.look(now) {
        pulse.progressed();
        now = next;
    }
    assert_eq!(now, at(15.0));
    assert_eq!(pulse.look(now), Look::Close(Closed::Total));
}

#[test]
fn connections_have_a_last_request() {
    let gateway = GatewaySpec {
        max_connection_requests: Some(2),
        ..GatewaySpec::default()
    };
    let few = Pulse::new(at(0.0), &gateway);
    few.counts(at(1.0));
    assert!(!few.is_last());
    few.counts(at(2.0));
    assert!(few.is_last());
    let old = pulse(0.0);
    old.counts(at(3599.0));
    assert!(!old.is_last());
    old.counts(at(3600.0));
    assert!(old.is_last());
}
