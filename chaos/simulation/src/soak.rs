//! Many seeds, on several threads, with progress.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::plan::Without;
use crate::run::{self, Outcome};
use crate::world::excuses::Excused;
use crate::world::marks::Marks;
use crate::world::rules::Rule;

/// Failures that are told in full.
const TOLD: usize = 3;

/// One seed in this many runs twice, and has to do the same again.
const TWICE: u64 = 50;

/// A seed that shows what is found and not mended yet.
pub struct Open {
    /// The seed.
    pub seed: u64,
    /// The rule that it breaks. Another one is news.
    pub rule: Rule,
    /// Why.
    pub why: &'static str,
}

/// They are told, and do not count as failed, unless something is switched off. Whoever mends one moves
/// it to the regression tests: one that breaks no rule any more is told as well, and counts as failed.
pub const OPEN: &[Open] = &[Open {
    seed: 423,
    rule: Rule::NoReset,
    why: "a director that nobody answers forwards by an old record what does not fit it",
}];

/// Those that may fail. With something switched off all failures count.
fn excused(without: Option<Without>) -> &'static [Open] {
    if without.is_none() { OPEN } else { &[] }
}

/// Which seeds, and how.
#[derive(Clone, Copy, Debug)]
pub struct Soak {
    /// The first seed.
    pub from: u64,
    /// How many.
    pub seeds: u64,
    /// On how many threads.
    pub jobs: usize,
    /// What is switched off.
    pub without: Option<Without>,
    /// Whether it ends at the first failure.
    pub stop: bool,
}

/// What came of them.
#[derive(Default)]
pub struct Tally {
    /// Seeds that ran.
    pub ran: u64,
    /// Those in which a rule was broken.
    pub failed: Vec<Outcome>,
    /// Those that failed as they are known to.
    pub open: Vec<&'static Open>,
    /// Those that are said to fail, and did not.
    pub mended: Vec<&'static Open>,
    /// Seeds that did something else the second time.
    pub unlike: Vec<u64>,
    /// The rare paths that were reached.
    pub marks: Marks,
    /// Losses that were nobody's fault.
    pub excused: Excused,
    /// Connections begun.
    pub connections: u64,
    /// Time that passed in the worlds (us).
    pub world_us: u64,
    /// Time all runs took together.
    pub took: Duration,
}

impl Tally {
    /// Takes what came of a seed; `open` are excused.
    fn take(&mut self, outcome: Outcome, open: &'static [Open]) {
        self.ran += 1;
        self.marks.add(&outcome.marks);
        self.excused.add(&outcome.excused);
        self.connections += outcome.connections.0;
        self.world_us += outcome.world_us;
        self.took += outcome.took;
        let known = open.iter().find(|open| open.seed == outcome.seed);
        match (&outcome.violation, known) {
            (None, None) => {}
            (None, Some(open)) => self.mended.push(open),
            (Some(violation), Some(open)) if violation.rule == open.rule => self.open.push(open),
            (Some(_), _) => self.failed.push(outcome),
        }
    }
}

impl Soak {
    /// Runs them. `progress` is told now and then.
    pub fn run(&self, progress: impl Fn(&Tally, Duration) + Sync) -> Tally {
        let next = AtomicU64::new(self.from);
        let over = AtomicBool::new(false);
        let tally = Mutex::new(Tally::default());
        let begun = Instant::now();
        let open = excused(self.without);
        let work = || {
            while !over.load(Ordering::Relaxed) {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= self.from + self.seeds {
                    break;
                }
                let outcome = run::seed(seed, self.without);
                let again = seed.is_multiple_of(TWICE).then(|| run::seed(seed, self.without).hash);
                let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                if again.is_some_and(|hash| hash != outcome.hash) {
                    tally.unlike.push(seed);
                }
                if self.stop && outcome.violation.is_some() {
                    over.store(true, Ordering::Relaxed);
                }
                tally.take(outcome, open);
                progress(&tally, begun.elapsed());
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(work);
            }
        });
        let mut tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
        tally.failed.sort_by_key(|outcome| outcome.seed);
        tally
    }
}

impl Tally {
    /// Whether every rule held, the same way each time.
    pub fn good(&self) -> bool {
        self.failed.is_empty() && self.unlike.is_empty() && self.mended.is_empty()
    }

    /// What is told at the end.
    pub fn report(&self) -> String {
        let (mut lines, commit) = (Vec::new(), run::commit());
        for outcome in self.failed.iter().take(TOLD) {
            lines.push(outcome.report());
        }
        for outcome in &self.failed {
            if let Some(violation) = &outcome.violation {
                lines.push(format!("seed {}, commit {commit}: {violation}", outcome.seed));
            }
        }
        for Open { seed, rule, why } in &self.open {
            lines.push(format!("seed {seed} is known to break {rule}: {why}"));
        }
        for Open { seed, .. } in &self.mended {
            lines.push(format!("seed {seed} is listed as one that fails, and does not any more"));
        }
        for seed in &self.unlike {
            lines.push(format!("seed {seed} did something else the second time"));
        }
        lines.push(self.marks.table());
        lines.push(self.excused.table());
        lines.push(format!(
            "{} seeds, {} failed, {} connections, {:.0} s simulated, {:.1} ms CPU a seed",
            self.ran,
            self.failed.len(),
            self.connections,
            self.world_us as f64 / 1e6,
            self.took.as_secs_f64() * 1e3 / self.ran.max(1) as f64,
        ));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::rules::Violation;

    fn outcome(seed: u64, rule: Option<Rule>) -> Outcome {
        let broken = |rule| Violation { at_us: 1, rule, what: String::new(), flow: None };
        Outcome {
            seed,
            violation: rule.map(broken),
            marks: Marks::default(),
            excused: Excused::default(),
            hash: (0, 0),
            connections: (0, 0),
            world_us: 0,
            took: Duration::ZERO,
            words: String::new(),
        }
    }

    #[test]
    fn who_is_known_to_fail_is_excused_for_that_rule_only() {
        static KNOWN: [Open; 1] = [Open { seed: 7, rule: Rule::NoReset, why: "a test" }];
        let tally = |seed, rule, open| {
            let mut tally = Tally::default();
            tally.take(outcome(seed, rule), open);
            (tally.open.len(), tally.mended.len(), tally.failed.len(), tally.good())
        };
        assert_eq!(tally(7, Some(Rule::NoReset), &KNOWN), (1, 0, 0, true));
        assert_eq!(tally(7, Some(Rule::Long), &KNOWN), (0, 0, 1, false));
        assert_eq!(tally(7, None, &KNOWN), (0, 1, 0, false));
        assert_eq!(tally(8, Some(Rule::NoReset), &KNOWN), (0, 0, 1, false));
        assert_eq!(tally(7, Some(Rule::NoReset), &[]), (0, 0, 1, false));
        assert_eq!(tally(8, None, &KNOWN), (0, 0, 0, true));
    }

    #[test]
    fn something_switched_off_excuses_nobody() {
        assert_eq!(excused(None).len(), OPEN.len());
        assert!(excused(Some(Without::Veto)).is_empty());
    }
}
