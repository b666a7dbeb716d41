//! Watches the directors while a run goes on: what each says of itself whenever that has changed, and
//! how busy the machine is. Bounded, however long the run takes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use holdfast_schema::admin::Status;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::report::{Busy, Change, Lane, Said};
use crate::admin;
use crate::clock::now_ms;
use crate::lab::plan::{Plan, Site};

/// How often a director is asked.
const EVERY: Duration = Duration::from_millis(200);
/// A director that takes longer to answer than this does not answer.
const ANSWERS_WITHIN: Duration = Duration::from_millis(500);
/// How many changes of one director are kept.
const MOST_CHANGES: usize = 4_000;
/// How often it is looked how busy the machine is, at first.
const BUSY_EVERY: Duration = Duration::from_millis(500);
/// When there are so many of these numbers, every two become one.
const MOST_BUSY: usize = 2_400;

/// Watches.
pub struct Sampler {
    began_ms: u64,
    lanes: BTreeMap<Site, Rc<RefCell<Lane>>>,
    busy: Rc<RefCell<Busy>>,
    // They end with us.
    tasks: JoinSet<()>,
}

impl Sampler {
    /// Begins to watch the machine. Runs in a `LocalSet`. Times are told since `began_ms`.
    pub fn start(began_ms: u64) -> Sampler {
        let busy = Busy {
            from_ms: now_ms().saturating_sub(began_ms),
            every_ms: BUSY_EVERY.as_millis() as u64,
            percent: Vec::new(),
        };
        let busy = Rc::new(RefCell::new(busy));
        let mut tasks = JoinSet::new();
        tasks.spawn_local(watch_machine(busy.clone(), began_ms));
        Sampler { began_ms, lanes: BTreeMap::new(), busy, tasks }
    }

    /// From now on watches the directors of this plan as well, those that are not watched yet.
    pub fn follow(&mut self, plan: &Plan) {
        for site in plan.directors() {
            if self.lanes.contains_key(&site) {
                continue;
            }
            let lane = Rc::new(RefCell::new(Lane { name: site.name(), ..Lane::default() }));
            self.lanes.insert(site, lane.clone());
            self.tasks.spawn_local(watch(plan.admin_socket(site), lane, self.began_ms));
        }
    }

    /// What was seen so far.
    pub fn seen(&self) -> (Vec<Lane>, Busy) {
        let lanes = self.lanes.values().map(|lane| lane.borrow().clone()).collect();
        (lanes, self.busy.borrow().clone())
    }
}

async fn watch(socket: PathBuf, lane: Rc<RefCell<Lane>>, began_ms: u64) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let at_ms = now_ms().saturating_sub(began_ms);
        let said = ask(&socket).await;
        note(&mut lane.borrow_mut(), Change { at_ms, said });
    }
}

async fn ask(socket: &Path) -> Option<Said> {
    let status = tokio::time::timeout(ANSWERS_WITHIN, admin::status(socket)).await.ok()?.ok()?;
    Some(said(&status))
}

fn note(lane: &mut Lane, change: Change) {
    if lane.changes.last().is_some_and(|last| last.said == change.said) {
        return;
    }
    if lane.changes.len() >= MOST_CHANGES {
        lane.unrecorded += 1;
        return;
    }
    lane.changes.push(change);
}

/// What a status says of the director that gave it.
fn said(status: &Status) -> Said {
    let cluster = status.cluster.as_ref();
    let me = cluster.and_then(|c| c.nodes.iter().find(|n| n.name == status.director));
    let mut said = Said {
        state: me.and_then(|me| word(&me.state)),
        ready: status.not_ready.is_empty(),
        announcement: me.and_then(|me| me.announcement.clone()),
        leader: cluster.and_then(|c| c.leader.clone()),
        revision: status.tables.map(|t| t.revision),
        health_version: status.tables.map(|t| t.health_version),
        table_hash: status.tables.map(|t| t.hash),
        ..Said::default()
    };
    let Some(cluster) = cluster else { return said };
    for group in &cluster.groups {
        if group.name == "control" {
            said.term = Some(group.term);
        } else {
            said.shards_led += u32::from(group.leader.as_ref() == Some(&status.director));
            said.shard_terms += group.term;
        }
    }
    let planned = cluster.planned.iter();
    said.planned =
        planned.map(|p| format!("{} {}", word(&p.kind).unwrap_or_default(), p.director)).collect();
    said
}

/// The word that JSON has for a value.
fn word(value: &impl serde::Serialize) -> Option<String> {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => Some(word),
        _ => None,
    }
}

async fn watch_machine(busy: Rc<RefCell<Busy>>, began_ms: u64) {
    let mut before = processors();
    loop {
        let every = Duration::from_millis(busy.borrow().every_ms);
        tokio::time::sleep(every).await;
        let now = processors();
        if let (Some(before), Some(now)) = (before, now) {
            let at_ms = now_ms().saturating_sub(began_ms);
            add(&mut busy.borrow_mut(), percent(before, now), at_ms);
        }
        before = now;
    }
}

/// Adds what was seen until `at_ms`. A busy machine lets us look late: then it counts for longer.
fn add(busy: &mut Busy, percent: u8, at_ms: u64) {
    while busy.from_ms + (busy.percent.len() as u64 + 1) * busy.every_ms <= at_ms {
        busy.percent.push(percent);
        if busy.percent.len() >= MOST_BUSY {
            busy.percent = busy.percent.chunks(2).map(mean).collect();
            busy.every_ms *= 2;
        }
    }
}

