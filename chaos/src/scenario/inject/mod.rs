//! What each step does to the cluster, and how the router shows that it happened.

mod backend;
mod crash;
pub mod follower;
mod machine;
mod network;
mod planned;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::run::Run;
use super::steps::StepName;
use super::wait::until;
use crate::admin;
use crate::clock::now_ms;
use crate::lab::cluster::{self, SETTLED};
use crate::lab::plan::{Site, VIPS, director};
use crate::lab::{Plan, disks, links, spawn};
use crate::router::monitor::History;

/// How long a step may take to have its effect.
const EFFECT: Duration = Duration::from_secs(30);

/// What came of an injection.
#[derive(Clone, Debug, Default)]
pub struct Effect {
    /// When it was injected.
    pub begin_ms: u64,
    /// When it had taken effect.
    pub done_ms: u64,
    /// Why it did not really happen; empty: it did.
    pub missing: Vec<String>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
    /// How long the router took to move its routes.
    pub routes_moved_ms: Option<u64>,
    /// How long the router's BFD took to give the director up.
    pub bfd_ms: Option<u64>,
    /// The directors that failed, or were restarted: nothing stays on them.
    pub failed: Vec<Site>,
}

/// A fault that lasts: what ends it, and when.
#[derive(Clone, Debug)]
pub struct Lasting {
    until_ms: u64,
    end: End,
}

#[derive(Clone, Debug)]
enum End {
    /// A frozen process goes on.
    Thaw(u32),
    /// The router lets packets through again.
    Pass,
    /// The relay that makes the network bad is taken away: its process.
    BypassRelay(u32),
    /// There is room on a disk again.
    MakeRoom(Site),
    /// A disk moves again.
    Unfreeze(Site),
}

/// The processes that a crash is about, looked up beforehand: at the moment itself every millisecond counts.
#[derive(Clone, Debug, Default)]
pub struct Victims {
    /// The directors' daemons.
    pub daemons: Vec<u32>,
    /// Everything that runs on their machines.
    pub all: Vec<u32>,
}

/// Everything short of the step itself: machines for newcomers, a backend that will be removed, victims for a
/// crash.
pub async fn prepare(run: &mut Run, step: StepName, targets: &[Site]) -> Result<()> {
    if step.newcomers() > 0 {
        planned::machines(run, targets).await?;
    }
    if step == StepName::Reshuffle {
        backend::add(run).await?;
    }
    run.victims = Victims::default();
    for target in targets.iter().filter(|_| step.is_crash()) {
        run.victims.daemons.push(cluster::daemon_pid(&run.plan, *target).await?);
        let processes = spawn::processes(&run.plan.netns(*target)).await?;
        run.victims.all.extend(processes.iter().map(|p| p.pid));
    }
    Ok(())
}

/// The directors that a step is about.
pub async fn choose(run: &Run, step: StepName) -> Result<Vec<Site>> {
    let serving: Vec<Site> = run.serving().collect();
    let count = match step {
        StepName::AddNode | StepName::AddThree => {
            let last = run.plan.directors.iter().max().copied().unwrap_or(0);
            return Ok((1..=step.newcomers() as u8).map(|n| director(last + n)).collect());
        }
        // It has to be one that is drained; without a drain before, there is nothing to undo.
        StepName::UndrainNode => {
            return Ok(vec![run.drained.first().copied().unwrap_or(director(1))]);
        }
        StepName::RollingRestart | StepName::KillAll => return Ok(serving),
        StepName::Reshuffle | StepName::BadLinks | StepName::BlockedLinks => 0,
        StepName::DrainTwo | StepName::OneWay | StepName::ClockJump => 2,
        StepName::DiskFull | StepName::DiskStall => return machine::with_own_disk(run),
        StepName::KillWithLeader => return crash::with_leader(run, &serving).await,
        StepName::FreezeFollower => return follower::choose(run, &serving).await,
        _ => 1,
    };
    ensure!(serving.len() >= count, "{} directors serve, {count} are needed", serving.len());
    let mut chosen = run.draw(step, serving);
    chosen.truncate(count);
    Ok(chosen)
}

/// Does it. Errors are those of the lab; what merely did not happen is told in the effect.
pub async fn inject(run: &mut Run, step: StepName, targets: &[Site]) -> Result<Effect> {
    match step {
        StepName::AddNode | StepName::AddThree => planned::add(run, targets).await,
        StepName::DrainNode | StepName::DrainTwo => planned::drain(run, targets).await,
        StepName::UndrainNode => planned::undrain(run, targets).await,
        StepName::RollingRestart => planned::rolling_restart(run, targets).await,
        StepName::EndDaemon => planned::end(run, first(targets)?).await,
        StepName::KillDaemon | StepName::KillWithLeader | StepName::KillAll => {
            crash::kill(run, targets).await
        }
        StepName::HangDaemon => crash::freeze(run, first(targets)?, 10_000).await,
        StepName::FreezeFollower => follower::freeze(run, first(targets)?).await,
        StepName::LoseMachine => crash::lose_machine(run, first(targets)?).await,
        StepName::OneWay => network::one_way(run, targets).await,
        StepName::CutOff => network::cut_off(run, first(targets)?).await,
        StepName::Reshuffle => backend::reshuffle(run).await,
        StepName::BadLinks => network::bad_links(run).await,
        StepName::BlockedLinks => network::blocked_links(run).await,
        StepName::DiskFull => machine::disk_full(run, first(targets)?).await,
        StepName::DiskStall => machine::disk_stall(run, first(targets)?).await,
        StepName::ClockJump => machine::clock_jump(run, targets).await,
    }
}

fn first(targets: &[Site]) -> Result<Site> {
    targets.first().copied().context("a step of this kind is about somebody")
}

