//! The report of a run: what programs read.

mod environment;
mod lost;
mod stalls;
mod timeline;

pub use environment::Environment;
pub use lost::{How, LostConnection};
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

    /// Of two runs, what both say together: a failure counts more than what proves nothing.
    pub fn worse(self, other: Verdict) -> Verdict {
        match (self, other) {
            (Verdict::Fail, _) | (_, Verdict::Fail) => Verdict::Fail,
            (Verdict::Unknown, _) | (_, Verdict::Unknown) => Verdict::Unknown,
            _ => Verdict::Pass,
        }
    }
}

/// The report.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The verdict.
    pub verdict: Verdict,
    /// Why, in a sentence.
    pub reason: String,
    /// The seed.
    pub seed: u64,
    /// How long the whole took (ms), from the first namespace to the last judgement.
    pub took_ms: u64,
    /// Which lab of the matrix it was; empty: the demo's.
    #[serde(default)]
    pub lab: String,
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

impl Report {
    /// A report without steps: the run broke off before it could judge anything.
    pub fn nothing_known(error: &anyhow::Error, seed: u64, took_ms: u64) -> Report {
        Report {
            verdict: Verdict::Unknown,
            reason: format!("the run broke off: {error:#}"),
            seed,
            took_ms,
            ..Report::default()
        }
    }
}

/// The report of a fault matrix: one report for each lab and seed, and all of them together.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MatrixReport {
    /// The verdict.
    pub verdict: Verdict,
    /// Why, in a sentence.
    pub reason: String,
    /// The command that repeats it, in a checkout of the commit that its runs name. Each of them has its own.
    pub command: String,
    /// How long the whole took (ms).
    pub took_ms: u64,
    /// Each fault over all seeds.
    pub faults: Vec<FaultReport>,
    /// Each lab and seed.
    pub runs: Vec<Report>,
}

/// What became of the connections in a fault, all seeds together.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FaultReport {
    /// The fault.
    pub name: StepName,
    /// What it does.
    pub what: String,
    /// How many times it was injected.
    pub runs: u64,
    /// How many times it really happened, as measured at the router.
    pub happened: u64,
    /// By age, added up.
    pub ages: Vec<AgeReport>,
    /// By kind of connection, as far as the fault had no right to lose them: how many, and how many of
    /// them were lost.
    pub eligible: u64,
    /// See `eligible`.
    pub lost: u64,
}

/// What became of the connections in a step.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
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
    /// From the fault until the router had left the director's routes (ms). Planned steps and `clock-jump`:
    /// from the first to the last route change.
    pub routes_moved_ms: Option<u64>,
    /// How often the router changed its routes while it went on; none: an older program wrote the report.
    #[serde(default)]
    pub routes_changed: Option<u64>,
    /// When the router's BFD gave the director up (ms after the fault); only when a machine is lost.
    pub bfd_ms: Option<u64>,
    /// Eligible connections that the router sent to another director, be it for a while. Crash steps: those
    /// that sat on the failed one.
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
    /// How long the slowest connection took to be opened of those that were, while it went on (ms).
    #[serde(default)]
    pub slowest_opening_ms: Option<u64>,
    /// Losses, for people: a few of them.
    pub losses: Vec<String>,
    /// All connections by their age when the fault came.
    #[serde(default)]
    pub ages: Vec<AgeReport>,
    /// What became of each of those that were lost or could not be opened, those without an excuse first.
    #[serde(default)]
    pub lost: Vec<LostConnection>,
}

#[cfg(test)]
impl StepReport {
    /// A crash that cost nobody and of which nothing else is known; tests fill in what they are about.
    pub fn of_a_crash() -> StepReport {
        StepReport {
            name: StepName::KillDaemon,
            director: "d1".into(),
            happened: true,
            notes: Vec::new(),
            took_s: Seconds::default(),
            repair_s: Seconds::default(),
            routes_moved_ms: None,
            routes_changed: None,
            bfd_ms: None,
            eligible_taken_over: 40,
            guard_releases: 0,
            guard_releases_injected: 0,
            young: Young::default(),
            cohorts: Vec::new(),
            stall_ms: Stalls::default(),
            slowest_opening_ms: None,
            losses: Vec::new(),
            ages: Vec::new(),
            lost: Vec::new(),
        }
    }
}

#[cfg(test)]
impl CohortReport {
    /// Connections of one kind that nobody moved or damaged.
    pub fn echo(eligible: u64, survived: u64, stall_ms: Stalls) -> CohortReport {
        let (moved_backend, corrupt) = (0, 0);
        CohortReport { name: "echo".into(), eligible, survived, moved_backend, corrupt, stall_ms }
    }
}

