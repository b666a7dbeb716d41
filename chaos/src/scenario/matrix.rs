//! The fault matrix: every fault in a lab that suits it, for each seed, and all of it together.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};

use super::again::{Again, checkout};
use super::burst::Young;
use super::environment;
use super::faults::{Rule, rule, what};
use super::progress::Progress;
use super::report::{Age, AgeReport, Environment, FaultReport, MatrixReport, Report, Verdict};
use super::run::Settings;
use super::steps::{self, StepName};
use super::table::{AGE_HEAD, AGE_INTRO, age_rows, aligned, unconnected, word};
use super::toll::Toll;
use super::{replicate_after_ms, whole_run};
use crate::args::{Chaos, Ground};
use crate::clock::now_ms;
use crate::interrupt::{Outcome, guarded};
use crate::lab::{Plan, Wish, down};
use crate::{doctor, files, html};

/// A lab, and the faults that are injected in it, one after another.
struct Bed {
    name: &'static str,
    directors: u8,
    /// Whether clocks can be set there, and which director has a disk of its own.
    machines: Option<u8>,
    faults: &'static [StepName],
}

/// Few directors cost little; those that need more have a lab of their own.
const BEDS: [Bed; 4] = [
    Bed {
        name: "three",
        directors: 3,
        machines: None,
        faults: &[
            StepName::KillDaemon,
            StepName::HangDaemon,
            StepName::LoseMachine,
            StepName::OneWay,
            StepName::CutOff,
            StepName::Reshuffle,
            StepName::BadLinks,
            StepName::BlockedLinks,
            // Until no director heard another one, one of them led everything.
            StepName::FreezeFollower,
            StepName::KillAll,
        ],
    },
    Bed {
        name: "growing",
        directors: 2,
        machines: None,
        faults: &[
            StepName::AddNode,
            StepName::DrainNode,
            StepName::UndrainNode,
            StepName::RollingRestart,
            StepName::EndDaemon,
            StepName::AddThree,
            StepName::DrainTwo,
        ],
    },
    Bed {
        name: "machines",
        directors: 3,
        machines: Some(2),
        faults: &[StepName::ClockJump, StepName::DiskStall, StepName::DiskFull],
    },
    Bed { name: "five", directors: 5, machines: None, faults: &[StepName::KillWithLeader] },
];

/// A lab that is to be raised, and what is to happen in it.
struct Job {
    seed: u64,
    bed: &'static Bed,
    directors: u8,
    faults: Vec<StepName>,
}

/// What has to be done for these faults (none: all) and seeds.
fn jobs(faults: &[StepName], seeds: impl Iterator<Item = u64> + Clone) -> Result<Vec<Job>> {
    let mut all = Vec::new();
    for bed in &BEDS {
        let wanted = |f: &&StepName| faults.is_empty() || faults.contains(f);
        let chosen: Vec<StepName> = bed.faults.iter().filter(wanted).copied().collect();
        let left_out = bed.faults.iter().take_while(|f| !wanted(f));
        // Whoever they would have brought is there from the beginning: as many may be hit as in the
        // whole matrix, and the same ones are.
        let directors = bed.directors + left_out.map(|f| f.newcomers() as u8).sum::<u8>();
        if !chosen.is_empty() {
            steps::check("--faults", &chosen, directors.into())?;
            all.push((bed, directors, chosen));
        }
    }
    let jobs = seeds.flat_map(|seed| {
        all.iter().map(move |(bed, directors, faults)| Job {
            seed,
            bed,
            directors: *directors,
            faults: faults.clone(),
        })
    });
    Ok(jobs.collect())
}

