//! A director's share of the store.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use holdfast_director::session::SessionTable;
use holdfast_schema::bucket::ShardId;
use holdfast_schema::cluster::{ClusterState, ControlCommand, DirectorId, RequestId};
use holdfast_schema::session::{SessionChange, SessionSink};
use holdfast_state_store::codec;
use holdfast_state_store::codec::disk::ControlRecord;
use holdfast_state_store::codec::wire::{ChangeBatch, ControlEntry, Proposal, ShardEntry};
use holdfast_state_store::control;
use holdfast_state_store::shard::{Expiry, Shard};

/// The one log of everything, with the time (us) of each entry.
pub struct Log {
    first: ControlRecord,
    control: Vec<(u64, ControlEntry)>,
    shards: Vec<Vec<(u64, Vec<u8>)>>,
    requests: u128,
    /// Who reaches a majority.
    pub reach: Vec<DirectorId>,
}

impl Log {
    /// An empty log on top of this.
    pub fn new(first: ControlRecord) -> Log {
        let shards = vec![Vec::new(); usize::from(first.cluster.shard_count)];
        Log { first, control: Vec::new(), shards, requests: 1 << 64, reach: Vec::new() }
    }

    /// Says something to the control group.
    pub fn say(&mut self, now_us: u64, command: ControlCommand, incarnation: u64) {
        self.requests += 1;
        let request = RequestId(self.requests);
        let proposal = Box::new(Proposal { request, command, incarnation });
        self.control.push((now_us, ControlEntry::Command(proposal)));
    }

    fn leader(&self) -> Option<DirectorId> {
        self.reach.first().copied()
    }
}

/// The share of one process.
pub struct Share {
    me: DirectorId,
    log: Rc<RefCell<Log>>,
    record: ControlRecord,
    control_applied: usize,
    shards: Vec<(Shard, usize, Expiry)>,
    cluster: Arc<ClusterState>,
    wrote_us: u64,
}

impl Share {
    /// From the log's beginning.
    pub fn new(me: DirectorId, log: Rc<RefCell<Log>>) -> Share {
        let record = log.borrow().first.clone();
        let cluster = Arc::new(record.cluster.clone());
        let shards = (0..cluster.shard_count).map(|_| (Shard::new(), 0, Expiry::default()));
        let shards = shards.collect();
        Share { me, log, record, control_applied: 0, shards, cluster, wrote_us: 0 }
    }

    /// The cluster as applied here.
    pub fn cluster(&self) -> &Arc<ClusterState> {
        &self.cluster
    }

    /// Whether there is a quorum that this director hears.
    pub fn has_quorum(&self) -> bool {
        self.log.borrow().reach.contains(&self.me)
    }

    /// Whether this director leads the control group.
    pub fn leads_control(&self) -> bool {
        self.log.borrow().leader() == Some(self.me)
    }

    /// The shards that this director leads.
    pub fn shards_led(&self) -> Vec<ShardId> {
        let leads = self.log.borrow().leader() == Some(self.me);
        (0..self.shards.len() as u16).filter(|_| leads).map(ShardId).collect()
    }

    /// Whether everything has been applied here.
    pub fn caught_up(&self, now_us: u64) -> Result<(), String> {
        let log = self.log.borrow();
        let behind =
            |at: usize, of: &[(u64, Vec<u8>)]| of.get(at).is_some_and(|(when, _)| *when > now_us);
        let all = self.shards.iter().zip(&log.shards).all(|((_, at, _), of)| !behind(*at, of));
        if all { Ok(()) } else { Err("behind".to_owned()) }
    }

    /// Says something to the control group.
    pub fn control(&self, now_us: u64, command: ControlCommand, incarnation: u64) {
        if self.has_quorum() {
            self.log.borrow_mut().say(now_us, command, incarnation);
        }
    }

    /// Proposes changes. False: no room.
    pub fn propose(&mut self, now_us: u64, shard: ShardId, changes: Vec<SessionChange>) -> bool {
        if self.has_quorum() {
            self.append(now_us, shard, changes, 0);
        }
        true
    }

    fn append(
        &mut self,
        now_us: u64,
        shard: ShardId,
        changes: Vec<SessionChange>,
        elapsed_ms: u32,
    ) {
        let batch = codec::encode(&ChangeBatch { changes });
        let entry = codec::encode(&ShardEntry { elapsed_ms, batches: vec![batch] });
        let mut log = self.log.borrow_mut();
        if let Some(of) = log.shards.get_mut(usize::from(shard.0)) {
            of.push((now_us, entry));
        }
    }

    /// How far each shard has been applied here.
    pub fn applied(&self) -> Vec<u64> {
        self.shards.iter().map(|(_, at, _)| *at as u64).collect()
    }

    /// The ends of all shards, once committed.
    pub fn barrier(&self) -> Option<Vec<u64>> {
        let log = self.log.borrow();
        self.has_quorum().then(|| log.shards.iter().map(|of| of.len() as u64).collect())
    }

    /// Applies what has come.
    pub fn turn(&mut self, now_us: u64, now_ms: u64, sink: &SessionTable) {
        if !self.has_quorum() {
            return;
        }
        let log = self.log.borrow();
        let due = u64::MAX;
        let before = self.control_applied;
        while let Some((at, entry)) = log.control.get(self.control_applied)
            && *at <= due
        {
            control::apply(&mut self.record, entry);
            self.control_applied += 1;
        }
        if before != self.control_applied {
            self.cluster = Arc::new(self.record.cluster.clone());
        }
        for ((shard, applied, _), entries) in self.shards.iter_mut().zip(&log.shards) {
            while let Some((at, entry)) = entries.get(*applied)
                && *at <= due
            {
                shard.apply(entry, Some(sink as &dyn SessionSink)).expect("an entry of ours");
                *applied += 1;
            }
        }
        let leads = log.leader() == Some(self.me);
        drop(log);
        if leads && now_us >= self.wrote_us + 200_000 {
            self.wrote_us = now_us;
            for n in 0..self.shards.len() {
                let down = |id| self.cluster.members.get(&id).is_none_or(|m| m.down);
                let (shard, _, expiry) = &mut self.shards[n];
                let changes = expiry.step(shard, now_ms, &down);
                if !changes.is_empty() || expiry.clock_due(now_ms, shard) {
                    let elapsed = expiry.elapsed(now_ms);
                    self.append(now_us, ShardId(n as u16), changes, elapsed);
                }
            }
        }
    }

    /// Sessions kept.
    pub fn sessions(&self) -> usize {
        self.shards.iter().map(|(shard, ..)| shard.len()).sum()
    }
}
