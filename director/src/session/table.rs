//! The table of all sessions this director knows: the slab, and L2 over it.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use ahash::RandomState;
use holdfast_schema::bucket::{BUCKETS, Bucket, BucketKey, ShardId, ShardTable};
use holdfast_schema::cluster::DirectorId;
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::{ForwardingMode, SessionFlags, SessionRecord, TIME_WAIT_LINGER_MS};
use parking_lot::{Mutex, RwLock};

use super::classes::ClassCounts;
use super::handle::Session;
use super::heard::Heard;
use super::index::{Busy, Index, Target, Wait};
use super::key::PackedKey;
use super::open::CLASS_HALF_OPEN;
use super::quiescence::WorkerHandle;
use super::record::{Record, TIME_BASE_MS, high, pack, state, word};
use super::refused::Refused;
use super::slab::Slab;
use super::stats::{Counts, PassCounts, TableStats, count};
use super::sync::fence;
use super::twin::Twins;
use super::{Side, Slot};
use crate::tables::Configured;

/// Ports of a class, 1024 to 65535 in steps of 64.
pub const CLASS_PORTS: u32 = (65_536 - 1_024) / BUCKETS as u32;

/// A shard that is not known yet.
const NO_SHARD: u16 = u16::MAX;

/// What L2 says about a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// It belongs to this session, in this direction.
    Found(Slot, Side),
    /// It belongs to none.
    Absent,
    /// Another thread was writing near it: again next batch.
    Contended,
}

/// All sessions this director created or replicates.
pub struct SessionTable {
    pub(super) slab: Slab,
    pub(super) l2: Index,
    pub(super) classes: ClassCounts,
    pub(super) counts: Counts,
    pub(super) refused: Refused,
    pub(super) twins: Twins,
    pub(super) heard: Heard,
    pub(super) configured: RwLock<Arc<Configured>>,
    pub(super) pass: Mutex<PassCounts>,
    pub(super) me: DirectorId,
    pub(super) max_half_open: u32,
    pub(super) next_counter: AtomicU64,
    now: AtomicU64,
    shards: Vec<AtomicU16>,
    bucket_key: OnceLock<BucketKey>,
    #[cfg(feature = "simulation")]
    pub(super) without_veto: std::sync::atomic::AtomicBool,
    #[cfg(feature = "simulation")]
    pub(super) without_incarnations: std::sync::atomic::AtomicBool,
    #[cfg(feature = "simulation")]
    pub(super) without_twins: std::sync::atomic::AtomicBool,
}

impl SessionTable {
    /// A table for `max_sessions` sessions (at most 2^31 - 1), `max_half_open` of them half-open.
    /// `incarnation` is this director's count of starts. Allocates everything it will ever need.
    pub fn new(
        max_sessions: u32,
        max_half_open: u32,
        me: DirectorId,
        incarnation: u64,
    ) -> SessionTable {
        let hashers = [RandomState::new(), RandomState::new()];
        SessionTable::hashed(max_sessions, max_half_open, me, incarnation, hashers)
    }

    /// The same with hashes that a seed decides: what they do to each other repeats.
    #[cfg(any(feature = "simulation", all(test, feature = "loom")))]
    pub fn seeded(
        max_sessions: u32,
        max_half_open: u32,
        me: DirectorId,
        incarnation: u64,
        seed: u64,
    ) -> SessionTable {
        let hashers = [1, 2].map(|n| RandomState::with_seeds(seed, n, n, n));
        SessionTable::hashed(max_sessions, max_half_open, me, incarnation, hashers)
    }

    fn hashed(
        max_sessions: u32,
        max_half_open: u32,
        me: DirectorId,
        incarnation: u64,
        [hasher, heard]: [RandomState; 2],
    ) -> SessionTable {
        let max_sessions = max_sessions.clamp(1, i32::MAX as u32);
        let slab = Slab::new(max_sessions);
        slab.warm();
        SessionTable {
            slab,
            l2: Index::new(max_sessions, hasher.clone()),
            classes: ClassCounts::new(hasher),
            counts: Counts::default(),
            refused: Refused::new(max_sessions),
            twins: Twins::new(),
            heard: Heard::new(heard),
            configured: RwLock::default(),
            pass: Mutex::default(),
            me,
            max_half_open,
            next_counter: AtomicU64::new(incarnation << 32),
            now: AtomicU64::new(TIME_BASE_MS),
            shards: (0..BUCKETS).map(|_| AtomicU16::new(NO_SHARD)).collect(),
            bucket_key: OnceLock::new(),
            #[cfg(feature = "simulation")]
            without_veto: std::sync::atomic::AtomicBool::new(false),
            #[cfg(feature = "simulation")]
            without_incarnations: std::sync::atomic::AtomicBool::new(false),
            #[cfg(feature = "simulation")]
            without_twins: std::sync::atomic::AtomicBool::new(false),
        }
    }

