//! How long what is no open connection stays, and what waits for the quorum.

use holdfast_schema::bucket::{ShardId, ShardSet};
use holdfast_schema::session::{
    HALF_OPEN_LINGER_MS, SessionFlags, SessionSink, SessionUpdate, TIME_WAIT_LINGER_MS,
};

use super::super::{SweepPolicy, Sweeper};
use super::sweeping::{ALONE, Bench, CALM, FLUSH};
use super::*;

#[test]
fn half_open_sessions_do_not_last() {
    let mut bench = Bench::new();
    let slot = bench.open(1, OPENED, 0);
    let table = bench.table.clone();
    table.session(slot).touch(Side::Client, 1_000, 8, 0);
    let limit = u64::from(HALF_OPEN_LINGER_MS);
    bench.pass(limit, CALM);
    assert_eq!(bench.progress.freed, 0, "the SYN was repeated");
    bench.pass(limit + 1_000, CALM);
    assert_eq!(bench.progress.freed, 1);
    assert_eq!((table.stats().half_open, table.unreplicated()), (0, 0));
    bench.worker.quiescent();
    assert_eq!(table.reclaim(10), 1, "the slot comes back");
}

#[test]
fn an_established_session_that_was_never_replicated_waits_while_there_is_room() {
    let mut bench = Bench::new();
    bench.open(1, established(), 0);
    // Without a quorum it cannot be proposed, and nobody can be asked whether he carries it on.
    assert_eq!(bench.pass(4_000, ALONE), []);
    assert_eq!(bench.progress.unreplicated, 1);
    bench.pass(2_000_000, ALONE);
    assert_eq!(bench.progress.freed, 0);
    for n in 2..224 {
        bench.open(n, established(), 2_000_000);
    }
    bench.pass(2_001_000, ALONE);
    assert_eq!(bench.progress.freed, 0);
    bench.open(300, established(), 2_000_000);
    bench.pass(2_002_000, ALONE);
    assert_eq!(bench.progress.freed, 1, "new ones need the room");
    assert_eq!(bench.table.sessions(), 223);
}

#[test]
fn without_a_quorum_open_connections_wait_and_others_end_here() {
    let mut bench = Bench::new();
    let open = bench.replicated(1);
    let closing = bench.replicated(2);
    let table = bench.table.clone();
    table.session(open).touch(Side::Client, 3_500, 1, 1);
    table.session(closing).set_flags(
        SessionFlags::CLIENT_FIN
            .with(SessionFlags::BACKEND_FIN)
            .with(SessionFlags::BACKEND_CLOSED_FIRST),
    );
    let told = bench.updates(3_600, CALM);
    table.updated(&told[0]);
    assert_eq!(bench.pass(4_000, ALONE), [], "nothing is said");
    bench.pass(u64::from(TIME_WAIT_LINGER_MS) - 1, ALONE);
    assert_eq!(table.stats().sessions, 2);
    // (A millisecond more: the ages in its own create passed through the store.)
    bench.pass(u64::from(TIME_WAIT_LINGER_MS) + 1, ALONE);
    assert_eq!(table.stats().sessions, 1);
    bench.pass(2_000_000, ALONE);
    assert_eq!(table.stats().sessions, 1, "the connection waits for the store");
    // The quorum is back: what waited is said.
    assert_eq!(bench.updates(2_002_000, CALM).len(), 1);
}

/// Else the store holds it for open when the quorum is back, and so does whoever asks.
#[test]
fn an_end_that_the_store_was_not_told_waits_for_the_quorum() {
    let mut bench = Bench::new();
    let slot = bench.replicated(1);
    let table = bench.table.clone();
    table.session(slot).set_flags(SessionFlags::RESET);
    assert_eq!(bench.pass(2_000_000, ALONE), []);
    assert_eq!(table.sessions(), 1);
    let told = bench.updates(2_001_000, CALM);
    assert!(told[0].flags.has(SessionFlags::RESET));
    table.updated(&told[0]);
    assert_eq!(bench.pass(2_002_000, CALM), []);
    // The store's clock would end it; without a quorum nobody has to wait for that.
    bench.pass(2_003_000, ALONE);
    assert_eq!(table.sessions(), 0);
}

