//! What a driver does besides raft-rs' own work: proposals, membership, checkpoints, snapshots.

use std::time::Duration;

use bytes::Bytes;
use protobuf::Message as _;
use raft::StateRole;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, Message};
use tokio::sync::oneshot;

use super::disk::{Job, Part};
use super::driver::Driver;
use super::group::{Group, Place, Sending};
use super::machine::Machine;
use crate::codec;
use crate::codec::wire::{Address, ChangeBatch, Forward, SnapshotHeader};
use crate::membership::{self, Conf, Role, Step};
use crate::metrics::count;
use crate::peer::Lane;
use crate::storage::Batch;

/// Bytes of batches in one entry.
const ENTRY_BYTES: usize = 512 << 10;
/// Batches that may wait for a leader's log, per group.
const PENDING: usize = 128;
/// A joint configuration that raft-rs has not left by itself after this is left by hand.
const JOINT_PATIENCE: Duration = Duration::from_secs(1);
/// A snapshot that is not reported on after this counts as failed.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(120);
/// A snapshot that nobody wanted for so long is thrown away.
const SNAPSHOT_KEPT: Duration = Duration::from_secs(10);
/// Leadership is given away when the disk owes the same answer at so many looks, a second apart.
const DISK_PATIENCE: u32 = 5;
/// Log is kept for slow followers and snapshots in flight, back to this many checkpoints at most.
const CHECKPOINTS_KEPT: usize = 4;

impl<M: Machine> Driver<M> {
    /// Moves changes from the feed to the leaders of their shards.
    pub(super) fn take_feed(&mut self) {
        let Some(feed) = self.feed.clone() else { return };
        feed.heard();
        let most = self.config.limits.batch_changes;
        for at in 0..self.groups.len() {
            let group = &self.groups[at];
            let (shard, leader) = (group.place.group, group.leader());
            if group.halted() || leader == 0 {
                continue;
            }
            if group.leads() {
                while self.groups[at].pending.len() < PENDING {
                    let changes = feed.take(shard, most);
                    if changes.is_empty() {
                        break;
                    }
                    let batch = codec::encode(&ChangeBatch { changes });
                    self.groups[at].pending.push_back(batch);
                }
                continue;
            }
            let Some(director) = self.director_of(at, leader) else { continue };
            // What is full drops its oldest, and acknowledgements of entries go the same way. In the feed
            // changes have a limit that whoever proposes them feels.
            while !self.peers.crowded(director, Lane::Log) {
                let changes = feed.take(shard, most);
                if changes.is_empty() {
                    break;
                }
                let batch = codec::encode(&ChangeBatch { changes });
                let forward = codec::encode(&Forward { shard, batch });
                self.peers.send(director, Lane::Log, Bytes::from(forward));
            }
        }
    }

    pub(super) fn take_forwarded(&mut self, shard: u16, batch: Vec<u8>) {
        let metrics = self.config.metrics.clone();
        // Its sender proposes again what is not acknowledged.
        match self.group(shard).filter(|g| g.leads() && g.pending.len() < PENDING) {
            Some(group) if group.machine.acceptable(&batch) => group.pending.push_back(batch),
            Some(_) => count(&metrics.messages_malformed),
            None => count(&metrics.forwarded_dropped),
        }
    }

    /// Puts waiting batches into entries.
    pub(super) fn propose_pending(&mut self, now: Duration) {
        let now_ms = now.as_millis() as u64;
        for group in self.groups.iter_mut().filter(|g| !g.halted()) {
            if !group.leads() {
                if !group.pending.is_empty() {
                    self.config.metrics.forwarded_dropped.fetch_add(
                        group.pending.len() as u64,
                        std::sync::atomic::Ordering::Relaxed,
                    );
                    group.pending.clear();
                }
                continue;
            }
            while !group.pending.is_empty() {
                // The log has its own limit; beyond it, batches wait here, then in the feed.
                if group.raw.raft.uncommitted_size() > super::UNCOMMITTED_BYTES as usize / 2 {
                    break;
                }
                let (mut batches, mut bytes) = (Vec::new(), 0);
                while let Some(batch) = group.pending.front() {
                    if bytes > 0 && bytes + batch.len() > ENTRY_BYTES {
                        break;
                    }
                    bytes += batch.len();
                    batches.extend(group.pending.pop_front());
                }
                let entry = group.machine.wrap(now_ms, batches);
                if !group.propose(entry, now) {
                    count(&self.config.metrics.forwarded_dropped);
                }
            }
        }
    }

    /// Commits a no-op and answers with its index.
    pub(super) fn barrier(&mut self, number: u16, reply: oneshot::Sender<u64>, now: Duration) {
        let now_ms = now.as_millis() as u64;
        let Some(group) = self.group(number).filter(|g| g.leads()) else { return };
        let entry = group.machine.wrap(now_ms, Vec::new());
        if group.propose(entry, now) {
            let term = group.raw.raft.term;
            group.barriers.insert(group.raw.raft.raft_log.last_index(), (term, reply));
        }
    }

