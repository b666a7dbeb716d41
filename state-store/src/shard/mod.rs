//! The state machine of a session group: deterministic, no I/O, no clock of its own.
//!
//! The shard's clock is part of the state: each log entry says how far the leader's monotonic
//! clock had moved since the entry before (PROTOCOLS, time and expiry). "Last seen" times are kept
//! on that clock, so no wall clock of any machine takes part.

mod expiry;
mod image;
mod table;
mod tombs;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeSet, HashSet};

use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::{
    HalfSeen, Incarnation, SessionChange, SessionFlags, SessionRecord, SessionSink, SessionUpdate,
};

use crate::codec::disk::StoredSession;
use crate::codec::wire::{ChangeBatch, ShardEntry};
use crate::codec::{self, CodecError};

pub use expiry::{Expiry, MAX_CLOCK_STEP_MS, Standing};
pub use image::Dirty;
use table::Table;
use tombs::Tombs;

/// Most sessions a shard keeps. The same number on every replica, because it decides what a create
/// does. The largest `max-sessions` of a director, spread over 16 shards, is half of it: a director's
/// own limit is reached first.
pub const MAX_SESSIONS: usize = 1 << 23;

/// The sessions of one shard.
pub struct Shard {
    clock_ms: u64,
    table: Table,
    tombs: Tombs,
    /// Seconds of `tombs` that changed since the last checkpoint.
    dirty_tombs: BTreeSet<u64>,
    dirty: HashSet<FlowKey, ahash::RandomState>,
    replaced: bool,
    max_sessions: usize,
    #[cfg(any(test, feature = "simulation"))]
    without_incarnations: bool,
}

/// What applying an entry did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ShardApplied {
    /// Changes in the entry.
    pub changes: u64,
    /// Creates that found the shard full.
    pub full: u64,
}

impl Default for Shard {
    fn default() -> Self {
        Shard::new()
    }
}

impl Shard {
    /// An empty shard.
    pub fn new() -> Shard {
        Shard {
            clock_ms: 0,
            table: Table::default(),
            tombs: Tombs::default(),
            dirty_tombs: BTreeSet::new(),
            dirty: HashSet::default(),
            replaced: false,
            max_sessions: MAX_SESSIONS,
            #[cfg(any(test, feature = "simulation"))]
            without_incarnations: false,
        }
    }

    /// Takes news of any use of a key for news of the one it keeps, to prove that a simulation notices
    /// what comes of it.
    #[cfg(any(test, feature = "simulation"))]
    pub fn set_without_incarnations(&mut self) {
        self.without_incarnations = true;
    }

    /// Whether news of one use of a key concerns the one that is kept.
    fn concerns(&self, said: &Incarnation, kept: &Incarnation) -> bool {
        #[cfg(any(test, feature = "simulation"))]
        if self.without_incarnations {
            return true;
        }
        said == kept
    }

    /// How many sessions it keeps.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether it keeps none.
    pub fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    /// The shard's clock (ms).
    pub fn clock_ms(&self) -> u64 {
        self.clock_ms
    }

    /// The session with this client key.
    pub fn find(&self, key: &FlowKey) -> Option<SessionRecord> {
        self.table.get(key).map(|s| told(s, self.clock_ms))
    }

    /// All sessions, with ages counting from now.
    pub fn records(&self) -> Vec<SessionRecord> {
        self.table.iter().map(|s| told(s, self.clock_ms)).collect()
    }

    /// Applies one log entry and tells the sink. An entry that does not decode changes nothing: the
    /// replica has to stop, because going on would make it differ from the others.
    pub fn apply(
        &mut self,
        entry: &[u8],
        sink: Option<&dyn SessionSink>,
    ) -> Result<ShardApplied, CodecError> {
        let entry: ShardEntry = codec::decode(entry)?;
        let batches: Vec<ChangeBatch> =
            entry.batches.iter().map(|b| codec::decode(b)).collect::<Result<_, _>>()?;
        self.clock_ms += u64::from(entry.elapsed_ms);
        self.dirty_tombs.extend(self.tombs.forget(self.clock_ms));
        let mut done = ShardApplied::default();
        for change in batches.into_iter().flat_map(|b| b.changes) {
            done.changes += 1;
            match change {
                SessionChange::Create(record) => {
                    if !self.create(record, sink) {
                        done.full += 1;
                    }
                }
                SessionChange::Update(update) => self.update(&update, sink),
                SessionChange::Expire { key, incarnation, last_seen_ms } => {
                    self.expire(&key, &incarnation, last_seen_ms, sink);
                }
            }
        }
        Ok(done)
    }

