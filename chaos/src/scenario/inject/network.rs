//! Faults of the network between the directors.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use nix::sys::signal::Signal;

use super::{Effect, End, Lasting, moved_after, router_follows};
use crate::clock::now_ms;
use crate::command::{SOON, run_in};
use crate::lab::plan::{PEER_PORT, Site};
use crate::lab::spawn::{Priority, signal, spawn};
use crate::lab::{links, relay};
use crate::scenario::run::Run;
use crate::scenario::wait::until;

/// How long such a fault lasts (ms): longer than it takes to be declared down, or cut off.
const LASTS_MS: u64 = 12_000;
/// Within this time directors say something to each other that can be dropped.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A director that is cut off announces worse after 4 s.
const ANNOUNCES_WORSE: Duration = Duration::from_secs(12);

/// What the first says does not reach the second.
pub async fn one_way(run: &mut Run, targets: &[Site]) -> Result<Effect> {
    let [from, to] = targets else { bail!("two directors are needed") };
    let rule = format!("ip saddr {} ip daddr {} udp dport {PEER_PORT}", from.addr(), to.addr());
    let mut effect = drop_until_later(run, &[rule]).await?;
    packets_are_dropped(run, &mut effect).await;
    Ok(effect)
}

/// The director and its peers do not hear each other.
pub async fn cut_off(run: &mut Run, target: Site) -> Result<Effect> {
    let addr = target.addr();
    let rules = ["saddr", "daddr"].map(|side| format!("ip {side} {addr} udp dport {PEER_PORT}"));
    let mut effect = drop_until_later(run, &rules).await?;
    packets_are_dropped(run, &mut effect).await;
    router_follows(run, &[target], false, ANNOUNCES_WORSE, &mut effect).await;
    effect.routes_moved_ms = moved_after(&run.monitor.history(), &[target], effect.begin_ms);
    Ok(effect)
}

async fn drop_until_later(run: &mut Run, rules: &[String]) -> Result<Effect> {
    let begin_ms = now_ms();
    links::block(&run.plan, rules).await?;
    run.lasting = Some(Lasting { until_ms: begin_ms + LASTS_MS, end: End::Pass });
    Ok(Effect { begin_ms, done_ms: begin_ms, ..Effect::default() })
}

/// The router has to show that there was something to drop.
async fn packets_are_dropped(run: &Run, effect: &mut Effect) {
    let dropped = until("the router drops packets", HEARTBEAT, async || {
        let dropped = links::blocked(&run.plan).await?;
        ensure!(!dropped.is_empty() && dropped.iter().all(|n| *n > 0), "{dropped:?}");
        Ok(())
    });
    if dropped.await.is_err() {
        effect.missing.push("the router dropped no packet between the directors".into());
    }
    effect.done_ms = now_ms();
}

/// No director hears any other.
pub async fn blocked_links(run: &mut Run) -> Result<Effect> {
    let mut effect = drop_until_later(run, &[format!("udp dport {PEER_PORT}")]).await?;
    packets_are_dropped(run, &mut effect).await;
    Ok(effect)
}

/// What directors say to each other is late, out of order, and lost now and then; and since most connections
/// change director meanwhile, they have a lot to say.
pub async fn bad_links(run: &mut Run) -> Result<Effect> {
    let directors: Vec<(String, Ipv4Addr, Ipv4Addr)> =
        run.plan.directors().map(|d| (d.name(), d.addr(), d.gateway())).collect();
    let pid = start_relay(run, &directors).await?;
    let mut effect = Effect { begin_ms: now_ms(), ..Effect::default() };
    let router = run.plan.router();
    for rules in relay::rules(&directors) {
        run_in(&router, &["nft", &rules]).await?;
    }
    run.lasting =
        Some(Lasting { until_ms: effect.begin_ms + LASTS_MS, end: End::BypassRelay(pid) });
    let used = until("the relay is used", HEARTBEAT, async || {
        let shown = run_in(&router, &["nft", "list", "table", "ip", "relay"]).await?;
        let flows = links::counters(&shown);
        ensure!(!flows.is_empty() && flows.iter().all(|n| *n > 0), "{flows:?}");
        Ok(())
    });
    if used.await.is_err() {
        effect.missing.push("not all directors spoke to each other by the relay".into());
    }
    links::hash_by(&run.plan, links::HashFields::WithoutProtocol).await?;
    effect.done_ms = now_ms();
    Ok(effect)
}

async fn start_relay(run: &Run, directors: &[(String, Ipv4Addr, Ipv4Addr)]) -> Result<u32> {
    let me = std::env::current_exe()?.display().to_string();
    let list: Vec<String> = directors.iter().map(|(_, addr, _)| addr.to_string()).collect();
    let (list, log) = (list.join(","), run.plan.file("r1", "relay.log"));
    let argv = [me.as_str(), "relay", "--directors", &list];
    std::fs::remove_file(&log).ok();
    let pid = spawn(&run.plan.router(), &argv, Priority::High, &log, &[]).await?;
    until("the relay is ready", SOON, async || {
        ensure!(std::fs::read_to_string(&log)?.contains("ready"), "it is not");
        Ok(())
    })
    .await?;
    Ok(pid)
}

/// Directors speak to each other without it again.
pub async fn bypass_relay(run: &Run, pid: u32) -> Result<()> {
    run_in(&run.plan.router(), &["nft", "delete", "table", "ip", "relay"]).await?;
    signal(pid, Signal::SIGKILL)
}
