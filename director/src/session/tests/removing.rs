//! Listeners and backends that go while they have sessions.

use holdfast_schema::cluster::ClusterState;
use holdfast_schema::session::{Known, SessionSink};

use super::super::{OpenError, Side};
use super::*;
use crate::tables::{Configured, fixture};

/// Listener 1 in front of backends 1 to 3, changed.
fn configured(change: impl FnOnce(&mut ClusterState)) -> Arc<Configured> {
    let mut cluster = fixture::cluster(&[1, 1, 1]);
    change(&mut cluster);
    Arc::new(Configured::of(&cluster))
}

fn without_backend_2() -> Arc<Configured> {
    configured(|cluster| {
        cluster.groups.get_mut("web").unwrap().backends.remove("b2").unwrap();
    })
}

/// A session of this backend, known by the number of its flow.
fn open(table: &SessionTable, n: u32, backend: u32) -> Result<Slot, OpenError> {
    let backend = BackendId(backend);
    table.open(NewSession { backend, ..new_session(n, n, OPENED) }, 0)
}

#[test]
fn a_removed_backend_takes_its_sessions_along() {
    let (table, handle) = table(8);
    assert_eq!(table.configure(&configured(|_| {})), 0);
    for backend in 1..4 {
        open(&table, backend, backend).unwrap();
    }
    table.created(&record(5, 5, 1, established())); // of backend 2, and the store has it
    assert_eq!(table.configure(&without_backend_2()), 2);
    for n in [2, 5] {
        assert_eq!((found(&table, &key(n)), found(&table, &reply(n))), (None, None));
        assert_eq!(table.find(&key(n)), Known::Nobody, "with a clear conscience");
    }
    for n in [1, 3] {
        assert!(found(&table, &key(n)).is_some());
    }
    let stats = table.stats();
    assert_eq!((stats.sessions, stats.removed, stats.unreplicated, stats.half_open), (2, 2, 2, 2));
    assert_eq!(table.class_used(&reply(2)), 0);
    assert_eq!(table.configure(&without_backend_2()), 0);
    // The slots are of use again.
    handle.quiescent();
    table.reclaim(8);
    handle.quiescent();
    table.reclaim(8);
    for n in 10..16 {
        open(&table, n, 1).unwrap();
    }
}

#[test]
fn a_removed_listener_takes_its_sessions_along() {
    let (table, _handle) = table(8);
    open(&table, 1, 1).unwrap();
    let other = NewSession { listener: ListenerId(2), ..new_session(2, 2, OPENED) };
    table.open(other, 0).unwrap();
    assert_eq!(table.configure(&configured(|cluster| cluster.listeners.clear())), 1);
    assert_eq!(found(&table, &key(1)), None);
    assert!(found(&table, &key(2)).is_some(), "of a listener that is not known here yet");
}

#[test]
fn what_others_still_say_of_them_is_turned_away() {
    let (table, _handle) = table(8);
    table.configure(&without_backend_2());
    let said = record(1, 1, 1_000, established());
    assert_eq!(table.install(&said, 0), Err(OpenError::Removed));
    table.created(&said);
    table.offer_refused();
    assert_eq!((found(&table, &said.key), table.find(&said.key)), (None, Known::Nobody));
    // A slower director's session of a backend that is newer than these tables is welcome.
    let newer = SessionRecord { backend: BackendId(4), ..record(2, 2, 1_000, established()) };
    assert!(table.install(&newer, 0).is_ok());
    assert_eq!(table.stats().sessions, 1);
}

#[test]
fn records_without_a_place_go_too() {
    let (table, _handle) = table(8);
    for n in 0..8 {
        open(&table, n, 1).unwrap();
    }
    table.created(&record(100, 100, 1_000, established()));
    let kept = SessionRecord { backend: BackendId(3), ..record(101, 101, 1_000, established()) };
    table.created(&kept);
    assert!(table.find(&key(100)).session().is_some());
    assert_eq!(table.configure(&without_backend_2()), 0, "none of them was in the table");
    assert_eq!(table.find(&key(100)), Known::Nobody);
    assert_eq!(table.find(&reply(100)), Known::Nobody);
    assert!(table.find(&key(101)).session().is_some());
}

/// A worker that has not gone over to the new tables yet.
#[test]
fn a_session_that_is_opened_by_older_tables_does_not_stay() {
    let (table, handle) = table(2);
    table.configure(&without_backend_2());
    for n in 0..8 {
        assert_eq!(open(&table, n, 2), Err(OpenError::Removed));
        assert_eq!((found(&table, &key(n)), found(&table, &reply(n))), (None, None));
        assert_eq!(table.class_used(&reply(n)), 0);
        handle.quiescent();
        table.reclaim(8);
        handle.quiescent();
        table.reclaim(8);
    }
    let stats = table.stats();
    assert_eq!((stats.sessions, stats.half_open, stats.unreplicated), (0, 0, 0));
    let slot = open(&table, 1, 3).unwrap();
    assert_eq!(found(&table, &reply(1)), Some((slot, Side::Backend)));
}

#[test]
fn a_worker_does_not_wait_for_a_removal() {
    let (table, _handle) = table(8);
    let held = table.configured.write();
    assert_eq!(open(&table, 1, 1), Err(OpenError::Contended));
    let said = record(2, 2, 1_000, established());
    assert_eq!(table.install(&said, 0), Err(OpenError::Contended));
    drop(held);
    let stats = table.stats();
    assert_eq!((stats.sessions, stats.half_open, table.class_used(&reply(1))), (0, 0, 0));
    assert!(open(&table, 1, 1).is_ok() && table.install(&said, 0).is_ok());
}
