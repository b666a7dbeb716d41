//! Beginning a session: limits, a slot, the record, both index entries.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use holdfast_schema::bucket::Bucket;
use holdfast_schema::cluster::{BackendId, ListenerId};
use holdfast_schema::config::ReplicateAfter;
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::{ForwardingMode, Incarnation, SessionFlags};

use super::index::{Busy, Target, Wait};
use super::key::PackedKey;
use super::record::{Record, TIME_BASE_MS, half, pack, pack_replicate_after, state, word};
use super::stats::count;
use super::table::{CLASS_PORTS, SessionTable, derive};
use super::{Side, Slot};

/// How many half-open sessions a class may have: a quarter of its ports.
pub(super) const CLASS_HALF_OPEN: u32 = CLASS_PORTS / 4;

/// How many freed slots a worker moves at most when it finds the free list empty.
const RECLAIM_IN_OPEN: usize = 64;

/// What a worker says of a session it begins.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// Client > VIP.
    pub key: FlowKey,
    /// Backend > LIP.
    pub reply: FlowKey,
    /// The listener it came through.
    pub listener: ListenerId,
    /// The backend it goes to.
    pub backend: BackendId,
    /// How its packets are rewritten.
    pub mode: ForwardingMode,
    /// Its bucket (FullNAT: also that of the reply's destination port).
    pub bucket: Bucket,
    /// The listener's idle timeout.
    pub idle_timeout_ms: u32,
    /// The listener's replicate-after.
    pub replicate_after: ReplicateAfter,
    /// Unix time in ms; raised above the stamp of a session it replaces.
    pub stamp: u64,
    /// The client's initial sequence number (TCP), 0 for UDP.
    pub isn: u32,
    /// What the first packet showed.
    pub flags: SessionFlags,
    /// Sequence number behind the first packet.
    pub seq_end: u32,
    /// Acknowledgement number of the first packet.
    pub ack: u32,
    /// Added to the client's sequence numbers towards the backend (0: no rewriting).
    pub isn_delta: u32,
    /// Added to the client's TCP timestamps towards the backend (0: no rewriting).
    pub timestamp_delta: u32,
    /// The session that it replaces under the same client key (a SYN on a closing session).
    pub replaces: Option<Slot>,
}

/// Why a session was not opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// The table holds `max_sessions` sessions (or slots wait for quiescence).
    #[error("the session table is full")]
    Full,
    /// The pool of half-open sessions is full.
    #[error("the pool of half-open sessions is full")]
    HalfOpenFull,
    /// Half-open sessions hold a quarter of this port class: try another LIP or backend.
    #[error("half-open sessions hold their share of this port class")]
    ClassFull,
    /// Another session has this reply key: try another local port.
    #[error("the local port is in use")]
    ReplyTaken,
    /// The client key has a session already.
    #[error("the flow has a session already")]
    Exists(Slot),
    /// Its listener or backend was removed: again next batch, by the new tables.
    #[error("the listener or the backend was removed")]
    Removed,
    /// Another thread was writing near one of the keys: again next batch.
    #[error("another thread was writing near one of the keys")]
    Contended,
}

impl SessionTable {
    /// Begins a session. Both directions can be looked up by every thread when it returns.
    pub fn open(&self, new: NewSession, now_ms: u64) -> Result<Slot, OpenError> {
        let (key, reply) = (PackedKey::new(&new.key), PackedKey::new(&new.reply));
        // Look first: a taken port is the common failure and should cost next to nothing.
        if self.target(&reply, Wait::No)?.is_some() {
            return Err(OpenError::ReplyTaken);
        }
        let old = self.target(&key, Wait::No)?.map(Target::slot);
        let mut stamp = new.stamp;
        if let Some(old) = old {
            if self.record(old).live().is_none() {
                // Its entry is about to go.
                self.finish_free(old, Wait::No);
                return Err(self.contended());
            }
            if new.replaces != Some(old) {
                return Err(OpenError::Exists(old));
            }
            stamp = stamp.max(self.record(old).get(word::STAMP).saturating_add(1));
        }
        let half_open = !new.flags.established();
        let class = self.classes.place(&reply);
        if half_open {
            self.reserve_half_open(class)?;
        }
        let slot = self.slab.take().or_else(|| {
            self.slab.reclaim(RECLAIM_IN_OPEN);
            self.slab.take()
        });
        let Some(slot) = slot else {
            if half_open {
                self.release_half_open(class);
            }
            count(&self.counts.full);
            return Err(OpenError::Full);
        };
        let now = now_ms + TIME_BASE_MS;
        let version = self.write_new(slot, &new, (&key, &reply), stamp, now);
        self.index(slot, version, old, Wait::No)?;
        count(&self.counts.opened);
        Ok(slot)
    }

    pub(super) fn contended(&self) -> OpenError {
        count(&self.counts.contended);
        OpenError::Contended
    }

    pub(super) fn reserve_half_open(&self, class: usize) -> Result<(), OpenError> {
        let add = |n: u32| (n < self.max_half_open).then(|| n + 1);
        if self.counts.half_open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_err() {
            count(&self.counts.half_open_full);
            return Err(OpenError::HalfOpenFull);
        }
        if !self.classes.begin_half_open(class, CLASS_HALF_OPEN) {
            self.counts.half_open.fetch_sub(1, Ordering::Relaxed);
            count(&self.counts.class_full);
            return Err(OpenError::ClassFull);
        }
        Ok(())
    }

