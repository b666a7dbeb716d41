//! Young sessions: telling homes of them, being a home, asking homes. The real cores, joined as the
//! store's shell and the node's thread `hf-young` join them.

use std::collections::BTreeSet;
use std::sync::Arc;

use holdfast_director::session::{SessionTable, Slot, YoungWalk};
use holdfast_schema::cluster::{ClusterState, DirectorId};
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::{SessionRecord, SessionSink};
use holdfast_state_store::codec::wire::{Register, Registration};
use holdfast_state_store::homes::{self, Answer, Homes, Keeper, Kept, Orphan, Saying, bucket_of};
use parking_lot::Mutex;

use super::message::Message;
use crate::plan::Without;

/// Young sessions that a home keeps, and new ones that may wait to be told to one home.
const KEPT: usize = 512;
const WAITING: usize = 256;

/// Slots that a walk over all sessions looks at, at a visit.
const SLOTS: usize = 256;

/// Sessions of directors that are gone which are handed to their shards at a visit.
const HANDED_OVER: usize = 16;

/// A director's part in young sessions.
pub struct YoungSessions {
    table: Arc<SessionTable>,
    saying: Saying,
    keeper: Arc<Mutex<Keeper>>,
    homes: Homes,
    walk: Option<YoungWalk>,
    /// Twins of what was opened here that had expired.
    pub expired_twins: u64,
}

impl YoungSessions {
    /// Of a life of a director.
    pub fn new(
        me: DirectorId,
        incarnation: u64,
        table: &Arc<SessionTable>,
        cluster: &ClusterState,
        without: Option<Without>,
    ) -> YoungSessions {
        let off = homes::Without {
            registration: without == Some(Without::Tier1),
            twins: without == Some(Without::Twins),
            authority: without == Some(Without::Authority),
        };
        let (mut saying, mut keeper) =
            (Saying::new(me, incarnation, WAITING), Keeper::new(me, KEPT));
        saying.set_without(off);
        keeper.set_without(off);
        YoungSessions {
            table: table.clone(),
            saying,
            keeper: Arc::new(Mutex::new(keeper)),
            homes: Homes::of(cluster),
            walk: None,
            expired_twins: 0,
        }
    }

    /// What it keeps as a home: the store tells it what is applied.
    pub fn keeper(&self) -> Arc<Mutex<Keeper>> {
        self.keeper.clone()
    }

    /// The members as last committed. Whether a bucket of which something is kept here got other homes.
    pub fn membership(&mut self, now_ms: u64, cluster: &ClusterState) -> bool {
        let kept: BTreeSet<_> =
            self.records(now_ms).iter().map(|(r, _)| r.bucket(&cluster.bucket_key)).collect();
        let homes = |homes: &Homes| -> Vec<_> {
            kept.iter().map(|bucket| homes.asked(now_ms, *bucket).0.to_vec()).collect()
        };
        let before = homes(&self.homes);
        self.keeper.lock().membership(cluster);
        self.homes.change(now_ms, cluster);
        self.saying.membership(now_ms, cluster);
        before != homes(&self.homes)
    }

    /// A session was opened here.
    pub fn opened(&mut self, now_ms: u64, slot: Slot) {
        let Some(record) = self.table.young(slot, now_ms) else { return };
        // This director may be a home of the connection that this one is a twin of.
        if let Some(first) = self.keeper.lock().twin_of(now_ms, &record) {
            self.expired_twins += u64::from(first.idle_ms() >= first.idle_limit_ms());
            self.table.twin(&first);
        }
        self.saying.opened(now_ms, &record);
    }

