//! What the store says, and what it is answered.

use holdfast_schema::bucket::{BucketKey, ShardId, ShardTable};
use holdfast_schema::session::{Known, SessionFlags, SessionSink, SessionUpdate};

use super::super::{OpenError, Side};
use super::*;

fn update(said: &SessionRecord, from: DirectorId) -> SessionUpdate {
    SessionUpdate {
        key: said.key,
        incarnation: said.incarnation,
        from,
        owner: from,
        flags: said.flags,
        client: None,
        backend_seen: None,
    }
}

#[test]
fn a_created_session_is_there_in_both_directions() {
    let (table, _handle) = table(8);
    table.tick(10_000);
    let said = record(1, 1, 1_000, established());
    table.created(&said);
    let (slot, _) = found(&table, &key(1)).unwrap();
    assert_eq!(found(&table, &reply(1)), Some((slot, Side::Backend)));
    assert_eq!(table.session(slot).describe(10_000), said);
    assert_eq!(table.find(&reply(1)).session(), Some(said.clone()));
    table.created(&said);
    let stats = table.stats();
    assert_eq!((stats.sessions, stats.unreplicated, stats.received), (1, 0, 1));
    // Ages reach back before the clock began.
    table.created(&SessionRecord { created_age_ms: 60_000, ..record(2, 2, 1, established()) });
    assert_eq!(table.find(&key(2)).session().unwrap().created_age_ms, 60_000);
}

#[test]
fn the_stores_create_acknowledges_and_merges() {
    let (table, _handle) = table(8);
    table.tick(5_000);
    let slot = table.open(new_session(1, 1, established()), 0).unwrap();
    let session = table.session(slot);
    assert_eq!(table.unreplicated(), 1);
    let mut said = session.describe(5_000);
    session.touch(Side::Client, 4_000, 100, 200);
    said.flags = said.flags.with(SessionFlags::CLIENT_FIN);
    said.client.age_ms = 3_000;
    said.backend_seen = HalfSeen { age_ms: 50, seq: 5, ack: 6 };
    table.created(&said);
    assert!(session.replicated());
    assert_eq!(table.unreplicated(), 0);
    assert!(session.flags().has(SessionFlags::CLIENT_FIN));
    assert_eq!(session.numbers(Side::Client), Some((100, 200)), "ours is later");
    assert_eq!(session.numbers(Side::Backend), Some((5, 6)));
}

/// It was said before this director started again, and comes back to it with the store's log.
#[test]
fn what_a_director_has_said_in_its_life_before_is_news() {
    let (table, _handle) = table(8);
    table.tick(5_000);
    let mut said = record(1, 1, 1_000, established());
    let unseen = HalfSeen { age_ms: 1_000, seq: 0, ack: 0 };
    (said.client, said.backend_seen) = (unseen, unseen);
    table.created(&said);
    let told = |seq, age_ms| SessionUpdate {
        client: Some(HalfSeen { age_ms, seq, ack: 7 }),
        ..update(&said, table.me)
    };
    table.updated(&told(100, 0));
    let (slot, _) = found(&table, &key(1)).unwrap();
    let session = table.session(slot);
    assert_eq!(session.numbers(Side::Client), Some((100, 7)));
    // Of two that were seen within a step of the store's clock, the one that was said later.
    table.updated(&told(200, 0));
    assert_eq!(session.numbers(Side::Client), Some((200, 7)));
    // What it has seen since is its own.
    session.touch(Side::Client, 4_000, 300, 8);
    table.updated(&told(250, 0));
    assert_eq!(session.describe(5_000).client, HalfSeen { age_ms: 0, seq: 200, ack: 7 });
    assert_eq!(session.unseen_ms(Side::Client, 5_000), 1_000);
}

#[test]
fn the_newer_incarnation_wins() {
    let (table, _handle) = table(8);
    let own = table.open(new_session(1, 1, established()), 0).unwrap();
    let older = record(1, 5, 999, established());
    table.created(&older);
    assert_eq!(found(&table, &key(1)), Some((own, Side::Client)));
    assert_eq!(found(&table, &reply(5)), None);
    assert_eq!(table.install(&older, 0), Err(OpenError::Exists(own)));
    let newer = record(1, 5, 1_001, established());
    table.created(&newer);
    assert_eq!(table.find(&key(1)).session().unwrap().incarnation, newer.incarnation);
    assert_eq!(found(&table, &reply(1)), None, "the older one is closed");
    let stats = table.stats();
    assert_eq!((stats.sessions, stats.superseded, stats.unreplicated), (1, 1, 0));
}

