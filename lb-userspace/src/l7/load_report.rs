//! What instances say of their own load, taken from their answers.
//!
//! The field and its forms are those of ORCA ("Open Request Cost Aggregation", the format that
//! gRFC A51 and Envoy share):
//!
//! ```text
//! endpoint-load-metrics: TEXT cpu_utilization=0.3, rps_fractional=10.0, eps=1
//! endpoint-load-metrics: JSON {"cpu_utilization": 0.3, "rps_fractional": 10.0, "eps": 1}
//! endpoint-load-metrics: cpu_utilization:0.3, rps_fractional:10.0
//! endpoint-load-metrics: BIN CTMzMzMzM9M/MQAAAAAAACRAOQAAAAAAAPA/
//! endpoint-load-metrics-bin: CTMzMzMzM9M/MQAAAAAAACRAOQAAAAAAAPA/
//! ```
//!
//! The third one, without a word for its form, is what servers sent before there were words. A colon
//! does as well as an equals sign, and metrics that lb has no use for are passed over. The last two are
//! the message `xds.data.orca.v3.OrcaLoadReport` in base64, with or without padding; where an answer
//! has both fields, the one of bytes counts, as in Envoy. What cannot be read is no report; it is not
//! worth an answer to a client.
//!
//! Reports are cheap to ignore: an instance is listened to ten times a second at most, whatever its
//! traffic is, and all that other answers pay for is a look for the field.

use base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use hyper::{HeaderMap, header::HeaderName};
use prost::Message as _;
use serde::Deserialize;

use super::headers::value;
use crate::model::{Clock, Instance, LoadReport, LoadReportSpec, LoadReports, Timestamp};

/// The longest report that is read, in bytes.
const LONGEST: usize = 4096;

/// Takes the report out of the fields of an answer that `instance` has given just now.
pub(super) fn take(
    spec: &LoadReportSpec,
    instance: &Instance,
    fields: &mut HeaderMap,
    clock: &Clock,
) {
    // One of the names begins with the other, so a look for that finds what there is.
    let is_there = |name: &HeaderName| name.as_str().starts_with(&spec.header);
    if !fields.keys().any(is_there) {
        return;
    }
    let binary = value(fields, &spec.binary_header);
    let Some(field) = binary.or_else(|| value(fields, &spec.header)) else {
        return;
    };
    let (reports, now): (&LoadReports, Timestamp) = (&instance.reports, clock.now());
    if reports.is_due(now) {
        let report = match binary {
            Some(field) => bytes(field.as_bytes()),
            None => parse(field.as_bytes()),
        };
        if let Some(report) = report {
            reports.record(now, report, spec.times.expiry);
        }
    }
    if spec.strip {
        fields.remove(&spec.binary_header);
        fields.remove(&spec.header);
    }
}

/// Base64 as senders write it: most leave the padding out, as gRPC does.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The fields of `OrcaLoadReport` that lb has a use for, by their numbers. A field of any other
/// number is passed over.
#[derive(Clone, PartialEq, prost::Message)]
struct OrcaLoadReport {
    #[prost(double, tag = "1")]
    cpu_utilization: f64,
    /// What was there before `rps_fractional`.
    #[prost(uint64, tag = "3")]
    rps: u64,
    #[prost(double, tag = "6")]
    rps_fractional: f64,
    #[prost(double, tag = "7")]
    eps: f64,
    #[prost(double, tag = "9")]
    application_utilization: f64,
}

