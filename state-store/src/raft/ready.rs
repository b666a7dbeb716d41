//! One round of raft-rs' work over all groups: send, write in one batch, apply.

use std::time::{Duration, Instant};

use raft::Ready;
use raft::eraftpb::{Message, MessageType};
use rocksdb::WriteBatch;

use super::driver::Driver;
use super::machine::Machine;
use crate::metrics::count;

/// A write that takes longer delays heartbeats of groups.
const SLOW: Duration = Duration::from_millis(200);

impl<M: Machine> Driver<M> {
    /// Works until no group has anything left to do. An error of the disk ends the driver.
    pub(super) fn work(&mut self) -> Result<(), String> {
        // Bounded, so that ticks and inputs get their turn under a flood of entries.
        for _ in 0..16 {
            let busy: Vec<usize> = (0..self.groups.len())
                .filter(|i| !self.groups[*i].halted() && self.groups[*i].raw.has_ready())
                .collect();
            if busy.is_empty() {
                break;
            }
            self.round(&busy)?;
        }
        self.outbox.flush();
        Ok(())
    }

    fn round(&mut self, busy: &[usize]) -> Result<(), String> {
        let (mut batch, mut sync) = (WriteBatch::default(), false);
        let mut readies: Vec<(usize, Ready)> = Vec::with_capacity(busy.len());
        for &at in busy {
            let mut ready = self.groups[at].raw.ready();
            // A leader's appends leave before its own write: the followers write meanwhile.
            self.send(at, ready.take_messages());
            if self.write(at, &mut ready, &mut batch, &mut sync) {
                readies.push((at, ready));
            }
        }
        if !batch.is_empty() {
            let begun = Instant::now();
            self.config.db.write(batch, sync).map_err(|e| e.to_string())?;
            let took = begun.elapsed();
            if sync {
                count(&self.config.metrics.synced_writes);
            }
            if took > SLOW {
                count(&self.config.metrics.slow_writes);
                let took_ms = took.as_millis() as u64;
                tracing::warn!(driver = self.config.name, took_ms, sync, "the disk is slow");
            }
        }
        let now = Instant::now();
        for (at, mut ready) in readies {
            self.send(at, ready.take_persisted_messages());
            let group = &mut self.groups[at];
            for read in ready.take_read_states() {
                group.reads.confirmed(&read.request_ctx, read.index);
            }
            group.apply(ready.take_committed_entries(), now);
            if group.halted() {
                continue;
            }
            let mut light = group.raw.advance_append(ready);
            if let Some(commit) = light.commit_index() {
                group.raw.mut_store().set_commit(commit);
            }
            self.send(at, light.take_messages());
            let group = &mut self.groups[at];
            group.apply(light.take_committed_entries(), now);
            if !group.halted() {
                group.raw.advance_apply_to(group.raw.store().applied());
            }
            group.notice_leader();
            group.publish();
            self.prepare_snapshot(at);
        }
        Ok(())
    }

    /// Puts a group's news into the batch; false: the group had to stop.
    fn write(
        &mut self,
        at: usize,
        ready: &mut Ready,
        batch: &mut WriteBatch,
        sync: &mut bool,
    ) -> bool {
        if !ready.snapshot().is_empty() {
            // An older checkpoint that is still being written must not overtake the snapshot.
            self.checkpointer.wait_idle();
        }
        let group = &mut self.groups[at];
        if !ready.snapshot().is_empty() {
            let snapshot = ready.snapshot().clone();
            if let Err(why) = group.install(batch, &snapshot) {
                group.halt(&format!("a snapshot cannot be installed: {why}"));
                return false;
            }
            *sync = true;
        }
        if let Err(why) = group.raw.mut_store().append(batch, ready.entries()) {
            group.halt(&why.to_string());
            return false;
        }
        *sync |= self.config.sync_entries && ready.must_sync();
        if let Some(hard) = ready.hs() {
            // Votes and terms are always written through: a vote forgotten could be given twice.
            *sync |= group.raw.mut_store().set_hard(batch, hard);
        }
        true
    }

    fn send(&mut self, at: usize, messages: Vec<Message>) {
        for message in messages {
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.send_snapshot(at, message);
                continue;
            }
            let to = message.to;
            match self.director_of(at, to) {
                Some(director) => {
                    let address = self.groups[at].address(to);
                    self.outbox.add(director, address, &message);
                }
                None => self.groups[at].raw.report_unreachable(to),
            }
        }
    }
}