/// It may have been established elsewhere, before this director was cut off.
#[test]
fn a_half_open_session_that_the_store_has_waits_for_the_quorum() {
    let mut bench = Bench::new();
    bench.table.tick(1_000);
    bench.table.created(&record(1, 1, 1_000, OPENED));
    bench.open(2, OPENED, 1_000);
    let said = bench.creates(1_001, FLUSH);
    bench.table.created(&said[0]);
    let table = bench.table.clone();
    assert_eq!(bench.pass(2_000_000, ALONE), []);
    for said in [record(1, 1, 1_000, OPENED), said[0].clone()] {
        table.updated(&SessionUpdate {
            key: said.key,
            incarnation: said.incarnation,
            from: OTHER,
            owner: OTHER,
            flags: established(),
            client: Some(HalfSeen { age_ms: 9_000, seq: 1, ack: 1 }),
            backend_seen: None,
        });
        assert_eq!(table.find(&said.key).session().unwrap().flags, established());
    }
}

#[test]
fn what_waits_for_the_quorum_gives_way_to_new_sessions() {
    let end = |bench: &mut Bench, n| {
        let slot = bench.replicated(n);
        bench.table.session(slot).set_flags(SessionFlags::RESET);
    };
    // The table.
    let mut bench = Bench::new();
    end(&mut bench, 1);
    for n in 2..224 {
        bench.open(n, established(), 2_000_000);
    }
    bench.pass(2_000_001, ALONE);
    assert_eq!(bench.table.sessions(), 223);
    bench.open(300, established(), 2_000_000);
    bench.pass(2_000_002, ALONE);
    assert_eq!(bench.table.sessions(), 223, "the closed one is gone");

    // The ports of its class.
    let (table, worker) = table(4_096);
    let mut bench = Bench { table, worker, ..Bench::new() };
    bench.sweeper = Sweeper::new(&bench.table);
    end(&mut bench, 64);
    for n in 2..504 {
        bench.open(n * 64, established(), 2_000_000);
    }
    bench.pass(2_000_001, ALONE);
    assert_eq!(bench.table.class_used(&reply(64)), 503);
    bench.open(504 * 64, established(), 2_000_000);
    bench.pass(2_000_002, ALONE);
    assert_eq!(bench.table.class_used(&reply(64)), 503);

    // Those whose time is over though nobody could be told of them (all flows of a busy UDP service).
    let (table, worker) = super::table(4_096);
    let mut bench = Bench { table, worker, ..Bench::new() };
    bench.sweeper = Sweeper::new(&bench.table);
    for n in 1..504 {
        bench.open(n * 64, established(), 0);
    }
    bench.pass(2_000_001, ALONE);
    assert_eq!(bench.table.class_used(&reply(64)), 503, "there is room");
    bench.open(504 * 64, established(), 2_000_000);
    bench.pass(2_000_002, ALONE);
    assert_eq!(bench.table.class_used(&reply(64)), 503);

    // The pool of half-open sessions, and its share of the class.
    for (step, sessions, most) in [(1, 256, 128), (64, 4_096, 126)] {
        let (table, worker) = super::table(sessions);
        let mut bench = Bench { table, worker, ..Bench::new() };
        bench.sweeper = Sweeper::new(&bench.table);
        bench.open(step, OPENED, 0);
        let said = bench.creates(1, FLUSH);
        bench.table.created(&said[0]);
        for n in 2..most {
            bench.open(n * step, OPENED, 2_000_000);
        }
        bench.pass(2_000_001, ALONE);
        assert_eq!(bench.table.sessions(), most - 1, "{step}");
        bench.open(most * step, OPENED, 2_000_000);
        bench.pass(2_000_002, ALONE);
        assert_eq!(bench.table.stats().half_open, most - 1, "{step}");
    }
}

