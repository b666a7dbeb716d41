//! Records of the store that found no place in the table: kept aside, so that a miss finds them, and
//! offered to the table again. What is more than can be kept makes the table *incomplete*: it says of
//! no key any more that nobody has it, until the store has told that shard anew.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ahash::RandomState;
use holdfast_schema::bucket::ShardId;
use holdfast_schema::session::{Incarnation, Known, SessionRecord, SessionUpdate};
use parking_lot::{Mutex, MutexGuard};

use super::key::PackedKey;

/// Most records kept aside, however large the table is.
const MOST: u32 = 65_536;

/// A record that is kept aside.
struct Aside {
    record: SessionRecord,
    /// Table time from which its ages count.
    told: u64,
    /// Another session has its reply key. Whoever got this record could not use it.
    reply_taken: bool,
}

impl Aside {
    /// The record with ages relative to `now`.
    fn at(&self, now: u64) -> SessionRecord {
        let passed = u32::try_from(now.saturating_sub(self.told)).unwrap_or(u32::MAX);
        let mut record = self.record.clone();
        for age in
            [&mut record.created_age_ms, &mut record.client.age_ms, &mut record.backend_seen.age_ms]
        {
            *age = age.saturating_add(passed);
        }
        record
    }
}

/// The records, by client key; behind the lock of [`Refused`].
#[derive(Default)]
pub(super) struct Records {
    most: usize,
    by_key: BTreeMap<PackedKey, Aside>,
    by_reply: HashMap<PackedKey, PackedKey, RandomState>,
    /// The last one that was offered.
    cursor: Option<PackedKey>,
    /// Shards of which records were forgotten: a bit each.
    forgotten: u64,
    /// Shards that are being told anew.
    telling: u64,
}

impl Records {
    /// Takes a record out, if it is no newer than `incarnation`.
    pub(super) fn remove(&mut self, key: &PackedKey, incarnation: &Incarnation) {
        if self.by_key.get(key).is_some_and(|aside| aside.record.incarnation <= *incarnation)
            && let Some(aside) = self.by_key.remove(key)
        {
            let reply = PackedKey::new(&aside.record.reply);
            if self.by_reply.get(&reply) == Some(key) {
                self.by_reply.remove(&reply);
            }
        }
    }

    /// Takes out what a record of the store takes the place of. False: what is here prevails.
    pub(super) fn replace(&mut self, said: &SessionRecord) -> bool {
        let key = PackedKey::new(&said.key);
        let Some(Aside { record: kept, .. }) = self.by_key.get(&key) else { return true };
        let gone = kept.incarnation;
        let replaced = gone == said.incarnation || said.prevails_over(kept);
        if replaced {
            self.remove(&key, &gone);
        }
        replaced
    }

    /// Takes out the records that `goes` names.
    pub(super) fn forget(&mut self, goes: impl Fn(&SessionRecord) -> bool) {
        let gone: Vec<(PackedKey, Incarnation)> = self
            .by_key
            .iter()
            .filter(|(_, aside)| goes(&aside.record))
            .map(|(key, aside)| (*key, aside.record.incarnation))
            .collect();
        gone.iter().for_each(|(key, incarnation)| self.remove(key, incarnation));
    }

    /// Keeps a record that the table refused.
    pub(super) fn keep(
        &mut self,
        record: &SessionRecord,
        shard: Option<ShardId>,
        told: u64,
        reply_taken: bool,
    ) {
        let key = PackedKey::new(&record.key);
        if !self.replace(record) {
            return;
        }
        if self.by_key.len() >= self.most {
            self.forgotten |= shard.map_or(u64::MAX, bit);
            return;
        }
        self.by_reply.insert(PackedKey::new(&record.reply), key);
        self.by_key.insert(key, Aside { record: record.clone(), told, reply_taken });
    }

    /// The next one to offer; `None` once after the last.
    pub(super) fn next(&mut self, now: u64) -> Option<(PackedKey, SessionRecord)> {
        let from = self.cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.by_key.range((from, Bound::Unbounded)).next();
        let next = next.map(|(key, aside)| (*key, aside.at(now)));
        self.cursor = next.as_ref().map(|(key, _)| *key);
        next
    }

