//! The OpenMetrics text format, version 1.0.0.
//!
//! The library writes the older Prometheus format alone. The two differ in little: a counter's
//! family is called without `_total`, bounds of buckets are floating-point numbers in their
//! canonical form, quotes in help texts are escaped too, and `# EOF` at the end tells a scraper that
//! nothing was cut off. Source: the OpenMetrics specification, sections "Text format" and
//! "Canonical Numbers".

use std::fmt::{self, Write as _};

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

/// The `Content-Type` of the format.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether a client that sends this `Accept` would rather have OpenMetrics: it names the format at
/// a quality that is not below that of plain text.
#[must_use]
pub fn is_wanted(accept: &str) -> bool {
    let quality = |range: &str| {
        let parameters = range.split(';').skip(1).map(str::trim);
        let mut q = parameters.filter_map(|p| p.strip_prefix("q=")?.parse::<f32>().ok());
        q.next().unwrap_or(1.0)
    };
    let best = |wanted: &str| {
        let ranges = accept.split(',').map(str::trim);
        ranges
            .filter(|range| range.split(';').next().map(str::trim) == Some(wanted))
            .map(quality)
            .fold(0.0_f32, f32::max)
    };
    let open = best("application/openmetrics-text");
    open > 0.0 && open >= best("text/plain")
}

/// All of `families` in the format.
pub(super) fn encode(families: &[MetricFamily]) -> String {
    let mut text = String::new();
    for family in families {
        // Writing into a string does not fail.
        _ = write_family(&mut text, family);
    }
    text.push_str("# EOF\n");
    text
}

fn write_family(text: &mut String, family: &MetricFamily) -> fmt::Result {
    let kind = family.get_field_type();
    let (name, word) = match kind {
        MetricType::COUNTER => (family.name().trim_end_matches("_total"), "counter"),
        MetricType::HISTOGRAM => (family.name(), "histogram"),
        _ => (family.name(), "gauge"),
    };
    writeln!(text, "# TYPE {name} {word}")?;
    writeln!(text, "# HELP {name} {}", Escaped(family.help()))?;
    for metric in family.get_metric() {
        match kind {
            MetricType::COUNTER => {
                let value = metric.get_counter().get_value();
                write_sample(text, name, "_total", metric, None, value)?;
            }
            MetricType::HISTOGRAM => write_histogram(text, name, metric)?,
            _ => write_sample(text, name, "", metric, None, metric.get_gauge().get_value())?,
        }
    }
    Ok(())
}

fn write_histogram(text: &mut String, name: &str, metric: &Metric) -> fmt::Result {
    let histogram = metric.get_histogram();
    let count = histogram.get_sample_count();
    for bucket in histogram.get_bucket() {
        // The debug form of a float always has a point: 1.0.
        let bound = format!("{:?}", bucket.upper_bound());
        let below = bucket.cumulative_count() as f64;
        write_sample(text, name, "_bucket", metric, Some(&bound), below)?;
    }
    write_sample(text, name, "_bucket", metric, Some("+Inf"), count as f64)?;
    write_sample(text, name, "_count", metric, None, count as f64)?;
    let sum = histogram.get_sample_sum();
    write_sample(text, name, "_sum", metric, None, sum)
}

fn write_sample(
    text: &mut String,
    name: &str,
    suffix: &str,
    metric: &Metric,
    bound: Option<&str>,
    value: f64,
) -> fmt::Result {
    write!(text, "{name}{suffix}")?;
    let labels = metric
        .get_label()
        .iter()
        .map(|pair: &LabelPair| (pair.name(), pair.value()));
    let labels = labels.chain(bound.map(|bound| ("le", bound)));
    let mut separator = '{';
    for (label, value) in labels {
        write!(text, "{separator}{label}=\"{}\"", Escaped(value))?;
        separator = ',';
    }
    if separator == ',' {
        text.push('}');
    }
    writeln!(text, " {value}")
}

/// Text with what would end it, or its line, behind a backslash.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            other => f.write_char(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{names, samples::Samples},
        *,
    };

    #[test]
    fn every_kind_is_written_as_the_format_wants_it() {
        let mut answers = Samples::new(&names::GATEWAY_ANSWERS);
        answers.add(&["a\"\\\n"], 3.0);
        let mut open = Samples::new(&names::GATEWAY_OPEN);
        open.add(&[], 2.0);
        let mut times = Samples::new(&names::RESPONSE_TIME);
        times.add_histogram(
            &["s", "a", "i"],
            [0.00025, 1.0].into_iter(),
            &[1, 2, 3],
            7.5,
        );
        let labels = r#"service="s",algorithm="a",instance="i""#;
        let name = "gateway_load_balancer_response_time_seconds";
        let expected = format!(
            "# TYPE lb_gateway_answers counter\n\
             # HELP lb_gateway_answers {}\n\
             lb_gateway_answers_total{{reason=\"a\\\"\\\\\\n\"}} 3\n\
             # TYPE lb_gateway_open_connections gauge\n\
             # HELP lb_gateway_open_connections {}\n\
             lb_gateway_open_connections 2\n\
             # TYPE {name} histogram\n\
             # HELP {name} {}\n\
             {name}_bucket{{{labels},le=\"0.00025\"}} 1\n\
             {name}_bucket{{{labels},le=\"1.0\"}} 3\n\
             {name}_bucket{{{labels},le=\"+Inf\"}} 6\n\
             {name}_count{{{labels}}} 6\n\
             {name}_sum{{{labels}}} 7.5\n\
             # EOF\n",
            names::GATEWAY_ANSWERS.help,
            names::GATEWAY_OPEN.help,
            names::RESPONSE_TIME.help,
        );
        let families = [answers, open, times].map(Samples::finish);
        assert_eq!(encode(&families), expected);
    }

    #[test]
    fn is_given_to_those_who_ask_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,\
                          application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, wanted) in [
            (prometheus, true),
            ("application/openmetrics-text", true),
            ("text/plain;version=0.0.4", false),
            ("text/plain, application/openmetrics-text;q=0.5", false),
            ("application/openmetrics-text;q=0", false),
            ("*/*", false),
            ("", false),
        ] {
            assert_eq!(is_wanted(accept), wanted, "{accept}");
        }
    }
}
