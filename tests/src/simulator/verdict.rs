//! What figures are held against: the best fixed algorithm.

use lb_userspace::model::Algorithm;

use super::outcome::Summary;

/// How far the error rate of an algorithm may be above the lowest one, for its latencies to be
/// worth a comparison: a tenth of a point, or a twentieth of the lowest. Who fails requests is
/// quick with the rest.
const ERRORS: (f64, f64) = (0.001, 0.05);

/// The figures of adaptive next to the best of the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// Which fixed algorithm has the lowest 99th percentile.
    pub best_p99: Algorithm,
    /// That of adaptive as a multiple of it.
    pub p99: f64,
    /// Which fixed algorithm has the lowest mean.
    pub best_mean: Algorithm,
    /// That of adaptive as a multiple of it.
    pub mean: f64,
    /// Error rate of adaptive less the lowest one, 0 or more.
    pub errors: f64,
    /// Whether its error rate is low enough for the comparison.
    pub is_contender: bool,
}

/// Compares; `None` when adaptive or everybody else is missing.
#[must_use]
pub fn verdict(figures: &[(Algorithm, Summary)]) -> Option<Verdict> {
    let is_fixed = |(algorithm, _): &&(Algorithm, Summary)| *algorithm != Algorithm::Adaptive;
    let adaptive = figures.iter().find(|figure| !is_fixed(figure))?.1;
    let errors = |s: &Summary| s.errors;
    let lowest = figures.iter().map(|(_, s)| errors(s)).fold(1.0, f64::min);
    let limit = lowest + ERRORS.0.max(lowest * ERRORS.1);
    let best = |of: fn(&Summary) -> f64| {
        figures
            .iter()
            .filter(is_fixed)
            .filter(|(_, s)| errors(s) <= limit)
            .map(|(algorithm, s)| (*algorithm, of(s)))
            .min_by(|a, b| a.1.total_cmp(&b.1))
    };
    // When nobody else keeps that few errors, adaptive is the best there is.
    let by_p99 = best(|s| s.p99).unwrap_or((Algorithm::Adaptive, adaptive.p99));
    let by_mean = best(|s| s.mean).unwrap_or((Algorithm::Adaptive, adaptive.mean));
    Some(Verdict {
        best_p99: by_p99.0,
        p99: adaptive.p99 / by_p99.1,
        best_mean: by_mean.0,
        mean: adaptive.mean / by_mean.1,
        errors: adaptive.errors - lowest,
        is_contender: adaptive.errors <= limit,
    })
}
