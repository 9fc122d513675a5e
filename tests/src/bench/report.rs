//! Medians, spreads, ratios, and the table that shows them.

use std::fmt::Write as _;

/// One candidate's figures, one a round.
#[derive(Clone, Debug)]
pub struct Series {
    /// Whose.
    pub name: String,
    /// In the order of the rounds.
    pub values: Vec<f64>,
}

/// Candidates that were measured in the same rounds. The first is the yardstick.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What was measured.
    pub title: String,
    /// Its unit.
    pub unit: &'static str,
    /// The candidates.
    pub series: Vec<Series>,
}

/// The smallest value, the median and the largest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Smallest.
    pub min: f64,
    /// Median.
    pub median: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// The spread of `values`; all zero when there are none.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        if n == 0 {
            return Self {
                min: 0.0,
                median: 0.0,
                max: 0.0,
            };
        }
        let median = f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2]);
        Self {
            min: sorted[0],
            median,
            max: sorted[n - 1],
        }
    }
}

impl Comparison {
    /// The ratio of a candidate to the yardstick, round by round.
    #[must_use]
    pub fn ratio(&self, candidate: usize) -> Spread {
        let yardstick = &self.series[0].values;
        let ratios: Vec<f64> = self.series[candidate]
            .values
            .iter()
            .zip(yardstick)
            .map(|(a, b)| a / b)
            .collect();
        Spread::of(&ratios)
    }

    /// The comparison as text.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = String::new();
        let yardstick = &self.series[0].name;
        let rounds = self.series[0].values.len();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{} ({}, {rounds} rounds)", self.title, self.unit);
        let _ = writeln!(
            out,
            "  {:<26} {:>9} {:>19}   {:>6} {:>15}",
            "", "median", "min .. max", "ratio", "min .. max"
        );
        for (i, series) in self.series.iter().enumerate() {
            let (s, r) = (Spread::of(&series.values), self.ratio(i));
            let _ = writeln!(
                out,
                "  {:<26} {:>9.2} {:>8.2} .. {:>7.2}   {:>6.2} {:>6.2} .. {:>5.2}",
                series.name, s.median, s.min, s.max, r.median, r.min, r.max
            );
        }
        let _ = writeln!(out, "  ratios are to {yardstick}, round by round");
        out
    }

    /// The comparison as one JSON object.
    #[must_use]
    pub fn json(&self) -> String {
        let series: Vec<String> = self
            .series
            .iter()
            .enumerate()
            .map(|(i, series)| {
                let (s, r) = (Spread::of(&series.values), self.ratio(i));
                format!(
                    "{{\"name\":\"{}\",\"median\":{:.4},\"min\":{:.4},\"max\":{:.4},\
                     \"ratio\":{:.4},\"ratio_min\":{:.4},\"ratio_max\":{:.4}}}",
                    series.name, s.median, s.min, s.max, r.median, r.min, r.max
                )
            })
            .collect();
        let (title, unit) = (&self.title, self.unit);
        format!(
            "{{\"title\":\"{title}\",\"unit\":\"{unit}\",\"series\":[{}]}}",
            series.join(",")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios_are_taken_round_by_round() {
        assert_eq!(
            Spread::of(&[3.0, 1.0, 2.0]),
            Spread {
                min: 1.0,
                median: 2.0,
                max: 3.0
            }
        );
        assert!((Spread::of(&[4.0, 1.0]).median - 2.5).abs() < f64::EPSILON);
        let series = |name: &str, values: &[f64]| Series {
            name: name.into(),
            values: values.into(),
        };
        let comparison = Comparison {
            title: "t".into(),
            unit: "u",
            series: vec![
                series("a", &[1.0, 10.0, 2.0]),
                series("b", &[2.0, 10.0, 4.0]),
            ],
        };
        assert!((comparison.ratio(1).median - 2.0).abs() < f64::EPSILON);
        assert!(comparison.table().contains("b "));
        assert!(comparison.json().contains("\"ratio\":2.0000"));
    }
}
