//! The sweep's behaviours, one by one. The "store" here is the test: it confirms what it wants to.

use holdfast_schema::bucket::{ShardId, ShardSet};
use holdfast_schema::session::{
    CLOSE_LINGER_MS, SessionChange, SessionFlags, SessionSink, SessionUpdate, TIME_WAIT_LINGER_MS,
};

use super::super::index::Wait;
use super::super::key::PackedKey;
use super::super::{OpenError, SweepPolicy, SweepProgress, Sweeper};
use super::*;
use crate::tables::{ForwardingTables, fixture};

pub(super) const CALM: SweepPolicy<'static> = SweepPolicy::CALM;
pub(super) const FLUSH: SweepPolicy<'static> = SweepPolicy { flush: true, ..CALM };
pub(super) const ALONE: SweepPolicy<'static> = SweepPolicy { quorum: ShardSet::NONE, ..CALM };
pub(super) const OTHER_GONE: SweepPolicy<'static> = SweepPolicy { departed: &[OTHER], ..CALM };

/// A table with everything around it.
pub(super) struct Bench {
    pub(super) table: Arc<SessionTable>,
    pub(super) worker: WorkerHandle,
    pub(super) sweeper: Sweeper,
    pub(super) forwarding: ForwardingTables,
    pub(super) progress: SweepProgress,
}

impl Bench {
    pub(super) fn new() -> Bench {
        let (table, worker) = table(256);
        let sweeper = Sweeper::new(&table);
        let forwarding = fixture::tables(&fixture::cluster(&[1, 1]), ME.0);
        Bench { table, worker, sweeper, forwarding, progress: SweepProgress::default() }
    }

    /// One whole pass.
    pub(super) fn pass(
        &mut self,
        now_ms: u64,
        policy: SweepPolicy<'_>,
    ) -> Vec<(ShardId, SessionChange)> {
        let mut out = Vec::new();
        self.worker.quiescent();
        self.progress =
            self.sweeper.step(&self.table, &self.forwarding, now_ms, &policy, 1_000, &mut out);
        assert!(self.progress.pass_complete);
        out
    }

    pub(super) fn creates(&mut self, now_ms: u64, policy: SweepPolicy<'_>) -> Vec<SessionRecord> {
        let all = self.pass(now_ms, policy).into_iter();
        all.map(|(_, change)| match change {
            SessionChange::Create(record) => record,
            other => panic!("a create was expected: {other:?}"),
        })
        .collect()
    }

    pub(super) fn updates(&mut self, now_ms: u64, policy: SweepPolicy<'_>) -> Vec<SessionUpdate> {
        let all = self.pass(now_ms, policy).into_iter();
        all.map(|(_, change)| match change {
            SessionChange::Update(update) => update,
            other => panic!("an update was expected: {other:?}"),
        })
        .collect()
    }

    pub(super) fn open(&self, n: u32, flags: SessionFlags, now_ms: u64) -> Slot {
        self.table.open(new_session(n, n, flags), now_ms).unwrap()
    }

    /// An established session that the store has, opened at 0.
    pub(super) fn replicated(&mut self, n: u32) -> Slot {
        let slot = self.open(n, established(), 0);
        let said = self.creates(3_000, CALM);
        assert_eq!(said.len(), 1);
        self.table.created(&said[0]);
        assert_eq!(self.pass(3_001, CALM), []);
        slot
    }
}

#[test]
fn a_session_is_promoted_when_established_and_old_enough() {
    let mut bench = Bench::new();
    let slot = bench.open(1, OPENED, 0);
    assert_eq!(bench.pass(5_000, CALM), [], "half-open");
    bench.table.session(slot).set_flags(established());
    bench.open(2, established(), 4_000);
    let all = bench.pass(6_000, CALM);
    let [(shard, SessionChange::Create(said))] = &all[..] else { panic!("{all:?}") };
    assert_eq!(said.key, key(1));
    assert_eq!(said.flags, established());
    assert_eq!(said.created_age_ms, 6_000);
    assert_eq!(*shard, bench.forwarding.shard(Bucket::of_local_port(reply(1).dst_port)));
    assert_eq!(bench.progress.unreplicated, 2);
    let said = bench.creates(7_000, CALM);
    assert_eq!(said.len(), 2, "the second is old enough, the first was not confirmed");
}

