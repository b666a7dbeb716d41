//! How long connections stalled in phases of the run.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Stalls without faults, and around each step.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StallPhases {
    /// Before the first step: what a crash step is without its fault, with the same load, the same burst of young
    /// connections and about as long.
    pub calm: Phase,
    /// Around each step, in the order of the steps.
    pub steps: Vec<StepStalls>,
}

/// Stalls around one step.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StepStalls {
    /// From the judgement of the step before (or the end of the phase without faults) until it began.
    pub before: Phase,
    /// From its beginning until it was judged: every connection had exchanged something, or was lost.
    pub during: Phase,
    /// The same, only those that changed director.
    pub moved: Phase,
    /// From then until the next step was prepared, or the run was wound down.
    pub after: Phase,
}

/// Stalls in a span of time. Every connection that was there when it began counts once, with the longest
/// part of a stall that lies in it; lost ones are left out.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Phase {
    /// When it began (ms since the run did).
    pub from_ms: u64,
    /// When it ended.
    pub until_ms: u64,
    /// The stalls (ms).
    pub stalls: Distribution,
}

/// A distribution of milliseconds in logarithmic buckets (an HDR histogram of two significant digits).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Distribution {
    /// How many values there are.
    pub count: u64,
    /// The largest of them.
    pub max_ms: u64,
    /// The largest value of each bucket that is not empty, and how many are in it; ascending.
    pub buckets: Vec<(u64, u64)>,
}

/// Longer ones are counted as this long; no run takes a day.
const MOST_MS: u64 = 86_400_000;

impl Distribution {
    /// Of these values.
    pub fn of(values: impl IntoIterator<Item = u64>) -> Distribution {
        let mut histogram =
            Histogram::<u64>::new_with_bounds(1, MOST_MS, 2).expect("they are within its limits");
        let mut max_ms = 0;
        for value in values {
            max_ms = max_ms.max(value);
            histogram.saturating_record(value);
        }
        let buckets = histogram
            .iter_recorded()
            // The largest is known exactly.
            .map(|b| (b.value_iterated_to().min(max_ms), b.count_at_value()))
            .collect();
        Distribution { count: histogram.len(), max_ms, buckets }
    }

    /// The value that `share` (0 to 1) of all do not exceed, by the nearest-rank method.
    pub fn quantile(&self, share: f64) -> u64 {
        let rank = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (value, count) in &self.buckets {
            seen += count;
            if seen >= rank {
                return *value;
            }
        }
        self.max_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_exact_where_values_are_small_and_within_a_hundredth_elsewhere() {
        let all = Distribution::of([0, 0, 7, 9_999]);
        assert_eq!((all.count, all.max_ms), (4, 9_999));
        assert_eq!(all.buckets, [(0, 2), (7, 1), (9_999, 1)]);
        let many = Distribution::of(0..=10_000);
        assert_eq!(many.buckets.iter().map(|(_, count)| count).sum::<u64>(), 10_001);
        assert!(many.buckets.len() < 1_200, "{}", many.buckets.len());
        for share in [0.25, 0.5, 0.99] {
            let exact = 10_000.0 * share;
            let told = many.quantile(share) as f64;
            assert!((told - exact).abs() <= exact / 100.0 + 1.0, "{share}: {told}");
        }
    }

    #[test]
    fn quantiles_are_nearest_ranks() {
        assert_eq!(Distribution::of([]).quantile(0.5), 0);
        let few = Distribution::of([1, 2, 3, 200]);
        assert_eq!([0.0, 0.5, 0.75, 0.76, 1.0].map(|q| few.quantile(q)), [1, 2, 3, 200, 200]);
    }
}
