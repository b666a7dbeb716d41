//! What becomes of the store's records that find no place, and what is said of their keys.

use std::sync::Arc;

use holdfast_schema::bucket::{BucketKey, ShardId, ShardTable};
use holdfast_schema::session::{Known, SessionFlags, SessionSink, SessionUpdate};

use super::*;

/// A table whose only sessions are its own, as many as it can hold.
fn full(max_sessions: u32) -> (Arc<SessionTable>, WorkerHandle) {
    let (table, handle) = table(max_sessions);
    table.set_cluster(&BucketKey([1; 16]), &ShardTable::spread(2));
    table.tick(10_000);
    for n in 0..max_sessions {
        table.open(new_session(n, n, established()), 10_000).unwrap();
    }
    (table, handle)
}

/// Two passes of the sweep, since one may end behind the last record.
fn offer(table: &SessionTable) {
    (0..2).for_each(|_| table.offer_refused());
}

fn end(table: &SessionTable, handle: &WorkerHandle, n: u32) {
    let (slot, _) = found(table, &key(n)).unwrap();
    assert!(table.remove(slot, &key(n)));
    handle.quiescent();
    table.reclaim(64);
    handle.quiescent();
    table.reclaim(64);
}

#[test]
fn a_record_without_a_place_is_told_of_and_gets_the_next_one() {
    let (table, handle) = full(8);
    let said = record(100, 100, 1_000, established());
    table.created(&said);
    assert_eq!(found(&table, &said.key), None);
    table.tick(11_000);
    for key in [&said.key, &said.reply] {
        let told = table.find(key).session().unwrap();
        assert_eq!(told.incarnation, said.incarnation);
        assert_eq!(told.client.age_ms, said.client.age_ms + 1_000, "it has aged");
    }
    // The second one forwards what the backend says, and has not heard of the adoption.
    for (from, owner) in [(DirectorId(3), DirectorId(3)), (DirectorId(4), said.owner)] {
        table.updated(&SessionUpdate {
            key: said.key,
            incarnation: said.incarnation,
            from,
            owner,
            flags: SessionFlags::CLIENT_FIN,
            client: Some(HalfSeen { age_ms: 5, seq: 77, ack: 78 }),
            backend_seen: None,
        });
    }
    offer(&table);
    assert_eq!(found(&table, &said.key), None, "still no room");
    end(&table, &handle, 0);
    offer(&table);
    let (slot, _) = found(&table, &said.key).unwrap();
    let session = table.session(slot);
    assert!(session.replicated() && session.flags().has(SessionFlags::CLIENT_FIN));
    assert_eq!((session.owner(), session.numbers(Side::Client)), (DirectorId(3), Some((77, 78))));
    table.expired(&said.key, &said.incarnation);
    assert_eq!(table.find(&said.key), Known::Nobody);
}

#[test]
fn what_the_store_expires_or_replaces_is_not_offered_again() {
    let (table, handle) = full(8);
    let (old, other) = (record(100, 100, 1, established()), record(101, 101, 1, established()));
    let new = record(100, 102, 2, established());
    [&old, &other, &new].into_iter().for_each(|said| table.created(said));
    assert_eq!(table.find(&old.reply), Known::Nobody);
    assert_eq!(table.find(&old.key).session().unwrap().incarnation, new.incarnation);
    table.expired(&old.key, &old.incarnation);
    table.expired(&other.key, &other.incarnation);
    assert_eq!(table.find(&other.key), Known::Nobody);
    [0, 1].into_iter().for_each(|n| end(&table, &handle, n));
    offer(&table);
    assert!(found(&table, &new.key).is_some());
    assert_eq!((found(&table, &other.key), found(&table, &old.reply)), (None, None));
}

#[test]
fn of_two_twins_without_a_place_the_established_one_is_kept() {
    let (table, handle) = full(8);
    let (half_open, open) = (record(100, 100, 2, OPENED), record(100, 101, 1, established()));
    table.created(&half_open);
    table.created(&open);
    table.created(&half_open);
    assert_eq!(table.find(&key(100)).session().unwrap().incarnation, open.incarnation);
    assert_eq!(table.find(&half_open.reply), Known::Nobody);
    end(&table, &handle, 0);
    offer(&table);
    assert!(found(&table, &open.reply).is_some());
}

#[test]
fn a_record_whose_port_is_taken_is_neither_told_nor_denied_until_the_port_is_free() {
    let (table, _handle) = table(8);
    table.tick(10_000);
    table.open(new_session(1, 1, established()), 10_000).unwrap();
    let said = record(2, 1, 1, OPENED);
    table.created(&said);
    assert_eq!(table.find(&said.key), Known::Unsure);
    assert_eq!(table.find(&said.reply).session().unwrap().key, key(1));
    let (slot, _) = found(&table, &key(1)).unwrap();
    assert!(table.remove(slot, &key(1)));
    offer(&table);
    assert_eq!(table.find(&said.key).session().unwrap().incarnation, said.incarnation);
    assert!(found(&table, &said.key).is_some());
}

#[test]
fn nothing_is_denied_while_more_was_refused_than_is_kept() {
    let (table, handle) = full(8);
    let shard_0 = |n: u32| record(n, n * 2, 1, established());
    let refused: Vec<_> = (100..110).map(shard_0).collect();
    refused.iter().for_each(|said| table.created(said));
    for said in &refused {
        assert_ne!(table.find(&said.key), Known::Nobody);
    }
    assert_eq!(table.find(&key(500)), Known::Unsure);
    assert!(!table.wants_all(), "there is no room yet");
    (0..8).for_each(|n| end(&table, &handle, n));
    offer(&table);
    assert!(table.wants_all());
    table.installed(ShardId(1), &[]);
    assert_eq!(table.find(&key(500)), Known::Unsure, "that was another shard");
    table.installed(ShardId(0), &refused[..3]);
    assert!(!table.wants_all());
    assert_eq!(table.find(&key(500)), Known::Nobody);
    assert_eq!(table.find(&refused[9].key), Known::Nobody);
    assert!(refused[..3].iter().all(|said| found(&table, &said.key).is_some()));
}

#[test]
fn a_detached_session_is_not_told_of_under_its_successors_key() {
    let (table, _handle) = table(8);
    table.tick(10_000);
    let closed = established()
        .with(SessionFlags::CLIENT_FIN)
        .with(SessionFlags::BACKEND_FIN)
        .with(SessionFlags::BACKEND_CLOSED_FIRST);
    table.created(&record(1, 1, 1, closed));
    table.created(&record(1, 2, 2, established()));
    assert!(found(&table, &reply(1)).is_some(), "its port rests");
    assert_eq!(table.find(&reply(1)), Known::Unsure);
    assert_eq!(table.find(&key(1)).session().unwrap().reply, reply(2));
}
