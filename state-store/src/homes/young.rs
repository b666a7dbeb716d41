//! The young sessions of others, in memory, bounded.

use std::collections::{BTreeMap, HashMap, VecDeque};

use holdfast_schema::bucket::{BUCKETS, Bucket};
use holdfast_schema::cluster::DirectorId;
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::{Incarnation, Known, SessionRecord};

use super::saying::REPEAT_MS;

/// How long (ms) a record stays after it was last said. Owners repeat what is still young sooner.
/// One whose owner is gone nobody can repeat: it stays for its idle timeout.
pub const KEPT_MS: u64 = 30_000;

/// What a living owner has not repeated for so long (ms) is over, or replicated: two seconds more than it
/// takes him to come back to it.
const OVER_MS: u64 = REPEAT_MS + 2_000;

/// Half-open sessions have at most this part of the room: a flood of them leaves the rest alone.
const HALF_OPEN_PART: usize = 4;

/// How many that nobody can repeat are passed over in search of one that is over.
const ORPHANS_PASSED: usize = 8;

/// How often (ms) an established session of a director that is gone is handed to its shard, until it is
/// applied.
const HAND_OVER_MS: u64 = 1_000;

/// A director and its life.
pub type Life = (DirectorId, u64);

type Map<V> = HashMap<FlowKey, V, ahash::RandomState>;

/// What a registration came to.
#[derive(Clone, PartialEq, Debug)]
pub enum Registered {
    /// Kept, anew or once more.
    Kept,
    /// Kept in the place of what this director had registered from the same opening of the client. He
    /// adopts it.
    Took(DirectorId),
    /// Another director has registered this connection with a better claim: same key, same opening of
    /// the client. Nothing was changed.
    Twin {
        /// What is kept. Whoever said the other one adopts it, and gives up his own half-open backend side.
        kept: Box<SessionRecord>,
        /// Who has registered it.
        by: DirectorId,
    },
    /// A newer use of the key is kept already; nothing was changed.
    Older,
    /// No room: the youngest gives way, and nobody is younger than the newcomer. This home is unsure
    /// of the bucket for a while.
    Full,
}

/// An established session whose owner is gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Orphan {
    /// The session, with its ages as they are now.
    pub record: SessionRecord,
    /// Whether it was handed over before, and has not been applied since.
    pub again: bool,
}

struct Entry {
    record: SessionRecord,
    bucket: Bucket,
    said_by: Life,
    /// When it was last said; the record's ages were true then.
    said_ms: u64,
    /// When it was last put into the order.
    mention_ms: u64,
    /// Its place among the orphans.
    turn: Option<Turn>,
}

/// When (ms) an orphan is to be handed to its shard, and how many others got a place before it.
type Turn = (u64, u64);

/// Records by both keys. Times are milliseconds of any steady clock.
pub struct Young {
    entries: Map<Entry>,
    /// Client keys by reply key.
    replies: Map<FlowKey>,
    /// When a key was said, oldest first. One that was said again is there more than once; only the
    /// latest mention counts.
    order: VecDeque<(u64, FlowKey)>,
    /// How many are half-open.
    half_open: usize,
    /// When a half-open one was said, oldest first; the latest counts here, too.
    half_open_order: VecDeque<(u64, FlowKey)>,
    /// Established sessions of owners that are gone, each once, by when it is to be handed to its shard
    /// (again).
    orphans: BTreeMap<Turn, FlowKey>,
    /// Places that were given to orphans so far.
    turns: u64,
    capacity: usize,
    /// The members that are not down, and their lives.
    live: BTreeMap<DirectorId, u64>,
    /// Until when a bucket may lack a session that is alive.
    unsure_until_ms: [u64; BUCKETS],
    turned_away: u64,
    evicted: u64,
    handed_over: u64,
}

impl Young {
    /// An empty table for at most `capacity` records.
    pub fn new(capacity: usize) -> Young {
        Young {
            entries: Map::default(),
            replies: Map::default(),
            order: VecDeque::new(),
            half_open: 0,
            half_open_order: VecDeque::new(),
            orphans: BTreeMap::new(),
            turns: 0,
            capacity,
            live: BTreeMap::new(),
            unsure_until_ms: [0; BUCKETS],
            turned_away: 0,
            evicted: 0,
            handed_over: 0,
        }
    }

