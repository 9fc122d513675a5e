//! Building metric families from values that live elsewhere.
//!
//! The library's own counters own their values. Here the values belong to instances and to the
//! kernel, so families are made at each scrape and thrown away after it.

use prometheus::{
    core::Desc,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

use super::names::{Family, Kind};

/// The series of one family, under construction.
#[derive(Debug)]
pub(super) struct Samples {
    family: &'static Family,
    metrics: Vec<Metric>,
}

impl Samples {
    pub(super) const fn new(family: &'static Family) -> Self {
        Self {
            family,
            metrics: Vec::new(),
        }
    }

    /// Adds a series of a counter or a gauge; `labels` are the values in the family's order.
    pub(super) fn add(&mut self, labels: &[&str], value: f64) {
        let mut metric = self.series(labels);
        match self.family.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge | Kind::Histogram => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        self.metrics.push(metric);
    }

    /// Adds a series of a histogram: upper bounds, counts of each bucket and of the one above the
    /// last bound, and the sum of all values.
    pub(super) fn add_histogram(
        &mut self,
        labels: &[&str],
        bounds: impl Iterator<Item = f64>,
        counts: &[u64],
        sum: f64,
    ) {
        let mut below = 0;
        let buckets = bounds.zip(counts).map(|(bound, count)| {
            below += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(below);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(counts.iter().sum());
        histogram.set_sample_sum(sum);
        let mut metric = self.series(labels);
        metric.set_histogram(histogram);
        self.metrics.push(metric);
    }

    fn series(&self, values: &[&str]) -> Metric {
        debug_assert_eq!(
            values.len(),
            self.family.labels.len(),
            "{}",
            self.family.name
        );
        let pairs = self.family.labels.iter().zip(values).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        Metric::from_label(pairs.collect())
    }

    pub(super) fn finish(self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.family.name.to_owned());
        family.set_help(self.family.help.to_owned());
        family.set_field_type(match self.family.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
        });
        family.set_metric(self.metrics);
        family
    }
}

/// What a collector of `families` tells the library in advance.
pub(super) fn describe(families: &[&Family]) -> Result<Vec<Desc>, prometheus::Error> {
    families
        .iter()
        .map(|family| {
            Desc::new(
                family.name.to_owned(),
                family.help.to_owned(),
                family
                    .labels
                    .iter()
                    .map(|label| (*label).to_owned())
                    .collect(),
                std::collections::HashMap::new(),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::names, *};

    #[test]
    fn label_values_cannot_break_out_of_their_quotes() {
        let mut samples = Samples::new(&names::GATEWAY_ANSWERS);
        samples.add(&["a\"} 1\nb\\"], 2.0);
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&[samples.finish()])
            .unwrap();
        let expected = "lb_gateway_answers_total{reason=\"a\\\"} 1\\nb\\\\\"} 2\n";
        assert!(text.ends_with(expected), "{text}");
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn histograms_are_cumulative() {
        let mut samples = Samples::new(&names::RESPONSE_TIME);
        samples.add_histogram(&["s", "a", "i"], [0.5, 1.0].into_iter(), &[2, 0, 3], 7.5);
        let family = samples.finish();
        let histogram = family.get_metric()[0].get_histogram();
        let counts: Vec<u64> = histogram
            .get_bucket()
            .iter()
            .map(Bucket::cumulative_count)
            .collect();
        assert_eq!(counts, [2, 2]);
        assert_eq!(histogram.get_sample_count(), 5);
    }
}
