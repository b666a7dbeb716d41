//! What other directors say: records of the store, and answers to misses.
//!
//! The store's calls come from its apply threads (one at a time per shard) and its network tasks.
//! They are guests of the quiescence protocol while they touch records.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use ahash::RandomState;
use holdfast_schema::bucket::ShardId;
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::{
    HalfSeen, Incarnation, Known, SessionFlags, SessionRecord, SessionSink, SessionUpdate, prevails,
};

use super::expiring::{ANSWER_MS, is_expiring};
use super::index::{Busy, Target, Wait};
use super::key::PackedKey;
use super::open::OpenError;
use super::record::{DEFAULT_AFTER, Record, TIME_BASE_MS, age, half, high, pack, state, word};
use super::stats::count;
use super::table::SessionTable;
use super::{Side, Slot};

/// How often a worker tries a record against a table that changes under it, before "next batch".
const ATTEMPTS_PEER: usize = 8;

/// How often the store's threads try: what they wait for are a few instructions of another thread,
/// which may have lost its processor, so they yield in between.
const ATTEMPTS_STORE: usize = 100_000;

/// How many records that were refused are offered again at a time.
const OFFERS: usize = 1_024;

/// A session that stands in the way of another, as it was seen under its L2 entry.
struct Holder {
    slot: Slot,
    version: u64,
    incarnation: Incarnation,
    flags: SessionFlags,
}

/// What stands at a key.
enum Standing {
    Nothing,
    /// A session that is being freed; its entry is about to go.
    Ending(Slot),
    Session(Holder),
}

/// Where a record came from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The store applied it.
    Store,
    /// Another director answered a miss with it.
    Peer,
}

impl Source {
    fn wait(self) -> Wait {
        match self {
            Source::Store => Wait::Yes,
            Source::Peer => Wait::No,
        }
    }
}