    pub(super) fn release_half_open(&self, class: usize) {
        self.counts.half_open.fetch_sub(1, Ordering::Relaxed);
        self.classes.end_half_open(class);
    }

    pub(super) fn write_new(
        &self,
        slot: Slot,
        new: &NewSession,
        (key, reply): (&PackedKey, &PackedKey),
        stamp: u64,
        now: u64,
    ) -> u64 {
        let record = self.record(slot);
        let (after, never) = pack_replicate_after(new.replicate_after);
        record.begin();
        record.put_keys(key, reply, new.mode, new.bucket);
        record.put(word::TARGET, pack(new.listener.0, new.backend.0));
        record.put_incarnation(&Incarnation {
            stamp,
            creator: self.me,
            counter: self.next_counter.fetch_add(1, Ordering::Relaxed),
            isn: new.isn,
        });
        record.put(word::CREATED, now);
        record.put(word::TIMES, pack(new.idle_timeout_ms, after));
        record.put(word::DELTAS, pack(new.isn_delta, new.timestamp_delta));
        record.put(word::OWNER, pack(self.me.0, 0));
        record.put(word::CLIENT + half::LOCAL, now);
        record.put(word::CLIENT + half::LOCAL_NUMBERS, pack(new.seq_end, new.ack));
        record.put(word::CLIENT + half::REMOTE, 0);
        record.put(word::BACKEND + half::LOCAL, 0);
        record.put(word::BACKEND + half::REMOTE, 0);
        record.put(word::SAID, 0);
        record.put(word::REFRESHED, now);
        record.put(word::DUE, 0);
        let mut bits = u64::from(new.flags.0) | state::OWNED;
        if !new.flags.established() {
            bits |= state::HALF_OPEN;
        }
        if never {
            bits |= state::NEVER;
        }
        self.put_state(record, bits);
        record.publish()
    }

    /// Writes the first state word of a record and counts it. (The half-open pool was asked before.)
    pub(super) fn put_state(&self, record: Record<'_>, bits: u64) {
        let bits = derive(bits);
        record.put(word::STATE, bits);
        if bits & state::UNREPLICATED != 0 {
            self.counts.unreplicated.fetch_add(1, Ordering::Relaxed);
        }
        self.counts.sessions.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes a published record found by both keys, by the client's in place of `old`; takes it back if
    /// one of them is taken.
    pub(super) fn index(
        &self,
        slot: Slot,
        version: u64,
        old: Option<Slot>,
        wait: Wait,
    ) -> Result<(), OpenError> {
        if let Err(error) = self.check_published(slot, wait) {
            self.free(slot, version, wait);
            return Err(error);
        }
        let link = |side| {
            let taken = self.l2.insert(&self.slab, Target::new(slot, side), wait);
            taken.map_err(|Busy| self.contended())
        };
        // Counted before the entry is there, since whoever removes the entry discounts it.
        let class = self.classes.place(&self.record(slot).key(Side::Backend));
        self.classes.occupy(class);
        let backend = link(Side::Backend).and_then(|taken| match taken {
            Some(_) => Err(OpenError::ReplyTaken),
            None => Ok(()),
        });
        if backend.is_err() {
            self.classes.release(class);
        }
        let outcome = backend.and_then(|()| match old {
            Some(old) => self.displace(old, slot, wait),
            None => match link(Side::Client)? {
                Some(other) => Err(OpenError::Exists(other.slot())),
                None => Ok(()),
            },
        });
        let ended_by_another = match outcome {
            Ok(()) => self.record(slot).live() != Some(version),
            Err(_) => !self.free(slot, version, wait),
        };
        if !ended_by_another {
            return outcome;
        }
        // Somebody with a better claim to the reply key, or a removal, was quicker than our entries,
        // and may have looked for them before they were there. They must not stay, so this waits even
        // for a worker (it takes two directors, one port and a few nanoseconds to get here, or an
        // operator and as little).
        for side in [Side::Client, Side::Backend] {
            let _ = self.unlink(slot, side, Wait::Yes);
        }
        outcome.and_then(|()| Err(self.contended()))
    }

    /// Takes the client key from the session that is replaced: as the last step, and in one, so that a
    /// new session that fails leaves the old one where the next try finds it, and its stamp.
    fn displace(&self, old: Slot, new: Slot, wait: Wait) -> Result<(), OpenError> {
        let Some(version) = self.record(old).live() else { return Err(self.contended()) };
        let (from, to) = (Target::new(old, Side::Client), Target::new(new, Side::Client));
        match self.l2.replace(&self.slab, from, to, wait) {
            Ok(true) => {
                self.give_way(old, version, wait);
                Ok(())
            }
            Ok(false) | Err(Busy) => Err(self.contended()),
        }
    }

    /// Where a key leads; counts when that cannot be told now.
    pub(super) fn target(&self, key: &PackedKey, wait: Wait) -> Result<Option<Target>, OpenError> {
        self.l2.get(&self.slab, key, wait).map_err(|Busy| self.contended())
    }
}
