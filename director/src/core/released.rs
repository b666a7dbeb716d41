//! Packets that wait in the core: the questions about them, what becomes of them when an answer comes, their
//! session becomes known or their time is over.

use holdfast_schema::flow::FlowKey;

use super::counters::Count;
use super::frame::{Frame, Verdict};
use super::meta::{self, Class};
use super::miss::{MissAnswer, MissQuestion};
use super::reason::DropReason;
use super::waiting::{Chain, WaitFor};
use super::{Core, Moment, Release, Standing};
use crate::session::Lookup;
use crate::tables::ForwardingTables;

/// How long after a second vain try a lock is tried again. (The first is at the next turn.)
const LOCK_RETRY_NS: u64 = 250_000;

/// How often it is looked whether what waits for an answer has become known in another way.
const LOOK_NS: u64 = 1_000_000;

impl Core {
    /// Appends the questions that are due now, for the first time or again. There are never more
    /// than [`CoreConfig::waiting_flows`](super::CoreConfig::waiting_flows): with that capacity, nothing is allocated.
    pub fn take_questions(&mut self, now_ns: u64, out: &mut Vec<MissQuestion>) {
        let counters = &mut self.counters;
        self.room.due(now_ns, self.config.repeat_ns, |asked, again| {
            let count = if again { Count::QuestionsRepeated } else { Count::Questions };
            counters.add(count, 1);
            out.push(asked);
        });
    }

    /// Takes an answer: makes the session known, and releases the packets that waited for it, in
    /// order.
    pub fn answer(
        &mut self,
        tables: &ForwardingTables,
        now_ns: u64,
        answer: &MissAnswer,
        release: &mut Release<'_>,
    ) {
        let at = self.begin(tables, now_ns);
        let asked = self.room.asked(answer.id());
        // After a stall the answer is as old as the packets: meanwhile others may know better.
        let in_time = |key: &FlowKey| {
            let since_ns = self.room.since_ns(key).unwrap_or(0);
            !self.is_over(now_ns, since_ns)
        };
        let key = asked.filter(in_time);
        if key.is_none() {
            self.counters.add(Count::AnswersLate, 1);
            if let Some(chain) = asked.and_then(|key| self.room.detach(&key)) {
                self.discard_chain(chain, DropReason::MissTimeout, release);
            }
        }
        match answer {
            MissAnswer::Found { record, .. } => {
                self.counters.add(Count::AnswersFound, 1);
                if let Some(key) = &asked {
                    self.denials.forget(key);
                }
                // Also when nobody waits any more: the sender will try again. A refusal means that a
                // session with a better claim is here, or that there is no room; a packet that still
                // finds nothing is asked about again, until its time is over.
                let taken = self.table.learn(record, at.now_ms);
                // Packets of the other direction may wait for it, too.
                self.next_look_ns = 0;
                let earlier = key.and_then(|key| self.room.doubt_of(&key));
                if let Some(key) = key
                    && !taken
                    && earlier.is_some_and(|doubt| record.incarnation > doubt.incarnation)
                {
                    // By the record that is here they would go to the wrong backend.
                    if let Some(chain) = self.room.detach(&key) {
                        self.discard_chain(chain, DropReason::MissUnknown, release);
                    }
                } else if let Some(key) = key {
                    self.release_asked(&at, &key, release);
                }
            }
            MissAnswer::NoWithAuthority { .. } | MissAnswer::DontKnow { .. }
                if key.is_some_and(|key| self.knows_half_open(&key)) =>
            {
                self.counters.add(
                    match answer {
                        MissAnswer::NoWithAuthority { .. } => Count::AnswersDenied,
                        _ => Count::AnswersUnknown,
                    },
                    1,
                );
                if let Some(key) = key {
                    self.release_asked(&at, &key, release);
                }
            }
            MissAnswer::NoWithAuthority { .. } => {
                self.counters.add(Count::AnswersDenied, 1);
                let asked_ms = |key| self.room.since_ns(key).unwrap_or(0) / 1_000_000;
                match key {
                    // Somebody has said meanwhile that there is one.
                    Some(key) if self.table.heard_since(&key, asked_ms(&key)) => {
                        if let Some(chain) = self.room.detach(&key) {
                            self.discard_chain(chain, DropReason::MissUnknown, release);
                        }
                    }
                    Some(key) => {
                        self.denials.remember(&key, now_ns);
                        self.release(&at, &key, true, release);
                    }
                    None => {}
                }
            }
            MissAnswer::DontKnow { .. } => {
                self.counters.add(Count::AnswersUnknown, 1);
                if let Some(key) = key {
                    self.stop_asking(&at, &key, DropReason::MissUnknown, release);
                }
            }
        }
        self.end_batch();
    }

