//! The two state machines as their drivers see them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use holdfast_schema::bucket::ShardId;
#[cfg(any(test, feature = "simulation"))]
use holdfast_schema::cluster::ControlCommand;
use holdfast_schema::cluster::DirectorId;
use holdfast_schema::session::{SessionChange, SessionRecord, SessionSink};
use parking_lot::{Mutex, RwLock};

use super::homes::Applied;
use super::published::{Published, View};
use crate::codec;
use crate::codec::disk::ControlRecord;
use crate::codec::wire::{ChangeBatch, ControlEntry, ShardEntry};
use crate::control;
use crate::homes::Keeper;
use crate::membership::MemberView;
use crate::metrics::Metrics;
use crate::raft::Feed;
use crate::raft::machine::{Dirty, Machine, Records};
use crate::shard::{Expiry, Shard, Standing};

/// Key of the control group's only record.
const CONTROL_KEY: &[u8] = b"cluster";

/// Changes in one batch of a leader's own.
const OWN_BATCH: usize = 512;

/// Batches of an old generation's sessions that are proposed with one tick: a leader has room for some
/// of them from every replica.
const CARRIED_AT_ONCE: usize = 8;

/// The control group's machine. Without a record: its leader's snapshot has not come yet.
pub struct ControlMachine {
    record: Option<ControlRecord>,
    dirty: bool,
    published: Arc<Published>,
    #[cfg(any(test, feature = "simulation"))]
    without_replica_ids: bool,
}

/// The records a control group begins with.
pub fn control_records(record: &ControlRecord) -> Records {
    vec![(CONTROL_KEY.to_vec(), codec::encode(record))]
}

impl ControlMachine {
    /// The machine from its records; shows what it has.
    pub fn load(records: Records, published: Arc<Published>) -> Result<ControlMachine, String> {
        let mut machine = ControlMachine {
            record: None,
            dirty: false,
            published,
            #[cfg(any(test, feature = "simulation"))]
            without_replica_ids: false,
        };
        if !records.is_empty() {
            machine.install(records)?;
        }
        machine.dirty = false;
        Ok(machine)
    }

    /// Lets replicas that lost their memory keep their ids (on all directors), to prove that a
    /// simulation notices what comes of it.
    #[cfg(any(test, feature = "simulation"))]
    pub fn set_without_replica_ids(&mut self) {
        self.without_replica_ids = true;
    }

    fn show(&self) {
        if let Some(record) = &self.record {
            self.published.publish(View::of(record));
        }
    }
}

impl Machine for ControlMachine {
    fn apply(&mut self, _index: u64, data: &[u8]) -> Result<(), String> {
        #[allow(unused_mut, reason = "a simulation may change it")]
        let mut entry: ControlEntry = codec::decode(data).map_err(|e| e.to_string())?;
        #[cfg(any(test, feature = "simulation"))]
        if let ControlEntry::Command(proposal) = &mut entry
            && let ControlCommand::Started { amnesiac, .. } = &mut proposal.command
        {
            *amnesiac &= !self.without_replica_ids;
        }
        let record = self.record.as_mut().ok_or("there is no state to apply it to")?;
        let forced = record.forced.len();
        let applied = control::apply(record, &entry);
        for act in record.forced.iter().skip(forced) {
            tracing::warn!(act = act.act, reason = act.reason, "forced");
        }
        self.dirty = true;
        if !applied.repeated {
            self.show();
        }
        if let Some(request) = applied.request {
            self.published.settle(request, &applied.outcome);
        }
        Ok(())
    }

    fn take_dirty(&mut self) -> Dirty {
        let changed = std::mem::take(&mut self.dirty);
        let record = self.record.as_ref().filter(|_| changed);
        let records =
            record.map(|r| (CONTROL_KEY.to_vec(), Some(codec::encode(r)))).into_iter().collect();
        Dirty { replaced: false, records }
    }

    fn image(&self) -> Records {
        self.record.as_ref().map(control_records).unwrap_or_default()
    }

    fn install(&mut self, records: Records) -> Result<(), String> {
        let value = records.iter().find(|(key, _)| key == CONTROL_KEY).map(|(_, value)| value);
        let value = value.ok_or("the cluster's record is missing")?;
        self.record = Some(codec::decode(value).map_err(|e| e.to_string())?);
        self.dirty = true;
        self.show();
        Ok(())
    }