#[test]
fn what_the_store_has_forgotten_does_not_stay_for_ever() {
    let mut bench = Bench::new();
    bench.replicated(1);
    let table = bench.table.clone();
    let (limit, more) = (900_000, 600_000);
    // A quorum that comes back gives the store its time anew.
    bench.pass(10_000_000, ALONE);
    bench.pass(20_000_000, CALM);
    bench.pass(20_000_000 + limit + more - 1, CALM);
    assert_eq!(table.sessions(), 1);
    bench.pass(20_000_000 + limit + more + 250_000, CALM);
    assert_eq!(table.stats().expired, 1);
}

/// The shard of the first session, and a session of another one.
fn apart(bench: &Bench) -> (ShardId, u32) {
    let shard = |n: u32| bench.forwarding.shard(Bucket::of_local_port(reply(n).dst_port));
    (shard(1), (2..64).find(|n| shard(*n) != shard(1)).unwrap())
}

/// Opens the first session and the other one. Under `cut` only the shard of the other one takes anything.
fn the_other_is_told_of(bench: &mut Bench, other: u32, cut: SweepPolicy<'_>) -> [Slot; 2] {
    let flush = SweepPolicy { flush: true, ..cut };
    let table = bench.table.clone();
    let slots = [1, other].map(|n| bench.open(n, established(), 0));
    // What is new is proposed where somebody takes it, by the clock and at a flush.
    let created = |said: Vec<SessionRecord>| said.into_iter().map(|r| r.key).collect::<Vec<_>>();
    assert_eq!(created(bench.creates(3_000, cut)), [key(other)]);
    assert_eq!(created(bench.creates(4_000, flush)), [key(other)]);
    let said = bench.creates(5_000, CALM);
    assert_eq!(said.len(), 2);
    said.iter().for_each(|record| table.created(record));
    // So is what was seen since: the store would expire it.
    slots.iter().for_each(|slot| table.session(*slot).touch(Side::Client, 6_000, 1, 1));
    let told = bench.updates(300_000, cut);
    assert_eq!(told.iter().map(|u| u.key).collect::<Vec<_>>(), [key(other)]);
    slots
}

#[test]
fn a_shard_without_room_does_not_hold_up_the_others() {
    let mut bench = Bench::new();
    let (shard, other) = apart(&bench);
    let full = SweepPolicy { full: ShardSet::NONE.with(shard), ..CALM };
    let [slot, _] = the_other_is_told_of(&mut bench, other, full);
    assert_eq!(bench.pass(300_999, full), []);
    // It has not been lost, nor has its end.
    let told = bench.updates(301_000, CALM);
    assert_eq!(told.iter().map(|u| u.key).collect::<Vec<_>>(), [key(1)]);
    bench.table.session(slot).set_flags(SessionFlags::RESET);
    assert_eq!(bench.pass(302_000, full), []);
    assert_eq!(bench.updates(303_000, CALM).len(), 1);
    assert_eq!(bench.table.sessions(), 2);
}

#[test]
fn a_shard_without_a_quorum_does_not_concern_the_others() {
    let mut bench = Bench::new();
    let (shard, other) = apart(&bench);
    let cut = SweepPolicy { quorum: ShardSet::ALL.without(shard), ..CALM };
    let slots = the_other_is_told_of(&mut bench, other, cut);
    let table = bench.table.clone();
    // What ended is freed here only where no leader can have it expire.
    let ended = SessionFlags::CLIENT_FIN
        .with(SessionFlags::BACKEND_FIN)
        .with(SessionFlags::BACKEND_CLOSED_FIRST);
    slots.iter().for_each(|slot| table.session(*slot).set_flags(ended));
    let told = bench.updates(301_000, CALM);
    assert_eq!(told.len(), 2);
    told.iter().for_each(|update| table.updated(update));
    bench.pass(301_000 + 2 * u64::from(TIME_WAIT_LINGER_MS), cut);
    assert_eq!(bench.progress.freed, 1);
    assert!(table.find(&key(other)).session().is_some(), "the store says when");
}
