//! The thread that walks the session table and tells the store what it must know.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_director::session::{SweepPolicy, Sweeper};
use holdfast_schema::bucket::{ShardId, ShardSet};
use holdfast_schema::cluster::{ClusterState, DirectorId, MemberState};
use holdfast_schema::session::SessionChange;

use crate::clock::mono_ms;
use crate::node::Node;

/// Time between two steps.
pub const STEP: Duration = Duration::from_millis(10);

/// While a change is planned, a step looks at this many records: new sessions must not wait for
/// the rest of a slow pass.
pub const FLUSH_BUDGET: usize = 65_536;

/// Records that the sweep looks at in a step at the least, however much waits for room.
pub const LEAST_BUDGET: usize = 64;

/// Changes that the store takes or refuses together.
const CHUNK: usize = 512;

/// How long (ms) a shard's changes wait for room while none of them finds any.
const GIVE_UP_MS: u64 = 1_000;

/// Sessions that found no room here, and were too many to remember, are asked of the store again this
/// often at the most.
const TELL_AGAIN_MS: u64 = 10_000;

/// Runs until the daemon stops. A thread of its own: it must not wait behind network tasks, nor
/// they behind it.
pub fn run(node: &Arc<Node>) {
    let Some(forwarder) = node.forwarder.get() else { return };
    let table = forwarder.sessions().clone();
    let mut sweeper = Sweeper::new(&table);
    let mut departed = Departed::default();
    let mut unsaid = Unsaid::default();
    let mut told_ms = 0;
    while !node.stopping.load(Ordering::Relaxed) {
        std::thread::sleep(STEP);
        let now_ms = mono_ms();
        let full = unsaid.say(now_ms, |shard, changes| propose(node, shard, changes));
        let Some(cluster) = node.cluster() else { continue };
        let flush = cluster.change_planned() || node.leaving.load(Ordering::Relaxed);
        node.flushes.lock().begin(&cluster.planned, now_ms);
        let policy = SweepPolicy {
            flush,
            quorum: node.store.shards_with_quorum(),
            full,
            departed: departed.of(&cluster),
            leads: &node.store.shards_led(),
        };
        let usual = Sweeper::budget(&table, STEP.as_millis() as u64);
        let budget = if flush { usual.max(FLUSH_BUDGET) } else { usual };
        // What waits and what is found are together no more than one step finds, or hardly more: the walk goes on.
        let budget = budget.saturating_sub(unsaid.waiting()).max(LEAST_BUDGET);
        let tables = forwarder.tables();
        let mut out = Vec::new();
        let progress = sweeper.step(&table, &tables, now_ms, &policy, budget, &mut out);
        unsaid.add(out);
        for probe in sweeper.take_probes() {
            forwarder.probe(probe);
        }
        unsaid.say(now_ms, |shard, changes| propose(node, shard, changes));
        if progress.pass_complete && now_ms >= told_ms + TELL_AGAIN_MS && table.wants_all() {
            told_ms = now_ms;
            node.store.attach_sink(table.clone());
        }
        if progress.pass_complete && flush {
            let unreplicated_before = |since_ms| table.unreplicated_before(since_ms);
            node.flushes.lock().pass_complete(unreplicated_before);
        }
    }
}

/// Directors whose sessions may be adopted at once, computed when the cluster changes. This one is
/// among them when it drains: then it adopts nothing.
#[derive(Default)]
pub struct Departed {
    of: Option<Arc<ClusterState>>,
    list: Vec<DirectorId>,
}

impl Departed {
    /// All numbers ever given away that do not serve.
    pub fn of(&mut self, cluster: &Arc<ClusterState>) -> &[DirectorId] {
        if !self.of.as_ref().is_some_and(|c| Arc::ptr_eq(c, cluster)) {
            let serves = |id: &DirectorId| {
                cluster.members.get(id).is_some_and(|m| {
                    !m.down && matches!(m.state, MemberState::Active | MemberState::Joining)
                })
            };
            // Numbers begin with 1. Ascending: the walk looks them up by bisection.
            let all = (1..cluster.next.director).map(DirectorId);
            self.list = all.filter(|id| !serves(id)).collect();
            self.of = Some(cluster.clone());
        }
        &self.list
    }
}

fn propose(node: &Node, shard: ShardId, changes: &[SessionChange]) -> bool {
    let taken = node.store.propose(shard, changes.to_vec()).is_ok();
    if !taken {
        node.counters.proposals_refused.fetch_add(changes.len() as u64, Ordering::Relaxed);
    }
    taken
}

/// Changes that the store had no room for yet. A step can find more than a shard's queue takes; its
/// records count as said, so the rest must be said before more is found of that shard.
#[derive(Default)]
pub struct Unsaid(BTreeMap<ShardId, Waiting>);