/// Runs the matrix, says what survived, cleans up.
pub async fn chaos(chaos: Chaos) -> Result<ExitCode> {
    let began_ms = now_ms();
    ensure!(chaos.seeds > 0, "--seeds has to be 1 or more");
    let seeds = match chaos.seed {
        Some(seed) => seed..=seed,
        None => 1..=chaos.seeds,
    };
    let jobs = jobs(&chaos.faults, seeds)?;
    let again = Again::of("chaos", std::env::args());
    let command = command(&chaos, &again);
    for file in chaos.report.iter().chain(&page(&chaos)) {
        files::remove(file)?;
    }
    let netns_before = down::netns_is_mounted();
    let runs = Rc::new(RefCell::new(Vec::new()));
    let standing = Rc::new(RefCell::new(None));
    let work = {
        let (chaos, runs, standing) = (chaos.clone(), runs.clone(), standing.clone());
        let command = command.clone();
        async move {
            crate::ready_for_a_lab().await?;
            doctor::clean_up(netns_before).await;
            let count = jobs.len();
            for (number, job) in (1..).zip(jobs) {
                println!(
                    "\n== lab {number} of {count}: seed {}, {} ({} directors): {}",
                    job.seed,
                    job.bed.name,
                    job.directors,
                    list(&job.faults)
                );
                let report = one(&chaos, job, &again, &standing).await?;
                runs.borrow_mut().push(report);
                write(&chaos, &combine(&command, &runs.borrow(), now_ms() - began_ms))?;
            }
            Ok(())
        }
    };
    let outcome = guarded(work).await?;
    doctor::clean_up(netns_before).await;
    let left = standing.borrow_mut().take();
    if let Some(run) = left {
        down::remove(&run).await?;
    }
    match outcome {
        Outcome::Interrupted(code) => Ok(ExitCode::from(code)),
        Outcome::Done(Err(error)) if runs.borrow().is_empty() => Err(error),
        Outcome::Done(ended) => {
            let mut report = combine(&command, &runs.borrow(), now_ms() - began_ms);
            if let Err(error) = ended {
                eprintln!("error: {error:#}");
                report.reason = format!("the matrix broke off: {error:#}; {}", report.reason);
                report.verdict = report.verdict.worse(Verdict::Unknown);
            }
            println!("{}", render(&report));
            write(&chaos, &report)?;
            if let Some(file) = &chaos.report {
                println!("The report is in {}.", file.display());
            }
            if let Some(page) = page(&chaos) {
                println!("For people it is in {}.", page.display());
            }
            Ok(ExitCode::from(report.verdict.exit_code()))
        }
    }
}

/// One lab from its raising to its removal.
async fn one(
    chaos: &Chaos,
    job: Job,
    again: &Again,
    standing: &RefCell<Option<String>>,
) -> Result<Report> {
    let began_ms = now_ms();
    let ground = Ground { directors: job.directors, ..chaos.ground() };
    let (clocks, own_disk) = (job.bed.machines.is_some(), job.bed.machines);
    let plan: Plan = Wish { clocks, own_disk, ..crate::wish(&ground, true)? }.plan()?;
    let settings = Settings {
        seed: job.seed,
        inject: true,
        replicate_after_ms: replicate_after_ms(&ground.replicate_after)?,
        young: Young::of_matrix(chaos.young),
    };
    *standing.borrow_mut() = Some(plan.run.clone());
    let command = again.command(&[("SEED", job.seed.to_string()), ("FAULTS", joined(&job.faults))]);
    let environment = environment::now(&plan, chaos.commit.as_deref(), command);
    let progress = Progress::new();
    let ended = whole_run(plan.clone(), settings, job.faults, progress, began_ms).await;
    let mut report = ended.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        Report::nothing_known(&error, job.seed, now_ms() - began_ms)
    });
    report.lab = job.bed.name.into();
    report.environment = Environment { load_after: environment::load(), ..environment };
    if report.verdict != Verdict::Pass || chaos.keep_logs.is_some() {
        let to =
            chaos.keep_logs.as_ref().map(|to| to.join(format!("{}-{}", job.bed.name, job.seed)));
        crate::keep_logs(&plan.dir(), to.as_deref(), &plan.run);
    }
    down::remove(&plan.run).await.context("taking the lab away")?;
    *standing.borrow_mut() = None;
    println!("{} (seed {}): {}: {}", job.bed.name, job.seed, word(report.verdict), report.reason);
    Ok(report)
}