    /// This director.
    pub fn me(&self) -> DirectorId {
        self.me
    }

    /// Makes the calling thread's slots safe to hold between its quiescent points.
    pub fn register_worker(self: &Arc<Self>) -> WorkerHandle {
        self.slab.epochs.register()
    }

    /// Tells the table what time it is, for the store's calls. Called by workers once a batch.
    #[inline]
    pub fn tick(&self, now_ms: u64) {
        let now = now_ms + TIME_BASE_MS;
        if self.now.load(Ordering::Relaxed) < now {
            self.now.store(now, Ordering::Relaxed);
        }
    }

    /// The latest time the table was told, as table time.
    pub(super) fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// Tells the table which shard each bucket belongs to. (Both are fixed at `cluster init`; the
    /// sweep passes them on from its forwarding tables.)
    pub fn set_cluster(&self, key: &BucketKey, table: &ShardTable) {
        if self.bucket_key.set(*key).is_ok() {
            for (bucket, shard) in Bucket::all().zip(&self.shards) {
                shard.store(table.shard(bucket).0, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn shard_of(&self, bucket: Bucket) -> Option<ShardId> {
        let shard = self.shards.get(bucket.index())?.load(Ordering::Relaxed);
        (shard != NO_SHARD).then_some(ShardId(shard))
    }

    pub(super) fn bucket_of(&self, record: &SessionRecord) -> Bucket {
        match (record.mode, self.bucket_key.get()) {
            (ForwardingMode::FullNat, _) | (_, None) => {
                Bucket::of_local_port(record.reply.dst_port)
            }
            (_, Some(key)) => record.bucket(key),
        }
    }

    /// Which session a packet with this key belongs to. Never waits.
    pub fn lookup(&self, key: &FlowKey) -> Lookup {
        let key = PackedKey::new(key);
        let target = match self.l2.get(&self.slab, &key, Wait::No) {
            Ok(None) => return Lookup::Absent,
            Ok(Some(target)) => Some(target),
            Err(Busy) => None,
        };
        if let Some(target) = target {
            if self.matches(target.slot(), target.side(), &key) {
                return Lookup::Found(target.slot(), target.side());
            }
            // An entry whose session is just being freed is about to go: next batch it is gone.
            self.finish_free(target.slot(), Wait::No);
        }
        count(&self.counts.contended);
        Lookup::Contended
    }

    /// The session in a slot. Always safe to call; only meaningful for a slot the calling thread
    /// looked up (or compared) since its last quiescent point.
    #[inline]
    pub fn session(&self, slot: Slot) -> Session<'_> {
        Session { table: self, record: self.slab.record(slot), slot }
    }

    /// The session in a slot if it is live and `key` is its key of that side: makes a slot kept since
    /// before the last quiescent point usable again.
    #[inline]
    pub fn verify(&self, slot: Slot, side: Side, key: &FlowKey) -> Option<Session<'_>> {
        self.matches(slot, side, &PackedKey::new(key)).then(|| self.session(slot))
    }

    #[inline]
    pub(super) fn record(&self, slot: Slot) -> Record<'_> {
        self.slab.record(slot)
    }

    #[inline]
    pub(super) fn matches(&self, slot: Slot, side: Side, key: &PackedKey) -> bool {
        let record = self.slab.record(slot);
        let Some(version) = record.live() else { return false };
        // A detached session's client key belongs to its successor.
        let detached = side == Side::Client && record.get(word::STATE) & state::DETACHED != 0;
        !detached && record.key(side) == *key && record.still(version)
    }

    /// Changes a record's state word and keeps the counts that depend on it.
    pub(super) fn change(&self, record: Record<'_>, change: impl Fn(u64) -> u64) -> u64 {
        let cell = &record.0[word::STATE];
        let mut old = cell.load(Ordering::Relaxed);
        let new = loop {
            let new = derive(change(old));
            match cell.compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break new,
                Err(seen) => old = seen,
            }
        };
        match (old & state::UNREPLICATED != 0, new & state::UNREPLICATED != 0) {
            (false, true) => drop(self.counts.unreplicated.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.counts.unreplicated.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        if old & !new & state::HALF_OPEN != 0 {
            self.release_half_open(self.classes.place(&record.key(Side::Backend)));
        }
        new
    }

    /// Makes the sweep look at a record when it comes by.
    pub(super) fn look_soon(&self, record: Record<'_>) {
        // With the fence in the sweep: either it sees the changed state, or this zero comes last.
        fence(Ordering::SeqCst);
        record.put(word::DUE, 0);
    }

    pub(super) fn set_owner(&self, record: Record<'_>, owner: DirectorId, generation: u32) {
        record.put(word::OWNER, pack(owner.0, generation));
        let mine = owner == self.me;
        if mine != (record.get(word::STATE) & state::OWNED != 0) {
            let owned = if mine { state::OWNED } else { 0 };
            self.change(record, |bits| bits & !state::OWNED | owned);
        }
    }

    /// Ends the session that `version` names: its keys lead nowhere, its local port is free, its slot
    /// waits for quiescence. (If the caller may not wait for the index, whoever meets the session next
    /// finishes that, at the latest the sweep.) False if another thread was first.
    pub(super) fn free(&self, slot: Slot, version: u64, wait: Wait) -> bool {
        let record = self.record(slot);
        if !record.end(version) {
            return false;
        }
        self.change(record, |bits| bits | state::DEAD);
        self.counts.sessions.fetch_sub(1, Ordering::Relaxed);
        count(&self.counts.freed);
        self.unlink_and_retire(slot, wait);
        true
    }

    /// Finishes what `free` had to leave undone, if that is so: whoever meets it first, and for good if
    /// it may wait.
    pub(super) fn finish_free(&self, slot: Slot, wait: Wait) {
        let record = self.record(slot);
        let cell = &record.0[word::STATE];
        let left = |bits: u64| bits & state::LINKED != 0;
        if record.live().is_some()
            || !left(cell.load(Ordering::Relaxed))
            || !left(cell.fetch_and(!state::LINKED, Ordering::AcqRel))
        {
            return;
        }
        self.unlink_and_retire(slot, wait);
    }

    /// Removes the entries of a session that was ended, and its slot waits for quiescence. Only one
    /// thread at a time is here: who ended it, and then who took back `LINKED`.
    fn unlink_and_retire(&self, slot: Slot, wait: Wait) {
        let client = self.unlink(slot, Side::Client, wait);
        let backend = self.unlink(slot, Side::Backend, wait);
        if client.and(backend).is_ok() {
            self.slab.retire(slot);
        } else {
            count(&self.counts.contended);
            self.change(self.record(slot), |bits| bits | state::LINKED);
        }
    }

    /// Removes the L2 entry of one side; tells whether it was there.
    pub(super) fn unlink(&self, slot: Slot, side: Side, wait: Wait) -> Result<bool, Busy> {
        let removed = self.l2.remove(&self.slab, Target::new(slot, side), wait)?;
        if removed && side == Side::Backend {
            self.classes.release(self.classes.place(&self.record(slot).key(side)));
        }
        Ok(removed)
    }

    /// A newer session takes this one's client key. Its port rests if the backend's TIME_WAIT needs it.
    pub(super) fn supersede(&self, slot: Slot, version: u64, wait: Wait) -> Result<(), Busy> {
        // Otherwise another thread was first.
        if self.unlink(slot, Side::Client, wait)? {
            self.give_way(slot, version, wait);
        }
        Ok(())
    }

    /// What becomes of a session that has lost its client key to a newer one.
    pub(super) fn give_way(&self, slot: Slot, version: u64, wait: Wait) {
        let record = self.record(slot);
        count(&self.counts.superseded);
        let flags = record.flags();
        let limit_ms = flags.idle_limit_ms(high(record.get(word::TIMES)));
        if flags.closing() && limit_ms == TIME_WAIT_LINGER_MS {
            self.change(record, |bits| bits | state::DETACHED);
            self.look_soon(record);
        } else {
            self.free(slot, version, wait);
        }
    }

    /// Moves freed slots back into use, as far as all workers have been quiescent.
    pub fn reclaim(&self, budget: usize) -> usize {
        self.slab.reclaim(budget)
    }

    /// Every session, as it is told to others, and whether the store is known to have it. For
    /// operators; runs beside everything else and skips what changes under it.
    pub fn for_each(&self, now_ms: u64, mut visit: impl FnMut(&SessionRecord, bool)) {
        for index in 0..self.slab.high_water() {
            let record = self.record(Slot(index));
            let Some(version) = record.live() else { continue };
            let description = record.describe(now_ms + TIME_BASE_MS);
            let bits = record.get(word::STATE);
            if record.still(version) && bits & state::DETACHED == 0 {
                visit(&description, bits & state::ACKED != 0);
            }
        }
    }

    /// How many ports of the class of this reply key are in use.
    pub fn class_used(&self, reply: &FlowKey) -> u32 {
        self.classes.used(self.classes.place(&PackedKey::new(reply)))
    }

    /// The state of the table.
    pub fn stats(&self) -> TableStats {
        let counts = &self.counts;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (twins_adopted, twins_kept) = self.twins.counts();
        TableStats {
            twins_adopted,
            twins_kept,
            capacity: self.slab.capacity(),
            sessions: counts.sessions.load(Ordering::Relaxed),
            high_water: self.slab.high_water(),
            max_half_open: self.max_half_open,
            half_open: counts.half_open.load(Ordering::Relaxed),
            unreplicated: self.unreplicated(),
            pass: *self.pass.lock(),
            passes: get(&counts.passes),
            opened: get(&counts.opened),
            received: get(&counts.received),
            freed: get(&counts.freed),
            contended: get(&counts.contended),
            full: get(&counts.full),
            half_open_full: get(&counts.half_open_full),
            class_full: get(&counts.class_full),
            refused: get(&counts.refused),
            removed: get(&counts.removed),
            superseded: get(&counts.superseded),
            vetoed: get(&counts.vetoed),
            expired: get(&counts.expired),
            ends_given_up: get(&counts.ends_given_up),
            ends_unprobed: get(&counts.ends_unprobed),
            adopted: get(&counts.adopted),
        }
    }

    /// Sessions now.
    pub fn sessions(&self) -> u32 {
        self.counts.sessions.load(Ordering::Relaxed)
    }

    /// Whether little room is left: then nothing stays that could go.
    pub(super) fn crowded(&self) -> bool {
        let capacity = self.slab.capacity();
        self.sessions() >= capacity - capacity / 8
    }

    /// Whether a session that waits for something takes room from new ones: little is left in the table,
    /// or half is used of its port class or, if it counts there, of a pool of half-open sessions.
    pub(super) fn is_in_the_way(&self, record: Record<'_>) -> bool {
        let class = self.classes.place(&record.key(Side::Backend));
        let half_open = record.get(word::STATE) & state::HALF_OPEN != 0;
        self.crowded()
            || self.classes.used(class) >= CLASS_PORTS / 2
            || half_open
                && (self.counts.half_open.load(Ordering::Relaxed) >= self.max_half_open / 2
                    || self.classes.half_open(class) >= CLASS_HALF_OPEN / 2)
    }

    /// How many sessions a flush has to wait for now: neither acknowledged, nor closing, nor *never*.
    pub fn unreplicated(&self) -> u64 {
        u64::try_from(self.counts.unreplicated.load(Ordering::Relaxed)).unwrap_or(0)
    }
}

/// The bits of a state word that follow from the others.
pub(super) fn derive(bits: u64) -> u64 {
    let flags = SessionFlags((bits & state::FLAGS) as u16);
    let settled = state::NEVER | state::ACKED | state::DETACHED | state::DEAD | state::EXPIRING;
    let mut bits = bits & !state::UNREPLICATED;
    if bits & settled == 0 && !flags.closing() {
        bits |= state::UNREPLICATED;
    }
    if flags.established() || bits & state::DEAD != 0 {
        bits &= !state::HALF_OPEN;
    }
    bits
}
