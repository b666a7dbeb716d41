//! Young sessions: telling their homes, and being one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use holdfast_schema::bucket::{Bucket, ShardId};
use holdfast_schema::cluster::{ClusterState, DirectorId};
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::{
    Incarnation, Known, SessionChange, SessionRecord, SessionSink, SessionUpdate,
};
use parking_lot::{Mutex, MutexGuard, RwLock};

use super::Store;
use super::member::Member;
use crate::codec;
use crate::codec::wire::{Register, Registration};
use crate::homes::{Homes, Keeper, KeeperStats, Kept, Orphan, Saying, SayingStats, Whom};
use crate::metrics::count;
use crate::peer::Lane;

/// Both sides of a director's part in this, and whom it asks.
pub struct Young {
    /// What it says to others.
    saying: Mutex<Saying>,
    /// What it was told by others.
    pub(super) keeping: Arc<Mutex<Keeper>>,
    /// Who is a home of what.
    homes: RwLock<Option<Homes>>,
    started: Instant,
}

impl Young {
    pub(super) fn new(me: DirectorId, incarnation: u64, limits: &super::types::Limits) -> Young {
        Young {
            saying: Mutex::new(Saying::new(me, incarnation, limits.registrations_per_home)),
            keeping: Arc::new(Mutex::new(Keeper::new(me, limits.young_sessions))),
            homes: RwLock::new(None),
            started: Instant::now(),
        }
    }

    pub(super) fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    fn now_ms(&self) -> u64 {
        self.now_us() / 1_000
    }

    /// The members as last committed.
    pub(super) fn membership(&self, cluster: &ClusterState) {
        let now_ms = self.now_ms();
        // As a home first: it must not deny by the old epoch's confirmations in the new one.
        self.keeping.lock().membership(cluster);
        match &mut *self.homes.write() {
            Some(homes) => homes.change(now_ms, cluster),
            none => *none = Some(Homes::of(cluster)),
        }
        self.saying.lock().membership(now_ms, cluster);
    }

    /// Whom to ask for a session.
    pub(super) fn whom(
        &self,
        cluster: &ClusterState,
        key: &FlowKey,
        leader: Option<DirectorId>,
        unchanged: bool,
    ) -> Option<Whom> {
        let homes = self.homes.read();
        let homes = homes.as_ref()?;
        Some(Whom::of(cluster, homes, self.now_ms(), key, leader, unchanged))
    }

    /// What this director knows as a home.
    pub(super) fn find(&self, bucket: Bucket, key: &FlowKey) -> Kept {
        self.keeping.lock().find(self.now_ms(), bucket, key)
    }
}

/// Sessions of directors that are gone which are handed to their shards at a visit.
const HANDED_OVER: usize = 16;

/// What is done with the young sessions of this director. For one thread of the node.
pub struct Registrar {
    store: Store,
    member: Arc<Member>,
    sink: Option<Arc<dyn SessionSink>>,
}

impl Registrar {
    /// Tells these new sessions to their homes, with the next batch.
    pub fn opened(&self, records: &[SessionRecord]) {
        let young = &self.member.young;
        let now_ms = young.now_ms();
        // This director may be a home of the connection that one of them is a twin of.
        let twins: Vec<SessionRecord> = {
            let mut keeping = young.keeping.lock();
            records.iter().filter_map(|own| keeping.twin_of(now_ms, own)).collect()
        };
        if let Some(sink) = &self.sink {
            twins.iter().for_each(|first| sink.twin(first));
        }
        let mut saying = young.saying.lock();
        records.iter().for_each(|record| saying.opened(now_ms, record));
    }

    /// New sessions were lost on their way here: all will have to be looked through.
    pub fn missed(&self) {
        let young = &self.member.young;
        young.saying.lock().missed(young.now_ms());
    }

    /// Whether a walk over all young sessions has to begin now; it has begun, then.
    pub fn begins_walk(&self) -> bool {
        let young = &self.member.young;
        let (now_ms, mut saying) = (young.now_ms(), young.saying.lock());
        let wanted = saying.wants_walk(now_ms);
        if wanted {
            saying.begin_walk(now_ms);
        }
        wanted
    }

    /// How many records the walk may bring now; none: the walk is not wanted any more.
    pub fn room(&self) -> Option<usize> {
        let saying = self.member.young.saying.lock();
        saying.walking().then(|| saying.room())
    }

    /// Sessions that the walk has met; the last ones?
    pub fn walked(&self, records: &[SessionRecord], complete: bool) {
        let young = &self.member.young;
        let (now_ms, mut saying) = (young.now_ms(), young.saying.lock());
        records.iter().for_each(|record| saying.tell(now_ms, record));
        if complete {
            saying.end_walk();
        }
    }

