//! The young sessions of others, in memory, bounded.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

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

/// Among how many one is looked for that is over: those that nobody can repeat are passed over.
const ORPHANS_PASSED: usize = 8;

/// How often (ms) an established session of a director that is gone is handed to its shard, until it is
/// applied.
const HAND_OVER_MS: u64 = 1_000;

/// How many records a visit looks at or forgets: registrations, answers to misses and Raft's driver wait for
/// it (0.8 ms, of a million). The next visit comes half a millisecond later: a million records are looked at
/// within a second and a half.
const STEP: usize = 1_024;

/// How many records each call forgets that comes for something else: more than it can add.
const FORGOTTEN: usize = 16;

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
    /// Its place among the half-open ones, if it is one.
    said: Place,
    /// When it was last put into the order.
    mention_ms: u64,
    /// Its place there.
    mention: Place,
    /// Its place among the orphans.
    turn: Option<Turn>,
}

/// How many places were given before, in any of the orders.
type Place = u64;

/// When (ms) an orphan is to be handed to its shard, and which of those that are due then it is.
type Turn = (u64, Place);

/// Records by both keys. Times are milliseconds of any steady clock.
pub struct Young {
    entries: Map<Entry>,
    /// Client keys by reply key.
    replies: Map<FlowKey>,
    /// Each key once, what was not said for longest first. (A queue that old mentions stay in has to be
    /// swept now and then, all of it at once.)
    order: BTreeMap<Place, FlowKey>,
    /// The half-open ones, what was not said for longest first.
    half_open: BTreeMap<Place, FlowKey>,
    /// Established sessions of owners that are gone, each once, by when it is to be handed to its shard
    /// (again).
    orphans: BTreeMap<Turn, FlowKey>,
    /// Where in the order there may be others, since the owner of some was found to be gone.
    unlooked: Option<Range<Place>>,
    /// Places that were given so far.
    places: Place,
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
            order: BTreeMap::new(),
            half_open: BTreeMap::new(),
            orphans: BTreeMap::new(),
            unlooked: None,
            places: 0,
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
        self.half_open.len()
    }

    /// How many half-open records it holds at most.
    pub fn half_open_capacity(&self) -> usize {
        (self.capacity / HALF_OPEN_PART).max(1)
    }

    /// How many sessions whose owners are gone have been found, and have not been applied yet.
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
        // Of those who were alive, that is; what others have said was looked at when it was said.
        let gone = self.live.iter().any(|(id, life)| live.get(id) != Some(life));
        if (gone || self.live.is_empty()) && !self.order.is_empty() {
            self.unlooked = Some(0..self.places + 1);
        }
        self.live = live.clone();
    }

    /// Looks at some of those whose owners may be gone. Oldest first; and the map of the entries has no
    /// order that a run could be repeated by.
    fn look(&mut self, most: usize) {
        let Some(unlooked) = self.unlooked.take() else { return };
        let mut rest = self.order.range(unlooked.clone());
        let keys: Vec<FlowKey> = rest.by_ref().take(most).map(|(_, key)| *key).collect();
        self.unlooked = rest.next().map(|(next, _)| *next..unlooked.end);
        keys.iter().for_each(|key| self.look_at(key));
    }

    fn look_at(&mut self, key: &FlowKey) {
        if let Some(entry) = self.entries.get_mut(key)
            && entry.turn.is_none()
            && is_orphan(entry, &self.live)
        {
            self.places += 1;
            let turn = (0, self.places);
            entry.turn = Some(turn);
            self.orphans.insert(turn, *key);
        }
    }

    /// Sessions that nobody will replicate, because their owners are gone: at most so many that are due to
    /// be handed to their shards, for the first time or again. Whoever has applied one says so
    /// ([`Young::applied`]). For a thread that comes again and again: after somebody is gone it takes a visit
    /// for each `STEP` records to find all.
    pub fn orphans(&mut self, now_ms: u64, most: usize) -> Vec<Orphan> {
        self.look(STEP);
        self.expire(now_ms);
        let mut due = Vec::new();
        // All of them are none any more if it was not dead.
        for _ in 0..STEP {
            let next = self.orphans.first_entry().filter(|next| next.key().0 <= now_ms);
            let Some(next) = next.filter(|_| due.len() < most) else { break };
            let ((at_ms, _), key) = next.remove_entry();
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            entry.turn = None;
            if !is_orphan(entry, &self.live) {
                continue;
            }
            let again = at_ms > 0;
            self.handed_over += u64::from(!again);
            due.push(Orphan { record: aged(entry, now_ms), again });
            self.places += 1;
            let turn = (now_ms.max(1) + HAND_OVER_MS, self.places);
            entry.turn = Some(turn);
            self.orphans.insert(turn, key);
        }
        due
    }

    /// Whether there are sessions that only homes know, maybe not those that are asked now; or may be,
    /// because not everything was looked at.
    pub fn has_orphans(&self) -> bool {
        !self.orphans.is_empty() || self.unlooked.is_some()
    }

    /// Everything it holds and who said it, what was not said for longest first.
    #[cfg(feature = "simulation")]
    pub fn records(&mut self, now_ms: u64) -> Vec<(SessionRecord, Life)> {
        self.expire(now_ms);
        let entries = self.order.values().filter_map(|key| self.entries.get(key));
        entries.map(|entry| (aged(entry, now_ms), entry.said_by)).collect()
    }

    /// Takes a registration of a session of this bucket. What is kept of it already is merged with it; who does not
    /// own the session (but has heard of it what its owner may not) leaves it to whoever has registered it.
    pub fn register(
        &mut self,
        now_ms: u64,
        bucket: Bucket,
        mut said_by: Life,
        mut record: SessionRecord,
    ) -> Registered {
        self.forget(now_ms, FORGOTTEN);
        let key = record.key;
        let (mut loser, mut turn) = (None, None);
        if let Some(kept) = self.entries.get(&key) {
            let (old, new) = (&kept.record.incarnation, &record.incarnation);
            let twin = old != new && old.isn == new.isn && kept.said_by != said_by;
            // Of datagrams that two directors have taken for the first, the flow stays with whoever
            // registered it before: there is no handshake to tell which the client has agreed with.
            let later = twin && !old.is_twin_of(new) && !record.flags.established();
            // Who has only heard of one of two decides nothing between them.
            let heard = twin && record.owner != said_by.0;
            if old != new && (later || heard || !record.prevails_over(&kept.record)) {
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
            if old == new {
                let known = aged(kept, now_ms);
                let whose = if record.owner == said_by.0 {
                    (record.owner, record.generation)
                } else {
                    said_by = kept.said_by;
                    (known.owner, known.generation)
                };
                record.merge(&known);
                (record.owner, record.generation) = whose;
            }
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
        self.places += 1;
        let place = self.places;
        let half_open = !record.flags.established();
        let mut entry = Entry {
            record,
            bucket,
            said_by,
            said_ms: now_ms,
            said: place,
            mention_ms: now_ms,
            mention: place,
            turn: None,
        };
        // It may have died before its last words were heard.
        if is_orphan(&entry, &self.live) && !self.live.is_empty() {
            let turn = turn.unwrap_or((0, place));
            entry.turn = Some(turn);
            self.orphans.insert(turn, key);
        }
        if half_open {
            self.half_open.insert(place, key);
        }
        self.order.insert(place, key);
        self.entries.insert(key, entry);
        loser.map_or(Registered::Kept, Registered::Took)
    }

    /// What this home knows of a packet's key, whichever direction it is of.
    pub fn find(&mut self, now_ms: u64, bucket: Bucket, key: &FlowKey) -> Known {
        self.forget(now_ms, FORGOTTEN);
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
        if self.unlooked.is_some() {
            self.look_at(&record.key);
        }
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
            self.order.remove(&gone.mention);
            self.half_open.remove(&gone.said);
            if let Some(turn) = gone.turn {
                self.orphans.remove(&turn);
            }
        }
    }

    /// Whether there is room for a newcomer, or somebody who makes it.
    fn make_room(&mut self, now_ms: u64, established: bool) -> bool {
        if !established && self.half_open.len() >= self.half_open_capacity() {
            return self.drop_half_open(now_ms, OVER_MS);
        }
        self.entries.len() < self.capacity
            || self.drop_over(now_ms)
            || established && self.drop_half_open(now_ms, 0)
    }

    /// Drops the session that has not been repeated for longest, if it should have been.
    fn drop_over(&mut self, now_ms: u64) -> bool {
        for _ in 0..ORPHANS_PASSED {
            let Some(entry) = self.oldest() else { return false };
            if now_ms < entry.mention_ms + OVER_MS {
                return false;
            }
            let key = entry.record.key;
            if !self.is_gone(entry.said_by) {
                self.give_way(now_ms, &key);
                return true;
            }
            // Nobody can repeat it.
            self.mention_again(now_ms, &key);
        }
        false
    }

    /// Drops the oldest half-open session, if it is so old.
    fn drop_half_open(&mut self, now_ms: u64, age_ms: u64) -> bool {
        let Some(key) = self.half_open.values().next().copied() else { return false };
        if self.entries.get(&key).is_some_and(|entry| now_ms < entry.said_ms + age_ms) {
            return false;
        }
        self.give_way(now_ms, &key);
        true
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

    /// Forgets what nobody has repeated for too long, as much of it as one visit may.
    pub fn expire(&mut self, now_ms: u64) {
        self.forget(now_ms, STEP);
    }

    fn forget(&mut self, now_ms: u64, most: usize) {
        for _ in 0..most {
            let Some(entry) = self.oldest() else { return };
            if now_ms < entry.mention_ms + KEPT_MS {
                return;
            }
            let key = entry.record.key;
            let until_ms = entry.said_ms + u64::from(entry.record.idle_timeout_ms);
            if self.is_gone(entry.said_by) && now_ms < until_ms {
                self.mention_again(now_ms, &key);
            } else {
                self.remove(&key);
            }
        }
    }

    /// What was not said for longest.
    fn oldest(&self) -> Option<&Entry> {
        self.entries.get(self.order.values().next()?)
    }

    /// Whether this life of a director cannot repeat anything.
    fn is_gone(&self, (director, life): Life) -> bool {
        self.live.get(&director) != Some(&life)
    }

    fn mention_again(&mut self, now_ms: u64, key: &FlowKey) {
        // Its new place may lie behind those that are still to be looked at.
        self.look_at(key);
        let Some(entry) = self.entries.get_mut(key) else { return };
        self.order.remove(&entry.mention);
        self.places += 1;
        entry.mention = self.places;
        entry.mention_ms = now_ms;
        self.order.insert(entry.mention, *key);
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