/// Changes of one shard.
#[derive(Default)]
struct Waiting {
    changes: Vec<SessionChange>,
    /// Since when none of them has found room.
    since_ms: Option<u64>,
}

impl Unsaid {
    /// Takes what a step of the sweep has found.
    pub fn add(&mut self, changes: Vec<(ShardId, SessionChange)>) {
        for (shard, change) in changes {
            self.0.entry(shard).or_default().changes.push(change);
        }
    }

    /// How many changes wait.
    pub fn waiting(&self) -> usize {
        self.0.values().map(|waiting| waiting.changes.len()).sum()
    }

    /// Says what finds room; returns the shards of which something is left. What has found none for too
    /// long is given up, for a later pass to say again: by then it is old.
    pub fn say(
        &mut self,
        now_ms: u64,
        mut push: impl FnMut(ShardId, &[SessionChange]) -> bool,
    ) -> ShardSet {
        self.0.retain(|shard, Waiting { changes, since_ms }| {
            let full = changes.chunks(CHUNK).position(|chunk| !push(*shard, chunk));
            let said = full.map_or(changes.len(), |chunks| chunks * CHUNK);
            changes.drain(..said);
            if said > 0 {
                *since_ms = None;
            }
            !changes.is_empty() && now_ms < *since_ms.get_or_insert(now_ms) + GIVE_UP_MS
        });
        self.0.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use holdfast_schema::flow::{FlowKey, Protocol};
    use holdfast_schema::session::Incarnation;

    use super::*;
    use crate::announce::wish::tests::cluster;
    use crate::planned::tests::member;

    fn changes(n: u16) -> Vec<(ShardId, SessionChange)> {
        let one = |port: u16| {
            let key = FlowKey::new(
                Protocol::Tcp,
                ([192, 0, 2, 1], port).into(),
                ([203, 0, 113, 10], 80).into(),
            );
            let incarnation = Incarnation { stamp: 1, creator: DirectorId(1), counter: 1, isn: 0 };
            (ShardId(port % 2), SessionChange::Expire { key, incarnation, last_seen_ms: 0 })
        };
        (0..n).map(one).collect()
    }

    #[test]
    fn nobody_has_departed_from_a_cluster_that_is_whole() {
        let mut cluster = cluster();
        cluster.next.director = 4;
        cluster.members = (1..4).map(|id| (DirectorId(id), member(id, false))).collect();
        let departed =
            |cluster: &ClusterState| Departed::default().of(&Arc::new(cluster.clone())).to_vec();
        assert_eq!(departed(&cluster), []);
        cluster.members.insert(DirectorId(2), member(2, true));
        cluster.members.remove(&DirectorId(3));
        assert_eq!(departed(&cluster), [DirectorId(2), DirectorId(3)]);
    }

    #[test]
    fn what_finds_no_room_is_said_later_and_once() {
        let mut unsaid = Unsaid::default();
        unsaid.add(changes(4_000));
        let mut said = Vec::new();
        let mut steps = 0u64;
        loop {
            steps += 1;
            let mut room = BTreeMap::from([(ShardId(0), 600usize), (ShardId(1), 1_100)]);
            let full = unsaid.say(steps, |shard, chunk| {
                let left = room.get_mut(&shard).unwrap();
                let fits = *left >= chunk.len();
                if fits {
                    *left -= chunk.len();
                    said.extend(chunk.to_vec());
                }
                fits
            });
            if full == ShardSet::NONE {
                break;
            }
        }
        assert_eq!(steps, 4, "2,000 changes of a shard, 512 a step");
        let expected: Vec<_> = changes(4_000).into_iter().map(|(_, change)| change).collect();
        assert_eq!(said.len(), expected.len());
        assert!(expected.iter().all(|change| said.contains(change)));
    }

    #[test]
    fn a_shard_that_takes_nothing_holds_nobody_up_and_is_given_up_alone() {
        let mut unsaid = Unsaid::default();
        unsaid.add(changes(10));
        let stuck = ShardSet::NONE.with(ShardId(0));
        let other = |shard: ShardId, _: &[SessionChange]| shard == ShardId(1);
        assert_eq!((unsaid.say(5, other), unsaid.waiting()), (stuck, 5));
        // The others go on meanwhile.
        let of_other = || changes(10).into_iter().filter(|(shard, _)| *shard == ShardId(1));
        unsaid.add(of_other().collect());
        assert_eq!((unsaid.say(5 + GIVE_UP_MS - 1, other), unsaid.waiting()), (stuck, 5));
        unsaid.add(of_other().collect());
        let late = unsaid.say(5 + GIVE_UP_MS, |_, _| false);
        assert_eq!((late, unsaid.waiting()), (ShardSet::NONE.with(ShardId(1)), 5));
    }
}