    /// Sends what is due. To be called every millisecond or two. `behind`: there may be new sessions that
    /// have not been told to [`Registrar::opened`] yet.
    pub fn send(&self, behind: bool) {
        let young = &self.member.young;
        let batches = {
            let mut saying = young.saying.lock();
            let now_ms = young.now_ms();
            saying.set_behind(behind);
            // Registrations can wait; what they would push out of a full queue (Raft's heartbeats) cannot.
            saying.hold(now_ms, |home| self.member.transport.crowded(home, Lane::Control));
            saying.tick(now_ms)
        };
        for (home, batch) in batches {
            let message = Bytes::from(codec::encode(&batch));
            self.member.transport.send(home, Lane::Control, message);
        }
        self.hand_over();
    }

    /// Has those sessions replicated whose owners are gone: their homes change with the next change of
    /// membership, and no owner would tell the new ones.
    fn hand_over(&self) {
        let young = &self.member.young;
        let orphans = young.keeping.lock().orphans(young.now_ms(), HANDED_OVER);
        if orphans.is_empty() {
            return;
        }
        let Some(view) = self.store.shared.published.view() else { return };
        let cluster = &view.cluster;
        let mut changes: BTreeMap<ShardId, Vec<SessionChange>> = BTreeMap::new();
        for Orphan { record, again } in orphans {
            let known = self.sink.as_ref().and_then(|sink| sink.find(&record.key).session());
            // It was applied before it was registered here, or this director carries it and replicates it.
            if again && known.is_some_and(|r| r.incarnation == record.incarnation) {
                young.keeping.lock().applied(&record.key, &record.incarnation);
                continue;
            }
            let shard = cluster.shards.shard(record.bucket(&cluster.bucket_key));
            changes.entry(shard).or_default().push(SessionChange::Create(record));
        }
        for (shard, changes) in changes {
            // Without room, or lost on the way, they come again.
            let _ = self.store.propose(shard, changes);
        }
    }
}

impl Store {
    /// The way to tell homes of new sessions, once this director is a member.
    pub fn registrar(&self) -> Option<Registrar> {
        let (store, sink) = (self.clone(), self.shared.sink.read().clone());
        Some(Registrar { store, member: self.shared.member()?, sink })
    }

    /// How registration is doing, as an owner and as a home.
    pub fn young_stats(&self) -> Option<(SayingStats, KeeperStats)> {
        let member = self.shared.member()?;
        let young = &member.young;
        let saying = young.saying.lock().stats();
        let keeping = young.keeping.lock().stats(young.now_ms());
        Some((saying, keeping))
    }

    /// Others' young sessions have come.
    pub(super) fn take_registrations(&self, member: &Member, from: DirectorId, batch: Register) {
        let young = &member.young;
        let sink = self.shared.sink.read().clone();
        let known = |r: &SessionRecord| sink.as_ref().and_then(|sink| sink.find(&r.key).session());
        let own: Vec<Option<SessionRecord>> = batch.records.iter().map(known).collect();
        let records = batch.records.clone();
        let heard = young.keeping.lock().register(young.now_ms(), from, batch, &own);
        for (to, answer) in heard.answers {
            if answer.resync.is_some() {
                count(&self.shared.metrics.registrations_missed);
            }
            let message = Bytes::from(codec::encode(&answer));
            member.transport.send(to, Lane::Control, message);
        }
        if let Some(sink) = sink {
            sink.registered(&records);
            heard.adopt.iter().for_each(|agreed| sink.twin(agreed));
        }
    }

    /// A home has something to say about what it was told.
    pub(super) fn take_answer(&self, member: &Member, from: DirectorId, answer: &Registration) {
        let young = &member.young;
        if let Some(before) = answer.resync {
            young.saying.lock().resync(young.now_ms(), from, before);
        }
        if let Some(sink) = self.shared.sink.read().clone() {
            answer.twins.iter().for_each(|first| sink.twin(first));
        }
    }
}

/// How many sessions of a shard are forgotten at a time when it was installed.
const FORGOTTEN: usize = 256;

/// Tells the attached table what is applied, and then the homes, which need not keep it any longer.
pub(super) struct Applied {
    pub(super) sink: Arc<dyn SessionSink>,
    pub(super) keeping: Arc<Mutex<Keeper>>,
}

impl Applied {
    fn forget(&self, key: &FlowKey, incarnation: &Incarnation) {
        self.keeping.lock().applied(key, incarnation);
    }
}

impl SessionSink for Applied {
    fn created(&self, record: &SessionRecord) {
        // In this order: whoever asks meanwhile finds it in one place or the other.
        self.sink.created(record);
        self.keeping.lock().replicated(record);
    }

