//! The lab, its faults, its workloads and its verdicts.
#![forbid(unsafe_code)]

mod admin;
mod args;
mod clock;
mod command;
mod doctor;
mod files;
mod html;
mod interrupt;
mod lab;
mod router;
mod scenario;
mod workload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use args::{Action, Arguments, Ground, LabAction, LabDown, LabUp};
use clap::Parser;
use interrupt::{Outcome, guarded};
use lab::{Wish, describe, down, leftovers};
use tokio::task::LocalSet;

/// The exit code of a run that could not begin: it is neither a failure nor a run without a result.
pub const NOT_BEGUN: u8 = 3;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            error.print().ok();
            // Help is an error to the parser; 2 is taken, it is a verdict.
            return ExitCode::from(if error.use_stderr() { NOT_BEGUN } else { 0 });
        }
    };
    let failure = match arguments.action {
        Action::Demo(_) | Action::Chaos(_) => ExitCode::from(NOT_BEGUN),
        _ => ExitCode::FAILURE,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return failure;
        }
    };
    match LocalSet::new().block_on(&runtime, act(arguments.action)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            failure
        }
    }
}

async fn act(action: Action) -> Result<ExitCode> {
    match action {
        Action::Doctor => return doctor().await,
        Action::Lab(LabAction::Up(up)) => return lab_up(up).await,
        Action::Lab(LabAction::Down(down)) => lab_down(down).await?,
        Action::Lab(LabAction::Refresh { lab }) => refresh(&lab).await?,
        Action::Lab(LabAction::List) => list(),
        Action::Demo(demo) => return scenario::demo(demo).await,
        Action::Chaos(chaos) => return scenario::matrix::chaos(chaos).await,
        Action::Summary { reports } => print!("{}", scenario::summary::of_files(&reports)?),
        Action::Html { report, output } => {
            let page = html::of_file(&report, output.as_deref())?;
            println!("The page is in {}.", page.display());
        }
        Action::Workload(workload) => return scenario::workload_only(workload).await,
        Action::Client { base } => workload::client::main(base).await?,
        Action::Backend { name, address } => {
            use lab::backends::{DRIP_PORT, ECHO_PORT, UDP_PORT};
            let ports = [ECHO_PORT, DRIP_PORT, UDP_PORT];
            workload::server::Services::bind(address, ports).await?.serve(&name).await?;
        }
        Action::Relay { directors, badness } => lab::relay::main(directors, badness).await?,
        Action::Fetch { address, path } => print!("{}", admin::fetch(address, &path)?),
    }
    Ok(ExitCode::SUCCESS)
}

