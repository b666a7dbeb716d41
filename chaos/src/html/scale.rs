//! From values to places in a plot. Whatever lies outside is drawn at the edge, so nothing leaves it.

/// Places between two ends, evenly.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    values: (f64, f64),
    places: (f64, f64),
}

impl Linear {
    /// Maps `values` (the smaller first) to `places`.
    pub fn new(values: (f64, f64), places: (f64, f64)) -> Linear {
        Linear { values, places }
    }

    /// Where a value is.
    pub fn at(&self, value: f64) -> f64 {
        let (low, high) = self.values;
        let share = if high > low { (value - low) / (high - low) } else { 0.0 };
        self.places.0 + share.clamp(0.0, 1.0) * (self.places.1 - self.places.0)
    }

    /// About `count` round values from end to end.
    pub fn ticks(&self, count: f64) -> Vec<f64> {
        let (low, high) = self.values;
        let step = round_up((high - low) / count.max(1.0));
        let first = (low / step).ceil() as i64;
        (first..).map(|i| i as f64 * step).take_while(|tick| *tick <= high).collect()
    }
}

/// The next of 1, 2, 5, 10, 20, 50, ...
fn round_up(step: f64) -> f64 {
    if step <= 0.0 || step.is_nan() {
        return 1.0;
    }
    let power = 10f64.powf(step.log10().floor());
    let digit = [1.0, 2.0, 5.0].into_iter().find(|d| d * power >= step * 0.999);
    digit.unwrap_or(10.0) * power
}

/// Milliseconds on a logarithmic scale. What is not noted (below [`FLOOR_MS`]) is on its floor.
#[derive(Clone, Copy, Debug)]
pub struct Millis(Linear);

/// Shorter stalls are not told apart.
pub const FLOOR_MS: u64 = 5;

impl Millis {
    /// Up to a little above `max_ms`, at least a second.
    pub fn new(max_ms: u64, places: (f64, f64)) -> Millis {
        let top = (max_ms.max(1_000) as f64 * 1.1).log10();
        Millis(Linear::new(((FLOOR_MS as f64).log10(), top), places))
    }

    /// Where it is.
    pub fn at(&self, ms: u64) -> f64 {
        self.0.at((ms.max(1) as f64).log10())
    }

    /// Powers of ten with their names; the floor is first.
    pub fn ticks(&self) -> Vec<(u64, String)> {
        let mut ticks = vec![(FLOOR_MS, format!("< {FLOOR_MS} ms"))];
        let mut ms: u64 = 10;
        while (ms as f64).log10() <= self.0.values.1 + 1e-9 {
            let name = if ms < 1_000 { format!("{ms} ms") } else { format!("{} s", ms / 1_000) };
            ticks.push((ms, name));
            ms *= 10;
        }
        ticks
    }
}

/// Shares from 0 to 1, drawn out towards 1: 0.9, 0.99 and 0.999 are as far from each other.
#[derive(Clone, Copy, Debug)]
pub struct Tail(Linear);

impl Tail {
    /// The share at which the scale ends; all beyond is at the edge.
    const DECADES: f64 = 3.4;

    /// Onto `places`.
    pub fn new(places: (f64, f64)) -> Tail {
        Tail(Linear::new((0.0, Tail::DECADES), places))
    }

    /// Where it is.
    pub fn at(&self, share: f64) -> f64 {
        let left = 1.0 - share;
        let decades = if left > 0.0 { -left.log10() } else { Tail::DECADES };
        self.0.at(decades)
    }

    /// Shares with their names (%).
    pub fn ticks() -> [(f64, &'static str); 6] {
        [(0.0, "0"), (0.5, "50"), (0.9, "90"), (0.99, "99"), (0.999, "99.9"), (1.0, "100")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_the_plot() {
        let x = Linear::new((10.0, 20.0), (100.0, 200.0));
        assert_eq!([5.0, 10.0, 15.0, 99.0].map(|v| x.at(v)), [100.0, 100.0, 150.0, 200.0]);
        assert_eq!(Linear::new((1.0, 1.0), (0.0, 9.0)).at(1.0), 0.0);
        let y = Millis::new(3_000, (100.0, 0.0));
        assert_eq!([0, 5, 3_300, 50_000].map(|v| y.at(v).round()), [100.0, 100.0, 0.0, 0.0]);
        let p = Tail::new((0.0, 340.0));
        assert_eq!([0.0, 0.9, 0.99].map(|v| p.at(v).round()), [0.0, 100.0, 200.0]);
        assert_eq!([1.0, 1.5].map(|v| p.at(v)), [340.0, 340.0]);
    }

    #[test]
    fn ticks_are_round() {
        let x = Linear::new((0.0, 187.0), (0.0, 1.0));
        assert_eq!(x.ticks(9.0), [0.0, 50.0, 100.0, 150.0]);
        assert_eq!(x.ticks(10.0), (0..=9).map(|i| f64::from(i) * 20.0).collect::<Vec<_>>());
        let names: Vec<String> =
            Millis::new(70, (0.0, 1.0)).ticks().into_iter().map(|t| t.1).collect();
        assert_eq!(names, ["< 5 ms", "10 ms", "100 ms", "1 s"]);
    }
}