    fn refused(&self, key: &FlowKey, incarnation: &Incarnation) {
        self.sink.refused(key, incarnation);
        self.forget(key, incarnation);
    }

    fn updated(&self, update: &SessionUpdate) {
        self.sink.updated(update);
    }

    fn expired(&self, key: &FlowKey, incarnation: &Incarnation) {
        self.sink.expired(key, incarnation);
        self.forget(key, incarnation);
    }

    fn installed(&self, shard: ShardId, records: &[SessionRecord]) {
        self.sink.installed(shard, records);
        let mut keeping = self.keeping.lock();
        for some in records.chunks(FORGOTTEN) {
            some.iter().for_each(|record| keeping.replicated(record));
            // A shard has many: whoever waits has its turn in between.
            MutexGuard::bump(&mut keeping);
        }
    }

    fn twin(&self, first: &SessionRecord) {
        self.sink.twin(first);
    }

    fn registered(&self, records: &[SessionRecord]) {
        self.sink.registered(records);
    }

    fn find(&self, key: &FlowKey) -> Known {
        self.sink.find(key)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_schema::session::SessionFlags;

    use super::*;
    use crate::control::tests::Cluster;
    use crate::shard::Shard;
    use crate::shard::tests::{entry, record};
    use crate::store::tests::nowhere;

    /// A home that was told of sessions 1 to 3, stamp 5, whose owner has died.
    fn home() -> Applied {
        let cluster = Cluster::of(3).record.cluster;
        let mut keeper = Keeper::new(DirectorId(1), 100);
        keeper.membership(&cluster);
        let records = (1..=3).map(|n| record(n, 5, 0)).collect();
        let heading = Register { epoch: 1, incarnation: 77, number: 0, told: None, records };
        keeper.register(0, DirectorId(2), heading, &[]);
        assert_eq!(keeper.stats(0).kept, 3);
        Applied { sink: nowhere().0, keeping: Arc::new(Mutex::new(keeper)) }
    }

    fn hand_over(home: &Applied, shard: &mut Shard, now_ms: u64) -> usize {
        let orphans = home.keeping.lock().orphans(now_ms, 16);
        let (handed, of) = (orphans.len(), orphans.into_iter());
        let creates = of.map(|o| SessionChange::Create(o.record)).collect();
        shard.apply(&entry(0, creates), Some(home)).unwrap();
        handed
    }

    #[test]
    fn what_its_shard_refuses_is_not_handed_over_again() {
        let (home, mut shard) = (home(), Shard::new());
        // The client has used the port of the first one again meanwhile, and the second one has ended.
        let newer = SessionChange::Create(record(1, 9, 0));
        let mut ended = record(2, 5, 0);
        ended.flags = ended.flags.with(SessionFlags::RESET);
        let (key, incarnation) = (ended.key, ended.incarnation);
        let expiry = SessionChange::Expire { key, incarnation, last_seen_ms: 1 << 40 };
        let before = vec![newer, SessionChange::Create(ended), expiry];
        shard.apply(&entry(0, before), None).unwrap();
        assert_eq!(hand_over(&home, &mut shard, 10), 3);
        assert_eq!(hand_over(&home, &mut shard, 5_000), 0);
        assert_eq!(home.keeping.lock().stats(5_000).kept, 0);
        assert!(shard.find(&key).is_none());
    }

    #[test]
    fn of_a_shard_that_is_installed_everything_is_forgotten() {
        let (home, many) = (home(), 3 * FORGOTTEN as u16 / 2);
        let records = (0..many).map(|n| record(n, 5, 0)).collect();
        let more = Register { epoch: 1, incarnation: 77, number: 1, told: None, records };
        let keeper = Keeper::new(DirectorId(1), usize::from(many));
        *home.keeping.lock() = keeper;
        home.keeping.lock().register(0, DirectorId(2), more, &[]);
        assert_eq!(home.keeping.lock().stats(0).kept, u64::from(many));
        let installed: Vec<SessionRecord> = (0..many).map(|n| record(n, 5, 0)).collect();
        home.installed(ShardId(1), &installed);
        assert_eq!(home.keeping.lock().stats(0).kept, 0);
    }

    #[test]
    fn what_prevails_over_its_shards_is_handed_over() {
        let (home, mut shard) = (home(), Shard::new());
        let older = (1..=3).map(|n| SessionChange::Create(record(n, 3, 0))).collect();
        shard.apply(&entry(0, older), Some(&home)).unwrap();
        assert_eq!(hand_over(&home, &mut shard, 10), 3);
        assert!(shard.records().iter().all(|r| r.incarnation.stamp == 5));
        assert_eq!(hand_over(&home, &mut shard, 5_000), 0);
    }
}
