//! Stalls of the connections around one step as a drawing: for each share of them the stall that it did
//! not exceed.

use super::scale::{Millis, Tail};
use super::svg::{Anchor, Svg};
use super::text::span;
use crate::scenario::report::{Distribution, StallPhases, StepStalls};

const WIDTH: f64 = 350.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 338.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 190.0;

/// The phases: class and name.
pub const PHASES: [(&str, &str); 5] = [
    ("q-calm", "without faults"),
    ("q-before", "before"),
    ("q-during", "during"),
    ("q-moved", "during, moved"),
    ("q-after", "after"),
];

/// The distributions around a step, in the order of [`PHASES`].
pub fn phases<'a>(all: &'a StallPhases, step: &'a StepStalls) -> [&'a Distribution; 5] {
    [&all.calm, &step.before, &step.during, &step.moved, &step.after].map(|phase| &phase.stalls)
}

/// The longest stall of all, so that every step is drawn on the same scale.
pub fn longest(all: &StallPhases) -> u64 {
    let steps = all.steps.iter().flat_map(|step| phases(all, step));
    steps.map(|d| d.max_ms).max().unwrap_or(0).max(all.calm.stalls.max_ms)
}

/// Draws one step on a scale up to `most_ms`; `aim_ms` is what the 99th percentile should stay below.
pub fn draw(
    name: &str,
    all: &StallPhases,
    step: &StepStalls,
    aim_ms: Option<u64>,
    most_ms: u64,
) -> String {
    let mut svg = Svg::new(WIDTH);
    svg.height(HEIGHT);
    let (x, y) = (Tail::new((LEFT, RIGHT)), Millis::new(most_ms, (BOTTOM, TOP)));
    svg.millis(&y, LEFT, RIGHT);
    for (share, name) in Tail::ticks() {
        let place = x.at(share);
        svg.line("grid", &[(place, TOP), (place, BOTTOM)]);
        svg.text("tick", (place, BOTTOM + 16.0), Anchor::Middle, name);
    }
    let middle = (LEFT + RIGHT) / 2.0;
    svg.text(
        "tick",
        (middle, BOTTOM + 34.0),
        Anchor::Middle,
        "% of the connections stalled no longer",
    );
    // The aim: a mark where the 99th percentile should stay below.
    if let Some(ms) = aim_ms {
        let (at, aim) = (x.at(0.99), y.at(ms));
        svg.line("aim", &[(at - 16.0, aim), (at + 16.0, aim)]);
        svg.text("small", (at - 20.0, aim + 4.0), Anchor::End, &format!("aim: p99 < {}", span(ms)));
    }
    for ((class, _), distribution) in PHASES.iter().zip(phases(all, step)) {
        svg.line(&format!("quantile {class}"), &curve(distribution, &x, &y));
    }
    let during = &step.during.stalls;
    let label = format!(
        "Stalls around {name}: p99 {} during it, {} without faults",
        span(during.quantile(0.99)),
        span(all.calm.stalls.quantile(0.99))
    );
    svg.end("quantiles", &label, " data-plot=\"stalls\"")
}

/// A stair: each bucket is as wide as its share, and as high as its value.
fn curve(distribution: &Distribution, x: &Tail, y: &Millis) -> Vec<(f64, f64)> {
    let mut points = Vec::new();
    let (mut seen, count) = (0, distribution.count.max(1) as f64);
    for (ms, of_them) in &distribution.buckets {
        let from = x.at(seen as f64 / count);
        seen += of_them;
        let until = x.at(seen as f64 / count);
        if until > from {
            points.push((from, y.at(*ms)));
            points.push((until, y.at(*ms)));
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_goes_from_the_first_connection_to_the_last() {
        let (x, y) = (Tail::new((0.0, 340.0)), Millis::new(1_000, (100.0, 0.0)));
        let all = Distribution::of((0..90).map(|_| 0).chain((0..10).map(|_| 1_100)));
        let points = curve(&all, &x, &y);
        let rounded: Vec<(i64, i64)> =
            points.iter().map(|(x, y)| (x.round() as i64, y.round() as i64)).collect();
        assert_eq!(rounded, [(0, 100), (100, 100), (100, 0), (340, 0)]);
        assert!(curve(&Distribution::default(), &x, &y).is_empty());
    }
}
