//! Opening, looking up, limits, and giving slots and ports back.

use holdfast_schema::session::{SessionFlags, SessionSink};

use super::super::key::PackedKey;
use super::super::{CLASS_PORTS, FlowCache, OpenError, SessionTable, Side};
use super::*;

#[test]
fn both_directions_lead_to_the_session() {
    let (table, _handle) = table(4);
    let slot = table.open(new_session(1, 1, OPENED), 50).unwrap();
    assert_eq!(found(&table, &key(1)), Some((slot, Side::Client)));
    assert_eq!(found(&table, &reply(1)), Some((slot, Side::Backend)));
    assert_eq!(found(&table, &key(2)), None);
    assert_eq!(found(&table, &key(1).reversed()), None);
    let session = table.session(slot);
    assert_eq!((session.key(), session.reply()), (key(1), reply(1)));
    assert_eq!((session.listener(), session.backend()), (ListenerId(1), BackendId(1)));
    assert_eq!((session.mode(), session.owner()), (ForwardingMode::FullNat, ME));
    assert_eq!((session.created_ms(), session.idle_timeout_ms()), (50, 900_000));
    assert_eq!(session.flags(), OPENED);
    assert_eq!(session.numbers(Side::Client), Some((8, 0)));
    assert_eq!(session.numbers(Side::Backend), None);
    session.touch(Side::Backend, 60, 21, 22);
    assert_eq!(session.numbers(Side::Backend), Some((21, 22)));
    let said = session.describe(100);
    assert_eq!((said.client.age_ms, said.backend_seen.age_ms, said.created_age_ms), (50, 40, 50));
    assert_eq!(said.incarnation.creator, ME);
    assert_eq!(said.incarnation.counter >> 32, 1, "the director's own incarnation");
    assert!(table.verify(slot, Side::Client, &key(1)).is_some());
    assert!(table.verify(slot, Side::Backend, &key(1)).is_none());
}

#[test]
fn taken_keys_are_named_and_nothing_is_left_behind() {
    let (table, _handle) = table(8);
    let slot = table.open(new_session(1, 1, OPENED), 0).unwrap();
    assert_eq!(table.open(new_session(1, 2, OPENED), 0), Err(OpenError::Exists(slot)));
    assert_eq!(table.open(new_session(2, 1, OPENED), 0), Err(OpenError::ReplyTaken));
    assert_eq!(found(&table, &reply(2)), None);
    assert_eq!(found(&table, &key(2)), None);
    let stats = table.stats();
    assert_eq!((stats.sessions, stats.half_open, stats.unreplicated), (1, 1, 1));
    assert_eq!(table.class_used(&reply(1)), 1);
    assert_eq!(table.class_used(&reply(2)), 0);
}

#[test]
fn the_local_port_is_free_when_its_session_is_gone() {
    let (table, _handle) = table(8);
    let slot = table.open(new_session(1, 1, OPENED), 0).unwrap();
    assert!(!table.remove(slot, &key(2)), "another key");
    assert!(table.remove(slot, &key(1)));
    assert!(!table.remove(slot, &key(1)));
    assert_eq!(table.class_used(&reply(1)), 0);
    assert!(table.open(new_session(2, 1, OPENED), 0).is_ok());
}

#[test]
fn a_full_table_refuses_and_comes_back_after_quiescence() {
    let (table, handle) = table(2);
    let slot = table.open(new_session(1, 1, established()), 0).unwrap();
    table.open(new_session(2, 2, established()), 0).unwrap();
    assert_eq!(table.open(new_session(3, 3, OPENED), 0), Err(OpenError::Full));
    assert!(table.remove(slot, &key(1)));
    assert_eq!(table.open(new_session(3, 3, OPENED), 0), Err(OpenError::Full), "we may hold it");
    // What this worker looked up before stays readable although it was freed.
    assert_eq!(table.session(slot).key(), key(1));
    assert!(table.verify(slot, Side::Client, &key(1)).is_none());
    handle.quiescent();
    assert_eq!(table.open(new_session(3, 3, OPENED), 0), Ok(slot));
    assert_eq!(table.stats().full, 2);
    assert_eq!(table.stats().half_open, 1);
}

#[test]
fn half_open_sessions_have_a_pool_of_their_own() {
    let table = std::sync::Arc::new(SessionTable::new(100, 3, ME, 1));
    let _handle = table.register_worker();
    let slots: Vec<_> = (0..3).map(|n| table.open(new_session(n, n, OPENED), 0).unwrap()).collect();
    assert_eq!(table.open(new_session(9, 9, OPENED), 0), Err(OpenError::HalfOpenFull));
    assert!(table.open(new_session(8, 8, established()), 0).is_ok());
    table.session(slots[0]).set_flags(established());
    table.session(slots[0]).set_flags(established());
    assert_eq!(table.stats().half_open, 2);
    assert!(table.open(new_session(9, 9, OPENED), 0).is_ok());
    // A reset alone does not give the place back, or a SYN and a RST would be a way around the pool.
    table.session(slots[1]).set_flags(SessionFlags::RESET);
    assert_eq!(table.stats().half_open, 3);
    table.remove(slots[1], &key(1));
    assert_eq!(table.stats().half_open, 2);
}