    /// How many records it holds.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many registrations found no room so far.
    pub fn turned_away(&self) -> u64 {
        self.turned_away
    }

    /// How many records gave way to others so far.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// How many half-open records it holds.
    pub fn half_open(&self) -> usize {
        self.half_open
    }

    /// How many half-open records it holds at most.
    pub fn half_open_capacity(&self) -> usize {
        (self.capacity / HALF_OPEN_PART).max(1)
    }

    /// How many sessions whose owners are gone have not been applied yet.
    pub fn waiting_orphans(&self) -> usize {
        self.orphans.len()
    }

    /// How many sessions were handed to their shards so far, repetitions not counted.
    pub fn handed_over(&self) -> u64 {
        self.handed_over
    }

    /// How many records it holds at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many buckets may lack a session that is alive.
    pub fn unsure_buckets(&self, now_ms: u64) -> usize {
        self.unsure_until_ms.iter().filter(|until| **until > now_ms).count()
    }

    /// Who is alive: can repeat what he has said.
    pub fn set_live(&mut self, live: &BTreeMap<DirectorId, u64>) {
        if self.live == *live {
            return;
        }
        self.live = live.clone();
        // Oldest first; and the map has no order that a run could be repeated by.
        for (_, key) in &self.order {
            if let Some(entry) = self.entries.get_mut(key)
                && entry.turn.is_none()
                && is_orphan(entry, live)
            {
                self.turns += 1;
                let turn = (0, self.turns);
                entry.turn = Some(turn);
                self.orphans.insert(turn, *key);
            }
        }
    }

    /// Sessions that nobody will replicate, because their owners are gone: at most so many that are due to
    /// be handed to their shards, for the first time or again. Whoever has applied one says so
    /// ([`Young::applied`]).
    pub fn orphans(&mut self, now_ms: u64, most: usize) -> Vec<Orphan> {
        let mut due = Vec::new();
        while due.len() < most
            && let Some(next) = self.orphans.first_entry().filter(|next| next.key().0 <= now_ms)
        {
            let ((at_ms, _), key) = next.remove_entry();
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            entry.turn = None;
            if !is_orphan(entry, &self.live) {
                continue;
            }
            let again = at_ms > 0;
            self.handed_over += u64::from(!again);
            due.push(Orphan { record: aged(entry, now_ms), again });
            self.turns += 1;
            let turn = (now_ms.max(1) + HAND_OVER_MS, self.turns);
            entry.turn = Some(turn);
            self.orphans.insert(turn, key);
        }
        due
    }

    /// Whether there are sessions that only homes know, maybe not those that are asked now.
    pub fn has_orphans(&self) -> bool {
        !self.orphans.is_empty()
    }

    /// Everything it holds and who said it, what was not said for longest first.
    #[cfg(feature = "simulation")]
    pub fn records(&mut self, now_ms: u64) -> Vec<(SessionRecord, Life)> {
        self.expire(now_ms);
        let mut seen = std::collections::HashSet::new();
        let mut records = Vec::new();
        for (mention_ms, key) in &self.order {
            let entry = self.entries.get(key).filter(|e| e.mention_ms == *mention_ms);
            if let Some(entry) = entry.filter(|_| seen.insert(*key)) {
                records.push((aged(entry, now_ms), entry.said_by));
            }
        }
        records
    }

