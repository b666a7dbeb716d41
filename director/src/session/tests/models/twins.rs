//! A session whose twin takes its place while a worker forwards by it.

use holdfast_schema::session::SessionSink;
use loom::thread;

use super::cache::forward;
use super::*;

/// What this director opened, and its backend has answered: backend 1.
fn own() -> NewSession {
    let flags = OPENED.with(SessionFlags::BACKEND_ANSWERED);
    NewSession { flags, ..flow(1) }
}

/// What another director made of the same opening: backend 2, and the client has agreed with it.
fn twin() -> SessionRecord {
    let said = record(1, 2, 1_000, established());
    let incarnation = Incarnation { isn: own().isn, ..said.incarnation };
    SessionRecord { incarnation, isn_delta: 2, ..said }
}

/// Has the store say it until there is room for it. Checks that it is all there is.
fn assert_replaced(table: &SessionTable, worker: &WorkerHandle) {
    let place = loop {
        worker.quiescent();
        table.reclaim(8);
        table.created(&twin());
        if let Some(slot) = leads(table, &key(1)) {
            break slot;
        }
    };
    assert_eq!(check_whole(table, place, 1), 2);
    assert_eq!(leads(table, &reply(2)), Some(place));
    assert_eq!(leads(table, &reply(1)), None);
    assert_eq!(table.sessions(), 1);
}

/// The twin comes to a slot that the worker's cache knows as another flow's.
#[test]
fn models_a_twin_takes_a_session_s_place_whole() {
    let (before, after) = (Mark::default(), Mark::default());
    let marks = (before.clone(), after.clone());
    check(move || {
        let (table, worker) = table_of(2);
        let mut cache = FlowCache::new(2, 7);
        table.open(own(), 1).unwrap();
        let gone = table.open(flow(3), 1).unwrap();
        for n in [1, 3] {
            assert!(forward(&table, &mut cache, &key(n)).is_some());
        }
        assert!(table.remove(gone, &key(3)));
        settle(&table, &worker);
        let other = table.clone();
        let telling = thread::spawn(move || other.adopt_twin(&twin()));
        for _ in 0..2 {
            worker.quiescent();
            if let Some(slot) = forward(&table, &mut cache, &key(1)) {
                let n = check_whole(&table, slot, 1);
                marks.0.reached_if(n == 1);
                marks.1.reached_if(n == 2 && slot == gone);
            }
            assert_eq!(forward(&table, &mut cache, &key(3)), None);
        }
        telling.join().unwrap();
        assert_replaced(&table, &worker);
    });
    before.assert_reached();
    after.assert_reached();
}

/// There is no other slot: the twin comes to the very one whose session it replaces, and under the same key,
/// so that what the worker's cache knows is right once more. By then the worker has let the old one go.
#[test]
fn models_a_twin_in_the_same_slot_is_never_mixed_with_what_it_replaced() {
    let (before, after) = (Mark::default(), Mark::default());
    let marks = (before.clone(), after.clone());
    check(move || {
        let (table, worker) = table_of(1);
        let mut cache = FlowCache::new(1, 7);
        let slot = table.open(own(), 1).unwrap();
        assert_eq!(forward(&table, &mut cache, &key(1)), Some(slot));
        let other = table.clone();
        let telling = thread::spawn(move || {
            other.adopt_twin(&twin());
            // Twice: the epoch begins with the first.
            other.reclaim(1);
            other.reclaim(1);
            other.created(&twin());
        });
        for _ in 0..2 {
            worker.quiescent();
            if let Some(slot) = forward(&table, &mut cache, &key(1)) {
                let n = check_whole(&table, slot, 1);
                marks.0.reached_if(n == 1);
                marks.1.reached_if(n == 2);
            }
        }
        telling.join().unwrap();
        assert_replaced(&table, &worker);
    });
    before.assert_reached();
    after.assert_reached();
}