/// How old a connection was when the fault came.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Age {
    /// Older than `replicate-after` and a second.
    Long,
    /// Older than 50 ms.
    Young,
    /// Begun, and not older than 50 ms.
    Newborn,
    /// Opened later, while the fault and its repair went on; until the next step if it came to harm.
    Later,
}

impl Age {
    /// All of them, the oldest first.
    pub const ALL: [Age; 4] = [Age::Long, Age::Young, Age::Newborn, Age::Later];

    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Age::Long => "long",
            Age::Young => "young",
            Age::Newborn => "newborn",
            Age::Later => "later",
        }
    }
}

/// Connections of one age.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AgeReport {
    /// How old they were.
    pub age: Age,
    /// What the fault may cost them.
    pub rule: String,
    /// Those that were connected.
    pub eligible: u64,
    /// Of those, those that changed director: their director failed, or the router sent them elsewhere, be it
    /// for a while.
    pub moved: u64,
    /// Those that were not lost.
    pub survived: u64,
    /// Those that were.
    pub lost: u64,
    /// Of the lost ones, those that changed director.
    pub moved_lost: u64,
    /// Of the lost ones, those that were lost by a reset.
    pub reset: u64,
    /// Of the lost ones, those that were lost by silence, and got a reset later; none: an older program
    /// wrote the report, and they are among `reset`.
    #[serde(default)]
    pub silent_reset: Option<u64>,
    /// Of the lost ones, those that the rule has no room for, whatever became of the others.
    #[serde(default)]
    pub not_spared: u64,
    /// Of the lost ones, those that are held against the run; none: an older program wrote the report.
    #[serde(default)]
    pub excess: Option<u64>,
    /// Those that another backend answered.
    pub wrong_backend: u64,
    /// Those that got damaged data.
    pub corrupt: u64,
    /// Those whose connect() failed, never returned or took too long: they are in none of the numbers of
    /// connected ones.
    pub unconnected: u64,
    /// Of the unconnected, those that the fault does not excuse.
    #[serde(default)]
    pub refused: u64,
    /// Where none was lost: the share that may be lost at the most, with 95 % confidence (rule of three).
    pub bound: Option<f64>,
    /// The same of those that changed director.
    pub moved_bound: Option<f64>,
}

impl AgeReport {
    /// Nobody yet.
    pub fn new(age: Age, rule: String) -> AgeReport {
        AgeReport {
            age,
            rule,
            eligible: 0,
            moved: 0,
            survived: 0,
            lost: 0,
            moved_lost: 0,
            reset: 0,
            silent_reset: None,
            not_spared: 0,
            excess: None,
            wrong_backend: 0,
            corrupt: 0,
            unconnected: 0,
            refused: 0,
            bound: None,
            moved_bound: None,
        }
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &AgeReport) {
        self.eligible += other.eligible;
        self.moved += other.moved;
        self.survived += other.survived;
        self.lost += other.lost;
        self.moved_lost += other.moved_lost;
        self.reset += other.reset;
        self.not_spared += other.not_spared;
        self.silent_reset = self.silent_reset.zip(other.silent_reset).map(|(a, b)| a + b);
        self.excess = self.excess.zip(other.excess).map(|(a, b)| a + b);
        self.wrong_backend += other.wrong_backend;
        self.corrupt += other.corrupt;
        self.unconnected += other.unconnected;
        self.refused += other.refused;
        self.bound();
    }

    /// Says how small a loss the numbers speak for.
    pub fn bound(&mut self) {
        self.bound = rule_of_three(self.eligible, self.lost);
        self.moved_bound = rule_of_three(self.moved, self.moved_lost);
    }
}

/// With 0 of `n` lost, the probability of a loss is below 3/n with 95 % confidence.
fn rule_of_three(n: u64, lost: u64) -> Option<f64> {
    (n > 0 && lost == 0).then(|| (3.0 / n as f64).min(1.0))
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
    fn with_none_lost_the_rule_of_three_tells_what_that_is_worth() {
        let mut runs = AgeReport::new(Age::Young, String::new());
        let one = AgeReport { eligible: 1_500, moved: 1_000, survived: 1_500, ..runs.clone() };
        runs.add(&one);
        assert_eq!((runs.bound, runs.moved_bound), (Some(0.002), Some(0.003)));
        runs.add(&AgeReport { lost: 1, ..one });
        assert_eq!((runs.eligible, runs.bound, runs.moved_bound), (3_000, None, Some(0.0015)));
    }

    #[test]
    fn seconds_have_one_decimal() {
        let text = serde_json::to_string(&Seconds { ms: 4_149 }).unwrap();
        assert_eq!(text, "4.1");
        assert_eq!(serde_json::from_str::<Seconds>(&text).unwrap(), Seconds { ms: 4_100 });
    }
}
