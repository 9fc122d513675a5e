//! Plots as SVG, written by hand: lines over time, and points on a scale.

use std::fmt::Write as _;

use lb_userspace::model::Algorithm;

use super::{outcome::Figures, report::Study, scenario::Scenario};

/// One colour an algorithm, distinguishable without seeing red and green (Okabe and Ito).
const COLOURS: [&str; 7] = [
    "#999999", "#000000", "#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#d55e00",
];

const WIDTH: f64 = 900.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 20.0;
const ROW: f64 = 24.0;
const TOP: f64 = 70.0;
const PANEL: f64 = 170.0;

fn colour(algorithm: Algorithm) -> &'static str {
    let position = Algorithm::ALL.iter().position(|a| *a == algorithm);
    COLOURS[position.unwrap_or_default() % COLOURS.len()]
}

/// A picture that grows by elements.
struct Picture {
    body: String,
    height: f64,
}

impl Picture {
    fn new(height: f64, title: &str) -> Self {
        let mut picture = Self {
            body: String::new(),
            height,
        };
        picture.text(WIDTH / 2.0, 20.0, "middle", title);
        picture
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.body.write_fmt(element);
        self.body.push('\n');
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        self.add(format_args!(
            "<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str) {
        self.add(format_args!(
            "<path d=\"M{:.1} {:.1}L{:.1} {:.1}\" stroke=\"{colour}\"/>",
            from.0, from.1, to.0, to.1
        ));
    }

    /// Colours and names in a row.
    fn legend(&mut self, algorithms: &[Algorithm]) {
        let mut x = 20.0;
        for algorithm in algorithms {
            let colour = colour(*algorithm);
            self.add(format_args!(
                "<circle cx=\"{x:.0}\" cy=\"41\" r=\"5\" fill=\"{colour}\"/>"
            ));
            self.text(x + 9.0, 45.0, "start", algorithm.as_str());
            x += 28.0 + 6.6 * algorithm.as_str().len() as f64;
        }
    }

    fn svg(self) -> String {
        let height = self.height;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\" fill=\"none\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
             <g fill=\"#222222\">\n{}</g>\n</svg>\n",
            self.body
        )
    }
}

/// A logarithmic scale.
#[derive(Clone, Copy)]
struct Log {
    least: f64,
    most: f64,
    from: f64,
    to: f64,
}

impl Log {
    fn at(&self, value: f64) -> f64 {
        let value = value.clamp(self.least, self.most);
        let part = (value / self.least).ln() / (self.most / self.least).ln();
        self.from + part * (self.to - self.from)
    }

    /// The powers of ten and what is twice and five times as much.
    fn ticks(&self) -> Vec<f64> {
        let first = self.least.log10().floor() as i32;
        let last = self.most.log10().ceil() as i32;
        (first..=last)
            .flat_map(|power| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(power)))
            .filter(|tick| *tick >= self.least * 0.999 && *tick <= self.most * 1.001)
            .collect()
    }
}

/// The 99th percentile of every algorithm in every scenario, as a multiple of the lowest one.
#[must_use]
pub fn overview(studies: &[Study]) -> String {
    let height = TOP + ROW * studies.len() as f64 + 30.0;
    let title = "99th percentile as a multiple of the scenario's lowest";
    let mut picture = Picture::new(height, title);
    picture.legend(&Algorithm::ALL);
    let scale = Log {
        least: 1.0,
        most: 100.0,
        from: LEFT,
        to: WIDTH - RIGHT,
    };
    for tick in scale.ticks() {
        let x = scale.at(tick);
        picture.line((x, TOP - 10.0), (x, height - 25.0), "#dddddd");
        let more = if tick >= scale.most { "≥ " } else { "" };
        picture.text(x, height - 10.0, "middle", &format!("{more}{tick}"));
    }
    for (row, study) in studies.iter().enumerate() {
        let y = TOP + ROW * (row as f64 + 0.3);
        picture.text(LEFT - 10.0, y + 4.0, "end", study.scenario.name);
        let summaries = study.summaries();
        let p99 = summaries.iter().map(|(_, s)| s.p99);
        let lowest = p99.fold(f64::INFINITY, f64::min).max(f64::MIN_POSITIVE);
        for (algorithm, summary) in summaries {
            let x = scale.at(summary.p99 / lowest);
            let colour = colour(algorithm);
            // Those that failed more than one request in a hundred are hollow.
            let fill = if summary.errors > 0.01 {
                "none"
            } else {
                colour
            };
            picture.add(format_args!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{fill}\" stroke=\"{colour}\" \
                 stroke-width=\"2\" fill-opacity=\"0.75\"/>"
            ));
        }
    }
    picture.svg()
}

