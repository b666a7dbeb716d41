//! One replica of one group: raft-rs' node, its log, its state machine, and who waits for what.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use protobuf::Message as _;
use raft::eraftpb::{
    ConfChangeV2, ConfState, Entry, EntryType, HardState, Message, MessageType, SnapshotMetadata,
};
use raft::{RawNode, StateRole};
use tokio::sync::oneshot;

use super::disk::Disk;
use super::driver::DriverConfig;
use super::inflight::Inflight;
use super::log::{Log, read_meta};
use super::machine::{Machine, Records};
use super::reads::Reads;
use super::status::{GroupState, Progress};
use super::{CAUGHT_UP_ENTRIES, ELECTION_TICKS, config, logger};
use crate::codec;
use crate::codec::disk::GroupMeta;
use crate::codec::wire::Address;
use crate::metrics::{Metrics, count};
use crate::storage::{self, Batch, Database, Tag};
use crate::store::error::StoreError;

/// Ticks without a word of its leader after which a learner knows none: as many as a voter waits at the
/// most before it asks for votes.
const DEAF_TICKS: usize = 2 * ELECTION_TICKS;

/// Bytes of entries that may wait until the storage thread can take them.
const UNSTABLE_BYTES: usize = 32 << 20;

/// Which replica of which generation of a group this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The group.
    pub group: u16,
    /// Its generation.
    pub generation: u32,
    /// The replica.
    pub replica: u64,
}

impl Place {
    /// The group's name for people.
    pub fn name(&self) -> String {
        match self.group {
            Address::CONTROL => "control".to_owned(),
            shard => format!("shard-{shard}"),
        }
    }
}

