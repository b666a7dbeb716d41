//! One run of one seed, and what is told of it.

use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::plan::{Plan, Without};
use crate::world::World;
use crate::world::marks::Marks;
use crate::world::rules::{Rule, Violation};

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The first rule that was broken.
    pub violation: Option<Violation>,
    /// The rare paths that were reached.
    pub marks: Marks,
    /// The hash over everything that happened, and how much that was.
    pub hash: (u64, u64),
    /// Connections begun, and those established.
    pub connections: (u64, u64),
    /// Time that passed in the world (us).
    pub world_us: u64,
    /// Time it took here.
    pub took: Duration,
    /// The last events of the flow concerned, if a rule was broken.
    pub words: String,
}

/// Runs a seed.
pub fn seed(seed: u64, without: Option<Without>) -> Outcome {
    plan(Plan { without, ..Plan::of(seed) })
}

/// Runs a plan.
pub fn plan(plan: Plan) -> Outcome {
    let seed = plan.seed;
    let begun = Instant::now();
    let run = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(plan);
        world.run();
        let violation = world.violations.first().cloned();
        let words = match &violation {
            Some(violation) => world.words(violation.flow),
            None => String::new(),
        };
        Outcome {
            seed,
            violation,
            marks: world.marks.clone(),
            hash: world.hash(),
            connections: world.connections(),
            world_us: world.now_us(),
            took: begun.elapsed(),
            words,
        }
    }));
    run.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        let what = text.unwrap_or_else(|| "panic".to_owned());
        Outcome {
            seed,
            violation: Some(Violation { at_us: 0, rule: Rule::NoPanic, what, flow: None }),
            marks: Marks::default(),
            hash: (0, 0),
            connections: (0, 0),
            world_us: 0,
            took: begun.elapsed(),
            words: String::new(),
        }
    })
}

impl Outcome {
    /// What somebody who has to find the reason needs to know.
    pub fn report(&self) -> String {
        let mut report = String::new();
        let (begun, established) = self.connections;
        // Writing to a string does not fail.
        let _ = writeln!(
            report,
            "seed {}: {} connections, {} established, {:.1} s simulated in {} ms, {} events, hash {:016x}",
            self.seed,
            begun,
            established,
            self.world_us as f64 / 1e6,
            self.took.as_millis(),
            self.hash.1,
            self.hash.0,
        );
        if let Some(violation) = &self.violation {
            let _ = writeln!(report, "BROKEN at {violation}");
            let _ = write!(report, "{}", self.words);
        }
        report
    }
}
