//! What instances say of their own load, taken from their answers.
//!
//! The field and its forms are those of ORCA ("Open Request Cost Aggregation", the format that
//! gRFC A51 and Envoy share):
//!
//! ```text
//! endpoint-load-metrics: TEXT cpu_utilization=0.3, rps_fractional=10.0, eps=1
//! endpoint-load-metrics: JSON {"cpu_utilization": 0.3, "rps_fractional": 10.0, "eps": 1}
//! endpoint-load-metrics: cpu_utilization:0.3, rps_fractional:10.0
//! ```
//!
//! The last one, without a word for its form, is what servers sent before there were words. A colon
//! does as well as an equals sign, and metrics that lb has no use for are passed over. What cannot
//! be read is no report; it is not worth an answer to a client.
//!
//! Reports are cheap to ignore: an instance is listened to ten times a second at most, whatever its
//! traffic is, and all that other answers pay for is a look for the field.

use hyper::HeaderMap;
use serde::Deserialize;

use crate::model::{Instance, LoadReport, LoadReportSpec, LoadReports, Timestamp};

/// The longest report that is read, in bytes.
const LONGEST: usize = 4096;

/// Takes the report out of the fields of an answer that `instance` has given at `now`.
pub(super) fn take(
    spec: &LoadReportSpec,
    instance: &Instance,
    fields: &mut HeaderMap,
    now: Timestamp,
) {
    let Some(field) = fields.get(&spec.header) else {
        return;
    };
    let reports: &LoadReports = &instance.reports;
    if reports.is_due(now)
        && let Some(report) = parse(field.as_bytes())
    {
        reports.record(now, report, spec.times.expiry);
    }
    if spec.strip {
        fields.remove(&spec.header);
    }
}

/// The metrics of a report that lb has a use for, by their names in `OrcaLoadReport`.
#[derive(Debug, Default, Deserialize)]
struct Metrics {
    #[serde(default, alias = "cpuUtilization")]
    cpu_utilization: Option<f64>,
    #[serde(default, alias = "applicationUtilization")]
    application_utilization: Option<f64>,
    #[serde(default, alias = "rpsFractional")]
    rps_fractional: Option<f64>,
    #[serde(default)]
    eps: Option<f64>,
}

/// The report in a field's value; `None` when there is none, or one that makes no sense.
fn parse(value: &[u8]) -> Option<LoadReport> {
    let text = std::str::from_utf8(value.get(..value.len().min(LONGEST + 1))?).ok()?;
    let text = Some(text.trim()).filter(|text| text.len() <= LONGEST)?;
    let metrics = if let Some(json) = text.strip_prefix("JSON ") {
        serde_json::from_str(json).ok()?
    } else {
        pairs(text.strip_prefix("TEXT ").unwrap_or(text))?
    };
    metrics.report()
}

/// `name=value` or `name:value`, parted by commas.
fn pairs(text: &str) -> Option<Metrics> {
    let mut metrics = Metrics::default();
    for pair in text.split(',') {
        let (name, value) = pair.split_once(['=', ':'])?;
        let place = match name.trim() {
            "cpu_utilization" => &mut metrics.cpu_utilization,
            "application_utilization" => &mut metrics.application_utilization,
            "rps_fractional" => &mut metrics.rps_fractional,
            "eps" => &mut metrics.eps,
            _ => continue,
        };
        *place = Some(value.trim().parse().ok()?);
    }
    Some(metrics)
}

impl Metrics {
    /// What the application calls its load goes before what the processor does (gRFC A58).
    fn report(&self) -> Option<LoadReport> {
        let application = self.application_utilization.filter(|value| *value > 0.0);
        let number = |value: f64| {
            let narrow = value as f32;
            (narrow.is_finite() && narrow >= 0.0).then_some(narrow)
        };
        Some(LoadReport {
            utilization: number(application.or(self.cpu_utilization)?)?,
            rate: number(self.rps_fractional.unwrap_or(0.0))?,
            errors: number(self.eps.unwrap_or(0.0))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn report(utilization: f32, rate: f32, errors: f32) -> Option<LoadReport> {
        Some(LoadReport {
            utilization,
            rate,
            errors,
        })
    }

    #[test]
    fn every_form_is_understood() {
        for (text, expected) in [
            (
                "TEXT cpu_utilization=0.3, mem_utilization=0.8, rps_fractional=10.0, eps=1, \
                 named_metrics.queue=0.4",
                report(0.3, 10.0, 1.0),
            ),
            (
                "TEXT cpu_utilization:0.3,rps_fractional:10",
                report(0.3, 10.0, 0.0),
            ),
            ("cpu_utilization=1.5", report(1.5, 0.0, 0.0)),
            (
                "cpu_utilization:0.3, application_utilization:0.9",
                report(0.9, 0.0, 0.0),
            ),
            (
                "application_utilization=0,cpu_utilization=0.3",
                report(0.3, 0.0, 0.0),
            ),
            (
                r#"JSON {"cpu_utilization": 0.3, "rps_fractional": 10, "named_metrics": {"a": 1}}"#,
                report(0.3, 10.0, 0.0),
            ),
            (
                r#"JSON {"cpuUtilization":0.3,"rpsFractional":2.5,"eps":2}"#,
                report(0.3, 2.5, 2.0),
            ),
        ] {
            assert_eq!(parse(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_no_report() {
        for text in [
            "",
            "TEXT",
            "TEXT mem_utilization=0.8",
            "TEXT cpu_utilization",
            "TEXT cpu_utilization=much",
            "TEXT cpu_utilization=-1",
            "TEXT cpu_utilization=NaN",
            "TEXT cpu_utilization=inf",
            "TEXT cpu_utilization=1e300",
            "TEXT cpu_utilization=0.5, eps=-1",
            "JSON {\"cpu_utilization\": \"much\"}",
            "JSON {",
            "BIN CgA=",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        let long = format!("cpu_utilization=0.5,{}", "x=1,".repeat(LONGEST));
        assert_eq!(parse(long.as_bytes()), None);
    }

    proptest! {
        #[test]
        fn whatever_an_instance_says_is_a_sane_report_or_none(
            value in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..200),
                "(TEXT |JSON |)[a-z_=:,.0-9{}\" -]{0,80}".prop_map(String::into_bytes),
                (any::<f64>(), any::<f64>()).prop_map(|(cpu, rps)| {
                    format!("TEXT cpu_utilization={cpu:e}, rps_fractional={rps:e}").into_bytes()
                }),
            ],
        ) {
            if let Some(report) = parse(&value) {
                for number in [report.utilization, report.rate, report.errors] {
                    prop_assert!(number.is_finite() && number >= 0.0);
                }
            }
        }
    }
}