    fn as_leader(&mut self, _now_ms: u64) -> Vec<Vec<u8>> {
        Vec::new()
    }

    fn wrap(&mut self, _now_ms: u64, _batches: Vec<Vec<u8>>) -> Vec<u8> {
        // Nobody forwards batches to the control group; a no-op is an empty entry.
        Vec::new()
    }

    fn acceptable(&self, _batch: &[u8]) -> bool {
        false
    }

    fn role_changed(&mut self) {}

    fn form(&self) -> Option<(u32, u64)> {
        None
    }

    fn carry_over(&mut self) {}

    fn members(&self) -> Vec<MemberView> {
        self.published.view().map(|v| v.control_members()).unwrap_or_default()
    }
}

/// Where the attached sink is kept.
pub type SinkSlot = Arc<RwLock<Option<Arc<dyn SessionSink>>>>;

/// What the machines of all shards share.
#[derive(Clone)]
pub struct ShardContext {
    /// The cluster.
    pub published: Arc<Published>,
    /// Whom to tell.
    pub sink: SinkSlot,
    /// What this director keeps as a home.
    pub keeping: Arc<Mutex<Keeper>>,
    /// Where changes are proposed.
    pub feed: Arc<Feed>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// A session group's machine.
pub struct ShardMachine {
    id: ShardId,
    shard: Shard,
    expiry: Expiry,
    sink: Option<Arc<dyn SessionSink>>,
    /// Sessions of an old generation that have not been proposed to the new one.
    carried: Vec<SessionRecord>,
    context: ShardContext,
}

impl ShardMachine {
    /// The machine from its records. The sink is told when it is attached.
    pub fn load(id: u16, records: Records, context: ShardContext) -> Result<ShardMachine, String> {
        let id = ShardId(id);
        let shard = Shard::load(records).map_err(|e| e.to_string())?;
        let mut machine = ShardMachine {
            id,
            shard,
            expiry: Expiry::default(),
            sink: None,
            carried: Vec::new(),
            context,
        };
        machine.attached();
        Ok(machine)
    }

    /// See [`Shard::set_without_incarnations`].
    #[cfg(any(test, feature = "simulation"))]
    pub fn set_without_incarnations(&mut self) {
        self.shard.set_without_incarnations();
    }

    fn tell_all(&self) {
        if let Some(sink) = &self.sink {
            sink.installed(self.id, &self.shard.records());
        }
    }
}

impl Machine for ShardMachine {
    fn apply(&mut self, _index: u64, data: &[u8]) -> Result<(), String> {
        let done = self.shard.apply(data, self.sink.as_deref()).map_err(|e| e.to_string())?;
        let metrics = &self.context.metrics;
        metrics.applied_changes.fetch_add(done.changes, Ordering::Relaxed);
        metrics.shard_full.fetch_add(done.full, Ordering::Relaxed);
        Ok(())
    }

    fn take_dirty(&mut self) -> Dirty {
        self.shard.take_dirty()
    }

    fn image(&self) -> Records {
        self.shard.image()
    }

    fn install(&mut self, records: Records) -> Result<(), String> {
        let new = Shard::load(records).map_err(|e| e.to_string())?;
        self.shard.replace_with(new);
        self.tell_all();
        Ok(())
    }

    fn attached(&mut self) -> bool {
        let keeping = self.context.keeping.clone();
        let sink = self.context.sink.read().clone();
        self.sink = sink.map(|sink| Arc::new(Applied { sink, keeping }) as Arc<dyn SessionSink>);
        self.tell_all();
        self.sink.is_some()
    }

    fn sessions(&self) -> u64 {
        self.shard.len() as u64
    }

    fn as_leader(&mut self, now_ms: u64) -> Vec<Vec<u8>> {
        let view = self.context.published.view();
        let standing = |d: DirectorId| {
            let member = view.as_ref().and_then(|v| v.cluster.members.get(&d));
            // Whoever is no member any more refreshes nothing either.
            member.map_or(Standing { incarnation: 0, down: view.is_some() }, |m| Standing {
                incarnation: m.incarnation,
                down: m.down,
            })
        };
        let due = self.expiry.step(&self.shard, now_ms, &standing);
        if due.is_empty() {
            if self.expiry.clock_due(now_ms, &self.shard) {
                return vec![self.wrap(now_ms, Vec::new())];
            }
            return Vec::new();
        }
        let batches = due
            .chunks(OWN_BATCH)
            .map(|changes| codec::encode(&ChangeBatch { changes: changes.to_vec() }))
            .collect();
        vec![self.wrap(now_ms, batches)]
    }

