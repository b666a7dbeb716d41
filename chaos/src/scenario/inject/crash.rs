//! Directors that stop to forward: killed, frozen, lost.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::{EFFECT, Effect, End, Lasting, ask};
use crate::clock::{monotonic_of, now_ms, unix_ms};
use crate::lab::plan::Site;
use crate::lab::{bird, cluster, links, spawn};
use crate::router::bfd;
use crate::scenario::run::Run;
use crate::scenario::steps::StepName;
use crate::scenario::wait::{until, until_every};

/// The director that leads most shards, and another one by chance: that one first.
pub async fn with_leader(run: &Run, serving: &[Site]) -> Result<Vec<Site>> {
    let mut leads: BTreeMap<String, usize> = BTreeMap::new();
    for group in ask(run, &[]).await?.groups {
        if let Some(leader) = group.leader.filter(|_| group.name != "control") {
            *leads.entry(leader).or_default() += 1;
        }
    }
    let led = |site: &Site| leads.get(&site.name()).copied().unwrap_or(0);
    let leader = *serving.iter().max_by_key(|s| led(s)).context("nobody serves")?;
    ensure!(led(&leader) > 0, "no director that serves leads a shard");
    let others: Vec<Site> = serving.iter().copied().filter(|s| *s != leader).collect();
    let others = run.draw(StepName::KillWithLeader, others);
    Ok(vec![*others.first().context("a second director is needed")?, leader])
}

/// A crash has its effect when the router has left every route of the directors.
pub async fn router_leaves(run: &Run, targets: &[Site], effect: &mut Effect) {
    effect.failed = targets.to_vec();
    effect.done_ms = effect.begin_ms;
    for target in targets {
        let name = target.name();
        let left =
            until_every("the router leaves", EFFECT, Duration::from_millis(10), async || {
                run.monitor.history().left(&name, effect.begin_ms).context("not yet")
            });
        match left.await {
            Ok(at) => effect.done_ms = effect.done_ms.max(at),
            Err(_) => {
                effect.done_ms = now_ms();
                effect.missing.push(format!("the router never left the routes of {name}"));
            }
        }
    }
    if effect.missing.is_empty() {
        effect.routes_moved_ms = Some(effect.done_ms - effect.begin_ms);
    }
}

/// `kill -9`.
pub async fn kill(run: &mut Run, targets: &[Site]) -> Result<Effect> {
    let pids = run.victims.daemons.clone();
    let mut effect = Effect { begin_ms: now_ms(), ..Effect::default() };
    for pid in &pids {
        spawn::signal(*pid, Signal::SIGKILL)?;
    }
    router_leaves(run, targets, &mut effect).await;
    for pid in pids {
        let gone = until("the daemon is gone", EFFECT, async || {
            ensure!(!spawn::alive(pid), "it is there");
            Ok(())
        });
        if gone.await.is_err() {
            effect.missing.push(format!("process {pid} outlived its SIGKILL"));
        }
    }
    Ok(effect)
}

/// SIGSTOP for a while.
pub async fn freeze(run: &mut Run, target: Site, for_ms: u64) -> Result<Effect> {
    let pid = *run.victims.daemons.first().context("no daemon was looked up")?;
    let mut effect = Effect { begin_ms: now_ms(), ..Effect::default() };
    spawn::signal(pid, Signal::SIGSTOP)?;
    run.lasting = Some(Lasting { until_ms: effect.begin_ms + for_ms, end: End::Thaw(pid) });
    router_leaves(run, &[target], &mut effect).await;
    if spawn::state(pid) != Some('T') {
        effect.missing.push(format!("process {pid} was not stopped"));
    }
    Ok(effect)
}

/// No frame in or out, and everything on it stopped.
pub async fn lose_machine(run: &mut Run, target: Site) -> Result<Effect> {
    let begin_unix_ms = unix_ms();
    let mut effect = Effect { begin_ms: now_ms(), ..Effect::default() };
    links::cut(&run.plan, target).await?;
    for pid in &run.victims.all {
        spawn::signal(*pid, Signal::SIGSTOP)?;
    }
    router_leaves(run, &[target], &mut effect).await;
    let log = bird::log_file(&run.plan, "r1");
    let lost = until("BFD gives it up", Duration::from_secs(2), async || {
        let text = std::fs::read_to_string(&log)?;
        bfd::lost(&text, target.addr(), begin_unix_ms).context("no BFD loss in the router's log")
    });
    match lost.await {
        Ok(unix) => effect.bfd_ms = Some(monotonic_of(unix).saturating_sub(effect.begin_ms)),
        Err(_) => effect.missing.push("the router logged no BFD loss".into()),
    }
    Ok(effect)
}

/// The machine is there again, with the same disk.
pub async fn replace_machine(run: &mut Run, target: Site) -> Result<()> {
    run.progress.say(&format!("{} is started anew on the same disk", target.name()));
    spawn::kill_all(&run.plan.netns(target)).await?;
    links::mend(&run.plan, target).await?;
    bird::start_director(&run.plan, target).await?;
    cluster::start(&run.plan, target, None).await?;
    Ok(())
}