    /// Takes a registration of a session of this bucket.
    pub fn register(
        &mut self,
        now_ms: u64,
        bucket: Bucket,
        said_by: Life,
        record: SessionRecord,
    ) -> Registered {
        self.expire(now_ms);
        let key = record.key;
        let (mut loser, mut turn) = (None, None);
        if let Some(kept) = self.entries.get(&key) {
            let (old, new) = (&kept.record.incarnation, &record.incarnation);
            let twin = old != new && old.isn == new.isn && kept.said_by != said_by;
            // Of datagrams that two directors have taken for the first, the flow stays with whoever
            // registered it before: there is no handshake to tell which the client has agreed with.
            let later = twin && !old.is_twin_of(new) && !record.flags.established();
            if old != new && (later || !record.prevails_over(&kept.record)) {
                return match twin {
                    true => {
                        let by = kept.said_by.0;
                        Registered::Twin { kept: Box::new(aged(kept, now_ms)), by }
                    }
                    false => Registered::Older,
                };
            }
            loser = twin.then_some(kept.said_by.0);
            // Whoever is taken for dead and talks says it again and again: it keeps its place.
            turn = kept.turn.filter(|_| old == new);
            self.remove(&key);
        } else if !self.make_room(now_ms, record.flags.established()) {
            self.turned_away += 1;
            self.mark_unsure(now_ms, bucket);
            return Registered::Full;
        }
        // A local port has one session: another one that was said to have it has ended.
        if let Some(ended) = self.replies.get(&record.reply).copied() {
            self.remove(&ended);
        }
        self.replies.insert(record.reply, key);
        let mut entry =
            Entry { record, bucket, said_by, said_ms: now_ms, mention_ms: now_ms, turn: None };
        // It may have died before its last words were heard.
        if is_orphan(&entry, &self.live) && !self.live.is_empty() {
            self.turns += 1;
            let turn = turn.unwrap_or((0, self.turns));
            entry.turn = Some(turn);
            self.orphans.insert(turn, key);
        }
        if !entry.record.flags.established() {
            self.half_open += 1;
            self.half_open_order.push_back((now_ms, key));
        }
        self.entries.insert(key, entry);
        self.mention(now_ms, key);
        loser.map_or(Registered::Kept, Registered::Took)
    }

    /// What this home knows of a packet's key, whichever direction it is of.
    pub fn find(&mut self, now_ms: u64, bucket: Bucket, key: &FlowKey) -> Known {
        self.expire(now_ms);
        let client = self.replies.get(key).unwrap_or(key);
        match self.entries.get(client) {
            Some(entry) => Known::Session(Box::new(aged(entry, now_ms))),
            None if self.unsure_until_ms.get(bucket.index()).is_some_and(|t| *t > now_ms) => {
                Known::Unsure
            }
            None => Known::Nobody,
        }
    }

    /// Forgets what its shard has, and a session of somebody who is gone that would not take its place.
    pub fn replicated(&mut self, record: &SessionRecord) {
        self.applied(&record.key, &record.incarnation);
        let refused = |e: &Entry| e.turn.is_some() && !e.record.prevails_over(record);
        if self.entries.get(&record.key).is_some_and(refused) {
            self.remove(&record.key);
        }
    }

