//! An owner's side: what it has to tell the homes of its young sessions, and in which batches.
//!
//! Each new session is queued for its homes and leaves with the next batch. Whoever was told
//! everything (a *telling*: a walk over all young sessions that it has to tell of) and has missed no batch since then
//! may deny; so a home that missed one, a queue that overflowed, and every change of membership make
//! a new telling necessary. Every live director hears from this one, if only that there is nothing
//! new: silence would make its *no* worth nothing.

use std::collections::{BTreeMap, VecDeque};

use holdfast_schema::bucket::{Bucket, BucketKey};
use holdfast_schema::cluster::{ClusterState, DirectorId};
use holdfast_schema::homes::HomeTable;
use holdfast_schema::session::SessionRecord;

use crate::codec::wire::Register;

/// Most records of a batch.
pub const BATCH: usize = 512;

/// Most records that a walk may bring into a queue: with room left in the next batch, so that no new
/// session waits behind what is said again. (And none passes it, which might be older.)
const WALKED: usize = BATCH * 3 / 4;

/// Time (ms) between two batches to the same home.
pub const INTERVAL_MS: u64 = 2;

/// Time (ms) after which a batch leaves although there is nothing to say.
pub const BEAT_MS: u64 = 50;

/// For how long (ms) the homes of before a change are told as well, and asked.
pub const BEFORE_MS: u64 = 10_000;

/// How often (ms) everything that is still young is said again: homes forget what is not repeated.
pub const REPEAT_MS: u64 = 10_000;

/// How long (ms) a telling that an overflow made necessary is put off: what overflows now does so
/// again at once.
const RECOVERY_MS: u64 = 500;

/// The homes of now and of a moment ago.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Homes {
    now: HomeTable,
    before: Option<(HomeTable, u64)>,
}

impl Homes {
    /// The homes of this cluster.
    pub fn of(cluster: &ClusterState) -> Homes {
        Homes { now: HomeTable::of(cluster), before: None }
    }

    /// Goes over to the homes of another state of the cluster.
    pub fn change(&mut self, now_ms: u64, cluster: &ClusterState) {
        let next = HomeTable::of(cluster);
        if next != self.now {
            self.before = Some((std::mem::replace(&mut self.now, next), now_ms + BEFORE_MS));
        }
    }

    /// The homes of this owner's young sessions of a bucket: those of now, then those of before.
    fn homes(
        &self,
        now_ms: u64,
        bucket: Bucket,
        owner: DirectorId,
    ) -> impl Iterator<Item = DirectorId> {
        let mut all: Vec<DirectorId> = self.now.homes(bucket, owner).collect();
        for id in self.before(now_ms).into_iter().flat_map(|t| t.homes(bucket, owner)) {
            if !all.contains(&id) {
                all.push(id);
            }
        }
        all.into_iter()
    }

    /// Whom to ask for a young session of a bucket: those who have to answer, and who else may know.
    pub fn asked(&self, now_ms: u64, bucket: Bucket) -> (&[DirectorId], &[DirectorId]) {
        let before = self.before(now_ms).map_or(&[][..], |t| t.asked(bucket));
        (self.now.asked(bucket), before)
    }

    fn before(&self, now_ms: u64) -> Option<&HomeTable> {
        self.before.as_ref().filter(|(_, until)| now_ms < *until).map(|(table, _)| table)
    }
}

/// How far a home has been told everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Telling {
    /// It has to be, not before this time.
    Wanted(u64),
    /// A walk is under way, which began with this batch.
    Walk(u64),
    /// Since the batch with this number, once nothing waits any more.
    Told(u64),
}

/// What is to be said to one home.
struct Queue {
    records: VecDeque<SessionRecord>,
    number: u64,
    telling: Telling,
    /// Whether the walk that is under way is for this home, too (it may have been told before).
    walking: bool,
    /// Whether nothing may be said to it now.
    held: bool,
    last_ms: Option<u64>,
    last_told: Option<u64>,
}

impl Queue {
    fn new(now_ms: u64, number: u64) -> Queue {
        Queue {
            records: VecDeque::new(),
            number,
            telling: Telling::Wanted(now_ms),
            walking: false,
            held: false,
            last_ms: None,
            last_told: None,
        }
    }

    /// What may be said now: as long as a record waits, here or behind here, its home does not know
    /// everything.
    fn told(&self, behind: bool) -> Option<u64> {
        match self.telling {
            Telling::Told(since) if self.records.is_empty() && !behind => Some(since),
            _ => None,
        }
    }
}

