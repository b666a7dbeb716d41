//! One round of raft-rs' work over all groups: send, have it written in one batch, apply.
//!
//! raft-rs' asynchronous interface is used: the driver does not wait for its disk. A leader's
//! messages leave at once, a follower's when the disk holds what they speak of; raft-rs counts an
//! entry of its own, and hands out committed ones, only after [`raft::RawNode::on_persist_ready`].

use std::time::Duration;

use raft::Ready;
use raft::eraftpb::{Message, MessageType};

use super::disk::{Job, Part};
use super::driver::Driver;
use super::machine::Machine;
use crate::metrics::count;
use crate::storage::Batch;

/// What a group has decided, on its way.
struct News {
    at: usize,
    ready: Ready,
    /// Whether it has to be written.
    unwritten: bool,
    /// Whether term or vote changed.
    vital: bool,
}

impl<M: Machine> Driver<M> {
    /// Works until no group has anything left to do but wait for the disk. An error of the disk ends
    /// the driver.
    pub(super) fn work(&mut self, now: Duration) -> Result<(), String> {
        // Bounded, so that ticks and inputs get their turn under a flood of entries.
        for _ in 0..16 {
            self.take_reports(now)?;
            let mut busy = Vec::new();
            for at in 0..self.groups.len() {
                if self.groups[at].halted() {
                    continue;
                }
                let urgent = self.groups[at].take_urgent();
                self.send(at, urgent, now);
                if self.groups[at].raw.has_ready() {
                    busy.push(at);
                }
            }
            if busy.is_empty() {
                break;
            }
            if self.disk.full() {
                count(&self.config.metrics.write_queue_full);
                busy.iter().for_each(|at| self.groups[*at].show());
                break;
            }
            self.round(&busy, now)?;
        }
        self.outbox.flush();
        Ok(())
    }

    /// Takes what the storage thread has done.
    fn take_reports(&mut self, now: Duration) -> Result<(), String> {
        while let Some(part) = self.disk.next_written()? {
            match part {
                Part::Ready { group, generation, number } => {
                    let at = self.groups.iter().position(|g| {
                        (g.place.group, g.place.generation) == (group, generation) && !g.halted()
                    });
                    if let Some(at) = at {
                        self.groups[at].inflight.written(number);
                        self.settle(at, now);
                    }
                }
                Part::Checkpoint { group, generation, index } => {
                    self.checkpointed(group, generation, index)?;
                }
            }
        }
        Ok(())
    }

    /// Lets go of what waited for writes that are done.
    fn settle(&mut self, at: usize, now: Duration) {
        let group = &mut self.groups[at];
        if let Some((number, messages)) = group.inflight.take_done() {
            group.raw.mut_store().written(number);
            group.raw.on_persist_ready(number);
            self.send(at, messages, now);
        }
    }

    fn round(&mut self, busy: &[usize], now: Duration) -> Result<(), String> {
        let mut job = Job::default();
        let mut all: Vec<News> = Vec::with_capacity(busy.len());
        for &at in busy {
            let ready = self.groups[at].raw.ready();
            let mut news = News { at, ready, unwritten: false, vital: false };
            let taken = match news.ready.snapshot().is_empty() {
                true => self.write(&mut news, &mut job),
                false => self.install(&mut news),
            };
            match taken {
                Ok(()) => all.push(news),
                Err(why) => self.groups[at].halt(&why),
            }
        }
        if !job.batch.is_empty() {
            self.disk.submit(job)?;
        }
        all.into_iter().for_each(|news| self.take_news(news, now));
        Ok(())
    }

    /// Puts a group's news into the job.
    fn write(&mut self, news: &mut News, job: &mut Job) -> Result<(), String> {
        let group = &mut self.groups[news.at];
        let (ready, place) = (&news.ready, group.place);
        let log = group.raw.mut_store();
        let entries = ready.entries();
        log.append(&mut job.batch, entries, ready.number()).map_err(|e| e.to_string())?;
        news.unwritten = !entries.is_empty();
        job.sync |= self.config.sync_entries && ready.must_sync();
        if let Some(hard) = ready.hs() {
            news.vital = log.set_hard(hard);
            // Votes and terms are always written through: a vote forgotten could be given twice.
            job.sync |= news.vital;
            news.unwritten |= news.vital;
        }
        // A commit index alone is not worth a write: it is learned again. But no entry is on the disk
        // without what was committed when it came: a leader proposes to leave a joint configuration
        // only when entering it is committed, and whoever holds the one must know the other after a
        // crash, or it might campaign among the old voters alone.
        if news.unwritten {
            log.put_hard(&mut job.batch);
            let (group, generation, number) = (place.group, place.generation, ready.number());
            job.parts.push(Part::Ready { group, generation, number });
        }
        Ok(())
    }

    /// Takes a snapshot, and waits until the disk has it: raft-rs' log has a gap until then.
    fn install(&mut self, news: &mut News) -> Result<(), String> {
        let (group, ready) = (&mut self.groups[news.at], &news.ready);
        let mut batch = Batch::default();
        group
            .install(&mut batch, ready.snapshot())
            .map_err(|why| format!("a snapshot cannot be installed: {why}"))?;
        let log = group.raw.mut_store();
        log.append(&mut batch, ready.entries(), ready.number()).map_err(|e| e.to_string())?;
        if let Some(hard) = ready.hs() {
            log.set_hard(hard);
        }
        log.put_hard(&mut batch);
        self.disk.write_through(batch)?;
        group.inflight.written(ready.number());
        Ok(())
    }

    fn take_news(&mut self, news: News, now: Duration) {
        let News { at, mut ready, unwritten, vital } = news;
        let group = &mut self.groups[at];
        let reads = ready.take_read_states();
        let committed = ready.take_committed_entries();
        // One of the two is empty.
        let (mut free, mut bound) = (ready.take_messages(), ready.take_persisted_messages());
        let number = ready.number();
        group.raw.advance_append_async(ready);
        // A lone voter is a leader before its vote is written: nobody may hear of it yet.
        if vital || !group.inflight.vote_is_safe() {
            bound.append(&mut free);
        }
        group.inflight.add(number, unwritten, vital, bound);
        self.send(at, free, now);
        self.settle(at, now);
        let group = &mut self.groups[at];
        for read in reads {
            group.reads.confirmed(&read.request_ctx, read.index);
        }
        group.apply(committed, now, &mut self.disk);
        if !group.halted() {
            group.raw.advance_apply_to(group.raw.store().applied());
        }
        group.show();
    }

    fn send(&mut self, at: usize, messages: Vec<Message>, now: Duration) {
        for message in messages {
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.send_snapshot(at, message, now);
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
