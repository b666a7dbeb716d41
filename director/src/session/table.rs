//! The table of all sessions this director knows: the slab, and L2 over it.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};

use ahash::RandomState;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use dashmap::try_result::TryResult;
use holdfast_schema::bucket::{BUCKETS, Bucket, BucketKey, ShardId, ShardTable};
use holdfast_schema::cluster::{BackendId, DirectorId, ListenerId};
use holdfast_schema::config::ReplicateAfter;
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::{
    ForwardingMode, Incarnation, SessionFlags, SessionRecord, TIME_WAIT_LINGER_MS,
};
use parking_lot::Mutex;

use super::classes::ClassCounts;
use super::key::PackedKey;
use super::quiescence::WorkerHandle;
use super::record::{
    Record, Session, TIME_BASE_MS, half, high, pack, pack_replicate_after, state, word,
};
use super::slab::Slab;
use super::stats::{Counts, PassCounts, TableStats, count};
use super::{Side, Slot};

/// Ports of a class, 1024 to 65535 in steps of 64.
pub const CLASS_PORTS: u32 = (65_536 - 1_024) / BUCKETS as u32;

/// How many half-open sessions a class may have: a quarter of its ports.
const CLASS_HALF_OPEN: u32 = CLASS_PORTS / 4;

/// How many freed slots a worker moves at most when it finds the free list empty.
const RECLAIM_IN_OPEN: usize = 64;

/// A shard that is not known yet.
const NO_SHARD: u16 = u16::MAX;

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
    /// Another thread was writing near one of the keys: again next batch.
    #[error("another thread was writing near one of the keys")]
    Contended,
}

/// Where an L2 entry leads: the slot, and in the top bit the side.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Target(u32);

impl Target {
    pub(super) fn new(slot: Slot, side: Side) -> Target {
        Target(slot.0 | if side == Side::Backend { 1 << 31 } else { 0 })
    }

    pub(super) fn slot(self) -> Slot {
        Slot(self.0 & !(1 << 31))
    }

    pub(super) fn side(self) -> Side {
        if self.0 >> 31 == 0 { Side::Client } else { Side::Backend }
    }
}

/// All sessions this director created or replicates.
pub struct SessionTable {
    pub(super) slab: Slab,
    pub(super) l2: DashMap<PackedKey, Target, RandomState>,
    pub(super) classes: ClassCounts,
    pub(super) counts: Counts,
    pub(super) pass: Mutex<PassCounts>,
    pub(super) me: DirectorId,
    max_half_open: u32,
    next_counter: AtomicU64,
    now: AtomicU64,
    shards: Vec<AtomicU16>,
    bucket_key: OnceLock<BucketKey>,
}

