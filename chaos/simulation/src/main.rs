//! `holdfast-simulate`: replays a seed, or runs many.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use holdfast_simulation::plan::{Plan, Without};
use holdfast_simulation::run;
use holdfast_simulation::soak::Soak;
use holdfast_simulation::world::marks::Mark;

/// Runs the cores of a whole cluster in a simulated world, where a seed decides everything.
#[derive(Parser)]
#[command(name = "holdfast-simulate", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Replays a seed exactly.
    Run {
        /// The seed.
        seed: u64,
        /// Switch something off, to see the run fail.
        #[arg(long)]
        without: Option<Off>,
        /// Without partitions into groups, a bad network between directors, and disks that stall.
        #[arg(long, conflicts_with = "fair")]
        mild: bool,
        /// Without faults, in fair weather.
        #[arg(long)]
        fair: bool,
    },
    /// Runs many seeds.
    Soak {
        /// How many.
        #[arg(long, default_value_t = 300)]
        seeds: u64,
        /// The first one.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Threads; by default one a processor.
        #[arg(long)]
        jobs: Option<usize>,
        /// Switch something off, to see runs fail.
        #[arg(long)]
        without: Option<Off>,
        /// Without partitions into groups, a bad network between directors, and disks that stall.
        #[arg(long)]
        mild: bool,
        /// End at the first failure.
        #[arg(long)]
        stop: bool,
        /// Fail if a rare path was never reached: any that so many seeds have to reach between them.
        #[arg(long)]
        marks: bool,
        /// Tell which seeds reach this mark, and how often.
        #[arg(long, value_name = "MARK", value_parser = mark)]
        reaching: Vec<Mark>,
    },
}

/// A part that can be switched off.
#[derive(Clone, Copy)]
struct Off(Without);

impl ValueEnum for Off {
    fn value_variants<'a>() -> &'a [Off] {
        const ALL: [Off; Without::ALL.len()] = {
            let mut all = [Off(Without::ALL[0]); Without::ALL.len()];
            let mut n = 0;
            while n < all.len() {
                all[n] = Off(Without::ALL[n]);
                n += 1;
            }
            all
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(self.0.word().into())
    }
}

/// A mark by its name.
fn mark(name: &str) -> Result<Mark, String> {
    Mark::named(name).ok_or_else(|| format!("one of {:?}", Mark::ALL))
}

fn main() -> ExitCode {
    let good = match Args::parse().command {
        Command::Run { seed, without, mild, fair } => {
            let plan = match (mild, fair) {
                (_, true) => Plan::fair(seed),
                (true, false) => Plan::mild(seed),
                (false, false) => Plan::of(seed),
            };
            let plan = Plan { without: without.map(|off| off.0), ..plan };
            println!("{plan:#?}");
            let mut outcome = run::plan(plan.clone());
            // Once more, with more to tell of the flow concerned.
            let watch = outcome.violation.as_ref().and_then(|violation| violation.flow);
            if watch.is_some() {
                outcome = run::plan(Plan { watch, ..plan });
            }
            println!("{}", outcome.report());
            println!("{}", outcome.marks.reached());
            outcome.violation.is_none()
        }
        Command::Soak { seeds, from, jobs, without, mild, stop, marks, reaching } => {
            let jobs = jobs.unwrap_or_else(|| {
                std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
            });
            let without = without.map(|off| off.0);
            let soak = Soak { from, seeds, jobs, without, mild, stop, reaching };
            let told = std::sync::Mutex::new(Duration::ZERO);
            let every = match std::io::stderr().is_terminal() {
                true => Duration::from_millis(200),
                false => Duration::from_secs(10),
            };
            let tally = soak.run(|tally, elapsed| {
                let Ok(mut told) = told.lock() else { return };
                if elapsed < *told + every && tally.ran < seeds {
                    return;
                }
                *told = elapsed;
                let line = format!(
                    "{} of {seeds} seeds, {} failed, {:.0} s",
                    tally.ran,
                    tally.failed.len(),
                    elapsed.as_secs_f64()
                );
                let end = if std::io::stderr().is_terminal() { '\r' } else { '\n' };
                // Nobody to tell it to is no reason to stop.
                let _ = write!(std::io::stderr(), "{line}{end}");
            });
            println!("\n{}", tally.report());
            let missed = tally.marks.missed(tally.ran);
            println!("{}", tally.marks.verdict(tally.ran));
            tally.good() && (!marks || missed.is_empty())
        }
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
