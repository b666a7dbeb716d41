//! What the store says of sessions.
//!
//! Its calls come from its apply threads (one at a time per shard) and its network tasks. They are guests of
//! the quiescence protocol while they touch records.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use ahash::RandomState;
use holdfast_schema::bucket::ShardId;
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::{Incarnation, Known, SessionRecord, SessionSink, SessionUpdate};

use super::accept::Source;
use super::index::Wait;
use super::key::PackedKey;
use super::open::OpenError;
use super::record::{Record, age, half, high, state, word};
use super::table::SessionTable;
use super::{Side, Slot};

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
            if let Some(owner) = update.new_owner().filter(|owner| *owner != record.owner()) {
                let generation = record.get(word::OWNER) as u32;
                self.set_owner(record, owner, generation.wrapping_add(1));
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

impl SessionTable {
    /// Whether what the store says of one use of a key concerns the session that is here. (A simulation
    /// proves that it notices what comes of it otherwise.)
    pub(super) fn concerns(&self, said: &Incarnation, record: Record<'_>) -> bool {
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