    /// Goes on with what is to be told.
    pub fn turn(&mut self, now_ms: u64, out: &mut Vec<(DirectorId, Message)>) {
        while let Some(slot) = self.table.next_said_again() {
            self.opened(now_ms, slot);
        }
        if self.saying.wants_walk(now_ms) {
            self.saying.begin_walk(now_ms);
            self.walk = Some(YoungWalk::default());
        }
        if let Some(walk) = self.walk.as_mut().filter(|_| self.saying.walking()) {
            let mut records = Vec::new();
            let most = self.saying.room();
            let visit = |record| records.push(record);
            let complete = walk.step(&self.table, now_ms, SLOTS, most, visit);
            records.iter().for_each(|record| self.saying.tell(now_ms, record));
            if complete {
                self.saying.end_walk();
                self.walk = None;
            }
        } else {
            self.walk = None;
        }
        let batches = self.saying.tick(now_ms);
        out.extend(batches.into_iter().map(|(to, batch)| (to, Message::Register(batch))));
    }

    /// Sessions that wait to be told to a home.
    pub fn queued(&self) -> u64 {
        self.saying.stats().queued
    }

    /// Whether something waits to be told.
    pub fn waits(&self) -> bool {
        self.saying.stats().queued > 0 || self.walk.is_some()
    }

    /// Established sessions of directors that are gone, to be handed to their shards.
    pub fn orphans(&mut self, now_ms: u64) -> Vec<SessionRecord> {
        let mut keeper = self.keeper.lock();
        let orphans = keeper.orphans(now_ms, HANDED_OVER);
        let mut due = Vec::new();
        for Orphan { record, again } in orphans {
            let known = self.table.find(&record.key).session();
            if again && known.is_some_and(|r| r.incarnation == record.incarnation) {
                keeper.applied(&record.key, &record.incarnation);
            } else {
                due.push(record);
            }
        }
        due
    }

    /// Others' young sessions have come.
    pub fn register(
        &mut self,
        now_ms: u64,
        from: DirectorId,
        batch: Register,
        out: &mut Vec<(DirectorId, Message)>,
    ) {
        let known = |record: &SessionRecord| self.table.find(&record.key).session();
        let own: Vec<Option<SessionRecord>> = batch.records.iter().map(known).collect();
        let records = batch.records.clone();
        let heard = self.keeper.lock().register(now_ms, from, batch, &own);
        let answers = heard.answers.into_iter();
        out.extend(answers.map(|(to, answer)| (to, Message::Registration(answer))));
        self.table.registered(&records);
        heard.adopt.iter().for_each(|agreed| self.table.twin(agreed));
    }

    /// A home has something to say about what it was told.
    pub fn answered(&mut self, now_ms: u64, from: DirectorId, answer: &Registration) {
        if let Some(before) = answer.resync {
            self.saying.resync(now_ms, from, before);
        }
        answer.twins.iter().for_each(|first| self.table.twin(first));
    }

    /// Who is a home of what.
    pub fn homes(&self) -> &Homes {
        &self.homes
    }

    /// What is known here, in the table and as a home.
    pub fn look(&self, now_ms: u64, cluster: &ClusterState, key: &FlowKey) -> Answer {
        let kept = self.keeper.lock().find(now_ms, bucket_of(cluster, key), key);
        self.table.tick(now_ms);
        homes::known(kept, self.table.find(key))
    }

    /// Whether a home keeps this session of a director that died.
    pub fn keeps(&self, now_ms: u64, cluster: &ClusterState, record: &SessionRecord) -> bool {
        match self.keeper.lock().find(now_ms, bucket_of(cluster, &record.key), &record.key) {
            Kept::Session(young) => young.incarnation == record.incarnation,
            _ => false,
        }
    }

    /// Whether a home keeps a session of the same opening.
    pub fn keeps_opening(
        &self,
        now_ms: u64,
        cluster: &ClusterState,
        record: &SessionRecord,
    ) -> bool {
        match self.keeper.lock().find(now_ms, bucket_of(cluster, &record.key), &record.key) {
            Kept::Session(young) => young.incarnation.isn == record.incarnation.isn,
            _ => false,
        }
    }

    /// Young sessions of others kept here, and who said them in which life.
    pub fn records(&self, now_ms: u64) -> Vec<(SessionRecord, (DirectorId, u64))> {
        self.keeper.lock().records(now_ms)
    }

    /// Young sessions of others kept here.
    pub fn kept(&self, now_ms: u64) -> u64 {
        self.keeper.lock().stats(now_ms).kept
    }
}