    fn wrap(&mut self, now_ms: u64, batches: Vec<Vec<u8>>) -> Vec<u8> {
        codec::encode(&ShardEntry { elapsed_ms: self.expiry.elapsed(now_ms), batches })
    }

    fn acceptable(&self, batch: &[u8]) -> bool {
        // What does not decode would stop every replica; expiries are the leader's business.
        codec::decode::<ChangeBatch>(batch)
            .is_ok_and(|b| !b.changes.iter().any(|c| matches!(c, SessionChange::Expire { .. })))
    }

    fn role_changed(&mut self) {
        self.expiry = Expiry::default();
    }

    fn form(&self) -> Option<(u32, u64)> {
        let view = self.context.published.view()?;
        view.shards.get(usize::from(self.id.0)).map(|f| (f.generation, f.first.0))
    }

    fn carry_over(&mut self) {
        self.carried = self.shard.records();
        self.shard.replace_with(Shard::new());
    }

    fn go_on(&mut self) {
        for _ in 0..CARRIED_AT_ONCE {
            let from = self.carried.len().saturating_sub(OWN_BATCH);
            let creates: Vec<_> =
                self.carried[from..].iter().cloned().map(SessionChange::Create).collect();
            // Without room, with the next tick.
            if creates.is_empty() || self.context.feed.push(self.id.0, creates).is_err() {
                return;
            }
            self.carried.truncate(from);
        }
        if self.carried.is_empty() {
            self.carried = Vec::new();
        }
    }

    fn members(&self) -> Vec<MemberView> {
        self.context.published.view().map(|v| v.session_members()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use holdfast_schema::cluster::RequestId;

    use super::*;
    use crate::codec::wire::Proposal;
    use crate::control::tests::Cluster;
    use crate::shard::tests::{entry, record};
    use crate::store::types::Limits;

    /// The replica number after a start without memory.
    fn replica_after_amnesia(without_replica_ids: bool) -> u64 {
        let records = control_records(&Cluster::of(2).record);
        let mut machine = ControlMachine::load(records, Arc::default()).unwrap();
        if without_replica_ids {
            machine.set_without_replica_ids();
        }
        let director = DirectorId(2);
        let command = ControlCommand::Started {
            director,
            address: "127.0.0.1:7002".parse().unwrap(),
            unclean: true,
            amnesiac: true,
            connected: Vec::new(),
        };
        let proposal = Proposal { request: RequestId(99), command, incarnation: 2 };
        machine.apply(1, &codec::encode(&ControlEntry::Command(Box::new(proposal)))).unwrap();
        machine.published.view().unwrap().cluster.members[&director].replica.0
    }

    #[test]
    fn a_simulation_can_let_replicas_without_memory_keep_their_ids() {
        assert_eq!((replica_after_amnesia(false), replica_after_amnesia(true)), (3, 2));
    }

    #[test]
    fn all_sessions_of_an_old_generation_are_proposed_to_the_new_one() {
        const SESSIONS: u16 = 20_000;
        let limits = Limits { proposals_per_shard: 3_000, ..Limits::default() };
        let feed = Arc::new(Feed::new(1, &limits));
        let context = ShardContext {
            published: Arc::default(),
            sink: Arc::default(),
            keeping: Arc::new(Mutex::new(Keeper::new(DirectorId(1), 10))),
            feed: feed.clone(),
            metrics: Arc::default(),
        };
        let mut machine = ShardMachine::load(0, Records::new(), context).unwrap();
        let creates = (0..SESSIONS).map(|n| SessionChange::Create(record(n, 1, 0))).collect();
        machine.apply(1, &entry(0, creates)).unwrap();
        machine.carry_over();
        assert_eq!(machine.sessions(), 0);
        let mut proposed = BTreeMap::new();
        for _ in 0..20 {
            machine.go_on();
            assert!(feed.waiting() <= 3_000, "others have their limit, too");
            for change in feed.take(0, 2_500) {
                let SessionChange::Create(record) = change else { unreachable!("{change:?}") };
                *proposed.entry(record.incarnation.counter).or_insert(0) += 1;
            }
        }
        assert_eq!(proposed.len(), usize::from(SESSIONS));
        assert!(proposed.values().all(|times| *times == 1));
        assert_eq!(feed.waiting(), 0);
    }
}
