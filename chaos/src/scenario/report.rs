//! The report of a run: what programs read.

mod environment;
mod stalls;
mod timeline;

pub use environment::Environment;
use serde::{Deserialize, Serialize};
pub use stalls::{Distribution, Phase, StallPhases, StepStalls};
pub use timeline::{Alive, Busy, Change, Fault, Lane, Said, StallSeries, Timeline};

use super::steps::StepName;

/// What a run says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing was lost, moved or damaged, and every step really happened.
    Pass,
    /// Something was.
    Fail,
    /// The run proves nothing.
    #[default]
    Unknown,
}

impl Verdict {
    /// The exit code of the scenario.
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Pass => 0,
            Verdict::Fail => 1,
            Verdict::Unknown => 2,
        }
    }
}

/// The report.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The verdict.
    pub verdict: Verdict,
    /// Why, in a sentence.
    pub reason: String,
    /// The seed.
    pub seed: u64,
    /// How long the whole took (ms), from the first namespace to the last judgement.
    pub took_ms: u64,
    /// Where and how it was run.
    #[serde(default)]
    pub environment: Environment,
    /// The steps, in order.
    pub steps: Vec<StepReport>,
    /// What went on at which time.
    #[serde(default)]
    pub timeline: Timeline,
    /// How long connections stalled: without faults, and around each step.
    #[serde(default)]
    pub stalls: StallPhases,
}

/// What became of the connections in a step.
#[derive(Clone, PartialEq, Debug, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// The step.
    pub name: StepName,
    /// The director it concerned.
    pub director: String,
    /// Whether it really happened, as measured at the router.
    pub happened: bool,
    /// Why not, or what else is worth knowing.
    pub notes: Vec<String>,
    /// From its beginning until it had taken effect (s).
    pub took_s: Seconds,
    /// From then until everything was restored and settled (s).
    pub repair_s: Seconds,
    /// Crash steps: from the fault until the router had left the director's routes (ms). Planned steps:
    /// from the first to the last route change.
    pub routes_moved_ms: Option<u64>,
    /// When the router's BFD gave the director up (ms after the fault); only when a machine is lost.
    pub bfd_ms: Option<u64>,
    /// Eligible connections that the router sent to another director afterwards. Crash steps: those that
    /// sat on the failed one.
    pub eligible_taken_over: u64,
    /// How often guards let go without an injected reason.
    pub guard_releases: u64,
    /// How often they did so because of the fault.
    pub guard_releases_injected: u64,
    /// Connections that lived for a few seconds only.
    pub young: Young,
    /// Eligible connections by kind.
    pub cohorts: Vec<CohortReport>,
    /// The stalls of all eligible connections together.
    pub stall_ms: Stalls,
    /// Losses, for people: a few of them.
    pub losses: Vec<String>,
}

/// Seconds with one decimal in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seconds {
    /// In milliseconds.
    pub ms: u64,
}

impl Serialize for Seconds {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64((self.ms as f64 / 100.0).round() / 10.0)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Seconds, D::Error> {
        f64::deserialize(from).map(|s| Seconds { ms: (s * 1000.0).round() as u64 })
    }
}

/// Young connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Young {
    /// Those that lived in the step.
    pub total: u64,
    /// Those that came to their proper end.
    pub survived: u64,
    /// Those that another backend answered.
    pub moved_backend: u64,
    /// Those that got damaged data.
    pub corrupt: u64,
}

/// Eligible connections of one kind.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CohortReport {
    /// The kind.
    pub name: String,
    /// How many.
    pub eligible: u64,
    /// How many were not lost.
    pub survived: u64,
    /// How many were answered by another backend.
    pub moved_backend: u64,
    /// How many got damaged data.
    pub corrupt: u64,
    /// Excess over the expected gap, the worst of each connection.
    pub stall_ms: Stalls,
}

/// A distribution of stalls (ms).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Stalls {
    /// Half of the connections stalled no longer.
    pub p50: u64,
    /// 99 of 100 did not.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

impl Stalls {
    /// Percentiles by the nearest-rank method.
    pub fn of(mut all: Vec<u64>) -> Stalls {
        all.sort_unstable();
        let rank = |percent: usize| {
            let rank = (all.len() * percent).div_ceil(100);
            all.get(rank.saturating_sub(1)).copied().unwrap_or(0)
        };
        Stalls { p50: rank(50), p99: rank(99), max: rank(100) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        assert_eq!(Stalls::of(Vec::new()), Stalls::default());
        assert_eq!(Stalls::of(vec![7]), Stalls { p50: 7, p99: 7, max: 7 });
        let hundred = (1..=100).rev().collect();
        assert_eq!(Stalls::of(hundred), Stalls { p50: 50, p99: 99, max: 100 });
        assert_eq!(Stalls::of(vec![0, 0, 0, 900]), Stalls { p50: 0, p99: 900, max: 900 });
    }

    #[test]
    fn seconds_have_one_decimal() {
        let text = serde_json::to_string(&Seconds { ms: 4_149 }).unwrap();
        assert_eq!(text, "4.1");
        assert_eq!(serde_json::from_str::<Seconds>(&text).unwrap(), Seconds { ms: 4_100 });
    }
}