    /// Idempotent; over an existing key, the one that prevails. False: the shard is full.
    fn create(&mut self, record: SessionRecord, sink: Option<&dyn SessionSink>) -> bool {
        let (key, clock) = (record.key, self.clock_ms);
        let full = self.table.len() >= self.max_sessions;
        let kept = self.table.get(&key);
        let same = kept.is_some_and(|k| self.concerns(&record.incarnation, &k.record.incarnation));
        match self.table.get_mut(&key) {
            Some(kept) if same => {
                merge_record(kept, &record, clock);
            }
            Some(kept) if !record.prevails_over(&kept.record) => {}
            Some(kept) => *kept = stored(record, clock),
            None if self.tombs.forbid(&record.incarnation, record.flags) => {
                if let Some(sink) = sink {
                    sink.refused(&key, &record.incarnation);
                }
                return true;
            }
            None if full => return false,
            None => self.table.insert(stored(record, clock)),
        }
        self.dirty.insert(key);
        if let (Some(sink), Some(kept)) = (sink, self.table.get(&key)) {
            sink.created(&told(kept, clock));
        }
        true
    }

    fn update(&mut self, update: &SessionUpdate, sink: Option<&dyn SessionSink>) {
        let clock = self.clock_ms;
        let kept = self.table.get(&update.key);
        if !kept.is_some_and(|k| self.concerns(&update.incarnation, &k.record.incarnation)) {
            return;
        }
        let Some(kept) = self.table.get_mut(&update.key) else { return };
        let was_established = kept.record.flags.established();
        merge_flags(kept, update.flags, clock);
        kept.record.generation = kept.record.generation.wrapping_add(1);
        if let Some(owner) = update.new_owner() {
            kept.record.owner = owner;
        }
        if let Some(seen) = update.client {
            merge_half(&mut kept.record.client, &mut kept.client_ms, seen, clock);
        }
        if let Some(seen) = update.backend_seen {
            merge_half(&mut kept.record.backend_seen, &mut kept.backend_ms, seen, clock);
        }
        self.dirty.insert(update.key);
        let Some(sink) = sink else { return };
        sink.updated(update);
        // A director that was without a quorum, and short of room, may have freed its half-open record:
        // from now on it has to have one.
        let flags = kept.record.flags;
        if !was_established && flags.established() && !flags.closing() {
            sink.created(&told(kept, clock));
        }
    }

    fn expire(
        &mut self,
        key: &FlowKey,
        incarnation: &Incarnation,
        last_seen_ms: u64,
        sink: Option<&dyn SessionSink>,
    ) {
        let due = self.table.get(key).is_some_and(|kept| {
            self.concerns(incarnation, &kept.record.incarnation) && last_seen(kept) <= last_seen_ms
        });
        if due {
            if let Some(gone) = self.table.remove(key) {
                let flags = gone.record.flags;
                self.dirty_tombs.extend(self.tombs.bury(incarnation, flags, self.clock_ms));
            }
            self.dirty.insert(*key);
            if let Some(sink) = sink {
                sink.expired(key, incarnation);
            }
        }
    }
}

/// When a packet was last seen (ms on the shard's clock; 0 for anything before it began).
fn last_seen(session: &StoredSession) -> u64 {
    session.client_ms.max(session.backend_ms).max(0) as u64
}

fn stored(record: SessionRecord, clock_ms: u64) -> StoredSession {
    let at = |age_ms: u32| clock_ms as i64 - i64::from(age_ms);
    StoredSession {
        created_ms: at(record.created_age_ms),
        client_ms: at(record.client.age_ms),
        backend_ms: at(record.backend_seen.age_ms),
        record,
    }
}

/// The record as others are told it: ages count from `clock_ms`.
fn told(session: &StoredSession, clock_ms: u64) -> SessionRecord {
    let age = |at: i64| (clock_ms as i64 - at).clamp(0, i64::from(u32::MAX)) as u32;
    let mut record = session.record.clone();
    record.created_age_ms = age(session.created_ms);
    record.client.age_ms = age(session.client_ms);
    record.backend_seen.age_ms = age(session.backend_ms);
    record
}

fn merge_record(kept: &mut StoredSession, new: &SessionRecord, clock_ms: u64) {
    merge_flags(kept, new.flags, clock_ms);
    kept.record.generation = kept.record.generation.max(new.generation);
    if merge_half(&mut kept.record.client, &mut kept.client_ms, new.client, clock_ms) {
        kept.record.owner = new.owner;
    }
    merge_half(&mut kept.record.backend_seen, &mut kept.backend_ms, new.backend_seen, clock_ms);
}

/// Flags merge by OR. The linger of a session begins when its end is complete here: two directors may
/// have seen a FIN each, and one of them may have been late to tell.
fn merge_flags(kept: &mut StoredSession, new: SessionFlags, clock_ms: u64) {
    let was_closing = kept.record.flags.closing();
    kept.record.flags = kept.record.flags.with(new);
    if !was_closing && kept.record.flags.closing() {
        kept.client_ms = kept.client_ms.max(clock_ms as i64);
    }
}

/// (last seen, sequence, ack) merge by the later, as one unit: sequence numbers wrap. The clock moves in
/// steps; of two that were seen within one, the one that was told later.
fn merge_half(kept: &mut HalfSeen, kept_ms: &mut i64, new: HalfSeen, clock_ms: u64) -> bool {
    let new_ms = clock_ms as i64 - i64::from(new.age_ms);
    let later = new_ms >= *kept_ms;
    if later {
        *kept = new;
        *kept_ms = new_ms;
    }
    later
}
