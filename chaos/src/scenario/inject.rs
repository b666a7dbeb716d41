//! What each step does to the cluster, and how the router shows that it happened.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::run::Run;
use super::steps::StepName;
use super::wait::{until, until_every};
use crate::clock::{monotonic_of, now_ms, unix_ms};
use crate::lab::cluster::{self, SETTLED};
use crate::lab::plan::{Site, VIPS, director};
use crate::lab::{bird, links, spawn};
use crate::router::bfd;
use crate::router::monitor::History;

/// How long the daemon is frozen.
const HANG: Duration = Duration::from_secs(10);
/// How long a step may take to have its effect.
const EFFECT: Duration = Duration::from_secs(30);
/// How long `node drain` may take.
const DRAIN: Duration = Duration::from_secs(60);

/// What came of an injection.
#[derive(Clone, Debug, Default)]
pub struct Effect {
    /// When it was injected.
    pub begin_ms: u64,
    /// When it had taken effect.
    pub done_ms: u64,
    /// Why it did not really happen; empty: it did.
    pub missing: Vec<String>,
    /// How long the router took to move its routes.
    pub routes_moved_ms: Option<u64>,
    /// How long the router's BFD took to give the director up.
    pub bfd_ms: Option<u64>,
}

/// Everything short of the step itself: a machine for the newcomer.
pub async fn prepare(run: &mut Run, step: StepName, target: Site) -> Result<()> {
    if step != StepName::AddNode {
        return Ok(());
    }
    run.plan.directors.push(target.number);
    run.plan.save()?;
    links::attach(&run.plan, target).await?;
    bird::start_director(&run.plan, target).await?;
    bird::reconfigure_router(&run.plan).await
}

/// The director that a step is about.
pub fn choose(run: &mut Run, step: StepName) -> Result<Site> {
    Ok(match step {
        StepName::AddNode => {
            director(run.plan.directors.iter().max().copied().unwrap_or(0).saturating_add(1))
        }
        // It has to be one that is drained; without a drain before, there is nothing to undo.
        StepName::UndrainNode => run.drained.unwrap_or(director(1)),
        _ => {
            let all: Vec<Site> = run.plan.directors().filter(|d| run.drained != Some(*d)).collect();
            let index = run.random(all.len());
            *all.get(index).context("every director is drained, so there is none to choose")?
        }
    })
}

/// Does it. Errors are those of the lab; what merely did not happen is told in the effect.
pub async fn inject(run: &mut Run, step: StepName, target: Site) -> Result<Effect> {
    match step {
        StepName::AddNode => add_node(run, target).await,
        StepName::DrainNode => drain_node(run, target).await,
        StepName::UndrainNode => undrain_node(run, target).await,
        StepName::KillDaemon => kill_daemon(run, target).await,
        StepName::HangDaemon => hang_daemon(run, target).await,
        StepName::LoseMachine => lose_machine(run, target).await,
    }
}

/// Restores what was lost and waits until the cluster has settled.
pub async fn repair(run: &mut Run, step: StepName, target: Site) -> Result<()> {
    match step {
        StepName::KillDaemon => {
            run.progress.say(&format!("{} is started anew", target.name()));
            cluster::start(&run.plan, target, None).await?;
        }
        StepName::LoseMachine => {
            run.progress.say(&format!("{} is started anew on the same disk", target.name()));
            spawn::kill_all(&run.plan.netns(target)).await?;
            links::mend(&run.plan, target).await?;
            bird::start_director(&run.plan, target).await?;
            cluster::start(&run.plan, target, None).await?;
        }
        _ => {}
    }
    cluster::settled(&run.plan, SETTLED).await?;
    routes_agree(run).await
}

/// Waits until the router sends every VIP to every director that shall serve.
async fn routes_agree(run: &Run) -> Result<()> {
    until("the router uses every director", EFFECT, async || {
        let now = run.monitor.history().now();
        for vip in VIPS {
            let devices = now.get(&vip.to_string()).context("the router has no route to a VIP")?;
            for site in run.plan.directors() {
                let wanted = run.drained != Some(site);
                ensure!(
                    devices.contains(&site.name()) == wanted,
                    "{vip} goes by {devices:?}, {} {} serve",
                    site.name(),
                    if wanted { "should" } else { "should not" }
                );
            }
        }
        Ok(())
    })
    .await
}

fn vips() -> Vec<String> {
    VIPS.iter().map(ToString::to_string).collect()
}

fn any_other(run: &Run, target: Site) -> Site {
    run.plan.directors().find(|d| *d != target && run.drained != Some(*d)).unwrap_or(director(1))
}

/// A planned change has its effect when the router (no longer) sends VIPs there.
async fn planned_effect(run: &Run, target: Site, serves: bool, begin_ms: u64) -> Effect {
    let name = target.name();
    let shown = until("the router follows", EFFECT, async || {
        ensure!(run.monitor.history().serves(&name, &vips()) == serves, "not yet");
        Ok(())
    })
    .await;
    let mut effect = Effect { begin_ms, done_ms: now_ms(), ..Effect::default() };
    if shown.is_err() {
        effect.missing.push(format!(
            "the router {} sends VIPs to {name}",
            if serves { "never" } else { "still" }
        ));
    }
    effect
}

