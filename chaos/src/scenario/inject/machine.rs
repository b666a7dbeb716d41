//! Faults of a director's own machine: its disk, its clock.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{Effect, End, Lasting, crash, planned};
use crate::clock::{now_ms, parse_utc, unix_ms};
use crate::lab::plan::{Site, director};
use crate::lab::{clocks, cluster, disks, links, spawn};
use crate::scenario::run::Run;
use crate::scenario::wait::until;

/// How long a disk is full, or stands still (ms).
const LASTS_MS: u64 = 12_000;
/// Within this time a daemon has something to write. All the while: one that ended in the last seconds of a
/// fault would have failed, and nobody would know.
const WRITES: Duration = Duration::from_millis(LASTS_MS);
/// How far the clocks of two directors jump (s).
const JUMPS: [i64; 2] = [-300, 420];

/// The director that has a disk of its own.
pub fn with_own_disk(run: &Run) -> Result<Vec<Site>> {
    let number = run.plan.own_disk.context("no director of this lab has a disk of its own")?;
    Ok(vec![director(number)])
}

/// No free byte is left on its disk.
pub async fn disk_full(run: &mut Run, target: Site) -> Result<Effect> {
    let pid = cluster::daemon_pid(&run.plan, target).await?;
    let mut effect = Effect { begin_ms: now_ms(), ..Effect::default() };
    let bytes = disks::fill(&run.plan, target)?;
    effect.done_ms = now_ms();
    run.lasting =
        Some(Lasting { until_ms: effect.begin_ms + LASTS_MS, end: End::MakeRoom(target) });
    if bytes == 0 {
        effect.missing.push("there was no room to fill".into());
    }
    let ended = until("the daemon ends", WRITES, async || {
        ensure!(!spawn::alive(pid), "it runs");
        Ok(())
    });
    if ended.await.is_ok() {
        effect.notes.push("its daemon ended, as one should that can write no more".into());
        crash::router_leaves(run, &[target], &mut effect).await;
        return Ok(effect);
    }
    // Not later: it might end unseen.
    disks::empty(&run.plan, target)?;
    run.lasting = None;
    run.progress.say("there is room on the disk again");
    if says_no_space(run, target) {
        effect.notes.push("its daemon went on, and said why it could not write".into());
    } else {
        effect.missing.push("its daemon did not notice".into());
    }
    Ok(effect)
}

/// Whether a daemon's log tells of a full disk.
fn says_no_space(run: &Run, site: Site) -> bool {
    let log = std::fs::read_to_string(run.plan.file(&site.name(), "holdfastd.log"));
    log.is_ok_and(|text| text.contains("No space left"))
}

/// Whoever writes to its disk waits; and since the router hashes by other fields from then on, most connections
/// change director while it does.
pub async fn disk_stall(run: &mut Run, target: Site) -> Result<Effect> {
    let pid = cluster::daemon_pid(&run.plan, target).await?;
    let mut effect = Effect { begin_ms: now_ms(), ..Effect::default() };
    disks::freeze(&run.plan, target).await?;
    run.lasting =
        Some(Lasting { until_ms: effect.begin_ms + LASTS_MS, end: End::Unfreeze(target) });
    let waits = until("somebody waits for the disk", WRITES, async || {
        ensure!(spawn::waits_for_a_disk(pid), "nobody does");
        Ok(())
    });
    if waits.await.is_err() {
        effect.missing.push("no thread of the daemon had to wait for its disk".into());
    }
    links::hash_by(&run.plan, links::HashFields::WithoutProtocol).await?;
    effect.done_ms = now_ms();
    Ok(effect)
}

/// There is room again. A daemon that has ended meanwhile is started, as a service manager would.
pub async fn room_again(run: &mut Run, target: Site) -> Result<()> {
    if cluster::daemon_pid(&run.plan, target).await.is_err() {
        run.progress.say(&format!("{} is started anew", target.name()));
        cluster::start(&run.plan, target, None).await?;
        run.restarted.push(target);
    }
    Ok(())
}

/// Two clocks jump, and one of these directors is restarted, so that it stamps its sessions by that clock.
pub async fn clock_jump(run: &mut Run, targets: &[Site]) -> Result<Effect> {
    let [first, _] = targets else { bail!("two directors are needed") };
    let begin_ms = now_ms();
    for (target, seconds) in targets.iter().zip(JUMPS) {
        clocks::has_own(&run.plan, cluster::daemon_pid(&run.plan, *target).await?)?;
        clocks::set(&run.plan, *target, seconds)?;
    }
    let mut effect = planned::rolling_restart(run, &[*first]).await?;
    run.restarted.push(*first);
    effect.begin_ms = begin_ms;
    match clock_in_log(run, *first) {
        Ok(off) if (off - JUMPS[0]).abs() < 120 => {}
        Ok(off) => effect.missing.push(format!("its log is {off} s off, not {} s", JUMPS[0])),
        Err(error) => effect.missing.push(format!("its log tells no time: {error:#}")),
    }
    for (target, seconds) in targets.iter().zip(JUMPS) {
        effect.notes.push(format!("the clock of {} jumped by {seconds} s", target.name()));
    }
    Ok(effect)
}

/// How far the last line of a daemon's log is from now (s).
fn clock_in_log(run: &Run, site: Site) -> Result<i64> {
    let text = std::fs::read_to_string(run.plan.file(&site.name(), "holdfastd.log"))?;
    let stamp = text.lines().rev().find_map(stamp).context("no line begins with a time")?;
    Ok((stamp - unix_ms()) / 1000)
}

/// The time that a line of a log begins with (colours apart), as Unix ms.
fn stamp(line: &str) -> Option<i64> {
    let from = line.find("20")?;
    parse_utc(line.get(from..from + 23)?)
}

/// The clocks jump back.
pub fn right_the_clocks(run: &Run, targets: &[Site]) -> Result<()> {
    targets.iter().try_for_each(|target| clocks::set(&run.plan, *target, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_logs() {
        let at = parse_utc("2026-11-21 11:45:10.092");
        assert_eq!(stamp("2026-11-21T11:45:10.092123Z  INFO holdfast: x"), at);
        assert_eq!(stamp("\u{1b}[2m2026-11-21T11:45:10.092123Z\u{1b}[0m INFO x"), at);
        assert_eq!(stamp("a panic at 20"), None);
    }
}