#[test]
fn a_create_is_repeated_until_it_is_confirmed() {
    let mut bench = Bench::new();
    bench.open(1, established(), 0);
    let said = bench.creates(3_000, CALM);
    assert_eq!(bench.pass(3_999, CALM), []);
    assert_eq!(bench.creates(4_000, CALM).len(), 1);
    assert_eq!(bench.pass(4_999, CALM), []);
    bench.table.created(&said[0]);
    assert_eq!(bench.pass(5_000, CALM), []);
    assert_eq!(bench.progress.unreplicated, 0);
}

#[test]
fn replicate_after_is_the_sessions_own_or_its_listeners() {
    let mut bench = Bench::new();
    let at_once = NewSession {
        replicate_after: ReplicateAfter::Millis(0),
        ..new_session(1, 1, established())
    };
    bench.table.open(at_once, 10).unwrap();
    assert_eq!(bench.creates(10, CALM).len(), 1);
    // One that another director answered a miss with: the listener says three seconds.
    let found = SessionRecord { created_age_ms: 2_000, ..record(2, 2, 1, established()) };
    bench.table.install(&found, 20).unwrap();
    assert_eq!(bench.pass(900, CALM), []);
    assert_eq!(bench.creates(1_020, CALM).len(), 2);
}

#[test]
fn never_means_never() {
    let mut bench = Bench::new();
    let never = NewSession {
        replicate_after: ReplicateAfter::Never,
        idle_timeout_ms: 120_000,
        ..new_session(1, 1, established())
    };
    bench.table.open(never, 0).unwrap();
    for now in [0, 10_000, 119_999] {
        assert_eq!(bench.pass(now, FLUSH), []);
        assert_eq!(bench.progress.unreplicated, 0);
    }
    bench.pass(120_000, CALM);
    assert_eq!(bench.table.stats().expired, 1, "its own idle timeout ends it");
}

#[test]
fn a_flush_proposes_everything_at_once() {
    let mut bench = Bench::new();
    bench.open(1, OPENED, 0);
    bench.open(2, established(), 0);
    let closing = bench.open(3, established(), 0);
    bench.table.session(closing).set_flags(SessionFlags::RESET);
    assert_eq!(bench.pass(1, CALM), []);
    let said = bench.creates(2, FLUSH);
    assert_eq!(said.len(), 2, "what is closing needs no survival");
    assert_eq!(bench.progress.unreplicated, 2);
    assert_eq!(bench.pass(3, FLUSH), [], "said a moment ago");
    bench.table.created(&said[0]);
    bench.table.created(&said[1]);
    bench.pass(4, FLUSH);
    assert_eq!(bench.progress.unreplicated, 0);
    // The half-open one becomes established: that is news.
    let (slot, _) = found(&bench.table, &key(1)).unwrap();
    bench.table.session(slot).set_flags(established());
    assert_eq!(bench.updates(5, CALM)[0].flags, established());
}

#[test]
fn what_closes_before_its_promotion_is_never_proposed() {
    let mut bench = Bench::new();
    let slot = bench.open(1, established(), 0);
    bench.table.session(slot).set_flags(SessionFlags::CLIENT_FIN.with(SessionFlags::BACKEND_FIN));
    let linger = u64::from(CLOSE_LINGER_MS);
    for now in [1, 3_000, linger - 1] {
        assert_eq!(bench.pass(now, FLUSH), []);
    }
    assert_eq!(bench.progress.freed, 0);
    assert_eq!(bench.pass(linger, CALM), []);
    assert_eq!(bench.progress.freed, 1);
    assert_eq!(found(&bench.table, &reply(1)), None);
}

#[test]
fn a_closing_is_told_at_once_and_repeated_until_confirmed() {
    let mut bench = Bench::new();
    let slot = bench.replicated(1);
    let session = bench.table.session(slot);
    session.touch(Side::Backend, 9_000, 5, 6);
    session.set_flags(SessionFlags::RESET);
    let table = bench.table.clone();
    let told = bench.updates(9_001, CALM);
    assert_eq!(told.len(), 1);
    assert!(told[0].flags.has(SessionFlags::RESET));
    assert_eq!(told[0].backend_seen, Some(HalfSeen { age_ms: 1, seq: 5, ack: 6 }));
    assert_eq!(told[0].client, Some(HalfSeen { age_ms: 9_001, seq: 8, ack: 0 }));
    assert_eq!(bench.pass(9_002, CALM), []);
    assert_eq!(bench.updates(10_001, CALM).len(), 1, "not confirmed");
    assert_eq!(bench.updates(60_000, CALM).len(), 1, "not even after its linger");
    table.updated(&told[0]);
    assert_eq!(bench.pass(70_000, CALM), []);
    assert_eq!(table.stats().sessions, 1, "the store's clock ends it");
    table.expired(&told[0].key, &told[0].incarnation);
    assert_eq!(table.stats().sessions, 0);
}

