//! Sessions between the packet path and the store: the sweep as the daemon's loop drives it.

use std::sync::Arc;

use holdfast_director::session::{Probe, SessionTable, SweepPolicy, Sweeper};
use holdfast_director::tables::ForwardingTables;
use holdfast_node::sessions::flushes::Flushes;
use holdfast_node::sessions::sweep::{Departed, FLUSH_BUDGET, LEAST_BUDGET, Unsaid};
use holdfast_schema::bucket::{ShardId, ShardSet};
use holdfast_schema::cluster::ClusterState;
use holdfast_schema::session::SessionChange;

/// The sweep of one process.
pub struct Sessions {
    sweeper: Sweeper,
    departed: Departed,
    unsaid: Unsaid,
    /// Whether the store had no room for something that it has to be told.
    pub behind: bool,
    /// How far the flushes are.
    pub flushes: Flushes,
}

/// A step's surroundings.
pub struct Around<'a> {
    /// Now (ms on this director's clock).
    pub now_ms: u64,
    /// Time since the step before (ms).
    pub interval_ms: u64,
    /// The cluster as applied here.
    pub cluster: &'a Arc<ClusterState>,
    /// What is forwarded by.
    pub tables: &'a ForwardingTables,
    /// The shards that have a quorum.
    pub quorum: ShardSet,
    /// Shards that this director leads.
    pub leads: &'a [ShardId],
    /// Whether everything is replicated at once while a change is planned.
    pub flushes: bool,
}

impl Sessions {
    /// A sweep at its beginning.
    pub fn new(table: &Arc<SessionTable>) -> Sessions {
        Sessions {
            sweeper: Sweeper::new(table),
            departed: Departed::default(),
            unsaid: Unsaid::default(),
            behind: false,
            flushes: Flushes::default(),
        }
    }

    /// One step. `propose` takes changes for a shard, or has no room for them. Returns which sessions'
    /// ends are to be probed.
    pub fn step(
        &mut self,
        table: &Arc<SessionTable>,
        around: &Around<'_>,
        mut propose: impl FnMut(ShardId, &[SessionChange]) -> bool,
    ) -> Vec<Probe> {
        let Around { now_ms, cluster, .. } = *around;
        let full = self.unsaid.say(now_ms, &mut propose);
        let flush = cluster.change_planned() && around.flushes;
        self.flushes.begin(&cluster.planned, now_ms);
        let departed = self.departed.of(cluster);
        let policy =
            SweepPolicy { flush, quorum: around.quorum, full, departed, leads: around.leads };
        let usual = Sweeper::budget(table, around.interval_ms);
        let budget = if flush { usual.max(FLUSH_BUDGET) } else { usual };
        let budget = budget.saturating_sub(self.unsaid.waiting()).max(LEAST_BUDGET);
        let mut out = Vec::new();
        let progress = self.sweeper.step(table, around.tables, now_ms, &policy, budget, &mut out);
        self.unsaid.add(out);
        self.behind = self.unsaid.say(now_ms, &mut propose) != ShardSet::NONE;
        if progress.pass_complete && flush {
            self.flushes.pass_complete(|since_ms| table.unreplicated_before(since_ms));
        }
        self.sweeper.take_probes().collect()
    }
}