/// A SYN that was repeated at another director: the client and a backend have agreed on one of the two,
/// and whichever comes later, it stays. The shard decides alike.
#[test]
fn of_two_twins_the_established_one_stays() {
    let closed = established().with(SessionFlags::RESET);
    let all_flags = [OPENED, established(), closed];
    let all = |local: u32| {
        let twins = all_flags
            .into_iter()
            .flat_map(move |flags| [1_000, 2_000].map(|stamp| record(1, local, stamp, flags)));
        twins.flat_map(move |said| {
            let mut other_syn = said.clone();
            other_syn.incarnation.isn += 1;
            other_syn.incarnation.counter += 1;
            let mut elsewhere = said.clone();
            elsewhere.incarnation.creator = DirectorId(50 + local);
            [said, other_syn, elsewhere]
        })
    };
    for kept in all(1) {
        for said in all(2).filter(|said| said.incarnation != kept.incarnation) {
            let (store, _) = table(8);
            store.created(&kept);
            store.created(&said);
            let (peer, _) = table(8);
            let slot = peer.install(&kept, 0).unwrap();
            let installed = peer.install(&said, 0);
            let (stays, goes) = match said.prevails_over(&kept) {
                true => (&said, &kept),
                false => (&kept, &said),
            };
            assert_eq!(installed.err(), (stays == &kept).then_some(OpenError::Exists(slot)));
            for table in [store, peer] {
                let here = table.find(&key(1)).session().unwrap();
                assert_eq!(here.incarnation, stays.incarnation, "{said:?} over {kept:?}");
                assert_eq!((table.sessions(), found(&table, &goes.reply)), (1, None));
            }
        }
    }
}

/// What an ACK of the client is compared with has to be a number of the backend.
#[test]
fn a_backend_that_nobody_has_heard_of_has_no_number() {
    let (table, _handle) = table(8);
    let said = record(1, 1, 1_000, OPENED);
    let slot = table.install(&said, 9_000).unwrap();
    assert_eq!(table.session(slot).numbers(Side::Backend), None);
    let mut answered = said.clone();
    answered.flags = OPENED.with(SessionFlags::BACKEND_ANSWERED);
    answered.backend_seen = HalfSeen { age_ms: 1, seq: 501, ack: 101 };
    assert_eq!(table.install(&answered, 9_000), Ok(slot));
    assert_eq!(table.session(slot).numbers(Side::Backend), Some((501, 101)));
}

#[test]
fn a_reply_key_goes_to_the_better_claim() {
    let (table, _handle) = table(8);
    table.open(new_session(1, 1, OPENED), 0).unwrap();
    table.created(&record(2, 1, 500, established()));
    assert_eq!(table.find(&reply(1)).session().unwrap().key, key(2), "established beats half-open");
    assert_eq!(found(&table, &key(1)), None);
    table.created(&record(3, 1, 600, OPENED));
    assert_eq!(table.find(&reply(1)).session().unwrap().key, key(2));
    table.created(&record(4, 1, 700, established()));
    assert_eq!(table.find(&reply(1)).session().unwrap().key, key(4), "else the newer one");
    assert_eq!(table.stats().sessions, 1);
    assert_eq!(table.class_used(&reply(1)), 1);
}

#[test]
fn an_answer_to_a_miss_is_installed_and_still_to_be_replicated() {
    let (table, _handle) = table(8);
    let said = record(1, 1, 1_000, OPENED);
    let slot = table.install(&said, 9_000).unwrap();
    assert_eq!(table.install(&said, 9_000), Ok(slot));
    assert!(!table.session(slot).replicated());
    assert_eq!(table.unreplicated(), 1);
    assert_eq!(table.stats().half_open, 0, "not in the pool of this director");
    assert_eq!(table.session(slot).owner(), OTHER);
}

#[test]
fn updates_merge_by_recency_and_move_the_owner() {
    let (table, _handle) = table(8);
    table.tick(20_000);
    let said = record(1, 1, 1_000, established());
    table.created(&said);
    let (slot, _) = found(&table, &key(1)).unwrap();
    let session = table.session(slot);
    let older = HalfSeen { age_ms: 5_000, seq: 1, ack: 1 };
    let later = HalfSeen { age_ms: 10, seq: u32::MAX, ack: 0 };
    table.updated(&SessionUpdate {
        client: Some(older),
        backend_seen: Some(later),
        flags: SessionFlags::BACKEND_FIN,
        owner: DirectorId(3),
        ..update(&said, DirectorId(3))
    });
    assert_eq!(session.numbers(Side::Client), Some((11, 12)));
    assert_eq!(session.numbers(Side::Backend), Some((u32::MAX, 0)));
    assert_eq!(session.flags(), established().with(SessionFlags::BACKEND_FIN));
    assert_eq!(session.owner(), DirectorId(3));
    let mut other = update(&said, OTHER);
    other.incarnation.stamp += 1;
    other.flags = SessionFlags::RESET;
    table.updated(&other);
    assert!(!session.flags().has(SessionFlags::RESET), "another incarnation");
    table.updated(&update(&record(5, 5, 5, OPENED), OTHER));
    assert_eq!(found(&table, &key(5)), None);
}