async fn doctor() -> Result<ExitCode> {
    let mounted = down::netns_is_mounted();
    let outcome = guarded(async { Ok(doctor::examine().await) }).await?;
    doctor::clean_up(mounted).await;
    let findings = match outcome {
        Outcome::Done(findings) => findings?,
        Outcome::Interrupted(code) => return Ok(ExitCode::from(code)),
    };
    for finding in &findings {
        println!("{}", finding.0);
    }
    if findings.is_empty() {
        println!("This machine can run the lab.");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

/// Fails with everything that this machine lacks, and tells of labs that were left behind. What it
/// tries things in has to be cleaned up after ([`doctor::clean_up`]), also when it is cut off.
async fn ready_for_a_lab() -> Result<()> {
    let findings = doctor::examine().await;
    if !findings.is_empty() {
        let list: Vec<&str> = findings.iter().map(|f| f.0.as_str()).collect();
        bail!("this machine cannot run the lab yet.\n{}", list.join("\n"));
    }
    let stale = down::stale_runs();
    if !stale.is_empty() {
        eprintln!(
            "note: labs of killed runs are still there: {}. Remove them with `holdfast-chaos lab down --stale`.",
            stale.join(", ")
        );
    }
    Ok(())
}

fn wish(ground: &Ground, cluster: bool) -> Result<Wish> {
    let beside = || -> Result<PathBuf> {
        let exe = std::env::current_exe().context("the path of this program")?;
        Ok(exe.parent().context("a program is in a folder")?.to_owned())
    };
    Ok(Wish {
        directors: ground.directors,
        backends: ground.backends,
        clients: ground.clients,
        guard_timeout_ms: ground.guard_timeout,
        replicate_after: ground.replicate_after.clone(),
        bin_dir: ground.bin_dir.clone().map_or_else(beside, Ok)?,
        cluster,
        clocks: false,
        own_disk: None,
    })
}

async fn lab_up(up: LabUp) -> Result<ExitCode> {
    let plan = wish(&up.ground, !up.no_cluster)?.plan()?;
    if up.lab.exists() {
        bail!(
            "{} exists: take that lab away first (`lab down`), or name another file",
            up.lab.display()
        );
    }
    let owner = up.owner.map(|pid| Ok::<_, anyhow::Error>((pid, started(pid)?))).transpose()?;
    let (mut raised, file) = (plan.clone(), up.lab.clone());
    let work = async move {
        ready_for_a_lab().await?;
        let say = |text: &str| println!("{text} ...");
        if up.no_cluster {
            lab::raise_ground(&raised, &say).await?;
        } else {
            lab::raise(&raised, &say).await?;
        }
        match owner {
            // From here on it is nobody's leftover.
            None => raised.standing = true,
            Some(owner) => {
                ensure!(started(owner.0)? == owner.1, "process {} is another one now", owner.0);
                raised.owner = owner;
            }
        }
        raised.save()?;
        describe::write(&describe::describe(&raised).await?, &file)
    };
    let outcome = guarded(work).await?;
    doctor::clean_up(!plan.made_netns_mount).await;
    let code = match outcome {
        Outcome::Done(Ok(())) => {
            println!("Lab {} stands; it is described in {}.", plan.run, up.lab.display());
            return Ok(ExitCode::SUCCESS);
        }
        Outcome::Done(Err(error)) => {
            eprintln!("error: {error:#}");
            keep_logs(&plan.dir(), None, &plan.run);
            1
        }
        Outcome::Interrupted(code) => code,
    };
    down::remove(&plan.run).await?;
    Ok(ExitCode::from(code))
}

fn started(pid: u32) -> Result<u64> {
    lab::spawn::start_time(pid).with_context(|| format!("there is no process {pid} (--owner)"))
}

/// Keeps logs of a run where version control ignores them, and says where.
fn keep_logs(from: &Path, to: Option<&Path>, run: &str) {
    let Some(to) = to.map(Path::to_owned).or_else(|| Some(files::kept_logs()?.join(run))) else {
        return;
    };
    if !from.exists() {
        return;
    }
    match files::copy_logs(from, &to) {
        Ok(()) => eprintln!("logs are kept in {}", to.display()),
        Err(error) => eprintln!("warning: logs could not be kept: {error:#}"),
    }
}

async fn lab_down(what: LabDown) -> Result<()> {
    if what.stale {
        return lab_down_stale().await;
    }
    if let Some(run) = what.run {
        down::remove(&run).await?;
        println!("Lab {run} is gone.");
        return Ok(());
    }
    if !what.lab.exists() {
        println!("There is no {}, so nothing to take away.", what.lab.display());
        list();
        return Ok(());
    }
    let run = describe::read(&what.lab)?.run;
    down::remove(&run).await?;
    std::fs::remove_file(&what.lab).with_context(|| format!("removing {}", what.lab.display()))?;
    println!("Lab {run} is gone.");
    Ok(())
}

/// What cannot be removed does not keep the rest from going.
async fn lab_down_stale() -> Result<()> {
    let (runs, leftovers) = (down::stale_runs(), leftovers::find());
    if runs.is_empty() && leftovers.is_empty() {
        println!("There is nothing of a process that is gone.");
    }
    let mut failed = None;
    for run in runs {
        match down::remove(&run).await {
            Ok(()) => println!("Lab {run} is gone."),
            Err(error) => failed = Some(error),
        }
    }
    for leftover in leftovers {
        match leftover.remove().await {
            Ok(()) => println!("{leftover} is gone."),
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn refresh(file: &Path) -> Result<()> {
    let run = describe::read(file)?.run;
    let plan = lab::Plan::load(&run).with_context(|| format!("lab {run} is not there any more"))?;
    describe::write(&describe::describe(&plan).await?, file)
}

fn list() {
    let stale = down::stale_runs();
    for run in down::all_runs() {
        let state = if stale.contains(&run) { "left behind by a killed run" } else { "stands" };
        println!("lab {run}: {state}; take it away with `holdfast-chaos lab down --run {run}`");
    }
}
