//! Metric families as single numbers, for a backend that they are pushed to.

use std::collections::BTreeMap;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use crate::integration::{Sample, SampleKind};

/// The values of a family.
pub(super) fn samples(family: &MetricFamily) -> Vec<Sample> {
    let name = family.name();
    let kind = match family.get_field_type() {
        MetricType::COUNTER => SampleKind::Counter,
        MetricType::HISTOGRAM => SampleKind::Histogram,
        _ => SampleKind::Gauge,
    };
    let mut samples = Vec::new();
    for metric in family.get_metric() {
        let tags = tags(metric.get_label());
        let one = |value| Sample {
            name: name.to_owned(),
            kind,
            value,
            tags: tags.clone(),
        };
        match kind {
            SampleKind::Counter => samples.push(one(metric.get_counter().get_value())),
            SampleKind::Gauge => samples.push(one(metric.get_gauge().get_value())),
            SampleKind::Histogram => samples.extend(parts(metric, &one)),
        }
    }
    samples
}

/// A histogram in the parts of the text format: buckets, sum and count.
fn parts(metric: &Metric, one: &dyn Fn(f64) -> Sample) -> Vec<Sample> {
    let histogram = metric.get_histogram();
    let part = |end: &str, value: f64, bound: Option<String>| {
        let mut sample = one(value);
        sample.name += end;
        sample
            .tags
            .extend(bound.map(|bound| ("le".to_owned(), bound)));
        sample
    };
    let count = histogram.get_sample_count() as f64;
    let bounds = histogram.get_bucket().iter();
    let buckets = bounds.filter(|bucket| bucket.upper_bound().is_finite());
    let buckets = buckets.map(|bucket| {
        let bound = bucket.upper_bound().to_string();
        part("_bucket", bucket.cumulative_count() as f64, Some(bound))
    });
    let rest = [
        part("_bucket", count, Some("+Inf".to_owned())),
        part("_sum", histogram.get_sample_sum(), None),
        part("_count", count, None),
    ];
    buckets.chain(rest).collect()
}

fn tags(labels: &[LabelPair]) -> BTreeMap<String, String> {
    let pair = |label: &LabelPair| (label.name().to_owned(), label.value().to_owned());
    labels.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{names, samples::Samples},
        *,
    };

    #[test]
    fn a_histogram_is_sent_in_parts() {
        let mut family = Samples::new(&names::RESPONSE_TIME);
        let bounds = [0.5, 1.0].into_iter();
        family.add_histogram(&["s", "a", "i"], bounds, &[2, 0, 3], 7.5);
        let samples = samples(&family.finish());
        let shown: Vec<_> = samples
            .iter()
            .map(|s| (&*s.name, s.tags.get("le").map(String::as_str), s.value))
            .collect();
        let name = "gateway_load_balancer_response_time_seconds";
        let [bucket, sum, count] = ["bucket", "sum", "count"].map(|end| format!("{name}_{end}"));
        let expected = [
            (&*bucket, Some("0.5"), 2.0),
            (&*bucket, Some("1"), 2.0),
            (&*bucket, Some("+Inf"), 5.0),
            (&*sum, None, 7.5),
            (&*count, None, 5.0),
        ];
        assert_eq!(shown, expected);
        assert!(samples.iter().all(|s| s.kind == SampleKind::Histogram));
        assert!(samples.iter().all(|s| s.tags["service"] == "s"));
    }

    #[test]
    fn counters_and_gauges_are_one_number_each() {
        let mut answers = Samples::new(&names::ANSWERS);
        answers.add(&["s", "no_route"], 2.0);
        let sample = samples(&answers.finish()).remove(0);
        assert_eq!((sample.kind, sample.value), (SampleKind::Counter, 2.0));
        let mut score = Samples::new(&names::HEALTH_SCORE);
        score.add(&["s", "i"], 0.5);
        let sample = samples(&score.finish()).remove(0);
        assert_eq!((sample.kind, sample.value), (SampleKind::Gauge, 0.5));
        assert_eq!(sample.tags["instance"], "i");
    }
}