/// Shards and room for each, so that L2 never grows. (It would when a shard is more than half full
/// and erased entries use up the rest, hence twice the room; a shard gets its mean share plus six
/// standard deviations.)
fn l2_size(max_sessions: u32) -> (usize, usize) {
    let keys = max_sessions as usize * 2;
    let shards = (keys / 1024).next_power_of_two().clamp(16, 512);
    let mean = keys / shards + 1;
    let most = mean + 6 * (mean as f64).sqrt().ceil() as usize + 16;
    (shards, shards * most * 2)
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
        let max_sessions = max_sessions.clamp(1, i32::MAX as u32);
        let hasher = RandomState::new();
        let (shards, room) = l2_size(max_sessions);
        SessionTable {
            slab: Slab::new(max_sessions),
            l2: DashMap::with_capacity_and_hasher_and_shard_amount(room, hasher.clone(), shards),
            classes: ClassCounts::new(hasher),
            counts: Counts::default(),
            pass: Mutex::default(),
            me,
            max_half_open,
            next_counter: AtomicU64::new(incarnation << 32),
            now: AtomicU64::new(TIME_BASE_MS),
            shards: (0..BUCKETS).map(|_| AtomicU16::new(NO_SHARD)).collect(),
            bucket_key: OnceLock::new(),
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
        match self.l2.try_get(&PackedKey::new(key)) {
            TryResult::Present(target) => Lookup::Found(target.slot(), target.side()),
            TryResult::Absent => Lookup::Absent,
            TryResult::Locked => {
                count(&self.counts.contended);
                Lookup::Contended
            }
        }
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

    /// Begins a session. Both directions can be looked up by every thread when it returns.
    pub fn open(&self, new: NewSession, now_ms: u64) -> Result<Slot, OpenError> {
        let (key, reply) = (PackedKey::new(&new.key), PackedKey::new(&new.reply));
        // Look first: a taken port is the common failure and should cost next to nothing.
        match self.l2.try_get(&reply) {
            TryResult::Absent => {}
            TryResult::Present(_) => return Err(OpenError::ReplyTaken),
            TryResult::Locked => return Err(self.contended()),
        }
        let old = match self.l2.try_get(&key) {
            TryResult::Absent => None,
            TryResult::Present(old) => Some(old.slot()),
            TryResult::Locked => return Err(self.contended()),
        };
        let mut stamp = new.stamp;
        if let Some(old) = old {
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
        let Some(slot) = self.slab.take().or_else(|| {
            self.slab.reclaim(RECLAIM_IN_OPEN);
            self.slab.take()
        }) else {
            if half_open {
                self.release_half_open(class);
            }
            count(&self.counts.full);
            return Err(OpenError::Full);
        };
        if let Some(old) = old
            && let Some(version) = self.record(old).live()
        {
            self.supersede(old, version);
        }
        let now = now_ms + TIME_BASE_MS;
        self.write_new(slot, &new, (&key, &reply), stamp, now);
        let wait = Wait::No;
        match self.index(slot, &key, &reply, wait) {
            Ok(()) => {
                count(&self.counts.opened);
                Ok(slot)
            }
            Err(error) => Err(error),
        }
    }

    fn contended(&self) -> OpenError {
        count(&self.counts.contended);
        OpenError::Contended
    }

    fn reserve_half_open(&self, class: usize) -> Result<(), OpenError> {
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

    fn release_half_open(&self, class: usize) {
        self.counts.half_open.fetch_sub(1, Ordering::Relaxed);
        self.classes.end_half_open(class);
    }

    fn write_new(
        &self,
        slot: Slot,
        new: &NewSession,
        (key, reply): (&PackedKey, &PackedKey),
        stamp: u64,
        now: u64,
    ) {
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
        record.publish();
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

    /// Makes a published record found by both keys; takes it back if one of them is taken.
    pub(super) fn index(
        &self,
        slot: Slot,
        key: &PackedKey,
        reply: &PackedKey,
        wait: Wait,
    ) -> Result<(), OpenError> {
        let outcome = match self.entry(*reply, wait) {
            None => Err(self.contended()),
            Some(Entry::Occupied(_)) => Err(OpenError::ReplyTaken),
            Some(Entry::Vacant(vacant)) => {
                self.classes.occupy(self.classes.place(reply));
                vacant.insert(Target::new(slot, Side::Backend));
                Ok(())
            }
        };
        let outcome = outcome.and_then(|()| match self.entry(*key, wait) {
            None => Err(self.contended()),
            Some(Entry::Occupied(other)) => Err(OpenError::Exists(other.get().slot())),
            Some(Entry::Vacant(vacant)) => {
                vacant.insert(Target::new(slot, Side::Client));
                Ok(())
            }
        });
        if outcome.is_err()
            && let Some(version) = self.record(slot).live()
        {
            self.free(slot, version);
        }
        outcome
    }

    fn entry(&self, key: PackedKey, wait: Wait) -> Option<Entry<'_, PackedKey, Target>> {
        match wait {
            Wait::Yes => Some(self.l2.entry(key)),
            Wait::No => self.l2.try_entry(key),
        }
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
    /// waits for quiescence. False if another thread was first.
    pub(super) fn free(&self, slot: Slot, version: u64) -> bool {
        let record = self.record(slot);
        if !record.end(version) {
            return false;
        }
        self.change(record, |bits| bits | state::DEAD);
        self.unlink(slot, Side::Client);
        self.unlink(slot, Side::Backend);
        self.counts.sessions.fetch_sub(1, Ordering::Relaxed);
        count(&self.counts.freed);
        self.slab.retire(slot);
        true
    }

    fn unlink(&self, slot: Slot, side: Side) {
        let key = self.record(slot).key(side);
        let target = Target::new(slot, side);
        let removed = self.l2.remove_if(&key, |_, found| *found == target).is_some();
        if removed && side == Side::Backend {
            self.classes.release(self.classes.place(&key));
        }
    }

    /// A newer session takes this one's client key. Its port rests if the backend's TIME_WAIT needs it.
    pub(super) fn supersede(&self, slot: Slot, version: u64) {
        let record = self.record(slot);
        let flags = record.flags();
        count(&self.counts.superseded);
        if flags.closing()
            && flags.idle_limit_ms(high(record.get(word::TIMES))) == TIME_WAIT_LINGER_MS
        {
            self.change(record, |bits| bits | state::DETACHED);
            self.unlink(slot, Side::Client);
            self.look_soon(record);
        } else {
            self.free(slot, version);
        }
    }

    /// Ends a session at once (removal with prejudice). False if `key` is not its client key any more.
    pub fn remove(&self, slot: Slot, key: &FlowKey) -> bool {
        let record = self.record(slot);
        let Some(version) = record.live() else { return false };
        self.matches(slot, Side::Client, &PackedKey::new(key)) && self.free(slot, version)
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
        TableStats {
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
            superseded: get(&counts.superseded),
            vetoed: get(&counts.vetoed),
            adopted: get(&counts.adopted),
        }
    }

    /// Sessions now.
    pub fn sessions(&self) -> u32 {
        self.counts.sessions.load(Ordering::Relaxed)
    }

    /// How many sessions a flush has to wait for now: neither acknowledged, nor closing, nor *never*.
    pub fn unreplicated(&self) -> u64 {
        u64::try_from(self.counts.unreplicated.load(Ordering::Relaxed)).unwrap_or(0)
    }
}

/// Whether a thread may wait for another one's short write to L2. Workers may not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Yes,
    No,
}

/// The bits of a state word that follow from the others.
fn derive(bits: u64) -> u64 {
    let flags = SessionFlags((bits & state::FLAGS) as u16);
    let settled = state::NEVER | state::ACKED | state::DETACHED | state::DEAD;
    let mut bits = bits & !state::UNREPLICATED;
    if bits & settled == 0 && !flags.closing() {
        bits |= state::UNREPLICATED;
    }
    if flags.established() || bits & state::DEAD != 0 {
        bits &= !state::HALF_OPEN;
    }
    bits
}