    /// Why it was refused this time.
    pub(super) fn refused_again(&mut self, key: &PackedKey, reply_taken: bool) {
        if let Some(aside) = self.by_key.get_mut(key) {
            aside.reply_taken = reply_taken;
        }
    }
}

fn bit(shard: ShardId) -> u64 {
    1 << (shard.0 % 64)
}

/// What was refused.
pub(super) struct Refused {
    records: Mutex<Records>,
    /// How many there are: nobody takes the lock for none.
    waiting: AtomicUsize,
    /// Shards of which not everything is here or in the table.
    incomplete: AtomicU64,
}

/// The records, locked. What changed is shown to those who look without the lock afterwards.
pub(super) struct Locked<'r> {
    records: MutexGuard<'r, Records>,
    of: &'r Refused,
}

impl std::ops::Deref for Locked<'_> {
    type Target = Records;

    fn deref(&self) -> &Records {
        &self.records
    }
}

impl std::ops::DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Records {
        &mut self.records
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let records = &self.records;
        self.of.waiting.store(records.by_key.len(), Ordering::Release);
        self.of.incomplete.store(records.forgotten | records.telling, Ordering::Release);
    }
}

impl Refused {
    pub(super) fn new(capacity: u32) -> Refused {
        let most = (capacity / 4).clamp(2, MOST) as usize;
        Refused {
            records: Mutex::new(Records { most, ..Records::default() }),
            waiting: AtomicUsize::new(0),
            incomplete: AtomicU64::new(0),
        }
    }

    pub(super) fn lock(&self) -> Locked<'_> {
        Locked { records: self.records.lock(), of: self }
    }

    /// The records, unless there are none.
    pub(super) fn some(&self) -> Option<Locked<'_>> {
        (self.waiting.load(Ordering::Acquire) > 0).then(|| self.lock())
    }

    /// News about a record.
    pub(super) fn update(&self, update: &SessionUpdate, now: u64) {
        let Some(mut records) = self.some() else { return };
        let Some(aside) = records.by_key.get_mut(&PackedKey::new(&update.key)) else { return };
        if aside.record.incarnation != update.incarnation {
            return;
        }
        let mut record = aside.at(now);
        record.flags = record.flags.with(update.flags);
        record.owner = update.new_owner().unwrap_or(record.owner);
        for (kept, seen) in
            [(&mut record.client, &update.client), (&mut record.backend_seen, &update.backend_seen)]
        {
            if let Some(seen) = seen.filter(|seen| seen.age_ms < kept.age_ms) {
                *kept = seen;
            }
        }
        aside.record = record;
        aside.told = now;
    }

    /// A shard is told anew: forgets what `stays` does not name, and what was forgotten of it.
    pub(super) fn begin_telling(&self, shard: ShardId, stays: impl Fn(&SessionRecord) -> bool) {
        let mut records = self.lock();
        records.forgotten &= !bit(shard);
        records.telling |= bit(shard);
        records.forget(|record| !stays(record));
    }

    /// The shard has been told.
    pub(super) fn end_telling(&self, shard: ShardId) {
        self.lock().telling &= !bit(shard);
    }

    /// What is known of a key that the table does not have. To be asked before the table: a record
    /// goes from here to there, never back.
    pub(super) fn find(&self, key: &PackedKey, now: u64) -> Known {
        let incomplete = self.incomplete.load(Ordering::Acquire) != 0;
        if let Some(records) = self.some() {
            let client = records.by_reply.get(key).unwrap_or(key);
            if let Some(aside) = records.by_key.get(client) {
                return match aside.reply_taken {
                    true => Known::Unsure,
                    false => Known::Session(Box::new(aside.at(now))),
                };
            }
        }
        if incomplete { Known::Unsure } else { Known::Nobody }
    }

    /// How many there are.
    #[cfg(feature = "simulation")]
    pub(super) fn len(&self) -> usize {
        self.lock().by_key.len()
    }

    /// Whether records were forgotten, and most of those that were kept have found a place.
    pub(super) fn wants_all(&self) -> bool {
        let records = self.lock();
        records.forgotten != 0 && records.by_key.len() * 2 < records.most
    }
}