/// The report in a field of bytes. A number that is zero is not sent, but a message without any says
/// nothing.
fn bytes(value: &[u8]) -> Option<LoadReport> {
    let value = Some(value.trim_ascii()).filter(|value| value.len() <= LONGEST)?;
    let message = BASE64.decode(value).ok().filter(|m| !m.is_empty())?;
    let message = OrcaLoadReport::decode(&*message).ok()?;
    let metrics = Metrics {
        cpu_utilization: Some(message.cpu_utilization),
        application_utilization: Some(message.application_utilization),
        rps_fractional: Some(match message.rps_fractional {
            0.0 => message.rps as f64,
            requests => requests,
        }),
        eps: Some(message.eps),
    };
    metrics.report()
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
    if let Some(message) = text.strip_prefix("BIN ") {
        return bytes(message.as_bytes());
    }
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
            "BIN ",
            "BIN CgA=",
            "BIN not base64",
            // A negative utilization, one that is infinite, and a number that ends too soon.
            "BIN CQAAAAAAAPC/",
            "BIN CQAAAAAAAPB/",
            "BIN CQAAAAAA",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        let long = format!("cpu_utilization=0.5,{}", "x=1,".repeat(LONGEST));
        assert_eq!(parse(long.as_bytes()), None);
    }

    #[test]
    fn messages_are_understood_however_they_are_padded() {
        let said = OrcaLoadReport {
            cpu_utilization: 0.3,
            rps_fractional: 10.0,
            eps: 1.0,
            ..OrcaLoadReport::default()
        };
        let of =
            |message: &OrcaLoadReport| bytes(BASE64.encode(message.encode_to_vec()).as_bytes());
        assert_eq!(of(&said), report(0.3, 10.0, 1.0));
        // What a server that was built from the .proto sends, in the module's documentation.
        for text in [
            "CTMzMzMzM9M/MQAAAAAAACRAOQAAAAAAAPA/",
            " CTMzMzMzM9M/MQAAAAAAACRAOQAAAAAAAPA/ ",
        ] {
            assert_eq!(bytes(text.as_bytes()), report(0.3, 10.0, 1.0), "{text}");
            let worded = format!("BIN {text}");
            assert_eq!(parse(worded.as_bytes()), report(0.3, 10.0, 1.0), "{text}");
        }
        let older = OrcaLoadReport {
            application_utilization: 0.9,
            rps: 7,
            ..OrcaLoadReport::default()
        };
        assert_eq!(of(&older), report(0.9, 7.0, 0.0));
        // Eleven bytes and thirteen: one character of padding is whole, and two are.
        for (rps, most) in [(7, 1), (40_000, 2)] {
            let message = OrcaLoadReport {
                cpu_utilization: 0.5,
                rps,
                ..OrcaLoadReport::default()
            };
            let text = BASE64.encode(message.encode_to_vec());
            let bare = text.trim_end_matches('=');
            assert_eq!(text.len() - bare.len(), most);
            for padding in 0..=most {
                let text = bare.to_owned() + &"=".repeat(padding);
                let expected = report(0.5, rps as f32, 0.0);
                assert_eq!(bytes(text.as_bytes()), expected, "{text}");
            }
        }
        // Memory, costs and metrics of the application's own are passed over.
        let mut more = said.encode_to_vec();
        more.extend_from_slice(&[0x11, 0, 0, 0, 0, 0, 0, 0xe0, 0x3f]);
        more.extend_from_slice(&[0x42, 12, 0x0a, 1, b'q', 0x11, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
        let more = BASE64.encode(more);
        assert_eq!(bytes(more.as_bytes()), report(0.3, 10.0, 1.0));
        let long = "A".repeat(LONGEST + 1);
        assert_eq!(bytes(long.as_bytes()), None);
    }

    /// Bytes that are a message, nearly one, or none.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let numbers = prop::array::uniform4(any::<f64>());
        let sane = (numbers, any::<u64>()).prop_map(|([cpu, fractional, eps, own], rps)| {
            let message = OrcaLoadReport {
                cpu_utilization: cpu,
                rps,
                rps_fractional: fractional,
                eps,
                application_utilization: own,
            };
            message.encode_to_vec()
        });
        let bytes = prop::collection::vec(any::<u8>(), 0..120);
        (sane, bytes, any::<prop::sample::Index>(), 0..4).prop_map(|(sane, bytes, at, how)| {
            let mut message = sane;
            match how {
                0 => return bytes,
                1 => message.extend(bytes),
                2 if !message.is_empty() => {
                    let at = at.index(message.len());
                    message[at] ^= 1 << (bytes.len() % 8);
                }
                _ => message.truncate(message.len().saturating_sub(bytes.len() % 9)),
            }
            message
        })
    }

    proptest! {
        #[test]
        fn whatever_bytes_an_instance_sends_are_a_sane_report_or_none(
            message in message(),
            text in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            for value in [BASE64.encode(message).into_bytes(), text] {
                if let Some(report) = bytes(&value) {
                    for number in [report.utilization, report.rate, report.errors] {
                        prop_assert!(number.is_finite() && number >= 0.0);
                    }
                }
            }
        }

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
