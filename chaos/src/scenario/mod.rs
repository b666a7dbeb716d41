//! The scenario: a lab, traffic, steps one after another, a verdict.

pub mod again;
pub mod ages;
pub mod burst;
pub mod clients;
pub mod draws;
pub mod environment;
pub mod facts;
pub mod faults;
pub mod inject;
pub mod judge;
pub mod matrix;
pub mod progress;
pub mod releases;
pub mod report;
pub mod run;
pub mod sampler;
pub mod series;
pub mod steps;
pub mod summary;
pub mod table;
pub mod toll;
pub mod wait;

#[cfg(test)]
mod judge_tests;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use holdfast_schema::config::parse_millis;

use crate::args::{Control, Demo, Workload};
use crate::clock::now_ms;
use crate::doctor;
use crate::files;
use crate::html;
use crate::interrupt::{Outcome, guarded};
use crate::lab::{self, Plan, describe, down};
use again::Again;
use burst::Young;
use progress::Progress;
use report::{Environment, Report, Timeline, Verdict};
use run::{Ended, Run, Settings};
use steps::StepName;

/// Raises a lab, runs the scenario, says what survived, cleans up.
pub async fn demo(demo: Demo) -> Result<ExitCode> {
    let began_ms = now_ms();
    if let Some(file) = &demo.report {
        // Whatever becomes of this run, an older one does not speak for it.
        files::remove(file)?;
    }
    let page = demo.html.clone().or_else(|| demo.report.as_deref().map(html::beside));
    if let Some(page) = &page {
        files::remove(page)?;
    }
    let mut ground = demo.ground.clone();
    if demo.control == Some(Control::Never) {
        ground.replicate_after = "never".into();
    }
    let settings = Settings {
        seed: demo.seed,
        inject: !demo.no_inject,
        replicate_after_ms: replicate_after_ms(&ground.replicate_after)?,
        young: Young::of_demo(demo.young),
    };
    let plan = crate::wish(&ground, true)?.plan()?;
    let steps = if demo.steps.is_empty() { StepName::DEMO.to_vec() } else { demo.steps.clone() };
    if let Some(step) = steps.iter().find(|s| s.is_of_the_matrix()) {
        bail!(
            "--steps: {0} needs a lab of the matrix: `holdfast-chaos chaos --faults {0}`",
            step.name()
        );
    }
    steps::check("--steps", &steps, plan.directors.len())?;
    let planned = plan.clone();
    let again = Again::of("demo", std::env::args());
    let command = again.command(&[("SEED", demo.seed.to_string())]);
    let environment = environment::now(&plan, demo.commit.as_deref(), command);
    let work = async move {
        crate::ready_for_a_lab().await?;
        Ok(whole_run(planned, settings, steps, Progress::new(), began_ms).await)
    };
    let outcome = guarded(work).await?;
    doctor::clean_up(!plan.made_netns_mount).await;
    let (report, code) = match outcome {
        Outcome::Done(Err(error)) if !plan.dir().exists() => return Err(error),
        Outcome::Done(Ok(Ok(report))) => {
            let code = report.verdict.exit_code();
            (Some(report), code)
        }
        Outcome::Done(Err(error) | Ok(Err(error))) => {
            eprintln!("error: {error:#}");
            let report = Report::nothing_known(&error, demo.seed, now_ms() - began_ms);
            (Some(report), Verdict::Unknown.exit_code())
        }
        Outcome::Interrupted(code) => (None, code),
    };
    let report = report.map(|report| {
        let load_after = environment::load();
        Report { environment: Environment { load_after, ..environment }, ..report }
    });
    if code != 0 && code < 128 || demo.keep_logs.is_some() {
        crate::keep_logs(&plan.dir(), demo.keep_logs.as_deref(), &plan.run);
    }
    let removed = down::remove(&plan.run).await;
    let told =
        report.map_or(Ok(()), |report| tell(&report, demo.report.as_deref(), page.as_deref()));
    // A verdict is not taken back; but a run that leaves something behind has not passed.
    match removed.and(told) {
        Err(error) if code != 0 => eprintln!("error: {error:#}"),
        result => result?,
    }
    Ok(ExitCode::from(code))
}