/// What one owner says to all homes. Times are milliseconds of any steady clock.
pub struct Saying {
    me: DirectorId,
    incarnation: u64,
    epoch: u64,
    bucket_key: BucketKey,
    homes: Option<Homes>,
    queues: BTreeMap<DirectorId, Queue>,
    /// Above every number of a batch so far. A home that was down and is back takes lower ones for
    /// stragglers.
    unused_number: u64,
    /// Whether new sessions may wait that have not come here yet.
    behind: bool,
    /// Records that may wait for a home.
    limit: usize,
    repeated_ms: u64,
    sent: u64,
    dropped: u64,
    held: u64,
    tellings: u64,
    #[cfg(feature = "simulation")]
    without: super::Without,
}

/// What an owner has said.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SayingStats {
    /// Registrations that wait, all homes together.
    pub queued: u64,
    /// Most registrations that may wait for one home.
    pub limit: u64,
    /// Registrations sent.
    pub sent: u64,
    /// Registrations that found no room in a home's queue; a telling makes up for them.
    pub dropped: u64,
    /// Times that the way to a home became crowded, and nothing was said to it until it was free.
    pub held: u64,
    /// Times a home was told everything.
    pub tellings: u64,
}

impl Saying {
    /// For this life of a director; so many registrations may wait for each home.
    pub fn new(me: DirectorId, incarnation: u64, limit: usize) -> Saying {
        Saying {
            me,
            incarnation,
            epoch: 0,
            bucket_key: BucketKey([0; 16]),
            homes: None,
            queues: BTreeMap::new(),
            unused_number: 0,
            behind: false,
            limit: limit.max(BATCH),
            repeated_ms: 0,
            sent: 0,
            dropped: 0,
            held: 0,
            tellings: 0,
            #[cfg(feature = "simulation")]
            without: super::Without::default(),
        }
    }

    /// Switches parts off, for the negative controls of the simulation.
    #[cfg(feature = "simulation")]
    pub fn set_without(&mut self, without: super::Without) {
        self.without = without;
    }

    /// The members as last committed. Another epoch makes everybody need everything anew.
    pub fn membership(&mut self, now_ms: u64, cluster: &ClusterState) {
        self.bucket_key = cluster.bucket_key;
        match &mut self.homes {
            Some(homes) => homes.change(now_ms, cluster),
            None => self.homes = Some(Homes::of(cluster)),
        }
        let me = self.me;
        let live = |id: &DirectorId| *id != me && cluster.members.get(id).is_some_and(|m| !m.down);
        self.queues.retain(|id, _| live(id));
        for id in cluster.members.keys().filter(|id| live(id)) {
            self.queues.entry(*id).or_insert_with(|| Queue::new(now_ms, self.unused_number));
        }
        if self.epoch != cluster.membership_epoch {
            self.epoch = cluster.membership_epoch;
            for queue in self.queues.values_mut() {
                queue.telling = Telling::Wanted(now_ms);
                queue.walking = false;
            }
        }
    }

    /// A session has begun here.
    pub fn opened(&mut self, now_ms: u64, record: &SessionRecord) {
        self.queue(now_ms, record, false);
    }

    fn queue(&mut self, now_ms: u64, record: &SessionRecord, walk: bool) {
        #[cfg(feature = "simulation")]
        if self.without.registration {
            return;
        }
        let Some(homes) = &self.homes else { return };
        let bucket = record.bucket(&self.bucket_key);
        for home in homes.homes(now_ms, bucket, self.me) {
            let Some(queue) = self.queues.get_mut(&home) else { continue };
            if walk && !queue.walking {
                continue;
            }
            if queue.records.len() < self.limit {
                queue.records.push_back(record.clone());
                continue;
            }
            self.dropped += 1;
            queue.telling = Telling::Wanted(now_ms + RECOVERY_MS);
            queue.walking = false;
        }
    }

    /// New sessions of this director were lost before they came here.
    pub fn missed(&mut self, now_ms: u64) {
        for queue in self.queues.values_mut() {
            if !matches!(queue.telling, Telling::Wanted(_)) {
                queue.telling = Telling::Wanted(now_ms + RECOVERY_MS);
                queue.walking = false;
            }
        }
    }

    /// Whether more new sessions may wait than have come here: nobody knows everything then.
    pub fn set_behind(&mut self, behind: bool) {
        self.behind = behind;
    }