fn span(history: &History, target: Site, since_ms: u64) -> Option<u64> {
    history.span(&target.name(), since_ms).map(|(first, last)| last - first)
}

async fn add_node(run: &mut Run, target: Site) -> Result<Effect> {
    let begin_ms = now_ms();
    let token = cluster::token(&run.plan, any_other(run, target), target).await?;
    cluster::start(&run.plan, target, Some(&token)).await?;
    let mut effect = planned_effect(run, target, true, begin_ms).await;
    effect.routes_moved_ms = span(&run.monitor.history(), target, begin_ms);
    Ok(effect)
}

async fn drain_node(run: &mut Run, target: Site) -> Result<Effect> {
    let begin_ms = now_ms();
    let at = any_other(run, target);
    let name = target.name();
    let drain = ["node", "drain", name.as_str()];
    let said = cluster::holdfast_within(&run.plan, at, &drain, DRAIN).await;
    run.drained = Some(target);
    let mut effect = planned_effect(run, target, false, begin_ms).await;
    if let Err(error) = said {
        effect.missing.push(format!("the drain did not end: {error:#}"));
    }
    effect.routes_moved_ms = span(&run.monitor.history(), target, begin_ms);
    Ok(effect)
}

async fn undrain_node(run: &mut Run, target: Site) -> Result<Effect> {
    let begin_ms = now_ms();
    if run.drained.take().is_none() {
        let missing = vec!["no director was drained before".into()];
        return Ok(Effect { begin_ms, done_ms: begin_ms, missing, ..Effect::default() });
    }
    let name = target.name();
    cluster::holdfast(&run.plan, any_other(run, target), &["node", "undrain", &name]).await?;
    let mut effect = planned_effect(run, target, true, begin_ms).await;
    effect.routes_moved_ms = span(&run.monitor.history(), target, begin_ms);
    Ok(effect)
}

/// A crash has its effect when the router has left every route of the director.
async fn crash_effect(run: &Run, target: Site, begin_ms: u64) -> Effect {
    let name = target.name();
    let left = until_every("the router leaves", EFFECT, Duration::from_millis(10), async || {
        run.monitor.history().left(&name, begin_ms).context("not yet")
    })
    .await;
    let mut effect = Effect { begin_ms, done_ms: now_ms(), ..Effect::default() };
    match left {
        Ok(at) => {
            effect.done_ms = at;
            effect.routes_moved_ms = Some(at.saturating_sub(begin_ms));
        }
        Err(_) => effect.missing.push(format!("the router never left the routes of {name}")),
    }
    effect
}

async fn kill_daemon(run: &mut Run, target: Site) -> Result<Effect> {
    let pid = cluster::daemon_pid(&run.plan, target).await?;
    let begin_ms = now_ms();
    spawn::signal(pid, Signal::SIGKILL)?;
    let mut effect = crash_effect(run, target, begin_ms).await;
    let gone = until("the daemon is gone", EFFECT, async || {
        ensure!(!spawn::alive(pid), "it is there");
        Ok(())
    });
    if gone.await.is_err() {
        effect.missing.push(format!("process {pid} outlived its SIGKILL"));
    }
    Ok(effect)
}

async fn hang_daemon(run: &mut Run, target: Site) -> Result<Effect> {
    let pid = cluster::daemon_pid(&run.plan, target).await?;
    let begin_ms = now_ms();
    spawn::signal(pid, Signal::SIGSTOP)?;
    run.thaw = Some((pid, begin_ms + HANG.as_millis() as u64));
    let mut effect = crash_effect(run, target, begin_ms).await;
    if spawn::state(pid) != Some('T') {
        effect.missing.push(format!("process {pid} was not stopped"));
    }
    Ok(effect)
}

/// Lets a frozen daemon go on, at the time that was set; without one, nothing.
pub async fn thaw(run: &mut Run) -> Result<()> {
    let Some((pid, at_ms)) = run.thaw.take() else { return Ok(()) };
    tokio::time::sleep(Duration::from_millis(at_ms.saturating_sub(now_ms()))).await;
    spawn::signal(pid, Signal::SIGCONT)?;
    run.progress.say("the daemon goes on");
    Ok(())
}

async fn lose_machine(run: &mut Run, target: Site) -> Result<Effect> {
    let netns = run.plan.netns(target);
    let processes = spawn::processes(&netns).await?;
    let (begin_ms, begin_unix_ms) = (now_ms(), unix_ms());
    links::cut(&run.plan, target).await?;
    for process in &processes {
        spawn::signal(process.pid, Signal::SIGSTOP)?;
    }
    let mut effect = crash_effect(run, target, begin_ms).await;
    let log = bird::log_file(&run.plan, "r1");
    let lost = until("BFD gives it up", Duration::from_secs(2), async || {
        let text = std::fs::read_to_string(&log)?;
        bfd::lost(&text, target.addr(), begin_unix_ms).context("no BFD loss in the router's log")
    });
    match lost.await {
        Ok(unix) => effect.bfd_ms = Some(monotonic_of(unix).saturating_sub(begin_ms)),
        Err(_) => effect.missing.push("the router logged no BFD loss".into()),
    }
    Ok(effect)
}
