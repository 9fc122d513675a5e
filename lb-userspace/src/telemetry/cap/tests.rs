//! Folding: the bound holds, sums stay true, who was shown stays shown.

use proptest::prelude::*;

use super::{super::samples::Samples, *};

/// Two families of every kind for `services` times `instances`.
fn families(services: &[&str], instances: usize) -> Vec<MetricFamily> {
    let mut requests = Samples::new(&names::REQUESTS);
    let mut times = Samples::new(&names::RESPONSE_TIME);
    let mut rates = Samples::new(&names::SUCCESS_RATE);
    let mut weights = Samples::new(&names::WEIGHT);
    let mut answers = Samples::new(&names::ANSWERS);
    for service in services {
        answers.add(&[service, "no_instance"], 2.0);
        for i in 0..instances {
            let instance = format!("http://10.0.0.{i}");
            requests.add(&[service, "adaptive", &instance, "true"], 1.0 + i as f64);
            requests.add(&[service, "adaptive", &instance, "false"], 1.0);
            rates.add(&[service, &instance], 0.5);
            weights.add(&[service, &instance], 10.0);
            times.add_histogram(
                &[service, "adaptive", &instance],
                [0.1, 0.2].into_iter(),
                &[1, 1, 1],
                0.5,
            );
        }
    }
    [requests, times, rates, weights, answers]
        .map(Samples::finish)
        .to_vec()
}

/// The sum of a family's values, by service.
fn sums(families: &[MetricFamily], family: &Family, service: Option<&str>) -> f64 {
    let family = families
        .iter()
        .find(|found| found.name() == family.name)
        .unwrap();
    let of = |metric: &&Metric| {
        let mut labels = metric.get_label().iter();
        service.is_none_or(|name| labels.any(|pair| pair.value() == name))
    };
    let value = |metric: &Metric| match family.get_field_type() {
        MetricType::COUNTER => metric.get_counter().get_value(),
        MetricType::HISTOGRAM => metric.get_histogram().get_sample_count() as f64,
        _ => metric.get_gauge().get_value(),
    };
    family.get_metric().iter().filter(of).map(value).sum()
}

fn text(families: &[MetricFamily]) -> String {
    prometheus::TextEncoder::new()
        .encode_to_string(families)
        .unwrap()
}

#[test]
fn below_the_bound_nothing_changes() {
    let before = families(&["a", "b"], 3);
    let mut after = before.clone();
    let most = count(&before);
    assert_eq!(
        cap(&mut after, most, &mut Shown::default()),
        Folded::default()
    );
    assert_eq!(before, after);
}

#[test]
fn instances_are_added_up_within_their_service() {
    let before = families(&["a", "b"], 20);
    let mut after = before.clone();
    let folded = cap(&mut after, 200, &mut Shown::default());
    assert!(folded.instances > 0, "{folded:?}");
    assert_eq!(folded.services, 0);
    assert!(count(&after) <= 200);
    for family in [&names::REQUESTS, &names::RESPONSE_TIME, &names::WEIGHT] {
        for service in ["a", "b"] {
            let of = |families| sums(families, family, Some(service));
            assert_eq!(of(&before), of(&after), "{} of {service}", family.name);
        }
    }
    let text = text(&after);
    assert!(
        text.contains("lb_instance_weight{service=\"b\",instance=\"overflow\"}"),
        "{text}"
    );
    // A mean of means would be no mean.
    assert!(!text.contains("gateway_instance_success_rate{service=\"b\",instance=\"overflow\"}"));
    assert!(text.contains("lb_answers_total{service=\"b\",reason=\"no_instance\"} 2"));
}

#[test]
fn services_are_added_up_when_that_does_not_do() {
    let names: Vec<String> = (0..50).map(|i| format!("s{i:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let before = families(&names, 2);
    let mut after = before.clone();
    let folded = cap(&mut after, 100, &mut Shown::default());
    assert!(folded.services > 0, "{folded:?}");
    assert!(count(&after) <= 100, "{}", count(&after));
    for family in [&names::REQUESTS, &names::ANSWERS] {
        let of = |families| sums(families, family, None);
        assert_eq!(of(&before), of(&after), "{}", family.name);
    }
}

#[test]
fn who_was_shown_stays_shown() {
    let mut shown = Shown::default();
    let mut first = families(&["m"], 5);
    cap(&mut first, 40, &mut shown);
    let kept = shown.instances.clone();
    assert!(!kept.is_empty() && kept.len() < 5);
    // Another service comes, and before it in the alphabet.
    let mut second = families(&["a", "m"], 5);
    cap(&mut second, 75, &mut shown);
    assert!(
        kept.iter().all(|owner| shown.instances.contains(owner)),
        "{kept:?} {shown:?}"
    );
    // Who is gone makes room.
    let mut third = families(&["a"], 5);
    cap(&mut third, 40, &mut shown);
    assert!(shown.instances.iter().all(|owner| owner.starts_with("a\n")));
}

proptest! {
    #[test]
    fn the_bound_holds_and_counters_add_up(
        services in 1..12usize,
        instances in 0..12usize,
        most in 60..600usize,
    ) {
        let names: Vec<String> = (0..services).map(|i| format!("s{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let before = families(&names, instances);
        let mut after = before.clone();
        let mut shown = Shown::default();
        let folded = cap(&mut after, most, &mut shown);
        prop_assert!(count(&after) <= most, "{} > {most}, {folded:?}", count(&after));
        for family in [&names::REQUESTS, &names::RESPONSE_TIME, &names::ANSWERS] {
            prop_assert_eq!(sums(&before, family, None), sums(&after, family, None));
        }
        // The same once more is the same.
        let mut again = before.clone();
        prop_assert_eq!(cap(&mut again, most, &mut shown), folded);
        prop_assert_eq!(after, again);
    }
}
