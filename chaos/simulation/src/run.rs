//! One run of one seed, and what is told of it.

use std::any::Any;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::plan::{Plan, Without};
use crate::world::World;
use crate::world::excuses::Excused;
use crate::world::marks::Marks;
use crate::world::rules::Violation;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Whether it was drawn without the harsher faults.
    pub mild: bool,
    /// The first rule that was broken.
    pub violation: Option<Violation>,
    /// The rare paths that were reached.
    pub marks: Marks,
    /// Losses that were nobody's fault.
    pub excused: Excused,
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
    /// What runs it again, in the repository; nothing for a plan that no seed stands for.
    pub again: Option<String>,
}

/// Runs a seed.
pub fn seed(seed: u64, without: Option<Without>) -> Outcome {
    plan(Plan { without, ..Plan::of(seed) })
}

/// The command that runs a plan again, in the repository; nothing for one that no seed stands for.
fn again(plan: &Plan) -> Option<String> {
    let same = |drawn| Plan { without: plan.without, watch: plan.watch, ..drawn } == *plan;
    let seed = plan.seed;
    let drawn =
        [(Plan::of(seed), ""), (Plan::mild(seed), " --mild"), (Plan::fair(seed), " --fair")];
    let (_, how) = drawn.into_iter().find(|(drawn, _)| same(drawn.clone()))?;
    let off = plan.without.map_or(String::new(), |off| format!(" --without {}", off.word()));
    Some(format!("cargo run --release --locked -p holdfast-simulation -- run {seed}{off}{how}"))
}

/// Runs a plan.
pub fn plan(plan: Plan) -> Outcome {
    run(plan, World::run)
}

/// Has `drive` run the world of a plan. What was noted until a part of it panics is kept.
fn run(plan: Plan, drive: impl FnOnce(&mut World)) -> Outcome {
    let (seed, mild) = (plan.seed, plan.mild);
    let begun = Instant::now();
    let again = again(&plan);
    let mut world = World::new(plan);
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drive(&mut world))) {
        world.panicked(text_of(panic.as_ref()));
    }
    let violation = world.violations.first().cloned();
    let words = match &violation {
        Some(violation) => world.words(violation.flow),
        None => String::new(),
    };
    Outcome {
        seed,
        mild,
        violation,
        marks: world.marks.clone(),
        excused: world.excused_losses().clone(),
        hash: world.hash(),
        connections: world.connections(),
        world_us: world.now_us(),
        took: begun.elapsed(),
        words,
        again,
    }
}

/// The commit that this was built from, as far as can be found out: what the environment says
/// (HOLDFAST_COMMIT), else where the checkout is now.
pub fn commit() -> String {
    let said = std::env::var("HOLDFAST_COMMIT").ok();
    let found = || checked_out(Path::new(env!("CARGO_MANIFEST_DIR")));
    said.or_else(found).unwrap_or_else(|| "unknown".to_owned())
}

/// The commit that is checked out around here, and whether anything differs from it: what is not in the
/// repository at all may have been built as well.
fn checked_out(here: &Path) -> Option<String> {
    let git = |args: &[&str]| {
        let asked = Command::new("git").arg("-C").arg(here).args(args).output().ok()?;
        let said = asked.status.success().then_some(asked.stdout)?;
        Some(String::from_utf8(said).ok()?.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let clean = git(&["status", "--porcelain"])?.is_empty();
    Some(if clean { commit } else { format!("{commit}-dirty") })
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panic").to_owned()
}

impl Outcome {
    /// The seed, as `holdfast-simulate run` takes it.
    pub fn drawn(&self) -> String {
        format!("{}{}", self.seed, if self.mild { " --mild" } else { "" })
    }

    /// What somebody who has to find the reason needs to know.
    pub fn report(&self) -> String {
        let (mut report, commit) = (String::new(), commit());
        let (begun, established) = self.connections;
        // Writing to a string does not fail.
        let _ = writeln!(
            report,
            "seed {}, commit {commit}: {} connections, {} established, {:.1} s simulated in {} ms, {} events, hash {:016x}",
            self.drawn(),
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
            if let Some(again) = &self.again {
                let _ = writeln!(report, "again: {again}");
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::rules::Rule;

    #[test]
    fn a_commit_with_anything_beside_it_is_dirty() {
        let here = std::env::temp_dir().join(format!("holdfast-commit-{}", std::process::id()));
        std::fs::create_dir_all(&here).unwrap();
        let git = |args: &[&str]| {
            let named = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"];
            let done = Command::new("git").arg("-C").arg(&here).args(named).args(args).output();
            assert!(done.unwrap().status.success(), "{args:?}");
        };
        git(&["init", "-q"]);
        git(&["commit", "-q", "--allow-empty", "-m", "nothing"]);
        let clean = checked_out(&here).unwrap();
        assert!(clean.len() == 12 && clean.chars().all(|c| c.is_ascii_hexdigit()), "{clean}");
        std::fs::write(here.join("new.rs"), "").unwrap();
        assert_eq!(checked_out(&here).unwrap(), format!("{clean}-dirty"), "not even added");
        std::fs::remove_dir_all(&here).unwrap();
        assert_eq!(checked_out(&here), None);
    }

    #[test]
    fn what_failed_says_how_it_is_run_again() {
        let command = "cargo run --release --locked -p holdfast-simulation -- run 75";
        let drawn = [(Plan::of(75), ""), (Plan::mild(75), " --mild"), (Plan::fair(75), " --fair")];
        for (plan, how) in drawn {
            assert_eq!(again(&plan), Some(format!("{command}{how}")));
            let plan = Plan { without: Some(Without::Veto), watch: Some(7), ..plan };
            assert_eq!(again(&plan), Some(format!("{command} --without veto{how}")));
            assert_eq!(again(&Plan { backends: 9, ..plan }), None, "no seed stands for it");
        }
        let outcome = plan(Plan { without: Some(Without::Flush), ..Plan::mild(1) });
        let report = outcome.report();
        assert!(report.trim_end().ends_with(" -- run 1 --without flush --mild"), "{report}");
    }

    #[test]
    fn a_panic_is_told_with_the_last_events_of_the_flow_concerned() {
        let outcome = run(Plan::fair(1), |world| {
            world.run();
            panic!("something that must never happen");
        });
        let report = outcome.report();
        let violation = outcome.violation.unwrap();
        assert_eq!(
            (violation.rule, violation.what.as_str()),
            (Rule::NoPanic, "something that must never happen")
        );
        assert!(violation.at_us > 0 && outcome.connections.0 > 0 && outcome.hash.1 > 0);
        let flow = violation.flow.expect("packets were on their way");
        assert!(outcome.words.contains(&format!(":{} ", flow & 0xffff)), "{report}");
        assert!(report.contains(&format!("seed 1, commit {}", commit())), "{report}");
    }
}