#[test]
fn a_refresh_tells_ages_once_in_a_quarter_of_the_idle_timeout() {
    let mut bench = Bench::new();
    let slot = bench.replicated(1);
    let quarter = 900_000 / 4;
    assert_eq!(bench.pass(3_000 + quarter, CALM), [], "no packet since");
    let table = bench.table.clone();
    table.session(slot).touch(Side::Client, 300_000, 1, 2);
    let early = 3_000 + quarter + quarter * 7 / 8 - 1_000;
    assert_eq!(bench.pass(early, CALM), []);
    let told = bench.updates(3_000 + 2 * quarter, CALM);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].client.unwrap().age_ms, 153_000);
    assert_eq!(told[0].backend_seen, None, "never seen here");
    assert_eq!((told[0].from, told[0].owner), (ME, ME));
    assert_eq!(bench.pass(3_001 + 2 * quarter, CALM), []);
}

#[test]
fn refreshes_are_spread() {
    let mut bench = Bench::new();
    for n in 0..200 {
        bench.open(n, established(), 0);
    }
    for said in bench.creates(3_000, CALM) {
        bench.table.created(&said);
    }
    for n in 0..200 {
        let (slot, _) = found(&bench.table, &key(n)).unwrap();
        bench.table.session(slot).touch(Side::Client, 3_001, 1, 1);
    }
    let quarter = 900_000 / 4;
    let (from, to) = (3_000 + quarter * 7 / 8, 3_000 + quarter);
    assert_eq!(bench.pass(from - 1, CALM), []);
    let counts: Vec<usize> =
        (1..=8).map(|i| bench.pass(from + (to - from) * i / 8, CALM).len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 200);
    assert!(counts.iter().all(|count| (10..50).contains(count)), "{counts:?}");
}

#[test]
fn a_serving_owner_keeps_its_session_until_it_was_silent() {
    let mut bench = Bench::new();
    let said = record(1, 1, 1_000, established());
    bench.table.tick(1_000);
    bench.table.created(&said);
    let (slot, _) = found(&bench.table, &key(1)).unwrap();
    let table = bench.table.clone();
    let session = table.session(slot);
    session.touch(Side::Client, 5_000, 1, 1);
    assert_eq!(bench.pass(60_000, CALM), []);
    assert_eq!(session.owner(), OTHER);
    // At the refresh: five seconds after the owner's last word is not silence enough.
    let told = bench.updates(226_000, CALM);
    assert_eq!((told[0].owner, told[0].from), (OTHER, ME));
    session.touch(Side::Client, 226_100, 1, 1);
    assert_eq!(bench.pass(300_000, CALM), []);
    assert_eq!(session.owner(), OTHER, "the adoption rides on a refresh");
    let told = bench.updates(451_000, CALM);
    assert_eq!(told[0].owner, ME);
    assert_eq!(session.owner(), ME);
    assert_eq!(table.stats().adopted, 1);
    assert_eq!(table.stats().pass.owned, 0, "counted from the next pass on");
    bench.pass(451_001, CALM);
    assert_eq!(table.stats().pass.owned, 1);
}

/// Two routers that hash differently send a client's packets to both of two directors.
#[test]
fn a_session_that_two_directors_see_does_not_wander() {
    let mut bench = Bench::new();
    bench.table.tick(1_000);
    let said = record(1, 1, 1_000, established());
    bench.table.created(&said);
    let table = bench.table.clone();
    let session = table.session(found(&table, &key(1)).unwrap().0);
    let mut refreshes = 0;
    for now in (10_000..4_000_000u64).step_by(10_000) {
        session.touch(Side::Client, now - 1, 1, 1);
        for update in bench.updates(now, CALM) {
            assert_eq!(update.owner, OTHER, "at {now}");
            refreshes += 1;
        }
        if now % 220_000 == 0 {
            // The owner's own refresh.
            table.updated(&SessionUpdate {
                key: said.key,
                incarnation: said.incarnation,
                from: OTHER,
                owner: OTHER,
                flags: said.flags,
                client: Some(HalfSeen { age_ms: 9_000, seq: 1, ack: 1 }),
                backend_seen: None,
            });
        }
    }
    assert!(refreshes > 10, "it tells of what it sees all the same");
    assert_eq!((session.owner(), table.stats().adopted), (OTHER, 0));
}