/// The first instance that something happens to.
fn subject(scenario: &Scenario) -> Option<usize> {
    let first = scenario.happenings.first()?;
    Some(first.instance)
}

/// A scenario second by second: the 99th percentile, and the share of the instance that something
/// happens to. `None` when nothing happens in it.
#[must_use]
pub fn timeline(study: &Study) -> Option<String> {
    let scenario = &study.scenario;
    let subject = subject(scenario)?;
    let mut picture = Picture::new(TOP + 2.0 * PANEL + 60.0, &scenario.about);
    let algorithms: Vec<Algorithm> = study.figures.iter().map(|f| f.algorithm).collect();
    picture.legend(&algorithms);
    let seconds = scenario.seconds;
    let across = |second: f64| 70.0 + second / seconds * (WIDTH - 70.0 - RIGHT);

    let by_second: Vec<Vec<Option<f64>>> =
        study.figures.iter().map(Figures::p99_by_second).collect();
    let all = || by_second.iter().flatten().flatten().copied();
    let latency = Log {
        least: all().fold(f64::INFINITY, f64::min).max(0.1),
        most: all().fold(1.0, f64::max) * 1.1,
        from: TOP + PANEL,
        to: TOP,
    };
    for tick in latency.ticks() {
        let y = latency.at(tick);
        picture.line((70.0, y), (WIDTH - RIGHT, y), "#eeeeee");
        picture.text(64.0, y + 4.0, "end", &format!("{tick}"));
    }
    picture.text(72.0, TOP - 4.0, "start", "p99, ms");
    let bottom = TOP + 2.0 * PANEL + 30.0;
    let shares: Vec<Vec<f64>> = study
        .figures
        .iter()
        .map(|f| {
            (0..seconds as usize)
                .map(|s| f.share(subject, s, s + 1))
                .collect()
        })
        .collect();
    let most = shares.iter().flatten().copied().fold(0.01, f64::max);
    let down = |share: f64| bottom - share / most * PANEL;
    for part in 0..=4 {
        let share = most * f64::from(part) / 4.0;
        let y = down(share);
        picture.line((70.0, y), (WIDTH - RIGHT, y), "#eeeeee");
        picture.text(64.0, y + 4.0, "end", &format!("{:.1}", share * 100.0));
    }
    let title = format!("share of instance {subject}, %");
    picture.text(72.0, bottom - PANEL - 4.0, "start", &title);
    for tick in (0..=seconds as u32).step_by(10) {
        let label = format!("{tick} s");
        picture.text(across(f64::from(tick)), bottom + 18.0, "middle", &label);
    }
    for (i, algorithm) in algorithms.iter().enumerate() {
        let points = by_second[i].iter().enumerate();
        let p99 = points.filter_map(|(s, p99)| Some((across(s as f64 + 0.5), latency.at((*p99)?))));
        curve(&mut picture, *algorithm, p99);
        let points = shares[i].iter().enumerate();
        let share = points.map(|(s, share)| (across(s as f64 + 0.5), down(*share)));
        curve(&mut picture, *algorithm, share);
    }
    Some(picture.svg())
}

fn curve(picture: &mut Picture, algorithm: Algorithm, points: impl Iterator<Item = (f64, f64)>) {
    let mut path = String::new();
    for (x, y) in points {
        let step = if path.is_empty() { 'M' } else { 'L' };
        let _ = write!(path, "{step}{x:.0} {y:.1}");
    }
    let colour = colour(algorithm);
    picture.add(format_args!(
        "<path d=\"{path}\" stroke=\"{colour}\" stroke-width=\"1.5\" fill=\"none\"/>"
    ));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::catalogue;

    #[test]
    fn a_logarithmic_scale_has_its_ends_and_ticks() {
        let scale = Log {
            least: 1.0,
            most: 100.0,
            from: 0.0,
            to: 10.0,
        };
        assert_eq!(scale.ticks(), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert!((scale.at(10.0) - 5.0).abs() < 1e-9);
        assert!((scale.at(1e6) - 10.0).abs() < 1e-9);
    }

    #[test]
    fn pictures_show_every_algorithm() {
        let mut scenario = catalogue::slow();
        (scenario.warmup, scenario.seconds) = (0.0, 1.0);
        let study = Study::run(scenario, &Algorithm::ALL, &[1]).unwrap();
        let lines = timeline(&study).unwrap();
        for algorithm in Algorithm::ALL {
            assert!(lines.contains(algorithm.as_str()));
        }
        assert_eq!(lines.matches("stroke-width=\"1.5\"").count(), 14);
        let points = overview(&[study]);
        assert_eq!(points.matches("<circle").count(), 14);
        assert!(points.ends_with("</svg>\n"));
    }
}