    /// Begins one ReadIndex round per group for everybody who asked meanwhile.
    pub(super) fn begin_reads(&mut self, now: Duration) {
        for group in self.groups.iter_mut().filter(|g| !g.halted() && g.reads.gathering()) {
            if group.leads() && group.raw.raft.commit_to_current_term() {
                let name = group.reads.begin(group.place.replica, false, now);
                group.raw.read_index(name);
            } else {
                group.reads.fail_all();
            }
        }
    }

    /// Replicas that have not caught up since their start ask their leader how far it is.
    pub(super) fn catch_up(&mut self, now: Duration) {
        for group in self.groups.iter_mut().filter(|g| !g.halted() && !g.state.caught_up()) {
            if group.leader() != 0 && !group.reads.catching_up() {
                let name = group.reads.begin(group.place.replica, true, now);
                group.raw.read_index(name);
            }
        }
    }

    /// The duties of leaders, and of a lone voter that has to become one.
    pub(super) fn lead(&mut self, now: Duration) -> Result<(), String> {
        let now_ms = now.as_millis() as u64;
        for at in 0..self.groups.len() {
            let group = &mut self.groups[at];
            if group.halted() {
                continue;
            }
            if group.leads() {
                manage_members(group, now);
                for entry in group.machine.as_leader(now_ms) {
                    group.propose(entry, now);
                }
                let lost: Vec<u64> = group
                    .sending
                    .iter()
                    .filter(|(_, s)| now.saturating_sub(s.since) > SNAPSHOT_PATIENCE)
                    .map(|(to, _)| *to)
                    .collect();
                let addresses: Vec<Address> = lost.iter().map(|to| group.address(*to)).collect();
                addresses.into_iter().for_each(|a| self.snapshot_sent(a, false));
            } else {
                if group.alone()
                    && group.raw.raft.state == StateRole::Follower
                    && group.may_campaign()
                {
                    // Nobody to wait for. raft-rs refuses while a change is not applied yet.
                    if let Err(e) = group.raw.campaign() {
                        tracing::debug!(group = group.place.name(), %e, "no campaign");
                    }
                }
            }
            self.checkpoint(at)?;
            let group = &mut self.groups[at];
            let unwanted = group
                .raw
                .store()
                .prepared
                .as_ref()
                .is_some_and(|p| now.saturating_sub(p.made) > SNAPSHOT_KEPT);
            if unwanted && group.sending.is_empty() {
                group.raw.mut_store().prepared = None;
            }
        }
        Ok(())
    }

    /// Begins a checkpoint where the log has grown enough.
    fn checkpoint(&mut self, at: usize) -> Result<(), String> {
        let group = &mut self.groups[at];
        let due = group.raw.store().bytes_since_checkpoint() > self.config.limits.log_bytes;
        if !due || group.checkpointing {
            return Ok(());
        }
        let mut batch = Batch::default();
        if let Err(why) = group.put_checkpoint(&mut batch) {
            group.halt(&why);
            return Ok(());
        }
        let index = group.raw.store().applied();
        let Place { group: number, generation, .. } = group.place;
        group.checkpointing = true;
        let parts = vec![Part::Checkpoint { group: number, generation, index }];
        self.disk.submit(Job { batch, sync: false, parts })
    }

    pub(super) fn checkpointed(
        &mut self,
        number: u16,
        generation: u32,
        index: u64,
    ) -> Result<(), String> {
        let metrics = self.config.metrics.clone();
        let Some(group) = self.group(number).filter(|g| g.place.generation == generation) else {
            return Ok(());
        };
        group.checkpointing = false;
        group.checkpoints.push_back(index);
        if group.checkpoints.len() > CHECKPOINTS_KEPT {
            group.checkpoints.pop_front();
        }
        count(&metrics.checkpoints);
        let keep_from = keep_from(group, index);
        let mut batch = Batch::default();
        group.raw.mut_store().truncate(&mut batch, keep_from).map_err(|e| e.to_string())?;
        match batch.is_empty() {
            true => Ok(()),
            false => self.disk.submit(Job { batch, ..Job::default() }),
        }
    }

    pub(super) fn send_snapshot(&mut self, at: usize, mut message: Message, now: Duration) {
        let to = message.to;
        let director = self.director_of(at, to);
        let group = &mut self.groups[at];
        let address = group.address(to);
        let index = message.get_snapshot().get_metadata().index;
        let prepared = group.raw.store().prepared.clone().filter(|p| p.index == index);
        let (Some(prepared), Some(director)) = (prepared, director) else {
            group.raw.report_snapshot(to, raft::SnapshotStatus::Failure);
            return;
        };
        message.mut_snapshot().data = Bytes::new();
        let Ok(bytes) = message.write_to_bytes() else { return };
        let length = prepared.image.len() as u64;
        let header = codec::encode(&SnapshotHeader { address, message: bytes, length });
        group.sending.insert(to, Sending { index, since: now });
        tracing::info!(group = group.place.name(), %director, index, bytes = length, "sending snapshot");
        self.peers.send_snapshot(director, address, Bytes::from(header), prepared.image);
    }