#[test]
fn half_open_sessions_get_a_quarter_of_a_port_class() {
    let (table, _handle) = table(2_000);
    let quarter = CLASS_PORTS / 4;
    let local = |n: u32| n * 64;
    let slots: Vec<_> =
        (0..quarter).map(|n| table.open(new_session(n, local(n), OPENED), 0).unwrap()).collect();
    let next = || new_session(1_000, local(1_000), OPENED);
    assert_eq!(table.open(next(), 0), Err(OpenError::ClassFull));
    assert!(table.open(new_session(1_001, 1, OPENED), 0).is_ok(), "another class");
    assert!(table.open(new_session(1_002, local(900), established()), 0).is_ok());
    table.session(slots[5]).set_flags(established());
    assert!(table.open(next(), 0).is_ok());
    assert_eq!(table.class_used(&reply(0)), quarter + 2);
    assert_eq!(table.stats().class_full, 1);
}

#[test]
fn a_syn_on_a_closing_session_begins_a_newer_one() {
    let (table, _handle) = table(8);
    let old = table.open(new_session(1, 1, established()), 0).unwrap();
    table.session(old).set_flags(SessionFlags::RESET);
    let again = NewSession { replaces: Some(old), stamp: 5, ..new_session(1, 2, OPENED) };
    let new = table.open(again, 10).unwrap();
    assert_eq!(found(&table, &key(1)), Some((new, Side::Client)));
    assert!(table.session(new).incarnation() > table.session(old).incarnation());
    assert_eq!(found(&table, &reply(1)), None, "a reset leaves no TIME_WAIT");
    assert_eq!(table.stats().sessions, 1);
}

/// The old one comes from a director whose clock is ahead. If the new one were older than it, the store
/// would turn it away.
#[test]
fn a_session_that_fails_to_replace_another_is_newer_at_the_next_try() {
    let (table, _handle) = table(64);
    let reset = established().with(SessionFlags::RESET);
    let said = record(1, 1, 5_000, reset);
    table.created(&said);
    let (old, _) = found(&table, &key(1)).unwrap();
    let packed = |key| PackedKey::new(&key);
    let local = (2..60).find(|n| table.l2.apart(&packed(key(1)), &packed(reply(*n)))).unwrap();
    let again = || NewSession { replaces: Some(old), ..new_session(1, local, OPENED) };
    for changing in [reply(local), key(1)] {
        // The keys can be looked up, but not be given away.
        let held = table.l2.hold_reading(&packed(changing));
        assert_eq!(table.open(again(), 10), Err(OpenError::Contended));
        drop(held);
        assert_eq!(found(&table, &key(1)), Some((old, Side::Client)));
        assert_eq!(found(&table, &reply(local)), None);
        assert_eq!((table.sessions(), table.stats().half_open), (1, 0));
    }
    let new = table.open(again(), 10).unwrap();
    assert_eq!(found(&table, &key(1)), Some((new, Side::Client)));
    assert_eq!(found(&table, &reply(1)), None);
    assert!(table.session(new).incarnation() > said.incarnation);
    assert_eq!((table.sessions(), table.stats().superseded), (1, 1));
}

#[test]
fn a_worker_does_not_wait_and_leaves_nothing_behind() {
    let (table, _handle) = table(2);
    let old = table.open(new_session(1, 1, established()), 0).unwrap();
    table.session(old).set_flags(SessionFlags::RESET);
    for held in [key(1), reply(2)] {
        let held = table.l2.hold(&PackedKey::new(&held));
        let again = NewSession { replaces: Some(old), ..new_session(1, 2, OPENED) };
        assert_eq!(table.open(again, 10), Err(OpenError::Contended));
        drop(held);
        assert_eq!(found(&table, &key(1)), Some((old, Side::Client)));
    }
    let stats = table.stats();
    assert_eq!((stats.sessions, stats.half_open, stats.freed), (1, 0, 0));
    let again = NewSession { replaces: Some(old), ..new_session(1, 2, OPENED) };
    assert!(table.open(again, 10).is_ok(), "the second slot is still there");
}

