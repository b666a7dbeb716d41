//! L2: what keys lead to while sessions begin, end, and give way to each other.

use loom::thread;

use super::*;
use crate::session::index::Wait;
use crate::session::record::{state, word};

/// A worker looks flows up while another thread ends the one, and begins the other in its slot as soon as
/// that may be used again.
#[test]
fn models_a_lookup_yields_its_own_flow_or_none() {
    let used_again = Mark::default();
    let mark = used_again.clone();
    check(move || {
        let (table, worker) = table_of(1);
        let slot = table.open(flow(1), 1).unwrap();
        let other = table.clone();
        let control = thread::spawn(move || begins_in_its_place(&other, slot));
        for _ in 0..2 {
            worker.quiescent();
            for n in [1, 2] {
                if let Lookup::Found(slot, side) = table.lookup(&key(n)) {
                    assert_eq!((check_whole(&table, slot, n), side), (n, Side::Client));
                    mark.reached_if(n == 2);
                }
            }
        }
        let begun = control.join().unwrap();
        assert_eq!(leads(&table, &key(1)), None);
        assert_eq!(leads(&table, &reply(1)), None);
        assert_eq!(leads(&table, &key(2)).is_some(), begun);
        assert_eq!(leads(&table, &reply(2)).is_some(), begun);
    });
    used_again.assert_reached();
}

/// A client opens anew over a session of its key: that leads to the one or to the other, and at no time
/// nowhere.
#[test]
fn models_a_key_that_changes_hands_always_leads_somewhere() {
    let (before, after) = (Mark::default(), Mark::default());
    let marks = (before.clone(), after.clone());
    check(move || {
        let (table, worker) = table_of(2);
        let slot = table.open(flow(1), 1).unwrap();
        let next = table.register_worker();
        let other = table.clone();
        let opening = thread::spawn(move || {
            let opened = other.open(NewSession { key: key(1), replaces: Some(slot), ..flow(2) }, 1);
            drop(next);
            opened
        });
        for _ in 0..2 {
            worker.quiescent();
            match table.lookup(&key(1)) {
                Lookup::Found(slot, _) => {
                    let n = check_whole(&table, slot, 1);
                    marks.0.reached_if(n == 1);
                    marks.1.reached_if(n == 2);
                }
                Lookup::Contended => {}
                Lookup::Absent => panic!("it was taken away before it was given"),
            }
        }
        let opened = opening.join().unwrap();
        assert_eq!(leads(&table, &key(1)), Some(opened.unwrap_or(slot)));
        assert_eq!(leads(&table, &reply(2)), opened.ok());
        assert_eq!(leads(&table, &reply(1)), opened.err().map(|_| slot));
    });
    before.assert_reached();
    after.assert_reached();
}

/// Two workers get the first packet of one flow.
#[test]
fn models_a_flow_that_begins_twice_has_one_session() {
    let (first, second) = (Mark::default(), Mark::default());
    let marks = (first.clone(), second.clone());
    check(move || {
        let (table, worker) = table_of(2);
        let next = table.register_worker();
        let other = table.clone();
        let opening = thread::spawn(move || {
            let opened = other.open(NewSession { key: key(1), ..flow(2) }, 1);
            drop(next);
            opened
        });
        let here = table.open(flow(1), 1);
        drop(worker);
        let there = opening.join().unwrap();
        marks.0.reached_if(here.is_ok());
        marks.1.reached_if(there.is_ok());
        assert!(here.is_err() || there.is_err(), "one key, two sessions");
        assert_eq!(leads(&table, &key(1)), here.or(there).ok());
        assert_eq!(leads(&table, &reply(1)), here.ok());
        assert_eq!(leads(&table, &reply(2)), there.ok());
        assert_eq!(table.sessions(), u32::from(here.or(there).is_ok()));
    });
    first.assert_reached();
    second.assert_reached();
}

/// A worker ends a session while a lookup holds the index, and may not wait. Whoever meets it finishes that,
/// once: the slot comes back for one session and not for two.
#[test]
fn models_what_a_worker_left_undone_is_done_once() {
    let left_undone = Mark::default();
    let mark = left_undone.clone();
    check(move || {
        let (table, worker) = table_of(1);
        let slot = table.open(flow(1), 1).unwrap();
        let record = table.record(slot);
        let version = record.live().unwrap();
        let next = table.register_worker();
        let other = table.clone();
        let looking = thread::spawn(move || {
            for _ in 0..2 {
                other.lookup(&key(1));
            }
            drop(next);
        });
        assert!(table.free(slot, version, Wait::No));
        mark.reached_if(record.get(word::STATE) & state::LINKED != 0);
        table.lookup(&key(1));
        looking.join().unwrap();
        // As the sweep does when it comes by.
        table.finish_free(slot, Wait::Yes);
        settle(&table, &worker);
        assert_eq!(leads(&table, &key(1)), None);
        assert_eq!(table.open(flow(1), 1), Ok(slot), "an entry was left behind");
        assert_eq!(table.open(flow(3), 1), Err(OpenError::Full), "one slot for two sessions");
    });
    left_undone.assert_reached();
}