fn write(chaos: &Chaos, report: &MatrixReport) -> Result<()> {
    if let Some(file) = &chaos.report {
        files::write_for_caller(file, &(serde_json::to_string_pretty(report)? + "\n"))?;
    }
    page(chaos).map_or(Ok(()), |page| files::write_for_caller(&page, &html::of_matrix(report)))
}

/// Where the page of the report is written, if anywhere.
fn page(chaos: &Chaos) -> Option<PathBuf> {
    chaos.html.clone().or_else(|| chaos.report.as_deref().map(html::beside))
}

fn list(faults: &[StepName]) -> String {
    faults.iter().map(|f| f.name()).collect::<Vec<_>>().join(", ")
}

/// The same for a command line.
fn joined(faults: &[StepName]) -> String {
    list(faults).replace(", ", ",")
}

/// The command that does the same again.
fn command(chaos: &Chaos, again: &Again) -> String {
    let seeds = match chaos.seed {
        Some(seed) => ("SEED", seed.to_string()),
        None => ("SEEDS", chaos.seeds.to_string()),
    };
    again.command(&[seeds, ("FAULTS", joined(&chaos.faults))])
}

/// All runs together.
fn combine(command: &str, runs: &[Report], took_ms: u64) -> MatrixReport {
    let mut faults: Vec<FaultReport> = Vec::new();
    for step in runs.iter().flat_map(|r| &r.steps) {
        let at = faults.iter().position(|f| f.name == step.name).unwrap_or_else(|| {
            let ages = Age::ALL.map(|age| AgeReport {
                excess: Some(0),
                silent_reset: Some(0),
                ..AgeReport::new(age, rule(step.name, age).text())
            });
            faults.push(FaultReport {
                name: step.name,
                what: what(step.name).into(),
                runs: 0,
                happened: 0,
                ages: ages.into(),
                eligible: 0,
                lost: 0,
            });
            faults.len() - 1
        });
        let fault = &mut faults[at];
        fault.runs += 1;
        fault.happened += u64::from(step.happened);
        for (sum, age) in fault.ages.iter_mut().zip(&step.ages) {
            sum.add(age);
        }
        fault.eligible += step.cohorts.iter().map(|c| c.eligible).sum::<u64>();
        fault.lost += step.cohorts.iter().map(|c| c.eligible - c.survived).sum::<u64>();
    }
    let verdict = runs.iter().map(|r| r.verdict).fold(Verdict::Pass, Verdict::worse);
    let mut bad: Vec<&Report> = runs.iter().filter(|r| r.verdict != Verdict::Pass).collect();
    // Failures first.
    bad.sort_by_key(|r| r.verdict != Verdict::Fail);
    let told: Vec<String> = bad
        .iter()
        .map(|r| format!("seed {}, {}: {}: {}", r.seed, r.lab, word(r.verdict), r.reason))
        .collect();
    let reason = if told.is_empty() {
        let happened: u64 = faults.iter().map(|f| f.happened).sum();
        let mut toll = Toll::default();
        faults.iter().for_each(|f| toll.add(f.name, &f.ages));
        format!("{happened} faults, and nothing was lost that had to survive{}", toll.ending())
    } else {
        told.join("; ")
    };
    let (command, runs) = (command.to_owned(), runs.to_vec());
    MatrixReport { verdict, reason, command, took_ms, faults, runs }
}

