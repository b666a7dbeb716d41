//! What a planned change waits for, and what homes are told meanwhile.

use holdfast_schema::session::{SessionFlags, SessionSink};

use super::super::{SweepPolicy, YoungWalk};
use super::sweeping::{ALONE, Bench, CALM, FLUSH};
use super::*;

#[test]
fn a_flush_waits_for_what_was_there() {
    let mut bench = Bench::new();
    bench.open(1, OPENED, 100);
    bench.open(2, established(), 200);
    let table = bench.table.clone();
    assert_eq!(table.unreplicated_before(100), 0);
    assert_eq!(table.unreplicated_before(101), 1);
    assert_eq!(table.unreplicated_before(201), 2);
    let said = bench.creates(300, FLUSH);
    table.created(&said[0]);
    assert_eq!(table.unreplicated_before(300), 1);
    table.created(&said[1]);
    assert_eq!(table.unreplicated_before(300), 0);
}

/// Whoever carries it on sees no handshake.
#[test]
fn a_flush_waits_until_the_store_knows_how_far_a_handshake_is() {
    let mut bench = Bench::new();
    let answered = OPENED.with(SessionFlags::BACKEND_ANSWERED);
    for (n, after) in [(1, answered), (2, established())] {
        let began = 20_000 * u64::from(n);
        let slot = bench.open(n, OPENED, began);
        let table = bench.table.clone();
        let session = table.session(slot);
        let said = bench.creates(began + 1, FLUSH);
        table.created(&said[0]);
        assert_eq!(table.unreplicated_before(began + 100), 0);
        session.set_flags(after);
        let cut_off = SweepPolicy { flush: true, ..ALONE };
        assert_eq!(bench.pass(began + 2, cut_off), []);
        assert_eq!((table.unreplicated(), table.unreplicated_before(began + 100)), (0, 1));
        assert_eq!(table.unreplicated_before(began), 0, "it was not there");
        assert_eq!(bench.pass(began + 11, CALM), [], "nobody is in a hurry");
        let told = bench.updates(began + 12, FLUSH);
        assert_eq!((told.len(), told[0].flags), (1, after));
        assert_eq!(bench.pass(began + 22, FLUSH), [], "said a moment ago");
        assert_eq!(table.unreplicated_before(began + 100), 1);
        table.updated(&told[0]);
        assert_eq!(table.unreplicated_before(began + 100), 0);
        assert_eq!(bench.pass(began + 3_000, FLUSH), []);
        session.set_flags(SessionFlags::RESET);
        assert_eq!(table.unreplicated_before(began + 100), 0, "an end needs no survival");
        table.remove(slot, &key(n));
    }
}

/// The store had it before, so the homes are the first who hear of it.
#[test]
fn homes_are_told_of_a_handshake_that_the_store_does_not_know_yet() {
    let mut bench = Bench::new();
    let slot = bench.open(1, OPENED, 0);
    let table = bench.table.clone();
    let session = table.session(slot);
    assert!(table.young(slot, 1).is_some());
    let said = bench.creates(1, FLUSH);
    table.created(&said[0]);
    assert_eq!(table.young(slot, 2), None, "everybody has it");
    for flag in [SessionFlags::BACKEND_ANSWERED, SessionFlags::ESTABLISHED] {
        session.set_flags(flag);
        let mut walked = Vec::new();
        YoungWalk::default().step(&table, 3, 256, 256, |young| walked.push(young));
        assert_eq!(walked, [table.young(slot, 3).unwrap()]);
        assert_eq!(walked[0].flags, session.flags());
        let told = bench.updates(3, CALM);
        table.updated(&told[0]);
        assert_eq!(table.young(slot, 4), None);
    }
    // What is another's he tells.
    let theirs = record(2, 2, 1_000, OPENED);
    table.created(&theirs);
    let (slot, _) = found(&table, &key(2)).unwrap();
    table.session(slot).set_flags(established());
    assert_eq!(table.young(slot, 5), None);
}

/// Its answer may come to whom neither sees the client nor began the session, and whose owner is gone.
#[test]
fn homes_are_told_of_a_denial_by_whoever_heard_it() {
    let bench = Bench::new();
    let table = bench.table.clone();
    let theirs = record(1, 1, 1_000, OPENED);
    let slot = table.install(&theirs, 0).unwrap();
    assert_eq!(table.young(slot, 1), None, "what is another's he tells");
    table.session(slot).set_flags(SessionFlags::DENIED);
    let mut walked = Vec::new();
    YoungWalk::default().step(&table, 2, 256, 256, |young| walked.push(young));
    assert_eq!(walked, [table.young(slot, 2).unwrap()]);
    assert_eq!((walked[0].owner, walked[0].flags), (OTHER, OPENED.with(SessionFlags::DENIED)));
    // The store has the session: homes still hear of it before the store does.
    table.created(&theirs);
    assert!(table.young(slot, 3).is_some());
    table.created(&walked[0]);
    assert_eq!(table.young(slot, 4), None, "everybody knows");
    let established = record(2, 2, 1_000, established().with(SessionFlags::DENIED));
    let slot = table.install(&established, 0).unwrap();
    assert_eq!(table.young(slot, 5), None, "it means nothing any more");
}
