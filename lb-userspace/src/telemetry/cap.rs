//! A bound on the number of series.
//!
//! Most families have a series or several for each instance, so an lb with thousands of instances
//! would give a scraper hundreds of thousands of series, and one that makes its services at run
//! time could do so without anybody having planned for it. Beyond the bound, the series of the
//! instances that came last are added up, service by service, under `instance="overflow"`; when
//! that does not do, whole services are, under `service="overflow"`.
//!
//! **Sums stay true.** What is folded is counted, so `sum by (service)` over a folded family is what
//! it was before. Averages, rates and shares have no sum: those of folded instances are left out.
//!
//! **Who has series of its own keeps them.** An instance that was shown is shown as long as it
//! exists, whatever comes before it in the alphabet later, or its counters would jump.

use std::collections::{HashMap, HashSet};

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, Metric, MetricFamily, MetricType};

use super::names::{self, Family};

/// What stands for the names of those that are added up.
pub(super) const OVERFLOW: &str = "overflow";

/// Gauges whose sum says nothing.
const NOT_ADDITIVE: [&Family; 7] = [
    &names::SUCCESS_RATE,
    &names::AVERAGE_RESPONSE_TIME,
    &names::HEALTH_SCORE,
    &names::RECOVERY_SHARE,
    &names::SLOW_START_SHARE,
    &names::PROBE_LATENCY,
    &names::SESSION_CAPACITY,
];

/// How far folding goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// Instances within their service.
    Instances,
    /// Services, with their VIPs, instances and limits.
    Services,
}

/// Who is shown, from scrape to scrape.
#[derive(Debug, Default)]
pub(super) struct Shown {
    instances: HashSet<String>,
    services: HashSet<String>,
}

/// How many were added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Folded {
    /// Instances.
    pub(super) instances: usize,
    /// Services; their instances are not counted again.
    pub(super) services: usize,
}

/// Folds `families` until they have at most `most` series.
pub(super) fn cap(families: &mut [MetricFamily], most: usize, shown: &mut Shown) -> Folded {
    let instances = fold(families, most, Level::Instances, &mut shown.instances);
    let services = fold(families, most, Level::Services, &mut shown.services);
    Folded {
        instances,
        services,
    }
}

/// Series as a scraper counts them: a histogram has one for each bucket, `+Inf`, sum and count.
pub(super) fn count(families: &[MetricFamily]) -> usize {
    families
        .iter()
        .flat_map(MetricFamily::get_metric)
        .map(weight)
        .sum()
}

fn weight(metric: &Metric) -> usize {
    match metric.get_histogram().get_bucket().len() {
        0 => 1,
        buckets => buckets + 3,
    }
}

impl Level {
    /// Whom a series is about at this level; `None` when it is about nobody in particular.
    fn owner(self, metric: &Metric) -> Option<String> {
        let of = |label: &str| {
            let mut labels = metric.get_label().iter();
            labels.find(|pair| pair.name() == label)
        };
        let owner = match self {
            Self::Instances => {
                let (service, instance) = (of("service")?, of("instance")?);
                // A line feed is in no name.
                format!("{}\n{}", service.value(), instance.value())
            }
            // Rate limits have theirs in `name`.
            Self::Services => of("service").or_else(|| of("name"))?.value().to_owned(),
        };
        Some(owner)
    }

    fn hides(self, label: &str) -> bool {
        match self {
            Self::Instances => label == "instance",
            Self::Services => matches!(label, "service" | "instance" | "vip" | "name" | "limit"),
        }
    }
}

/// Folds at one level, and answers how many had to go.
fn fold(
    families: &mut [MetricFamily],
    most: usize,
    level: Level,
    shown: &mut HashSet<String>,
) -> usize {
    let total = count(families);
    let mut owners: Vec<(String, usize)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut owned = 0;
    for metric in families.iter().flat_map(MetricFamily::get_metric) {
        if let Some(owner) = level.owner(metric) {
            let place = *places.entry(owner).or_insert_with_key(|owner| {
                owners.push((owner.clone(), 0));
                owners.len() - 1
            });
            owners[place].1 += weight(metric);
            owned += weight(metric);
        }
    }
    if total <= most {
        *shown = places.into_keys().collect();
        return 0;
    }
    let groups = match level {
        Level::Instances => {
            let service = |owner: &(String, usize)| owner.0.split('\n').next().map(str::to_owned);
            owners.iter().filter_map(service).collect::<HashSet<_>>()
        }
        Level::Services => HashSet::from([String::new()]),
    };
    // What the sums themselves take, at the most.
    let largest = owners.iter().map(|owner| owner.1).max().unwrap_or(0);
    let taken = (total - owned) + largest * groups.len();
    let mut room = most.saturating_sub(taken);
    let (before, new): (Vec<_>, Vec<_>) = owners
        .into_iter()
        .partition(|(owner, _)| shown.contains(owner));
    shown.clear();
    let mut folded = 0;
    for (owner, series) in before.into_iter().chain(new) {
        if series <= room {
            room -= series;
            shown.insert(owner);
        } else {
            folded += 1;
        }
    }
    for family in families {
        fold_family(family, level, shown);
    }
    folded
}

/// Adds up the series of those that are not shown.
fn fold_family(family: &mut MetricFamily, level: Level, shown: &HashSet<String>) {
    let drops = NOT_ADDITIVE.iter().any(|other| other.name == family.name());
    let kind = family.get_field_type();
    let mut kept = Vec::new();
    let mut sums: Vec<Metric> = Vec::new();
    let mut places: HashMap<Vec<String>, usize> = HashMap::new();
    for mut metric in family.take_metric() {
        let hidden = level
            .owner(&metric)
            .is_some_and(|owner| !shown.contains(&owner));
        if !hidden {
            kept.push(metric);
        } else if !drops {
            for pair in metric.mut_label() {
                if level.hides(pair.name()) {
                    pair.set_value(OVERFLOW.to_owned());
                }
            }
            let labels = metric.get_label().iter();
            let labels = labels.map(|pair| pair.value().to_owned()).collect();
            match places.get(&labels) {
                Some(place) => add(kind, &mut sums[*place], &metric),
                None => {
                    places.insert(labels, sums.len());
                    sums.push(metric);
                }
            }
        }
    }
    kept.extend(sums);
    family.set_metric(kept);
}

/// Adds `more` to `sum`.
fn add(kind: MetricType, sum: &mut Metric, more: &Metric) {
    match kind {
        MetricType::COUNTER => {
            let mut counter = Counter::default();
            counter.set_value(sum.get_counter().get_value() + more.get_counter().get_value());
            sum.set_counter(counter);
        }
        MetricType::HISTOGRAM => {
            let (a, b) = (sum.get_histogram(), more.get_histogram());
            // All series of a family have the same bounds.
            let buckets = a.get_bucket().iter().zip(b.get_bucket()).map(|(a, b)| {
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(a.upper_bound());
                bucket.set_cumulative_count(a.cumulative_count() + b.cumulative_count());
                bucket
            });
            let mut histogram = Histogram::default();
            histogram.set_bucket(buckets.collect());
            histogram.set_sample_count(a.get_sample_count() + b.get_sample_count());
            histogram.set_sample_sum(a.get_sample_sum() + b.get_sample_sum());
            sum.set_histogram(histogram);
        }
        _ => {
            let mut gauge = Gauge::default();
            gauge.set_value(sum.get_gauge().get_value() + more.get_gauge().get_value());
            sum.set_gauge(gauge);
        }
    }
}

#[cfg(test)]
mod tests;