/// Lets a fault that lasts come to its end, at the time that was set; without one, nothing.
pub async fn outlast(run: &mut Run) -> Result<()> {
    let Some(Lasting { until_ms, end }) = run.lasting.take() else { return Ok(()) };
    while now_ms() < until_ms {
        let left = until_ms.saturating_sub(now_ms());
        run.progress.now(&format!("the fault lasts for another {} s", left.div_ceil(1000)));
        tokio::time::sleep(Duration::from_millis(left.min(1_000))).await;
    }
    match end {
        End::Thaw(pid) => {
            follower::last_look(run).await;
            spawn::signal(pid, Signal::SIGCONT)?;
            run.progress.say("the daemon goes on");
        }
        End::Pass => {
            links::pass(&run.plan).await?;
            run.progress.say("the directors can reach each other again");
        }
        End::BypassRelay(pid) => {
            network::bypass_relay(run, pid).await?;
            run.progress.say("the network between the directors is good again");
        }
        End::MakeRoom(site) => {
            disks::empty(&run.plan, site)?;
            run.progress.say("there is room on the disk again");
        }
        End::Unfreeze(site) => {
            disks::thaw(&run.plan, site).await?;
            run.progress.say("the disk moves again");
        }
    }
    Ok(())
}

/// Restores what was lost and waits until the cluster has settled. What is seen then is told in the effect.
pub async fn repair(
    run: &mut Run,
    step: StepName,
    targets: &[Site],
    effect: &mut Effect,
) -> Result<()> {
    match step {
        StepName::KillDaemon
        | StepName::KillWithLeader
        | StepName::KillAll
        | StepName::EndDaemon => {
            run.progress.say(&format!("{} started anew", are(targets)));
            start_all(&run.plan, targets).await?;
        }
        StepName::LoseMachine => crash::replace_machine(run, first(targets)?).await?,
        StepName::DrainTwo => planned::undrain(run, targets).await.map(|_| ())?,
        StepName::Reshuffle => backend::remove(run, effect).await?,
        StepName::BadLinks | StepName::DiskStall => {
            links::hash_by(&run.plan, links::HashFields::All).await?
        }
        StepName::DiskFull => machine::room_again(run, first(targets)?).await?,
        StepName::ClockJump => machine::right_the_clocks(run, targets)?,
        _ => {}
    }
    cluster::settled(&run.plan, SETTLED).await?;
    routes_agree(run).await?;
    follower::tell(run, effect).await
}

/// Starts daemons at the same moment and waits until each answers.
async fn start_all(plan: &Plan, sites: &[Site]) -> Result<()> {
    let mut starting = tokio::task::JoinSet::new();
    for site in sites.iter().copied() {
        let plan = plan.clone();
        starting.spawn_local(async move { cluster::start(&plan, site, None).await });
    }
    while let Some(started) = starting.join_next().await {
        started.context("starting a daemon")??;
    }
    Ok(())
}

/// `d1`, `d1 and d2`.
pub fn names(sites: &[Site]) -> String {
    let names: Vec<String> = sites.iter().map(|s| s.name()).collect();
    names.join(" and ")
}

fn are(sites: &[Site]) -> String {
    format!("{} {}", names(sites), if sites.len() == 1 { "is" } else { "are" })
}

/// Waits until the router sends every VIP to every director that shall serve.
async fn routes_agree(run: &Run) -> Result<()> {
    until("the router uses every director", EFFECT, async || {
        let now = run.monitor.history().now();
        for vip in VIPS {
            let devices = now.get(&vip.to_string()).context("the router has no route to a VIP")?;
            for site in run.plan.directors() {
                let wanted = !run.drained.contains(&site);
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

/// One that can be asked while these are busy.
fn any_other(run: &Run, targets: &[Site]) -> Site {
    let others = run.serving().find(|d| !targets.contains(d));
    others.or(run.plan.directors().find(|d| !targets.contains(d))).unwrap_or(director(1))
}

/// What a director that is not concerned says of the cluster.
async fn ask(run: &Run, targets: &[Site]) -> Result<holdfast_schema::admin::ClusterStatus> {
    let status = admin::status(&run.plan.admin_socket(any_other(run, targets))).await?;
    status.cluster.context("it belongs to no cluster")
}

fn span(history: &History, targets: &[Site], since_ms: u64) -> Option<u64> {
    let spans: Vec<(u64, u64)> =
        targets.iter().filter_map(|t| history.span(&t.name(), since_ms)).collect();
    let first = spans.iter().map(|(first, _)| *first).min()?;
    Some(spans.iter().map(|(_, last)| *last).max()? - first)
}

/// How long after a fault the router changed the last of these directors' routes.
fn moved_after(history: &History, targets: &[Site], begin_ms: u64) -> Option<u64> {
    let spans = targets.iter().filter_map(|t| history.span(&t.name(), begin_ms));
    spans.map(|(_, last)| last.saturating_sub(begin_ms)).max()
}

/// Waits until the router (no longer) sends VIPs to these directors.
async fn router_follows(
    run: &Run,
    targets: &[Site],
    serves: bool,
    within: Duration,
    effect: &mut Effect,
) {
    let shown = until("the router follows", within, async || {
        let history = run.monitor.history();
        let late: BTreeSet<String> = targets
            .iter()
            .map(|t| t.name())
            .filter(|name| history.serves(name, &vips()) != serves)
            .collect();
        ensure!(late.is_empty(), "{late:?}");
        Ok(())
    })
    .await;
    effect.done_ms = now_ms();
    if shown.is_err() {
        effect.missing.push(format!(
            "the router {} sends VIPs to {}",
            if serves { "never" } else { "still" },
            names(targets)
        ));
    }
    effect.routes_moved_ms = span(&run.monitor.history(), targets, effect.begin_ms);
}