#[test]
fn an_expiry_frees_its_incarnation_only() {
    let (table, _handle) = table(8);
    let said = record(1, 1, 1_000, established().with(SessionFlags::RESET));
    table.tick(2_000_000);
    table.created(&said);
    let mut late = said.incarnation;
    late.stamp -= 1;
    table.expired(&said.key, &late);
    assert!(table.find(&said.key).session().is_some());
    table.expired(&said.key, &said.incarnation);
    assert!(table.find(&said.key).session().is_none());
    assert_eq!(found(&table, &reply(1)), None);
    // An open one stays until its ends have been told (tests/expiring.rs), but is not told of.
    let open = record(2, 2, 1_000, established());
    table.created(&open);
    table.expired(&open.key, &open.incarnation);
    assert_eq!(table.find(&open.key), Known::Unsure);
    assert!(found(&table, &reply(2)).is_some());
}

#[test]
fn an_expiry_of_what_was_seen_here_is_vetoed() {
    let (table, _handle) = table(8);
    let said = record(1, 1, 1_000, established());
    table.created(&said);
    let (slot, _) = found(&table, &key(1)).unwrap();
    table.session(slot).touch(Side::Backend, 100_000, 1, 1);
    table.tick(900_000);
    table.expired(&said.key, &said.incarnation);
    assert_eq!(found(&table, &key(1)), Some((slot, Side::Client)));
    assert!(!table.session(slot).replicated(), "to be proposed again");
    assert_eq!((table.unreplicated(), table.stats().vetoed), (1, 1));
    table.tick(1_000_000);
    table.expired(&said.key, &said.incarnation);
    assert_eq!(table.stats().vetoed, 1, "now it is idle here, too");
    assert_eq!(table.unreplicated(), 0);
}

#[test]
fn a_snapshot_is_a_difference() {
    let (table, _handle) = table(64);
    table.set_cluster(&BucketKey([1; 16]), &ShardTable::spread(2));
    table.tick(50_000);
    let local = |n: u32| n * 2; // even buckets: shard 0
    for n in 0..4 {
        table.created(&record(n, local(n), 1_000, established()));
    }
    table.created(&record(10, 1, 1_000, established())); // shard 1
    table.open(new_session(11, local(11), established()), 50_000).unwrap(); // never acknowledged
    let (alive, _) = found(&table, &key(1)).unwrap();
    table.session(alive).touch(Side::Client, 49_000, 1, 1);
    let renewed = record(2, local(20), 2_000, established());
    let fresh = record(30, local(30), 1_000, established());
    table.installed(ShardId(0), &[record(0, 0, 1_000, established()), renewed.clone(), fresh]);
    let here = |n| table.find(&key(n)).session().map(|said| said.incarnation.stamp);
    assert_eq!(here(0), Some(1_000));
    assert_eq!(here(1), Some(1_000), "alive here");
    assert!(!table.session(alive).replicated());
    assert_eq!(here(2), Some(2_000));
    assert_eq!(here(3), None, "gone");
    assert_eq!(here(10), Some(1_000), "another shard");
    assert_eq!(here(11), Some(1_000), "never acknowledged");
    assert_eq!(here(30), Some(1_000));
    assert_eq!(table.stats().sessions, 6);
    assert_eq!(table.unreplicated(), 2);
}

#[test]
fn sessions_of_listeners_that_never_replicate_are_private() {
    let (table, _handle) = table(8);
    let never = NewSession { replicate_after: ReplicateAfter::Never, ..new_session(1, 1, OPENED) };
    table.open(never, 0).unwrap();
    assert_eq!(table.find(&key(1)), Known::Unsure, "neither told nor denied");
    assert_eq!(table.find(&reply(1)), Known::Unsure);
    assert_eq!(table.find(&key(2)), Known::Nobody);
    assert_eq!(table.unreplicated(), 0);
}

#[test]
fn others_half_open_sessions_leave_room_for_established_ones() {
    let (table, _handle) = table(80);
    for n in 0..80 {
        table.created(&record(n, n, 1_000, OPENED));
    }
    assert_eq!(table.stats().sessions, 70);
    for n in 100..120 {
        table.created(&record(n, n, 1_000, established()));
    }
    let stats = table.stats();
    assert_eq!((stats.sessions, stats.refused), (80, 20));
}

/// It was made before the adoption was known where it was made.
#[test]
fn a_report_of_the_backends_side_does_not_take_a_session_back() {
    let (table, _handle) = table(8);
    let said = record(1, 1, 1_000, established());
    table.created(&said);
    let (slot, _) = found(&table, &key(1)).unwrap();
    table.updated(&update(&said, DirectorId(3)));
    table.updated(&SessionUpdate { owner: OTHER, ..update(&said, DirectorId(4)) });
    assert_eq!(table.session(slot).owner(), DirectorId(3));
}