#[test]
fn a_port_rests_when_the_backend_closed_first() {
    let (table, _handle) = table(8);
    let old = table.open(new_session(1, 1, established()), 0).unwrap();
    let fins = SessionFlags::CLIENT_FIN
        .with(SessionFlags::BACKEND_FIN)
        .with(SessionFlags::BACKEND_CLOSED_FIRST);
    table.session(old).set_flags(fins);
    let again = NewSession { replaces: Some(old), ..new_session(1, 2, OPENED) };
    let new = table.open(again, 10).unwrap();
    assert_eq!(found(&table, &key(1)), Some((new, Side::Client)));
    assert_eq!(found(&table, &reply(1)), Some((old, Side::Backend)));
    assert!(
        table.verify(old, Side::Client, &key(1)).is_none(),
        "a cached entry must not revive it"
    );
    assert_eq!(table.open(new_session(3, 1, OPENED), 10), Err(OpenError::ReplyTaken));
}

#[test]
fn the_flow_cache_forgets_what_is_gone() {
    let (table, handle) = table(64);
    let mut cache = FlowCache::new(64, 1);
    let lookup = |cache: &mut FlowCache, keys: &[FlowKey]| {
        let mut out = vec![None; keys.len()];
        cache.lookup_batch(&table, keys, &mut out);
        out
    };
    let slots: Vec<_> =
        (0..50).map(|n| table.open(new_session(n, n, established()), 0).unwrap()).collect();
    let keys: Vec<FlowKey> = (0..50).flat_map(|n| [key(n), reply(n)]).collect();
    assert!(lookup(&mut cache, &keys).iter().all(Option::is_none));
    for (n, slot) in slots.iter().enumerate() {
        cache.insert(&key(n as u32), *slot, Side::Client);
        cache.insert(&reply(n as u32), *slot, Side::Backend);
    }
    let all = lookup(&mut cache, &keys);
    for (n, pair) in all.chunks(2).enumerate() {
        // A bucket may have overflowed: absent is allowed, wrong is not.
        assert!(pair[0].is_none_or(|found| found == (slots[n], Side::Client)));
        assert!(pair[1].is_none_or(|found| found == (slots[n], Side::Backend)));
    }
    assert!(all.iter().flatten().count() >= 95);
    // The slot gets another session; the cached entries of the old one must not lead to it.
    table.remove(slots[0], &key(0));
    // The first call begins the epoch that the second finds passed.
    assert_eq!(table.reclaim(64), 0);
    handle.quiescent();
    assert_eq!(table.reclaim(64), 1);
    let reused = table.open(new_session(99, 99, OPENED), 0).unwrap();
    assert_eq!(reused, slots[0]);
    assert_eq!(lookup(&mut cache, &[key(0), reply(0)]), [None, None]);
    assert!(cache.stats().stale > 0);
    assert_eq!(lookup(&mut cache, &[]), []);
}

#[test]
fn operators_can_list_and_remove() {
    let (table, _handle) = table(8);
    for n in 0..4 {
        table.open(new_session(n, n, established()), 0).unwrap();
    }
    let mut seen = 0;
    table.for_each(5, |said, replicated| {
        assert!(!replicated);
        assert_eq!(said.created_age_ms, 5);
        seen += 1;
    });
    assert_eq!(seen, 4);
    assert_eq!(table.remove_where(|session| session.key() == key(2)), 1);
    assert_eq!(found(&table, &key(2)), None);
    assert_eq!(table.stats().sessions, 3);
}

/// Others take what is told for news of it.
#[test]
fn a_backend_that_was_never_seen_has_no_numbers_of_the_slots_session_before() {
    let (table, handle) = table(2);
    let before = table.open(new_session(1, 1, established()), 0).unwrap();
    table.open(new_session(2, 2, established()), 0).unwrap();
    table.session(before).touch(Side::Backend, 10, 501, 101);
    assert!(table.remove(before, &key(1)));
    assert_eq!(table.open(new_session(3, 3, OPENED), 20), Err(OpenError::Full));
    handle.quiescent();
    let slot = table.open(new_session(3, 3, OPENED), 20).unwrap();
    assert_eq!(slot, before);
    let said = table.session(slot).describe(30);
    assert_eq!(
        (said.backend_seen.age_ms, said.backend_seen.seq, said.backend_seen.ack),
        (10, 0, 0)
    );
}

#[test]
fn a_backend_is_given_time_to_deny_also_if_clocks_differ_a_little() {
    let (table, _handle) = table(4);
    let slot = table.open(new_session(1, 1, OPENED), 0).unwrap();
    let session = table.session(slot);
    let since = |now| [false, true].map(|twice| session.not_denied_for_ms(twice, now));
    assert_eq!(since(9_000), [None, None]);
    session.note_probed(6_400);
    assert_eq!(since(6_399), [Some(0), None], "noted by a worker whose clock is ahead");
    session.note_probed(6_450);
    assert_eq!(since(6_912), [Some(512), None], "one burst is one question");
    session.note_probed(12_800);
    session.note_probed(13_200);
    assert_eq!(since(13_312), [Some(512); 2], "since the second time");
    session.set_flags(SessionFlags::DENIED);
    assert_eq!(since(20_000), [None, None]);
}