fn tell(report: &Report, file: Option<&Path>, page: Option<&Path>) -> Result<()> {
    println!("{}", table::render(report));
    if let Some(file) = file {
        files::write_for_caller(file, &(serde_json::to_string_pretty(report)? + "\n"))?;
        println!("The report is in {}.", file.display());
    }
    if let Some(page) = page {
        files::write_for_caller(page, &html::of_run(report))?;
        println!("For people it is in {}.", page.display());
    }
    Ok(())
}

/// The age from which a crash must not cost a connection. Where nothing is replicated, it is the one
/// that people expect: the control shall show that such connections are lost.
fn replicate_after_ms(text: &str) -> Result<u64> {
    if text == "never" {
        return Ok(3_000);
    }
    let ms = parse_millis(text).with_context(|| format!("--replicate-after {text}"))?;
    Ok(u64::from(ms))
}

async fn whole_run(
    plan: Plan,
    settings: Settings,
    steps: Vec<StepName>,
    progress: Progress,
    began_ms: u64,
) -> Result<Report> {
    progress.say(&format!(
        "raising lab {}: {} directors, {} backends, {} clients",
        plan.run,
        plan.directors.len(),
        plan.backends,
        plan.clients
    ));
    lab::raise(&plan, &|text| progress.say(text)).await?;
    let mut run = Run::begin(plan, settings, progress, began_ms).await?;
    let mut broken = run.calm().await.err();
    for step in steps {
        if broken.is_none()
            && let Err(error) = run.step(step).await
        {
            broken = Some(error.context(format!("in {}", step.name())));
        }
    }
    if broken.is_none() {
        broken = run.wind_down().await.err();
    }
    run.read_releases_to_the_end().await;
    let mut report = judged(run.end().await?);
    if let Some(error) = broken {
        // What was lost before stays lost; else nothing is known.
        if report.verdict == Verdict::Pass {
            report.verdict = Verdict::Unknown;
        }
        report.reason = format!("the run broke off: {error:#}; {}", report.reason);
    }
    Ok(report)
}

fn judged(ended: Ended) -> Report {
    let Ended { records, facts, terms, calm, lanes, busy } = ended;
    let series = series::timeline(&records, &facts, &terms, &calm);
    let timeline = Timeline { directors: lanes, busy, ..series };
    let stalls = series::stalls(&records, &facts, &terms, &calm);
    Report { timeline, stalls, ..judge::judge(&records, &facts, &terms) }
}

/// The scenario's traffic against a standing lab, without faults.
pub async fn workload_only(workload: Workload) -> Result<ExitCode> {
    let description = describe::read(&workload.lab)?;
    let plan = Plan::load(&description.run)
        .with_context(|| format!("lab {} is not there any more", description.run))?;
    let records_file = workload.records.clone();
    let work = async move {
        let settings = Settings {
            seed: 0,
            inject: false,
            replicate_after_ms: replicate_after_ms(&plan.replicate_after)?,
            young: Young::of_demo(0),
        };
        let mut run = Run::begin(plan, settings, Progress::new(), now_ms()).await?;
        run.traffic_for(workload.seconds * 1000).await
    };
    match guarded(work).await? {
        Outcome::Done(result) => {
            let (now, records) = result?;
            let lost = tell_records(&records, now);
            if let Some(file) = records_file {
                write_records(&file, &records)?;
            }
            Ok(if lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Outcome::Interrupted(code) => Ok(ExitCode::from(code)),
    }
}

fn write_records(file: &Path, records: &[crate::workload::record::Record]) -> Result<()> {
    files::write_for_caller(file, &serde_json::to_string(records)?)
}

/// Tells how the connections fared; gives how many were lost.
fn tell_records(records: &[crate::workload::record::Record], now: u64) -> usize {
    let lost: Vec<_> = records.iter().filter(|r| r.lost_ms(now).is_some()).collect();
    let stalls = records.iter().map(|r| r.worst_stall_ms(0, u64::MAX, now)).collect();
    let stalls = report::Stalls::of(stalls);
    println!(
        "{} connections, {} lost; stall p50 {} ms, p99 {} ms, max {} ms",
        records.len(),
        lost.len(),
        stalls.p50,
        stalls.p99,
        stalls.max
    );
    for record in lost.iter().take(20) {
        println!("  {} to {}: {}", record.cohort.name(), record.remote, record.loss());
    }
    lost.len()
}