    /// The way to some homes is crowded: nothing is said to them until it is free. What comes meanwhile
    /// waits, and if that gets too much, they are told everything again.
    pub fn hold(&mut self, now_ms: u64, crowded: impl Fn(DirectorId) -> bool) {
        for (home, queue) in &mut self.queues {
            let was_held = std::mem::replace(&mut queue.held, crowded(*home));
            self.held += u64::from(queue.held && !was_held);
            if queue.held && queue.walking {
                // A walk waits for the slowest, so this one gets a walk of its own later.
                queue.telling = Telling::Wanted(now_ms + RECOVERY_MS);
                queue.walking = false;
            }
        }
    }

    /// A home has missed what was said before the batch with this number.
    pub fn resync(&mut self, now_ms: u64, home: DirectorId, before: u64) {
        if let Some(queue) = self.queues.get_mut(&home)
            && matches!(queue.telling, Telling::Told(since) if since < before)
        {
            queue.telling = Telling::Wanted(now_ms);
            queue.walking = false;
        }
    }

    /// Whether a walk over all young sessions has to begin, for [`Saying::tell`].
    pub fn wants_walk(&self, now_ms: u64) -> bool {
        let wanted = |q: &Queue| matches!(q.telling, Telling::Wanted(from) if now_ms >= from);
        let repeat = now_ms >= self.repeated_ms + REPEAT_MS && !self.queues.is_empty();
        !self.walking() && (repeat || self.queues.values().any(wanted))
    }

    /// Whether a walk is under way. One that has been overtaken by events ends by itself.
    pub fn walking(&self) -> bool {
        self.queues.values().any(|q| q.walking)
    }

    /// The walk begins.
    pub fn begin_walk(&mut self, now_ms: u64) {
        let repeat = now_ms >= self.repeated_ms + REPEAT_MS;
        if repeat {
            self.repeated_ms = now_ms;
        }
        for queue in self.queues.values_mut() {
            match queue.telling {
                Telling::Wanted(from) if now_ms >= from => {
                    // What waits now leaves with this batch or later, and is told again anyway.
                    queue.telling = Telling::Walk(queue.number);
                    queue.walking = true;
                }
                Telling::Told(_) => queue.walking = repeat,
                _ => {}
            }
        }
    }

    /// How many more records the walk may bring now: new sessions need room as well.
    pub fn room(&self) -> usize {
        let walking = self.queues.values().filter(|q| q.walking);
        walking.map(|q| WALKED.saturating_sub(q.records.len())).min().unwrap_or(0)
    }

    /// A session that the walk has met.
    pub fn tell(&mut self, now_ms: u64, record: &SessionRecord) {
        self.queue(now_ms, record, true);
    }

    /// The walk has met all of them.
    pub fn end_walk(&mut self) {
        for queue in self.queues.values_mut().filter(|q| q.walking) {
            queue.walking = false;
            if let Telling::Walk(since) = queue.telling {
                queue.telling = Telling::Told(since);
                self.tellings += 1;
            }
        }
    }

    /// The batches that leave now, in the order of the homes.
    pub fn tick(&mut self, now_ms: u64) -> Vec<(DirectorId, Register)> {
        let mut out = Vec::new();
        for (home, queue) in &mut self.queues {
            let silent_ms = queue.last_ms.map_or(u64::MAX, |last| now_ms.saturating_sub(last));
            let news = !queue.records.is_empty() || queue.told(self.behind) != queue.last_told;
            if queue.held || silent_ms < INTERVAL_MS || !news && silent_ms < BEAT_MS {
                continue;
            }
            let most = queue.records.len().min(BATCH);
            let records: Vec<SessionRecord> = queue.records.drain(..most).collect();
            self.sent += records.len() as u64;
            let told = queue.told(self.behind);
            let number = queue.number;
            queue.number += 1;
            self.unused_number = self.unused_number.max(queue.number);
            queue.last_ms = Some(now_ms);
            queue.last_told = told;
            let (epoch, incarnation) = (self.epoch, self.incarnation);
            out.push((*home, Register { epoch, incarnation, number, told, records }));
        }
        out
    }

    /// What was said so far.
    pub fn stats(&self) -> SayingStats {
        SayingStats {
            queued: self.queues.values().map(|q| q.records.len() as u64).sum(),
            limit: self.limit as u64,
            sent: self.sent,
            dropped: self.dropped,
            held: self.held,
            tellings: self.tellings,
        }
    }
}

#[cfg(test)]
#[path = "saying_tests.rs"]
mod tests;