/// A number that depends on both and on nothing else, and looks random (splitmix64).
fn mix(seed: u64, salt: u64) -> u64 {
    let mut z = seed.wrapping_add(salt.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Which replica the disk holds for this group, if any.
pub fn stored_place(db: &Database, group: u16) -> Result<Option<Place>, StoreError> {
    let meta = read_meta(db, group)?;
    Ok(meta.map(|m| Place { group, generation: m.generation, replica: m.replica }))
}

/// Founds a group whose first voter is this replica, with this content, through to the disk.
///
/// Its log begins behind entry 1 of term 1, so that everybody else begins with a snapshot and
/// learns content and configuration together.
pub fn bootstrap(db: &Database, place: Place, records: &Records) -> Result<(), StoreError> {
    let conf = ConfState::from((vec![place.replica], vec![]));
    write_start(db, place, 1, &conf, records)
}

/// Makes an empty replica that waits for its leader.
pub fn found_empty(db: &Database, place: Place) -> Result<(), StoreError> {
    write_start(db, place, 0, &ConfState::default(), &Vec::new())
}

fn write_start(
    db: &Database,
    place: Place,
    index: u64,
    conf: &ConfState,
    records: &Records,
) -> Result<(), StoreError> {
    let mut batch = Batch::default();
    storage::wipe_group(&mut batch, place.group);
    let meta = GroupMeta {
        generation: place.generation,
        replica: place.replica,
        applied: index,
        applied_term: index,
        conf_state: conf.write_to_bytes().map_err(|e| db.corrupt(e))?,
    };
    batch.put(storage::key(place.group, Tag::Meta, &[]), codec::encode(&meta));
    let hard = HardState { term: index, commit: index, ..HardState::default() };
    let hard = hard.write_to_bytes().map_err(|e| db.corrupt(e))?;
    batch.put(storage::key(place.group, Tag::HardState, &[]), hard);
    for (key, value) in records {
        batch.put(storage::key(place.group, Tag::Record, key), value.as_slice());
    }
    db.write(&batch, true)
}

/// A snapshot on its way to a peer.
pub(super) struct Sending {
    pub index: u64,
    pub since: Duration,
}

/// A replica and its machine. Lives on its driver's thread.
pub struct Group<M> {
    pub(super) place: Place,
    pub(super) raw: RawNode<Log>,
    pub(super) machine: M,
    pub(super) state: Arc<GroupState>,
    pub(super) metrics: Arc<Metrics>,
    seed: u64,
    pub(super) db: Database,
    /// Batches of changes that wait to be proposed; this replica leads.
    pub(super) pending: VecDeque<Vec<u8>>,
    pub(super) reads: Reads,
    pub(super) inflight: Inflight,
    /// No-ops that somebody waits for, by index: term and who waits.
    pub(super) barriers: BTreeMap<u64, (u64, oneshot::Sender<u64>)>,
    /// When entries were proposed here, by last index.
    pub(super) proposed: VecDeque<(u64, Duration)>,
    pub(super) sending: BTreeMap<u64, Sending>,
    pub(super) checkpointing: bool,
    /// The last entries of the latest checkpoints.
    pub(super) checkpoints: VecDeque<u64>,
    pub(super) leader: u64,
    pub(super) joint_since: Option<Duration>,
    halted: bool,
}

impl<M: Machine> Group<M> {
    /// Opens a replica that is on the disk; `load` makes the machine of its records.
    pub fn open(
        db: &Database,
        place: Place,
        config: &DriverConfig,
        load: impl FnOnce(Records) -> Result<M, String>,
    ) -> Result<Group<M>, StoreError> {
        let prefix = storage::key(place.group, Tag::Record, &[]);
        let records: Records = db
            .range(&prefix, &storage::end(place.group, Tag::Record))
            .map(|row| row.map(|(k, v)| (k[prefix.len()..].to_vec(), v)))
            .collect::<Result<_, _>>()?;
        let machine = load(records).map_err(|e| db.corrupt(format!("{}: {e}", place.name())))?;
        Self::open_with(db, place, config, Arc::default(), machine)
    }

    /// Opens a replica whose machine is there already.
    pub(super) fn open_with(
        db: &Database,
        place: Place,
        driver: &DriverConfig,
        state: Arc<GroupState>,
        machine: M,
    ) -> Result<Group<M>, StoreError> {
        let meta = read_meta(db, place.group)?
            .ok_or_else(|| db.corrupt(format!("{} is missing", place.name())))?;
        let log = Log::open(db, place.group, &meta)?;
        let config = config(place.replica, meta.applied);
        let raw = RawNode::new(&config, log, &logger::logger(&place.name()))
            .map_err(|e| db.corrupt(format!("{}: {e}", place.name())))?;
        state.set_conf(raw.store().conf().clone());
        state.set_replica(place.replica);
        let seed =
            mix(mix(mix(driver.seed, place.group.into()), place.replica), place.generation.into());
        let group = Group {
            place,
            raw,
            machine,
            state,
            metrics: driver.metrics.clone(),
            seed,
            db: db.clone(),
            pending: VecDeque::new(),
            reads: Reads::after(seed),
            inflight: Inflight::default(),
            barriers: BTreeMap::new(),
            proposed: VecDeque::new(),
            sending: BTreeMap::new(),
            checkpointing: false,
            checkpoints: VecDeque::new(),
            leader: 0,
            joint_since: None,
            halted: false,
        };
        group.publish();
        group.state.set_generation(place.generation);
        Ok(group)
    }

    /// The machine without its group.
    pub(super) fn into_machine(self) -> M {
        self.machine
    }

    /// What others see of this replica.
    pub fn state(&self) -> &Arc<GroupState> {
        &self.state
    }

    pub(super) fn halted(&self) -> bool {
        self.halted
    }

    /// Stops this replica for good and says why.
    pub(super) fn halt(&mut self, why: &str) {
        if !self.halted {
            tracing::error!(group = self.place.name(), why, "this replica stops");
        }
        self.halted = true;
        self.state.halt(why);
        self.reads.fail_all();
        self.barriers.clear();
    }

    pub(super) fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// The leader as far as this replica hears one; 0: none. A learner takes no part in elections, and
    /// raft-rs lets it believe in its last leader for ever.
    pub(super) fn leader(&self) -> u64 {
        let raft = &self.raw.raft;
        let deaf = !self.leads() && !raft.promotable() && raft.election_elapsed >= DEAF_TICKS;
        if deaf { 0 } else { raft.leader_id }
    }

    pub(super) fn address(&self, to: u64) -> Address {
        let Place { group, generation, replica } = self.place;
        Address { group, generation, from: replica, to }
    }

    /// Whether no other voter has to agree with this one.
    pub(super) fn alone(&self) -> bool {
        let (conf, me) = (self.raw.store().conf(), self.place.replica);
        conf.voters == [me] && conf.voters_outgoing.iter().all(|voter| *voter == me)
    }

    /// Others vote only when they are asked, and they are asked when the disk holds everything that
    /// was decided. raft-rs lets a lone voter win at once: it has to wait before it campaigns.
    pub(super) fn may_campaign(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        !self.alone() || (self.inflight.is_empty() && log.persisted == log.last_index())
    }

    /// The time goes on.
    pub(super) fn tick(&mut self) {
        if self.leads() || self.may_campaign() {
            // raft-rs draws its election timeout from the thread's generator; this one overrides it.
            let spread = mix(self.seed, self.raw.raft.term) as usize % ELECTION_TICKS;
            self.raw.raft.set_randomized_election_timeout(ELECTION_TICKS + spread);
            self.raw.tick();
        }
        // A learner that turns deaf, or hears again, has nothing else to show for it.
        if self.leader() != self.leader {
            self.show();
        }
    }

    /// Messages that need not wait for the disk: a leader's, and those that speak of nothing but the
    /// term, once the disk holds it.
    pub(super) fn take_urgent(&mut self) -> Vec<Message> {
        let (leads, hard) = (self.leads(), self.raw.store().hard());
        let decided = (hard.term, hard.vote);
        let raft = &mut self.raw.raft;
        if raft.msgs.is_empty()
            || !self.inflight.vote_is_safe()
            || (raft.term, raft.vote) != decided
        {
            return Vec::new();
        }
        let all = std::mem::take(&mut raft.msgs);
        if leads {
            return all;
        }
        let (urgent, bound) = all.into_iter().partition(|m| {
            use MessageType::{MsgHeartbeatResponse, MsgReadIndex};
            matches!(m.get_msg_type(), MsgHeartbeatResponse | MsgReadIndex)
        });
        raft.msgs = bound;
        urgent
    }

    /// Whether a message may be taken now. What is not, its sender repeats.
    fn takes(&self, message: &Message) -> bool {
        use MessageType::{
            MsgAppend, MsgRequestPreVoteResponse, MsgRequestVoteResponse, MsgTimeoutNow,
        };
        match message.get_msg_type() {
            MsgTimeoutNow | MsgRequestVoteResponse | MsgRequestPreVoteResponse => {
                self.leads() || self.may_campaign()
            }
            // While the disk is behind, entries gather in memory.
            MsgAppend if !message.entries.is_empty() => {
                let room = self.raw.raft.raft_log.unstable.entries_size < UNSTABLE_BYTES;
                if !room {
                    count(&self.metrics.messages_dropped);
                }
                room
            }
            _ => true,
        }
    }

    /// Takes a message of a peer's replica.
    pub(super) fn step(&mut self, message: Message) {
        if self.halted || !self.takes(&message) {
            return;
        }
        if let Err(e) = self.raw.step(message) {
            tracing::trace!(group = self.place.name(), %e, "message not taken");
        }
    }

    /// Proposes an entry; false: this replica does not lead or is full.
    pub(super) fn propose(&mut self, data: Vec<u8>, now: Duration) -> bool {
        if self.halted || !self.leads() {
            return false;
        }
        let taken = self.raw.propose(Vec::new(), data).is_ok();
        if taken && self.proposed.len() < 4096 {
            self.proposed.push_back((self.raw.raft.raft_log.last_index(), now));
        }
        taken
    }

    /// Applies committed entries.
    pub(super) fn apply(&mut self, entries: Vec<Entry>, now: Duration, disk: &mut Disk) {
        for entry in entries {
            if self.halted {
                return;
            }
            let (index, term) = (entry.index, entry.term);
            let result = match entry.get_entry_type() {
                // A new leader's first entry is empty. (An empty ConfChangeV2 is not: it leaves the
                // joint configuration.)
                EntryType::EntryNormal if entry.data.is_empty() => Ok(()),
                EntryType::EntryNormal => self.machine.apply(index, &entry.data),
                EntryType::EntryConfChange => Err("an old form of change".to_owned()),
                EntryType::EntryConfChangeV2 => {
                    let mut cc = ConfChangeV2::default();
                    match cc.merge_from_bytes(&entry.data) {
                        Ok(()) => self.reconfigure(index, &cc, disk),
                        Err(e) => Err(e.to_string()),
                    }
                }
            };
            if let Err(why) = result {
                self.halt(&format!("entry {index} cannot be applied: {why}"));
                return;
            }
            self.raw.mut_store().set_applied(index);
            count(&self.metrics.applied_entries);
            if let Some((proposed_term, waiter)) = self.barriers.remove(&index)
                && proposed_term == term
            {
                // Whoever waited may have given up.
                let _ = waiter.send(index);
            }
            while let Some((_, at)) = self.proposed.front().filter(|(i, _)| *i <= index) {
                let us = now.saturating_sub(*at).as_micros();
                self.metrics.commit_latency.observe_us(us as u64);
                self.proposed.pop_front();
            }
        }
        self.reads.applied(self.raw.store().applied(), &self.state);
    }

    fn reconfigure(
        &mut self,
        index: u64,
        change: &ConfChangeV2,
        disk: &mut Disk,
    ) -> Result<(), String> {
        // After a restart, this replica knows the configuration of its checkpoint only. That the
        // change is committed has to be on the disk before it counts: raft-rs then refuses to
        // campaign until it has applied it again.
        let mut batch = Batch::default();
        let log = self.raw.mut_store();
        log.set_commit(index);
        log.put_hard(&mut batch);
        disk.write_through(batch)?;
        let conf = self.raw.apply_conf_change(change).map_err(|e| e.to_string())?;
        tracing::info!(
            group = self.place.name(),
            voters = ?conf.voters,
            learners = ?conf.learners,
            outgoing = ?conf.voters_outgoing,
            "configuration changed"
        );
        self.state.set_conf(conf.clone());
        self.raw.mut_store().set_conf(conf);
        Ok(())
    }

    /// Takes a snapshot's content and starts over behind it.
    pub(super) fn install(
        &mut self,
        batch: &mut Batch,
        snapshot: &raft::eraftpb::Snapshot,
    ) -> Result<(), String> {
        let image: codec::disk::MachineImage =
            codec::decode(&snapshot.data).map_err(|e| e.to_string())?;
        self.machine.install(image.records)?;
        self.raw.mut_store().restart_at(batch, snapshot);
        let meta: &SnapshotMetadata = snapshot.get_metadata();
        self.state.set_conf(meta.get_conf_state().clone());
        self.put_checkpoint(batch)?;
        count(&self.metrics.snapshots_installed);
        tracing::info!(group = self.place.name(), index = meta.index, "snapshot installed");
        Ok(())
    }

    /// Puts what changed in the machine, and where it stands, into a batch.
    pub(super) fn put_checkpoint(&mut self, batch: &mut Batch) -> Result<(), String> {
        let group = self.place.group;
        let dirty = self.machine.take_dirty();
        if dirty.replaced {
            let from = storage::key(group, Tag::Record, &[]);
            batch.delete_range(from, storage::end(group, Tag::Record));
        }
        for (key, value) in dirty.records {
            let key = storage::key(group, Tag::Record, &key);
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        let meta = self.raw.store().meta(self.place.generation, self.place.replica);
        let meta = meta.map_err(|e| e.to_string())?;
        batch.put(storage::key(group, Tag::Meta, &[]), codec::encode(&meta));
        self.raw.mut_store().checkpoint_begun();
        Ok(())
    }

    /// Whether a replica is active and lacks few entries. Only a leader can say.
    pub(super) fn replica_caught_up(&self, replica: u64) -> bool {
        let last = self.raw.raft.raft_log.last_index();
        replica == self.place.replica
            || self.raw.raft.prs().get(replica).is_some_and(|p| {
                p.recent_active && p.matched > 0 && p.matched + CAUGHT_UP_ENTRIES >= last
            })
    }

    /// Notices a change of leader, and shows the numbers to everybody else.
    pub(super) fn show(&mut self) {
        self.notice_leader();
        self.publish();
    }

    fn publish(&self) {
        let raft = &self.raw.raft;
        self.state.publish(Progress {
            leader: self.leader(),
            term: raft.term,
            committed: raft.raft_log.committed,
            applied: self.raw.store().applied(),
            sessions: self.machine.sessions(),
            leads: self.leads() && !self.halted,
        });
    }

    fn notice_leader(&mut self) {
        let now = self.leader();
        if now != self.leader {
            self.leader = now;
            count(&self.metrics.leader_changes);
            self.machine.role_changed();
            self.proposed.clear();
            self.reads.fail_all();
            if now != self.place.replica {
                self.barriers.clear();
            }
        }
    }
}