fn mean(of: &[u8]) -> u8 {
    let sum: usize = of.iter().map(|p| usize::from(*p)).sum();
    (sum / of.len().max(1)) as u8
}

/// Time of all processors so far: idle, and whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Processors {
    idle: u64,
    whole: u64,
}

fn processors() -> Option<Processors> {
    processors_of(&std::fs::read_to_string("/proc/stat").ok()?)
}

/// Reads the first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal (guests
/// are part of user).
fn processors_of(stat: &str) -> Option<Processors> {
    let mut words = stat.lines().next()?.split_whitespace();
    if words.next() != Some("cpu") {
        return None;
    }
    let times: Vec<u64> = words.take(8).map_while(|w| w.parse().ok()).collect();
    let idle = times.get(3)? + times.get(4)?;
    Some(Processors { idle, whole: times.iter().sum() })
}

fn percent(before: Processors, now: Processors) -> u8 {
    let whole = now.whole.saturating_sub(before.whole);
    let idle = now.idle.saturating_sub(before.idle).min(whole);
    ((whole - idle) * 100).checked_div(whole).unwrap_or(0) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_kept_and_not_without_end() {
        let mut lane = Lane::default();
        let say = |ready| Some(Said { ready, ..Said::default() });
        for (at_ms, said) in [(0, None), (200, None), (400, say(false)), (600, say(true))] {
            note(&mut lane, Change { at_ms, said });
        }
        let times: Vec<u64> = lane.changes.iter().map(|c| c.at_ms).collect();
        assert_eq!(times, [0, 400, 600]);
        for at_ms in 0..2 * MOST_CHANGES as u64 {
            note(&mut lane, Change { at_ms, said: say(at_ms % 2 == 0) });
        }
        assert_eq!(lane.changes.len(), MOST_CHANGES);
        assert!(lane.unrecorded > 0);
    }

    #[test]
    fn long_runs_are_looked_at_less_often() {
        let mut busy = Busy { from_ms: 100, every_ms: 500, ..Busy::default() };
        for i in 0..MOST_BUSY as u64 {
            add(&mut busy, if i % 2 == 0 { 20 } else { 40 }, 100 + (i + 1) * 500);
        }
        assert_eq!((busy.percent.len(), busy.every_ms), (MOST_BUSY / 2, 1_000));
        assert!(busy.percent.iter().all(|p| *p == 30));
    }

    #[test]
    fn who_looks_late_has_seen_more() {
        let mut busy = Busy { from_ms: 100, every_ms: 500, ..Busy::default() };
        for (percent, at_ms) in [(20, 601), (40, 1_900), (60, 2_099), (80, 2_100)] {
            add(&mut busy, percent, at_ms);
        }
        assert_eq!(busy.percent, [20, 40, 40, 80]);
    }

    #[test]
    fn busy_is_what_is_not_idle() {
        let then = processors_of("cpu  10 0 10 70 10 0 0 0 5 0\ncpu0 1 2 3").unwrap();
        assert_eq!(then, Processors { idle: 80, whole: 100 });
        assert_eq!(percent(then, Processors { idle: 90, whole: 140 }), 75);
        assert_eq!(percent(then, then), 0);
        assert_eq!(processors_of("intr 1 2 3"), None);
    }

    #[test]
    fn a_status_is_read_from_the_side_of_the_director_that_gave_it() {
        let group = |name: &str, leader: &str, term: u64| {
            serde_json::json!({"name": name, "leader": leader, "term": term, "committed": 1,
                "applied": 1, "voters": [], "learners": [], "sessions": 0})
        };
        let node = |name: &str, state: &str| {
            serde_json::json!({"id": 1, "name": name, "address": "10.71.1.2:7400", "state": state,
                "up": true, "ready": true, "announcement": "worse", "incarnation": 1, "lips": [],
                "sessions": 3, "votes": 3})
        };
        let status = serde_json::json!({
            "director": "d2", "version": "0", "phase": "member", "not_ready": [], "xdp_mode": "skb",
            "warnings": [], "tables": {"revision": 7, "health_version": 3, "hash": 99},
            "cluster": {"id": "c", "revision": 8, "membership_epoch": 2, "leader": "d1",
                "nodes": [node("d1", "active"), node("d2", "draining")],
                "groups": [group("control", "d1", 4), group("shard-0", "d2", 2),
                    group("shard-1", "d1", 3), group("shard-2", "d2", 3)],
                "planned": [{"id": 5, "kind": "drain", "director": "d2"}],
                "backends": [], "settled": false, "unsettled": []},
        });
        let status: Status = serde_json::from_value(status).unwrap();
        let expected = Said {
            state: Some("draining".into()),
            ready: true,
            announcement: Some("worse".into()),
            leader: Some("d1".into()),
            term: Some(4),
            shards_led: 2,
            shard_terms: 8,
            revision: Some(7),
            health_version: Some(3),
            table_hash: Some(99),
            planned: vec!["drain d2".into()],
        };
        assert_eq!(said(&status), expected);
    }

    #[tokio::test]
    async fn a_director_that_is_not_there_does_not_answer() {
        assert_eq!(ask(Path::new("/nonexistent/admin.sock")).await, None);
    }
}
