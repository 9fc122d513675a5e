//! Comparisons as one picture: a bar to each median, and a line from the smallest value to the largest.

use std::fmt::Write as _;

use super::report::{Comparison, Spread};

const WIDTH: f64 = 900.0;
const LEFT: f64 = 270.0;
/// Where bars end, with room for figures behind them.
const RIGHT: f64 = 600.0;
const ROW: f64 = 18.0;
const HEAD: f64 = 44.0;

/// The yardstick, and all others.
const COLOURS: [&str; 2] = ["#999999", "#56b4e9"];

/// A picture of all of them, one below the other, each to its own scale.
#[must_use]
pub fn bars(title: &str, comparisons: &[Comparison]) -> String {
    let rows = |comparison: &Comparison| HEAD + ROW * comparison.series.len() as f64;
    let height = 40.0 + comparisons.iter().map(rows).sum::<f64>();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    text(&mut svg, (WIDTH / 2.0, 22.0), "middle", title);
    let mut y = 30.0;
    for comparison in comparisons {
        panel(&mut svg, y, comparison);
        y += rows(comparison);
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, top: f64, comparison: &Comparison) {
    let spreads: Vec<Spread> = comparison
        .series
        .iter()
        .map(|series| Spread::of(&series.values))
        .collect();
    let most = spreads
        .iter()
        .map(|s| s.max)
        .fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| LEFT + (RIGHT - LEFT) * value.max(0.0) / most;
    let head = format!("{} ({})", comparison.title, comparison.unit);
    text(svg, (20.0, top + 28.0), "start", &head);
    for (place, (series, spread)) in comparison.series.iter().zip(&spreads).enumerate() {
        let y = top + HEAD + ROW * place as f64;
        let colour = COLOURS[usize::from(place > 0)];
        text(svg, (LEFT - 8.0, y), "end", &series.name);
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"10\" fill=\"{colour}\"/>\n\
             <path d=\"M{:.1} {:.1}H{:.1}\" stroke=\"#000000\"/>",
            y - 9.0,
            x(spread.median) - LEFT,
            x(spread.min),
            y - 4.0,
            x(spread.max)
        );
        let ratio = comparison.ratio(place);
        let figures = format!(
            "{:.2} ({:.2} to {:.2}), ratio {:.2}",
            spread.median, spread.min, spread.max, ratio.median
        );
        text(svg, (RIGHT + 8.0, y), "start", &figures);
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.0}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::Series;

    #[test]
    fn every_series_has_its_bar() {
        let series = |name: &str, values: &[f64]| Series {
            name: name.to_owned(),
            values: values.to_vec(),
        };
        let comparison = Comparison {
            title: "a < b".to_owned(),
            unit: "ns",
            series: vec![series("one", &[1.0, 2.0, 3.0]), series("two", &[4.0])],
        };
        let svg = bars("title", &[comparison]);
        assert_eq!(svg.matches("<rect ").count(), 3, "{svg}");
        assert!(
            svg.contains("a &lt; b (ns)") && svg.contains("4.00 (4.00 to 4.00)"),
            "{svg}"
        );
    }
}
