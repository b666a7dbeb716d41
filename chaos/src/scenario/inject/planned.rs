//! Changes that an operator asks for.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::{Effect, any_other, router_follows};
use crate::clock::now_ms;
use crate::lab::cluster;
use crate::lab::plan::Site;
use crate::lab::{bird, links, spawn};
use crate::scenario::run::Run;
use crate::scenario::wait::until;

/// How long joining may take until the router shows it, for each newcomer.
const JOIN: Duration = Duration::from_secs(30);
/// How long `node drain` may take.
const DRAIN: Duration = Duration::from_secs(60);
/// How long a daemon may take to end.
const STOP: Duration = Duration::from_secs(20);

/// Machines for newcomers.
pub async fn machines(run: &mut Run, newcomers: &[Site]) -> Result<()> {
    for site in newcomers {
        run.plan.directors.push(site.number);
        run.plan.save()?;
        links::attach(&run.plan, *site).await?;
        bird::start_director(&run.plan, *site).await?;
    }
    bird::reconfigure_router(&run.plan).await
}

/// They join, all at once.
pub async fn add(run: &mut Run, newcomers: &[Site]) -> Result<Effect> {
    let mut effect = Effect { begin_ms: now_ms(), ..Effect::default() };
    let at = any_other(run, newcomers);
    let mut starting = tokio::task::JoinSet::new();
    for site in newcomers.iter().copied() {
        let token = cluster::token(&run.plan, at, site).await?;
        let plan = run.plan.clone();
        starting.spawn_local(async move { cluster::start(&plan, site, Some(&token)).await });
    }
    while let Some(started) = starting.join_next().await {
        started.context("starting a daemon")??;
    }
    let within = JOIN * newcomers.len() as u32;
    router_follows(run, newcomers, true, within, &mut effect).await;
    Ok(effect)
}

/// They are told to drain, all at once.
pub async fn drain(run: &mut Run, targets: &[Site]) -> Result<Effect> {
    let mut effect = Effect { begin_ms: now_ms(), ..Effect::default() };
    let at = any_other(run, targets);
    let mut draining = tokio::task::JoinSet::new();
    for site in targets {
        let (plan, name) = (run.plan.clone(), site.name());
        let within = DRAIN * targets.len() as u32;
        draining.spawn_local(async move {
            cluster::holdfast_within(&plan, at, &["node", "drain", &name], within).await
        });
        run.drained.insert(*site);
    }
    while let Some(said) = draining.join_next().await {
        if let Err(error) = said.context("draining")? {
            effect.missing.push(format!("a drain did not end: {error:#}"));
        }
    }
    router_follows(run, targets, false, DRAIN, &mut effect).await;
    Ok(effect)
}

/// They come back.
pub async fn undrain(run: &mut Run, targets: &[Site]) -> Result<Effect> {
    let mut effect = Effect { begin_ms: now_ms(), ..Effect::default() };
    for site in targets {
        if !run.drained.remove(site) {
            effect.done_ms = effect.begin_ms;
            effect.missing.push(format!("{} was not drained before", site.name()));
            return Ok(effect);
        }
        let name = site.name();
        let words = ["node", "undrain", &name];
        cluster::holdfast(&run.plan, any_other(run, targets), &words).await?;
    }
    router_follows(run, targets, true, JOIN * targets.len() as u32, &mut effect).await;
    Ok(effect)
}

/// As operators are told to do it, but nobody waits between one director and the next: drain, end, start,
/// undrain. A drain that is refused, because nobody else would serve yet, is asked for again at once.
pub async fn rolling_restart(run: &mut Run, targets: &[Site]) -> Result<Effect> {
    let failed = targets.to_vec();
    let mut effect = Effect { begin_ms: now_ms(), failed, ..Effect::default() };
    for site in targets {
        let (name, only) = (site.name(), [*site]);
        run.progress.say(&format!("{name} is drained, ended, started, and comes back"));
        let refused = drain_as_soon_as_possible(run, *site).await?;
        if refused > 0 {
            effect.notes.push(format!("the drain of {name} was refused {refused} times at first"));
        }
        let pid = cluster::daemon_pid(&run.plan, *site).await?;
        spawn::signal(pid, Signal::SIGTERM)?;
        until("the daemon ends", STOP, async || {
            ensure!(!spawn::alive(pid), "{name} is there");
            Ok(())
        })
        .await?;
        cluster::start(&run.plan, *site, None).await?;
        let undrain = ["node", "undrain", name.as_str()];
        cluster::holdfast(&run.plan, any_other(run, &only), &undrain).await?;
    }
    router_follows(run, targets, true, JOIN, &mut effect).await;
    Ok(effect)
}

/// SIGTERM, without a drain before. It has its effect when the daemon has ended.
pub async fn end(run: &mut Run, target: Site) -> Result<Effect> {
    let pid = cluster::daemon_pid(&run.plan, target).await?;
    let mut effect = Effect { begin_ms: now_ms(), ..Effect::default() };
    spawn::signal(pid, Signal::SIGTERM)?;
    super::crash::router_leaves(run, &[target], &mut effect).await;
    if until("the daemon ends", STOP, async || {
        ensure!(!spawn::alive(pid), "it is there");
        Ok(())
    })
    .await
    .is_err()
    {
        effect.missing.push(format!("process {pid} outlived its SIGTERM"));
    }
    effect.done_ms = now_ms();
    Ok(effect)
}

/// Gives how often it was refused.
async fn drain_as_soon_as_possible(run: &Run, site: Site) -> Result<u32> {
    let (at, name) = (any_other(run, &[site]), site.name());
    let mut refused = 0;
    until("the drain is accepted", DRAIN, async || {
        let drain = ["node", "drain", name.as_str()];
        cluster::holdfast_within(&run.plan, at, &drain, DRAIN).await.inspect_err(|_| refused += 1)
    })
    .await?;
    Ok(refused)
}