#[test]
fn a_session_of_a_departed_owner_is_adopted_when_the_client_shows_up() {
    let mut bench = Bench::new();
    bench.table.tick(1_000);
    bench.table.created(&record(1, 1, 1_000, established()));
    bench.table.created(&record(2, 2, 1_000, established()));
    let table = bench.table.clone();
    let session = |n| table.session(found(&table, &key(n)).unwrap().0);
    assert_eq!(bench.pass(2_000, OTHER_GONE), []);
    assert_eq!(session(1).owner(), OTHER, "its client was not seen here");
    session(1).touch(Side::Client, 2_500, 1, 1);
    session(2).touch(Side::Backend, 2_500, 1, 1);
    let told = bench.updates(2_501, OTHER_GONE);
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].key, told[0].owner), (key(1), ME));
    assert_eq!((session(1).owner(), session(2).owner()), (ME, OTHER));
    assert_eq!(bench.pass(2_502, OTHER_GONE), []);
    // Our own word back from the store changes nothing.
    table.updated(&told[0]);
    assert_eq!(session(1).owner(), ME);
}

#[test]
fn a_departing_director_adopts_nothing() {
    let mut bench = Bench::new();
    bench.table.tick(1_000);
    bench.table.created(&record(1, 1, 1_000, established()));
    let (slot, _) = found(&bench.table, &key(1)).unwrap();
    bench.table.session(slot).touch(Side::Client, 2_500, 1, 1);
    let both = SweepPolicy { departed: &[OTHER, ME], ..CALM };
    assert_eq!(bench.pass(3_000, both), []);
    assert_eq!(bench.table.session(slot).owner(), OTHER);
}

#[test]
fn a_vetoed_session_is_proposed_again() {
    let mut bench = Bench::new();
    let slot = bench.replicated(1);
    let table = bench.table.clone();
    let session = table.session(slot);
    session.touch(Side::Client, 10_000, 1, 1);
    table.expired(&session.key(), &session.incarnation());
    assert_eq!(bench.creates(10_001, CALM).len(), 1);
    assert_eq!(bench.pass(10_002, CALM), []);
    assert_eq!(bench.creates(11_001, CALM).len(), 1);
}

/// Its twin was created in the store before the word that it is established.
#[test]
fn a_session_that_its_twin_has_replaced_in_the_store_is_proposed_again() {
    let mut bench = Bench::new();
    let slot = bench.open(1, OPENED, 0);
    let said = bench.creates(1, FLUSH).remove(0);
    let table = bench.table.clone();
    table.created(&said);
    let session = table.session(slot);
    session.set_flags(established());
    assert_eq!(bench.updates(10, FLUSH).len(), 1);
    let mut twin = record(1, 2, said.incarnation.stamp - 1, OPENED);
    twin.incarnation.isn = said.incarnation.isn;
    assert!(twin.prevails_over(&said), "the store does not know better");
    table.created(&twin);
    assert!(!session.replicated());
    assert_eq!((table.unreplicated(), table.stats().vetoed), (1, 0));
    let again = bench.creates(11, FLUSH).remove(0);
    assert_eq!(again.incarnation, said.incarnation);
    assert!(again.prevails_over(&twin), "now it does");
    // The twin, said once more, has no claim to what is not in the store.
    table.created(&twin);
    assert_eq!(bench.pass(12, FLUSH), []);
    table.created(&again);
    assert!(session.replicated());
    assert_eq!(bench.pass(1_011, FLUSH), [], "the store knows all of it");
    // But if the twin is established, too, that is for ever.
    twin.flags = established();
    table.created(&twin);
    assert_eq!(table.find(&key(1)).session().unwrap().incarnation, twin.incarnation);
    assert_eq!((table.sessions(), bench.pass(1_012, FLUSH)), (1, vec![]));
}

/// When its time is over there is nothing to propose.
#[test]
fn an_idle_session_that_the_store_has_replaced_ends() {
    let mut bench = Bench::new();
    let slot = bench.replicated(1);
    let table = bench.table.clone();
    let mut twin = record(1, 2, 1, OPENED);
    twin.incarnation.isn = table.session(slot).incarnation().isn;
    table.created(&twin);
    assert_eq!(bench.pass(900_001, CALM), []);
    assert!(table.session(slot).standing().1, "its ends are told");
    table.created(&twin);
    assert!(table.session(slot).standing().1, "and nothing brings it back");
    assert_eq!(bench.pass(900_002, CALM), []);
}