impl SessionTable {
    /// Runs `visit` on the record that a key leads to. (It may be ending; the caller is a guest, so it
    /// is not another session's.) `Err`: another thread was writing near it (never with `Wait::Yes`).
    pub(super) fn with<T>(
        &self,
        key: &PackedKey,
        wait: Wait,
        visit: impl FnOnce(Record<'_>, Target) -> T,
    ) -> Result<Option<T>, OpenError> {
        let target = self.target(key, wait)?;
        Ok(target.map(|target| visit(self.record(target.slot()), target)))
    }

    fn standing(&self, key: &PackedKey, wait: Wait) -> Result<Standing, OpenError> {
        let found = self.with(key, wait, |record, target| match record.live() {
            None => Standing::Ending(target.slot()),
            Some(version) => Standing::Session(Holder {
                slot: target.slot(),
                version,
                incarnation: record.incarnation(),
                flags: record.flags(),
            }),
        })?;
        Ok(found.unwrap_or(Standing::Nothing))
    }

    /// Puts a session that another director answered a miss with into the table. The slot is valid
    /// until the caller's next quiescent point. `Exists`: this director knows a session under that key
    /// that prevails; `ReplyTaken`: one with a better claim to the reply key; `Removed`: its listener or
    /// backend is not there any more.
    pub fn install(&self, record: &SessionRecord, now_ms: u64) -> Result<Slot, OpenError> {
        self.accept(record, now_ms + TIME_BASE_MS, Source::Peer)
    }

    pub(super) fn accept(
        &self,
        said: &SessionRecord,
        now: u64,
        source: Source,
    ) -> Result<Slot, OpenError> {
        let attempts = match source {
            Source::Store => ATTEMPTS_STORE,
            Source::Peer => ATTEMPTS_PEER,
        };
        let accepted = self.accept_within(attempts, said, now, source);
        if accepted.is_err() {
            count(&self.counts.refused);
        }
        accepted
    }

    fn accept_within(
        &self,
        attempts: usize,
        said: &SessionRecord,
        now: u64,
        source: Source,
    ) -> Result<Slot, OpenError> {
        self.check_configured(said.listener, said.backend, source.wait())?;
        let _guest = self.slab.epochs.guest();
        let keys = (PackedKey::new(&said.key), PackedKey::new(&said.reply));
        for attempt in 0..attempts {
            match self.try_accept(&keys, said, now, source)? {
                Some(slot) => return Ok(slot),
                None if attempt > 2 && source == Source::Store => std::thread::yield_now(),
                None => {}
            }
        }
        Err(OpenError::Contended)
    }

    /// Offers records of the store that were refused to the table again. Not for workers.
    pub(super) fn offer_refused(&self) {
        let now = self.now();
        for _ in 0..OFFERS {
            // Locked all the while: what the store says of this record comes before or after.
            let Some(mut refused) = self.refused.some() else { return };
            let Some((key, said)) = refused.next(now) else { return };
            match self.accept_within(ATTEMPTS_PEER, &said, now, Source::Store) {
                Ok(_) | Err(OpenError::Exists(_) | OpenError::Removed) => {
                    refused.remove(&key, &said.incarnation);
                }
                Err(OpenError::Full) => return,
                Err(error) => refused.refused_again(&key, error == OpenError::ReplyTaken),
            }
        }
    }

    /// Whether the store should tell everything again: there were more records without a place than
    /// could be kept aside, and there is room now.
    pub fn wants_all(&self) -> bool {
        let capacity = self.slab.capacity();
        self.refused.wants_all() && self.sessions() < capacity - capacity / 8
    }

    /// One attempt; `None` when the table changed under it or something had to make way first.
    fn try_accept(
        &self,
        (key, reply): &(PackedKey, PackedKey),
        said: &SessionRecord,
        now: u64,
        source: Source,
    ) -> Result<Option<Slot>, OpenError> {
        if let Some(slot) = self.join(key, said, now, source)? {
            return Ok(Some(slot));
        }
        match self.standing(key, source.wait())? {
            Standing::Nothing => {}
            Standing::Ending(slot) => {
                self.finish_free(slot, source.wait());
                return Ok(None);
            }
            // It came in between, and is to be joined.
            Standing::Session(holder) if holder.incarnation == said.incarnation => return Ok(None),
            Standing::Session(holder) => {
                let kept = (&holder.incarnation, holder.flags);
                // The shard's rule: of two twins of one SYN both have to keep the same.
                if !prevails((&said.incarnation, said.flags), kept) {
                    return Err(OpenError::Exists(holder.slot));
                }
                let superseded = self.supersede(holder.slot, holder.version, source.wait());
                superseded.map_err(|Busy| self.contended())?;
                return Ok(None);
            }
        }
        match self.standing(reply, source.wait())? {
            Standing::Nothing => {}
            Standing::Ending(slot) => {
                self.finish_free(slot, source.wait());
                return Ok(None);
            }
            Standing::Session(holder) if !has_better_claim(said, &holder) => {
                return Err(OpenError::ReplyTaken);
            }
            Standing::Session(holder) => {
                count(&self.counts.superseded);
                self.free(holder.slot, holder.version, source.wait());
                return Ok(None);
            }
        }
        match self.add(key, reply, said, now, source) {
            // Somebody put one of the keys in between: look again who.
            Err(OpenError::Exists(_) | OpenError::ReplyTaken) => Ok(None),
            Err(error) => Err(error),
            Ok(slot) => {
                count(&self.counts.received);
                Ok(Some(slot))
            }
        }
    }

    /// Merges a record into the session of the same identity, if that is here.
    fn join(
        &self,
        key: &PackedKey,
        said: &SessionRecord,
        now: u64,
        source: Source,
    ) -> Result<Option<Slot>, OpenError> {
        let joined = self.with(key, source.wait(), |record, target| {
            if record.live().is_none() || !self.concerns(&said.incarnation, record) {
                return None;
            }
            record.report(word::CLIENT, &said.client, now);
            if backend_was_seen(said) {
                record.report(word::BACKEND, &said.backend_seen, now);
            }
            let mut bits = u64::from(said.flags.0);
            if source == Source::Peer {
                bits |= state::ASKED;
            } else {
                bits |= state::ACKED;
                // Before the flags: the sweep must not take them for news to the store.
                self.stored(record, said.flags);
                if said.generation >= record.get(word::OWNER) as u32 {
                    self.set_owner(record, said.owner, said.generation);
                }
            }
            // What the store has again is alive, whatever this director was about to do.
            let revived = if source == Source::Store { state::ENDING } else { 0 };
            self.change(record, |old| old & !revived | bits);
            self.look_soon(record);
            Some(target.slot())
        })?;
        Ok(joined.flatten())
    }

    /// Notes flags that the store is known to have.
    fn stored(&self, record: Record<'_>, flags: SessionFlags) {
        use std::sync::atomic::Ordering::Relaxed;
        record.0[word::SAID].fetch_or(u64::from(flags.0), Relaxed);
    }

    fn add(
        &self,
        key: &PackedKey,
        reply: &PackedKey,
        said: &SessionRecord,
        now: u64,
        source: Source,
    ) -> Result<Slot, OpenError> {
        // Others' half-open sessions are not in this director's pool; they may not take the room that
        // established ones need.
        if !said.flags.established() && self.crowded() {
            return Err(OpenError::HalfOpenFull);
        }
        let expiring = source == Source::Peer && is_expiring(said);
        if expiring && self.crowded() {
            return Err(OpenError::Full);
        }
        let slot = self.slab.take().or_else(|| {
            self.slab.reclaim(64);
            self.slab.take()
        });
        let slot = slot.ok_or(OpenError::Full)?;
        let record = self.record(slot);
        record.begin();
        record.put_keys(key, reply, said.mode, self.bucket_of(said));
        record.put(word::TARGET, pack(said.listener.0, said.backend.0));
        record.put_incarnation(&said.incarnation);
        record.put(word::CREATED, now.saturating_sub(u64::from(said.created_age_ms)).max(1));
        record.put(word::TIMES, pack(said.idle_timeout_ms, DEFAULT_AFTER));
        record.put(word::DELTAS, pack(said.isn_delta, said.timestamp_delta));
        record.put(word::OWNER, pack(said.owner.0, said.generation));
        for first in [word::CLIENT, word::BACKEND] {
            record.put(first + half::LOCAL, 0);
            record.put(first + half::REMOTE, 0);
        }
        let most = if expiring { said.idle_limit_ms() } else { u32::MAX };
        let seen = |half: &HalfSeen| HalfSeen { age_ms: half.age_ms.min(most), ..*half };
        record.report(word::CLIENT, &seen(&said.client), now);
        if backend_was_seen(said) {
            record.report(word::BACKEND, &seen(&said.backend_seen), now);
        }
        record.put(word::REFRESHED, now);
        record.put(word::DUE, 0);
        let mut bits = u64::from(said.flags.0);
        if expiring {
            count(&self.counts.expired);
            record.put(word::REFRESHED, now.saturating_sub(ANSWER_MS));
            bits |= state::EXPIRING;
        }
        if source == Source::Store {
            bits |= state::ACKED;
            record.put(word::SAID, u64::from(said.flags.0));
        } else {
            bits |= state::ASKED;
            record.put(word::SAID, 0);
        }
        if said.owner == self.me {
            bits |= state::OWNED;
        }
        self.put_state(record, bits);
        let version = record.publish();
        self.index(slot, version, None, source.wait()).map(|()| slot)
    }

    /// Whether what the store says of one use of a key concerns the session that is here. (A simulation
    /// proves that it notices what comes of it otherwise.)
    fn concerns(&self, said: &Incarnation, record: Record<'_>) -> bool {
        #[cfg(feature = "simulation")]
        if self.without_incarnations.load(std::sync::atomic::Ordering::Relaxed) {
            return true;
        }
        record.incarnation() == *said
    }

    /// Takes what the store says of any use of a key for news of the session that is here.
    #[cfg(feature = "simulation")]
    pub fn set_without_incarnations(&self) {
        self.without_incarnations.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Whether this director itself saw a packet within the session's idle limit.
    fn alive_here(&self, record: Record<'_>, now: u64) -> bool {
        if !self.vetoes() {
            return false;
        }
        let limit = record.flags().idle_limit_ms(high(record.get(word::TIMES)));
        let seen = record.seen_here();
        seen != 0 && age(now, seen) < limit
    }

    /// Ends an acknowledged session that the store has not, unless it is alive here. `tell`: its ends
    /// are to be told.
    fn lost(&self, key: &PackedKey, tell: bool, is_lost: impl FnOnce(Record<'_>) -> bool) {
        let _guest = self.slab.epochs.guest();
        let now = self.now();
        let verdict = self.with(key, Wait::Yes, |record, target| {
            let version = record.live()?;
            if !is_lost(record) {
                return None;
            }
            if self.alive_here(record, now) {
                self.keep(record);
                return None;
            }
            if tell && self.begin_expiring(record, now) {
                return None;
            }
            Some((target.slot(), version))
        });
        if let Ok(Some(Some((slot, version)))) = verdict {
            self.free(slot, version, Wait::Yes);
        }
    }
}

/// Whether what a record says of the backend's side is more than its time of creation: others' numbers
/// decide whose packet an ACK of the client is.
fn backend_was_seen(said: &SessionRecord) -> bool {
    said.flags.has(SessionFlags::BACKEND_ANSWERED) || said.flags.closing()
}

/// Whether a record takes a reply key from the session that holds it here. Established beats not
/// established: the latter's SYN has met the former's connection at the backend. Else the newer one.
fn has_better_claim(said: &SessionRecord, holder: &Holder) -> bool {
    let open = |flags: SessionFlags| flags.established() && !flags.closing();
    match (open(said.flags), open(holder.flags)) {
        (true, false) => true,
        (false, true) => false,
        _ => said.incarnation > holder.incarnation,
    }
}

impl SessionSink for SessionTable {
    fn created(&self, record: &SessionRecord) {
        let now = self.now();
        match self.accept(record, now, Source::Store) {
            Ok(_) | Err(OpenError::Exists(_) | OpenError::Removed) => {
                if let Some(mut refused) = self.refused.some() {
                    refused.replace(record);
                }
            }
            Err(error) => {
                let shard = self.shard_of(self.bucket_of(record));
                let mut refused = self.refused.lock();
                // Under the lock under which a removal forgets those that are here.
                let configured = self.check_configured(record.listener, record.backend, Wait::Yes);
                if configured.is_ok() {
                    refused.keep(record, shard, now, error == OpenError::ReplyTaken);
                }
            }
        }
    }

    fn updated(&self, update: &SessionUpdate) {
        let now = self.now();
        self.refused.update(update, now);
        let _guest = self.slab.epochs.guest();
        let _ = self.with(&PackedKey::new(&update.key), Wait::Yes, |record, _| {
            if record.live().is_none() || !self.concerns(&update.incarnation, record) {
                return;
            }
            self.stored(record, update.flags);
            let halves = [(word::CLIENT, &update.client), (word::BACKEND, &update.backend_seen)];
            for (first, seen) in halves {
                // What this director has said itself is no news, but for one that has started again since.
                let own = update.from == self.me && record.get(first + half::LOCAL) != 0;
                if let Some(seen) = seen.as_ref().filter(|_| !own) {
                    record.report(first, seen, now);
                }
            }
            if record.owner() != update.owner {
                let generation = record.get(word::OWNER) as u32;
                self.set_owner(record, update.owner, generation.wrapping_add(1));
                self.change(record, |bits| bits & !state::ADOPTED);
            }
            if !record.flags().has(update.flags) {
                self.change(record, |bits| bits | u64::from(update.flags.0));
                self.look_soon(record);
            }
        });
    }

    fn expired(&self, key: &FlowKey, incarnation: &Incarnation) {
        let key = PackedKey::new(key);
        if let Some(mut refused) = self.refused.some() {
            refused.remove(&key, incarnation);
        }
        self.lost(&key, true, |record| self.concerns(incarnation, record));
    }

    fn installed(&self, shard: ShardId, records: &[SessionRecord]) {
        let mut kept: HashMap<PackedKey, Incarnation, RandomState> =
            HashMap::with_capacity_and_hasher(records.len(), RandomState::new());
        for record in records {
            kept.insert(PackedKey::new(&record.key), record.incarnation);
        }
        self.refused.begin_telling(shard, |refused| {
            self.shard_of(self.bucket_of(refused)) != Some(shard)
                || kept.get(&PackedKey::new(&refused.key)) == Some(&refused.incarnation)
        });
        records.iter().for_each(|record| self.created(record));
        self.refused.end_telling(shard);
        for index in 0..self.slab.high_water() {
            let record = self.record(Slot(index));
            let Some(version) = record.live() else { continue };
            let (bits, bucket) = (record.get(word::STATE), record.bucket());
            let (key, incarnation) = (record.key(Side::Client), record.incarnation());
            // What is read is one session's if the version still stands; `lost` checks it again.
            if !record.still(version)
                || bits & state::ACKED == 0
                || self.shard_of(bucket) != Some(shard)
                || kept.get(&key) == Some(&incarnation)
            {
                continue;
            }
            self.lost(&key, false, |record| {
                record.incarnation() == incarnation && record.get(word::STATE) & state::ACKED != 0
            });
        }
    }

    fn twin(&self, first: &SessionRecord) {
        self.adopt_twin(first);
    }

    fn registered(&self, records: &[SessionRecord]) {
        for record in records {
            self.heard_of(&record.key);
            self.heard_of(&record.reply);
        }
    }

    fn find(&self, key: &FlowKey) -> Known {
        let now = self.now();
        let key = PackedKey::new(key);
        let aside = self.refused.find(&key, now);
        let _guest = self.slab.epochs.guest();
        let found = self.with(&key, Wait::Yes, |record, _| {
            record.live()?;
            // That the key has none would be a lie in any case.
            let told = record.tell(now);
            Some(told.map_or(Known::Unsure, |told| Known::Session(Box::new(told))))
        });
        match found {
            Ok(Some(Some(known))) => known,
            Ok(_) => aside,
            Err(_) => Known::Unsure,
        }
    }
}