    /// Releases packets whose session has become known or whose lock is free again, and drops those
    /// that waited too long. Call it after [`Core::process`], and every millisecond, while
    /// [`Core::parked`] is not 0. Calling it more often costs next to nothing.
    pub fn poll(&mut self, tables: &ForwardingTables, now_ns: u64, release: &mut Release<'_>) {
        let look = now_ns >= self.next_look_ns;
        if self.room.len() > 0 && (look || self.room.waits_for_lock()) {
            if look {
                self.next_look_ns = now_ns + LOOK_NS;
            }
            let at = self.begin(tables, now_ns);
            let mut waiting = std::mem::take(&mut self.waiting_keys);
            waiting.clear();
            self.room.list(&mut waiting);
            for flow in &waiting {
                if flow.wait_for == WaitFor::Answer && !look {
                    continue;
                }
                let over = self.is_over(now_ns, flow.since_ns);
                let again = match flow.wait_for {
                    WaitFor::Lock => flow.next_ns <= now_ns,
                    WaitFor::Answer => match self.table.lookup(&flow.key) {
                        Lookup::Found(slot, side) => {
                            flow.doubted != Some(slot)
                                && (over || !self.is_half_open(&flow.key, (slot, side)))
                        }
                        Lookup::Absent | Lookup::Contended => false,
                    },
                };
                if again {
                    self.release(&at, &flow.key, false, release);
                    // Its holder may have been preempted: then trying on and on costs others.
                    self.room.put_off(&flow.key, now_ns + LOCK_RETRY_NS);
                }
                // What has been parked again keeps the time since when it waits.
                if over {
                    let reason = match flow.wait_for {
                        WaitFor::Answer => DropReason::MissTimeout,
                        WaitFor::Lock => DropReason::Contended,
                    };
                    self.stop_asking(&at, &flow.key, reason, release);
                }
            }
            self.waiting_keys = waiting;
        }
        self.end_batch();
    }

    /// Whether what waits since then has waited long enough.
    pub(super) fn is_over(&self, now_ns: u64, since_ns: u64) -> bool {
        now_ns.saturating_sub(since_ns) >= self.config.wait_ns
    }

    /// Whether the session that packets with this key wait for has become known.
    pub(super) fn has_come(&self, key: &FlowKey) -> bool {
        match self.table.lookup(key) {
            Lookup::Found(slot, side) => {
                let doubted = self.room.doubt_of(key).is_some_and(|doubt| doubt.slot == slot);
                !doubted && !self.is_half_open(key, (slot, side))
            }
            Lookup::Absent | Lookup::Contended => false,
        }
    }

    /// Whether packets with this key were in question although a session of theirs is here.
    pub(super) fn knows_half_open(&self, key: &FlowKey) -> bool {
        match self.table.lookup(key) {
            Lookup::Found(slot, side) => self.is_half_open(key, (slot, side)),
            Lookup::Absent | Lookup::Contended => false,
        }
    }

    /// Releases packets about which the others were asked.
    pub(super) fn release_asked(
        &mut self,
        at: &Moment<'_>,
        key: &FlowKey,
        release: &mut Release<'_>,
    ) {
        self.release(at, key, false, release);
        // Asked at once, an answer that was of no use would come back as fast as answers do.
        self.room.ask_from(key, at.now_ns + self.config.repeat_ns);
    }

    pub(super) fn release(
        &mut self,
        at: &Moment<'_>,
        key: &FlowKey,
        denied: bool,
        release: &mut Release<'_>,
    ) {
        let Some(mut chain) = self.room.detach(key) else { return };
        let standing = if denied { Standing::Denied } else { Standing::Waited };
        self.waited_since_ns = Some(chain.since_ns);
        let mut waits_again = false;
        while let Some(mut parcel) = self.room.take(&mut chain) {
            self.counters.add(Count::Released, 1);
            let mut frame = Frame::new(&mut parcel.data, 0, parcel.len);
            let verdict = match meta::classify(frame.packet()) {
                // Behind the one before it, which it must not overtake.
                Ok(Class::Flow(key, meta)) if waits_again => {
                    self.park(at, &frame, &key, &meta, WaitFor::Lock)
                }
                Ok(Class::Flow(key, meta)) => {
                    self.flow(at, &mut frame, &key, &meta, None, standing)
                }
                // It was a packet of a flow when it was parked.
                Ok(Class::Echo(..)) | Err(_) => self.drop(DropReason::Internal),
            };
            match verdict {
                Verdict::Parked => waits_again = true,
                verdict => release(&mut frame, verdict),
            }
            self.room.give_back(parcel);
        }
        self.waited_since_ns = None;
    }

    pub(super) fn discard_chain(
        &mut self,
        mut chain: Chain,
        reason: DropReason,
        release: &mut Release<'_>,
    ) {
        while let Some(mut parcel) = self.room.take(&mut chain) {
            let verdict = self.drop(reason);
            release(&mut Frame::new(&mut parcel.data, 0, parcel.len), verdict);
            self.room.give_back(parcel);
        }
    }

    /// Drops all packets that wait.
    pub fn discard_waiting(&mut self, reason: DropReason) {
        let mut waiting = std::mem::take(&mut self.waiting_keys);
        waiting.clear();
        self.room.list(&mut waiting);
        for flow in &waiting {
            if let Some(chain) = self.room.detach(&flow.key) {
                self.discard_chain(chain, reason, &mut |_, _| {});
            }
        }
        self.waiting_keys = waiting;
        self.end_batch();
    }
}