#[test]
fn a_resting_port_is_free_after_its_linger() {
    let mut bench = Bench::new();
    let old = bench.replicated(1);
    let table = bench.table.clone();
    let fins = SessionFlags::CLIENT_FIN
        .with(SessionFlags::BACKEND_FIN)
        .with(SessionFlags::BACKEND_CLOSED_FIRST);
    table.session(old).touch(Side::Backend, 10_000, 1, 1);
    table.session(old).set_flags(fins);
    let again = NewSession { replaces: Some(old), ..new_session(1, 2, OPENED) };
    table.open(again, 11_000).unwrap();
    let end = 10_000 + u64::from(TIME_WAIT_LINGER_MS);
    // (The new one is half-open and ends before.)
    assert_eq!(bench.pass(end - 1, CALM), []);
    assert!(found(&table, &reply(1)).is_some());
    bench.pass(end, CALM);
    assert_eq!(found(&table, &reply(1)), None);
}

#[test]
fn what_a_worker_could_not_unlink_the_sweep_does() {
    let mut bench = Bench::new();
    let slot = bench.open(1, established(), 0);
    let table = bench.table.clone();
    let held = table.l2.hold(&PackedKey::new(&reply(1)));
    let version = table.record(slot).live().unwrap();
    assert!(table.free(slot, version, Wait::No));
    drop(held);
    assert_eq!(table.sessions(), 0);
    // The key still leads to what is no session any more, and is not to be given away either.
    assert_eq!(table.open(new_session(2, 1, OPENED), 0), Err(OpenError::ReplyTaken));
    bench.pass(1, CALM);
    assert_eq!(table.lookup(&reply(1)), Lookup::Absent);
    assert_eq!(table.class_used(&reply(1)), 0);
    assert!(table.open(new_session(2, 1, OPENED), 0).is_ok());
}

/// Nor need others wait for the sweep.
#[test]
fn what_a_worker_could_not_unlink_the_next_one_who_meets_it_does() {
    let freed = |held: FlowKey| {
        let bench = Bench::new();
        let slot = bench.open(1, established(), 0);
        let held = bench.table.l2.hold(&PackedKey::new(&held));
        let version = bench.table.record(slot).live().unwrap();
        assert!(bench.table.free(slot, version, Wait::No));
        drop(held);
        bench
    };
    for held in [key(1), reply(1)] {
        // The store, whose record has the same keys.
        let table = freed(held).table;
        let said = record(1, 1, 5_000, established());
        table.created(&said);
        assert_eq!(table.find(&held).session().unwrap().incarnation, said.incarnation);
        assert_eq!((table.stats().refused, table.class_used(&reply(1))), (0, 1));
        // A worker: next batch it is gone.
        let table = freed(held).table;
        let busy = table.l2.hold_reading(&PackedKey::new(&held));
        assert_eq!(table.lookup(&held), Lookup::Contended, "it may not wait either");
        drop(busy);
        assert_eq!(table.lookup(&held), Lookup::Contended);
        assert_eq!(table.lookup(&held), Lookup::Absent);
        assert_eq!(table.class_used(&reply(1)), 0);
        // Its slot comes back once.
        let mut bench = freed(held);
        bench.table.lookup(&held);
        bench.pass(1, CALM);
        bench.pass(1, CALM);
        assert_eq!(bench.table.slab.reclaim(8), 0);
        let slots = [2, 3].map(|n| bench.open(n, established(), 0));
        assert_ne!(slots[0], slots[1]);
    }
}

#[test]
fn steps_cover_the_slab_within_their_budget() {
    let mut bench = Bench::new();
    for n in 0..200 {
        bench.open(n, established(), 0);
    }
    let mut out = Vec::new();
    let mut steps = 0;
    loop {
        let before = out.len();
        let progress =
            bench.sweeper.step(&bench.table, &bench.forwarding, 3_000, &CALM, 64, &mut out);
        steps += 1;
        assert!(progress.scanned <= 64 && out.len() - before <= 64);
        if progress.pass_complete {
            break;
        }
    }
    assert_eq!((steps, out.len()), (4, 200));
    let stats = bench.table.stats();
    assert_eq!((stats.passes, stats.pass.owned, stats.pass.established), (1, 200, 200));
}
