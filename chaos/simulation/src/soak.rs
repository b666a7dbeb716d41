//! Many seeds, on several threads, with progress.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::plan::{Plan, Without};
use crate::run::{self, Outcome};
use crate::world::excuses::Excused;
use crate::world::marks::{Mark, Marks};

/// Failures that are told in full.
const TOLD: usize = 3;

/// One seed in this many runs twice, and has to do the same again.
const TWICE: u64 = 50;

/// Which seeds, and how.
#[derive(Clone, Debug)]
pub struct Soak {
    /// The first seed.
    pub from: u64,
    /// How many.
    pub seeds: u64,
    /// On how many threads.
    pub jobs: usize,
    /// What is switched off.
    pub without: Option<Without>,
    /// Without the harsher faults.
    pub mild: bool,
    /// Whether it ends at the first failure.
    pub stop: bool,
    /// Marks of which it is told which seeds reach them.
    pub reaching: Vec<Mark>,
}

/// What came of them.
#[derive(Default)]
pub struct Tally {
    /// Seeds that ran.
    pub ran: u64,
    /// Those in which a rule was broken.
    pub failed: Vec<Outcome>,
    /// Seeds that did something else the second time.
    pub unlike: Vec<u64>,
    /// The rare paths that were reached.
    pub marks: Marks,
    /// Which seeds reach the marks that are looked for, and how often.
    pub reaching: BTreeMap<Mark, BTreeMap<u64, u64>>,
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
    /// Takes what came of a seed.
    fn take(&mut self, outcome: Outcome) {
        self.ran += 1;
        self.marks.add(&outcome.marks);
        self.excused.add(&outcome.excused);
        self.connections += outcome.connections.0;
        self.world_us += outcome.world_us;
        self.took += outcome.took;
        if outcome.violation.is_some() {
            self.failed.push(outcome);
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
        let work = || {
            while !over.load(Ordering::Relaxed) {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= self.from + self.seeds {
                    break;
                }
                let plan = if self.mild { Plan::mild(seed) } else { Plan::of(seed) };
                let plan = Plan { without: self.without, ..plan };
                let outcome = run::plan(plan.clone());
                let again = seed.is_multiple_of(TWICE).then(|| run::plan(plan).hash);
                let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                if again.is_some_and(|hash| hash != outcome.hash) {
                    tally.unlike.push(seed);
                }
                if self.stop && outcome.violation.is_some() {
                    over.store(true, Ordering::Relaxed);
                }
                for mark in self.reaching.iter().filter(|mark| outcome.marks.count(**mark) > 0) {
                    let times = outcome.marks.count(*mark);
                    tally.reaching.entry(*mark).or_default().insert(seed, times);
                }
                tally.take(outcome);
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
        self.failed.is_empty() && self.unlike.is_empty()
    }

    /// What is told at the end.
    pub fn report(&self) -> String {
        let (mut lines, commit) = (Vec::new(), run::commit());
        for outcome in self.failed.iter().take(TOLD) {
            lines.push(outcome.report());
        }
        for outcome in &self.failed {
            if let Some(violation) = &outcome.violation {
                lines.push(format!("seed {}, commit {commit}: {violation}", outcome.drawn()));
                lines.extend(outcome.again.as_ref().map(|again| format!("  again: {again}")));
            }
        }
        for seed in &self.unlike {
            lines.push(format!("seed {seed} did something else the second time"));
        }
        for (mark, seeds) in &self.reaching {
            let seeds = seeds.iter().map(|(seed, times)| format!("{seed} ({times})"));
            lines.push(format!("{mark:?} by {}", seeds.collect::<Vec<_>>().join(", ")));
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
    use crate::world::rules::{Rule, Violation};

    fn outcome(seed: u64, rule: Option<Rule>) -> Outcome {
        let broken = |rule| Violation { at_us: 1, rule, what: String::new(), flow: None };
        Outcome {
            seed,
            mild: false,
            violation: rule.map(broken),
            marks: Marks::default(),
            excused: Excused::default(),
            hash: (0, 0),
            connections: (0, 0),
            world_us: 0,
            took: Duration::ZERO,
            words: String::new(),
            again: Some(format!("run {seed}")),
        }
    }

    #[test]
    fn every_failing_line_says_how_the_seed_is_run_again() {
        let mut tally = Tally::default();
        (1..=5).for_each(|seed| tally.take(outcome(seed, Some(Rule::NoReset))));
        let report = tally.report();
        for seed in 1..=5 {
            let line =
                report.lines().position(|line| line.starts_with(&format!("seed {seed}, commit")));
            let all = report.lines().filter(|line| *line == format!("  again: run {seed}")).count();
            assert!(line.is_some() && all == 1, "{report}");
        }
    }

    #[test]
    fn good_is_what_breaks_no_rule_and_repeats() {
        let tally = |rule, unlike: &[u64]| {
            let mut tally = Tally { unlike: unlike.to_vec(), ..Tally::default() };
            tally.take(outcome(7, rule));
            (tally.ran, tally.failed.len(), tally.good())
        };
        assert_eq!(tally(None, &[]), (1, 0, true));
        assert_eq!(tally(Some(Rule::NoReset), &[]), (1, 1, false));
        assert_eq!(tally(None, &[7]), (1, 0, false));
    }
}
