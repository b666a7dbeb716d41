//! The thread that walks the session table and tells the store what it must know.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_director::session::{SweepPolicy, Sweeper};
use holdfast_schema::bucket::ShardId;
use holdfast_schema::cluster::{ClusterState, DirectorId, MemberState};
use holdfast_schema::session::SessionChange;

use crate::clock::mono_ms;
use crate::node::{FlushSeen, Node};

/// Time between two steps.
const STEP: Duration = Duration::from_millis(10);

/// While a change is planned, a step looks at this many records: new sessions must not wait for
/// the rest of a slow pass.
const FLUSH_BUDGET: usize = 65_536;

/// Runs until the daemon stops. A thread of its own: it must not wait behind network tasks, nor
/// they behind it.
pub fn run(node: &Arc<Node>) {
    let Some(forwarder) = node.forwarder.get() else { return };
    let table = forwarder.sessions().clone();
    let mut sweeper = Sweeper::new(&table);
    let mut departed = Departed::default();
    let mut out: Vec<(ShardId, SessionChange)> = Vec::new();
    while !node.stopping.load(Ordering::Relaxed) {
        std::thread::sleep(STEP);
        let now_ms = mono_ms();
        let Some(cluster) = node.cluster() else { continue };
        let flush = cluster.change_planned() || node.leaving.load(Ordering::Relaxed);
        begin_flushes(node, &cluster, now_ms);
        let policy = SweepPolicy {
            flush,
            quorum: node.store.has_quorum(),
            departed: departed.of(&cluster, node.me()),
        };
        let usual = Sweeper::budget(&table, STEP.as_millis() as u64);
        let budget = if flush { usual.max(FLUSH_BUDGET) } else { usual };
        let tables = forwarder.tables();
        let progress = sweeper.step(&table, &tables, now_ms, &policy, budget, &mut out);
        propose(node, &mut out);
        if progress.pass_complete && flush {
            note_pass(node, |since_ms| table.unreplicated_before(since_ms));
        }
    }
}

/// Directors whose sessions may be adopted at once, computed when the cluster changes.
#[derive(Default)]
struct Departed {
    of: Option<Arc<ClusterState>>,
    list: Vec<DirectorId>,
}

impl Departed {
    fn of(&mut self, cluster: &Arc<ClusterState>, me: Option<DirectorId>) -> &[DirectorId] {
        if !self.of.as_ref().is_some_and(|c| Arc::ptr_eq(c, cluster)) {
            let serves = |id: &DirectorId| {
                cluster.members.get(id).is_some_and(|m| {
                    !m.down && matches!(m.state, MemberState::Active | MemberState::Joining)
                })
            };
            let all = (0..cluster.next.director).map(DirectorId);
            self.list = all.filter(|id| Some(*id) != me && !serves(id)).collect();
            self.of = Some(cluster.clone());
        }
        &self.list
    }
}

fn propose(node: &Node, out: &mut Vec<(ShardId, SessionChange)>) {
    if out.is_empty() {
        return;
    }
    let mut by_shard: BTreeMap<ShardId, Vec<SessionChange>> = BTreeMap::new();
    for (shard, change) in out.drain(..) {
        by_shard.entry(shard).or_default().push(change);
    }
    for (shard, changes) in by_shard {
        let n = changes.len() as u64;
        // What is refused is said again by a later pass of the sweep.
        if node.store.propose(shard, changes).is_err() {
            node.counters.proposals_refused.fetch_add(n, Ordering::Relaxed);
        }
    }
}

fn begin_flushes(node: &Node, cluster: &ClusterState, now_ms: u64) {
    let mut flushes = node.flushes.lock();
    if flushes.is_empty() && cluster.planned.is_empty() {
        return;
    }
    flushes.retain(|id, _| cluster.planned.iter().any(|p| p.id == *id));
    for planned in &cluster.planned {
        flushes.entry(planned.id).or_insert(FlushSeen { since_ms: now_ms, passes: 0, done: false });
    }
}

/// A pass is complete. The first one after the beginning of a flush may have begun before it, so
/// from the second on every session that was there has been looked at under the flush policy.
fn note_pass(node: &Node, unreplicated_before: impl Fn(u64) -> u64) {
    for seen in node.flushes.lock().values_mut().filter(|f| !f.done) {
        seen.passes += 1;
        seen.done = seen.passes >= 2 && unreplicated_before(seen.since_ms) == 0;
    }
}