    /// Gives leadership away where a live voter can take it.
    pub(super) fn resign(&mut self) {
        for group in self.groups.iter_mut().filter(|g| !g.halted() && g.leads()) {
            let me = group.place.replica;
            let voters = group.raw.store().conf().voters.clone();
            let progress = group.raw.raft.prs();
            let heir = voters
                .into_iter()
                .filter(|v| *v != me)
                .filter_map(|v| progress.get(v).filter(|p| p.recent_active).map(|p| (p.matched, v)))
                .max();
            if let Some((_, heir)) = heir {
                group.raw.transfer_leader(heir);
            }
        }
    }

    /// A leader that cannot write commits only what the others have, and applies nothing: while that
    /// is short, nobody should notice. A disk that is lost must not keep its groups.
    pub(super) fn watch_disk(&mut self) {
        let awaited = self.disk.awaited();
        let (before, looks) = self.disk_looks;
        // Looks are counted, not time: when the whole process stood still, it was not the disk.
        let looks = if awaited.is_some() && awaited == before { looks + 1 } else { 0 };
        self.disk_looks = (awaited, looks);
        if looks >= DISK_PATIENCE {
            let driver = self.config.name;
            tracing::warn!(driver, looks, "the disk does not answer: others shall lead");
            self.resign();
        }
    }

    /// Whether the disk has owed the same answer for so long that others shall lead.
    #[cfg(feature = "simulation")]
    pub fn disk_is_overdue(&self) -> bool {
        self.disk_looks.1 >= DISK_PATIENCE
    }

    /// Writes what would otherwise have to be read from the log again, and ends.
    pub fn finish(&mut self, now: Duration) -> Result<(), String> {
        self.work(now)?;
        self.disk.wait_idle()?;
        // What was only waiting for the disk.
        self.work(now)?;
        let mut batch = Batch::default();
        for group in self.groups.iter_mut().filter(|g| !g.halted()) {
            group.put_checkpoint(&mut batch)?;
            group.reads.fail_all();
            group.barriers.clear();
        }
        self.disk.write_through(batch)
    }
}

/// The last entry that may go now that a checkpoint covers `index`: what a snapshot in flight or a
/// slightly slow follower still needs stays, up to a limit.
fn keep_from<M: Machine>(group: &Group<M>, index: u64) -> u64 {
    let floor = group.checkpoints.front().copied().unwrap_or(index);
    let mut keep = index;
    if let Some(oldest) = group.sending.values().map(|s| s.index).min() {
        keep = keep.min(oldest);
    }
    if group.leads() {
        let progress = group.raw.raft.prs().iter();
        let slowest = progress.filter(|(_, p)| p.recent_active).map(|(_, p)| p.matched).min();
        keep = keep.min(slowest.unwrap_or(index));
    } else {
        // Should this replica come to lead, followers a little behind it need no snapshot.
        let before = group.checkpoints.iter().rev().nth(1).copied();
        keep = keep.min(before.unwrap_or(index));
    }
    keep.max(floor).min(index)
}

/// Takes the next step towards the voters that the members should make up.
fn manage_members<M: Machine>(group: &mut Group<M>, now: Duration) {
    let raft = &group.raw.raft;
    if raft.has_pending_conf() || raft.lead_transferee.is_some() || !raft.commit_to_current_term() {
        return;
    }
    let state = group.raw.store().conf().clone();
    let joint = !state.voters_outgoing.is_empty();
    let conf = Conf { voters: state.voters, learners: state.learners, joint };
    if !joint {
        group.joint_since = None;
    }
    let members = group.machine.members();
    if members.is_empty() {
        return;
    }
    let me = group.place.replica;
    let step = membership::plan(me, &members, &conf, &|r| group.replica_caught_up(r));
    match step {
        None => {}
        Some(Step::Transfer(to)) => group.raw.transfer_leader(to),
        Some(Step::Leave) => {
            let since = *group.joint_since.get_or_insert(now);
            if now.saturating_sub(since) > JOINT_PATIENCE {
                group.joint_since = None;
                propose_change(group, &ConfChangeV2::default());
            }
        }
        Some(Step::Change(changes)) => {
            let mut change = ConfChangeV2::default();
            for (replica, role) in changes {
                let mut single =
                    ConfChangeSingle { node_id: replica, ..ConfChangeSingle::default() };
                single.set_change_type(match role {
                    Role::Voter => ConfChangeType::AddNode,
                    Role::Learner => ConfChangeType::AddLearnerNode,
                    Role::Gone => ConfChangeType::RemoveNode,
                });
                change.mut_changes().push(single);
            }
            propose_change(group, &change);
        }
    }
}

fn propose_change<M: Machine>(group: &mut Group<M>, change: &ConfChangeV2) {
    count(&group.metrics.conf_changes);
    if let Err(e) = group.raw.propose_conf_change(Vec::new(), change.clone()) {
        tracing::debug!(group = group.place.name(), %e, "configuration change not taken");
    }
}