    /// Forgets a session that has found its place elsewhere.
    pub fn applied(&mut self, key: &FlowKey, incarnation: &Incarnation) {
        if self.entries.get(key).is_some_and(|e| e.record.incarnation == *incarnation) {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: &FlowKey) {
        if let Some(gone) = self.entries.remove(key) {
            self.replies.remove(&gone.record.reply);
            if let Some(turn) = gone.turn {
                self.orphans.remove(&turn);
            }
            self.half_open -= usize::from(!gone.record.flags.established());
        }
    }

    /// Whether there is room for a newcomer, or somebody who makes it.
    fn make_room(&mut self, now_ms: u64, established: bool) -> bool {
        if !established && self.half_open >= self.half_open_capacity() {
            return self.drop_half_open(now_ms, OVER_MS);
        }
        self.entries.len() < self.capacity
            || self.drop_over(now_ms)
            || established && self.drop_half_open(now_ms, 0)
    }

    /// Drops the session that has not been repeated for longest, if it should have been.
    fn drop_over(&mut self, now_ms: u64) -> bool {
        let mut orphans = 0;
        while let Some((mention_ms, key)) = self.order.front().copied() {
            let entry = self.entries.get_mut(&key).filter(|e| e.mention_ms == mention_ms);
            if entry.is_some() && (now_ms < mention_ms + OVER_MS || orphans == ORPHANS_PASSED) {
                return false;
            }
            self.order.pop_front();
            let Some(entry) = entry else { continue };
            let (owner, life) = entry.said_by;
            if self.live.get(&owner) == Some(&life) {
                self.give_way(now_ms, &key);
                return true;
            }
            // Nobody can repeat it.
            orphans += 1;
            entry.mention_ms = now_ms;
            self.order.push_back((now_ms, key));
        }
        false
    }

    /// Drops the oldest half-open session, if it is so old.
    fn drop_half_open(&mut self, now_ms: u64, age_ms: u64) -> bool {
        while let Some((said_ms, key)) = self.half_open_order.front().copied() {
            let half_open = |e: &Entry| e.said_ms == said_ms && !e.record.flags.established();
            let valid = self.entries.get(&key).is_some_and(half_open);
            if valid && now_ms < said_ms + age_ms {
                return false;
            }
            self.half_open_order.pop_front();
            if valid {
                self.give_way(now_ms, &key);
                return true;
            }
        }
        false
    }

    /// A session goes that may be alive.
    fn give_way(&mut self, now_ms: u64, key: &FlowKey) {
        if let Some(bucket) = self.entries.get(key).map(|e| e.bucket) {
            self.mark_unsure(now_ms, bucket);
            self.evicted += 1;
        }
        self.remove(key);
    }

    fn mark_unsure(&mut self, now_ms: u64, bucket: Bucket) {
        if let Some(until) = self.unsure_until_ms.get_mut(bucket.index()) {
            *until = now_ms + KEPT_MS;
        }
    }

    /// Forgets what nobody has repeated for too long.
    pub fn expire(&mut self, now_ms: u64) {
        while let Some((mention_ms, key)) = self.order.front().copied() {
            let entry = self.entries.get_mut(&key).filter(|e| e.mention_ms == mention_ms);
            if entry.is_some() && now_ms < mention_ms + KEPT_MS {
                return;
            }
            self.order.pop_front();
            let Some(entry) = entry else { continue };
            let (owner, life) = entry.said_by;
            let orphan = self.live.get(&owner) != Some(&life);
            if orphan && now_ms < entry.said_ms + u64::from(entry.record.idle_timeout_ms) {
                entry.mention_ms = now_ms;
                self.order.push_back((now_ms, key));
            } else {
                self.remove(&key);
            }
        }
    }

    fn mention(&mut self, now_ms: u64, key: FlowKey) {
        // Repetitions leave old mentions behind; when they are the majority they go.
        if self.order.len() > 2 * self.entries.len() + 64 {
            let entries = &self.entries;
            self.order.retain(|(at, key)| entries.get(key).is_some_and(|e| e.mention_ms == *at));
        }
        if self.half_open_order.len() > 2 * self.half_open + 64 {
            let half_open = |e: &Entry, at| e.said_ms == at && !e.record.flags.established();
            let entries = &self.entries;
            let valid =
                |(at, key): &(u64, FlowKey)| entries.get(key).is_some_and(|e| half_open(e, *at));
            self.half_open_order.retain(valid);
        }
        self.order.push_back((now_ms, key));
    }
}

/// Whether nobody will replicate this session unless its home does.
fn is_orphan(entry: &Entry, live: &BTreeMap<DirectorId, u64>) -> bool {
    let (owner, life) = entry.said_by;
    let flags = entry.record.flags;
    live.get(&owner) != Some(&life) && flags.established() && !flags.closing()
}

/// The record with its ages as they are now.
fn aged(entry: &Entry, now_ms: u64) -> SessionRecord {
    let since = now_ms.saturating_sub(entry.said_ms).min(u64::from(u32::MAX)) as u32;
    let mut record = entry.record.clone();
    record.created_age_ms = record.created_age_ms.saturating_add(since);
    record.client.age_ms = record.client.age_ms.saturating_add(since);
    record.backend_seen.age_ms = record.backend_seen.age_ms.saturating_add(since);
    record
}

#[cfg(test)]
#[path = "young_tests.rs"]
pub(crate) mod tests;