/// The matrix as text.
fn render(report: &MatrixReport) -> String {
    let mut rows = vec![AGE_HEAD.map(str::to_owned).to_vec()];
    for fault in &report.faults {
        let runs = format!("{} of {}", fault.happened, fault.runs);
        rows.extend(age_rows(fault.name.name(), &runs, &fault.ages));
    }
    let mut text = String::from(AGE_INTRO);
    text += &aligned(&rows);
    let excused = report.faults.iter().flat_map(|fault| {
        let of = |a: &&AgeReport| matches!(rule(fault.name, a.age), Rule::Excused(_));
        let ages = fault.ages.iter().filter(|a| a.lost > 0).filter(of);
        ages.map(|a| format!("{}, {}: {}", fault.name.name(), a.age.name(), a.rule))
    });
    for line in excused {
        writeln!(text, "\n{line}").ok();
    }
    for fault in &report.faults {
        if let Some(line) = unconnected(&fault.ages) {
            writeln!(text, "\n{}: {line}", fault.name.name()).ok();
        }
    }
    let took = report.took_ms / 1000;
    writeln!(text, "\n{}: {} ({took} s)", word(report.verdict), report.reason).ok();
    let commit = report.runs.first().map_or("", |r| r.environment.commit.as_str());
    writeln!(text, "Again, {}: {}", checkout(commit), report.command).ok();
    // One lab of many takes minutes, all of them hours.
    for bad in report.runs.iter().filter(|r| r.verdict != Verdict::Pass && report.runs.len() > 1) {
        let Report { seed, lab, environment, .. } = bad;
        writeln!(text, "Only lab {lab} of seed {seed}: {}", environment.command).ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::{Parser, ValueEnum};

    use super::*;
    use crate::args::{Action, Arguments};
    use crate::scenario::report::StepReport;

    fn arguments(words: &[&str]) -> Chaos {
        let line = ["holdfast-chaos", "chaos"].iter().chain(words);
        match Arguments::try_parse_from(line).unwrap().action {
            Action::Chaos(chaos) => chaos,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_fault_has_a_lab() {
        for fault in StepName::value_variants() {
            let found = BEDS.iter().filter(|b| b.faults.contains(fault)).count();
            assert_eq!(found, 1, "{}", fault.name());
        }
        let all = jobs(&[], 1..=2).unwrap();
        assert_eq!(all.len(), 2 * BEDS.len());
        let most = BEDS.iter().map(|b| {
            usize::from(b.directors) + b.faults.iter().map(|f| f.newcomers()).sum::<usize>()
        });
        assert_eq!(most.max(), Some(6));
    }

    #[test]
    fn labs_are_raised_only_for_what_is_asked_for() {
        let some = jobs(&[StepName::OneWay, StepName::KillDaemon], std::iter::once(7)).unwrap();
        assert_eq!(some.len(), 1);
        assert_eq!(some[0].faults, [StepName::KillDaemon, StepName::OneWay], "in the lab's order");
        let two = jobs(&[StepName::DrainTwo], std::iter::once(7)).unwrap();
        assert_eq!(two[0].directors, 6, "as in the whole matrix, where four have joined by then");
        let error = jobs(&[StepName::UndrainNode], std::iter::once(7)).err().unwrap();
        assert!(error.to_string().contains("--faults: at step 1"), "{error}");
    }

    /// So it hits the same one there ([`super::super::draws`]).
    #[test]
    fn a_fault_alone_finds_as_many_directors_as_in_the_whole_matrix() {
        for bed in &BEDS {
            let mut there = bed.directors;
            for fault in bed.faults {
                // What is drained is drained by the step before.
                if *fault != StepName::UndrainNode {
                    let alone = jobs(&[*fault], std::iter::once(7)).unwrap();
                    assert_eq!(alone.len(), 1);
                    assert_eq!(alone[0].directors, there, "{}", fault.name());
                }
                there += fault.newcomers() as u8;
            }
        }
    }

    /// The program's arguments as `make` would give them, without doing anything.
    fn made(command: &str) -> Vec<String> {
        let words = command.strip_prefix("make ").unwrap();
        let mut make = std::process::Command::new("sh");
        make.arg("-c").arg(format!("make --dry-run {words}"));
        make.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        // What another make was told, which may be running us.
        for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "SEED", "SEEDS", "FAULTS", "ARGS"] {
            make.env_remove(variable);
        }
        let said = make.output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let line = said.lines().find(|l| l.contains("holdfast-chaos chaos ")).expect(&said);
        let (_, line) = line.split_once("holdfast-chaos chaos ").unwrap();
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_command_that_repeats_it_is_understood_by_make() {
        for given in [
            &["--faults", "one-way,kill-all", "--seed", "3", "--young", "200"][..],
            &["--seeds", "5", "--report", "elsewhere.json"],
            &[],
        ] {
            let chaos = arguments(given);
            let words = ["holdfast-chaos", "chaos"].iter().chain(given).map(|w| (*w).to_owned());
            let command = command(&chaos, &Again::of("chaos", words));
            let made = made(&command);
            let again = arguments(&made.iter().map(String::as_str).collect::<Vec<_>>());
            let what = |c: &Chaos| (c.faults.clone(), c.seed, c.seeds, c.young);
            assert_eq!(what(&again), what(&chaos), "{command}: {made:?}");
            assert!(again.commit.is_some() && again.report.is_some(), "{made:?}");
        }
    }

    #[test]
    fn a_command_line_that_makes_no_sense_is_refused() {
        for wrong in
            [&["--seed", "1", "--seeds", "2"][..], &["--faults", "flood"], &["--seeds", "x"]]
        {
            let line = ["holdfast-chaos", "chaos"].iter().chain(wrong);
            assert!(Arguments::try_parse_from(line).is_err(), "{wrong:?}");
        }
    }

    fn run(seed: u64, verdict: Verdict, lost: u64) -> Report {
        let mut young = AgeReport::new(Age::Young, String::new());
        young.eligible = 1_000;
        young.lost = lost;
        let long = AgeReport::new(Age::Long, String::new());
        let step = StepReport { ages: vec![long, young], ..StepReport::of_a_crash() };
        let (reason, lab) = ("so".into(), "three".into());
        let (commit, command) = ("0123456789ab".into(), format!("make chaos SEED={seed}"));
        let environment = Environment { commit, command, ..Environment::default() };
        let steps = vec![step];
        Report { verdict, reason, seed, took_ms: 1, lab, environment, steps, ..Report::default() }
    }

    #[test]
    fn seeds_are_added_up_and_the_worst_verdict_counts() {
        let given = "make chaos SEEDS=2";
        let all = combine(given, &[run(1, Verdict::Pass, 0), run(2, Verdict::Unknown, 0)], 5);
        assert_eq!(all.verdict, Verdict::Unknown);
        assert_eq!(all.reason, "seed 2, three: UNKNOWN: so");
        assert_eq!(all.faults[0].ages[1].bound, Some(0.0015));
        let text = render(&all);
        assert!(text.contains("2 of 2") && text.contains("< 0.15 %"), "{text}");
        let (whole, lab) =
            ("commit 0123456789ab: make chaos SEEDS=2\n", "seed 2: make chaos SEED=2\n");
        assert!(text.contains(whole) && text.ends_with(lab), "{text}");
        assert!(!text.contains("make chaos SEED=1"), "a lab that passed needs none: {text}");
        let failed = combine(given, &[run(1, Verdict::Fail, 3), run(2, Verdict::Unknown, 0)], 5);
        assert_eq!((failed.verdict, failed.faults[0].ages[1].lost), (Verdict::Fail, 3));
        let order = combine(given, &[run(1, Verdict::Unknown, 0), run(2, Verdict::Fail, 3)], 5);
        assert_eq!(order.reason, "seed 2, three: FAIL: so; seed 1, three: UNKNOWN: so");
        let passed = combine(given, &[run(1, Verdict::Pass, 0)], 5);
        assert_eq!(passed.reason, "1 faults, and nothing was lost that had to survive");
        // One in a thousand is too many where fewer moved, whatever the other seeds had.
        let share = |seed, moved, lost, excess| {
            let mut run = run(seed, Verdict::Fail, lost);
            run.steps[0].ages[0].excess = Some(0);
            let young = &mut run.steps[0].ages[1];
            *young = AgeReport { moved, moved_lost: lost, excess: Some(excess), ..young.clone() };
            run
        };
        let sum = combine(given, &[share(1, 900, 1, 1), share(2, 900, 0, 0)], 5);
        assert_eq!(sum.faults[0].ages[1].excess, Some(1));
        let mut all = run(1, Verdict::Pass, 400);
        all.steps[0].name = StepName::KillAll;
        let excused = combine(given, &[all], 5).reason;
        let words =
            "had to survive; 400 more were lost that may be: 400 in kill-all (until the store has";
        assert!(excused.contains(words), "{excused}");
    }
}
