//! Threads against each other: whatever happens, a slot that was looked up shows one session, the
//! right one, until the worker's next quiescent point.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use holdfast_schema::session::SessionSink;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::super::{FlowCache, SweepPolicy, Sweeper};
use super::*;
use crate::tables::fixture;

/// Few flows, so that threads meet; few slots, so that each is used again and again.
const FLOWS: u32 = 48;
const SLOTS: u32 = 512;

/// Every session says in several words which one it is: flow and stamp decide them all.
fn backend_of(n: u32, stamp: u64) -> BackendId {
    BackendId(n.wrapping_mul(2_654_435_761) ^ stamp as u32)
}

/// Panics unless the slot shows one session, and one of flow `n`.
fn check(table: &SessionTable, slot: Slot, n: u32) -> Incarnation {
    let session = table.session(slot);
    let incarnation = session.incarnation();
    assert_eq!(session.key(), key(n));
    assert_eq!(session.backend(), backend_of(n, incarnation.stamp));
    assert_eq!(session.isn_delta(), incarnation.stamp as u32);
    assert_eq!(u32::from(session.reply().dst_port - 1_024) % FLOWS, n);
    incarnation
}

struct Shared {
    table: Arc<SessionTable>,
    stop: AtomicBool,
    stamps: AtomicU64,
    hits: AtomicU64,
    opened: AtomicU64,
    replaced: AtomicU64,
}

fn worker(shared: &Shared, seed: u64) {
    let table = &shared.table;
    let handle = table.register_worker();
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut cache = FlowCache::new(SLOTS, seed);
    while !shared.stop.load(Ordering::Relaxed) {
        handle.quiescent();
        let flows: Vec<u32> = (0..8).map(|_| rng.random_range(0..FLOWS)).collect();
        let keys: Vec<FlowKey> = flows.iter().map(|n| key(*n)).collect();
        let mut out = vec![None; keys.len()];
        cache.lookup_batch(table, &keys, &mut out);
        let mut held = Vec::new();
        let new = |n: u32, local: u32, replaces| {
            let stamp = shared.stamps.fetch_add(1, Ordering::Relaxed);
            let (backend, isn_delta) = (backend_of(n, stamp), stamp as u32);
            let local = n + FLOWS * local;
            let new = new_session(n, local, established());
            table.open(NewSession { stamp, backend, isn_delta, replaces, ..new }, 1)
        };
        for (n, found) in flows.iter().zip(out) {
            if let Some((slot, _)) = found {
                held.push((slot, *n, check(table, slot, *n)));
                shared.hits.fetch_add(1, Ordering::Relaxed);
            } else if let Lookup::Found(slot, side) = table.lookup(&key(*n)) {
                held.push((slot, *n, check(table, slot, *n)));
                cache.insert(&key(*n), slot, side);
                if rng.random_ratio(1, 3)
                    && let Ok(newer) = new(*n, rng.random_range(0..4), Some(slot))
                {
                    let newer = (newer, *n, check(table, newer, *n));
                    assert!(newer.2 > check(table, slot, *n));
                    held.push(newer);
                    shared.replaced.fetch_add(1, Ordering::Relaxed);
                }
            } else if let Ok(slot) = new(*n, rng.random_range(0..4), None) {
                held.push((slot, *n, check(table, slot, *n)));
                shared.opened.fetch_add(1, Ordering::Relaxed);
            }
            if let Some((slot, n, _)) = held.last()
                && rng.random_ratio(1, 3)
            {
                table.session(*slot).touch(Side::Client, 2, *n, *n);
                table.remove(*slot, &key(*n));
            }
        }
        if rng.random_ratio(1, 8) {
            std::thread::yield_now();
        }
        // Others have freed, and would have reused, some of these meanwhile.
        for (slot, n, incarnation) in held {
            assert_eq!(check(table, slot, n), incarnation, "it changed under a worker");
        }
    }
}

fn store(shared: &Shared, seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    while !shared.stop.load(Ordering::Relaxed) {
        let n = rng.random_range(0..FLOWS);
        let stamp = shared.stamps.fetch_add(1, Ordering::Relaxed);
        let said = SessionRecord {
            backend: backend_of(n, stamp),
            isn_delta: stamp as u32,
            ..record(n, n + FLOWS * rng.random_range(0..4), stamp, established())
        };
        shared.table.created(&said);
        if let Some(found) = shared.table.find(&key(n)).session() {
            assert_eq!(found.backend, backend_of(n, found.incarnation.stamp));
            assert_eq!(found.isn_delta, found.incarnation.stamp as u32);
            shared.table.expired(&found.key, &found.incarnation);
        }
        shared.table.for_each(1, |said, _| {
            assert_eq!(said.isn_delta, said.incarnation.stamp as u32);
            assert_eq!(u32::from(said.reply.dst_port - 1_024) % FLOWS, said.key.src.0[15].into());
        });
    }
}

/// Ends sessions without a look at the index, also while they are only half known.
fn remover(shared: &Shared, seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    while !shared.stop.load(Ordering::Relaxed) {
        let n = rng.random_range(0..FLOWS);
        shared.table.remove_where(|session| session.key() == key(n));
    }
}

#[test]
fn a_slot_never_changes_its_session_under_a_worker() {
    let table = Arc::new(SessionTable::new(SLOTS, SLOTS, ME, 1));
    let shared = Shared {
        table,
        stop: AtomicBool::new(false),
        stamps: AtomicU64::new(1),
        hits: AtomicU64::new(0),
        opened: AtomicU64::new(0),
        replaced: AtomicU64::new(0),
    };
    let forwarding = fixture::tables(&fixture::cluster(&[1]), ME.0);
    std::thread::scope(|scope| {
        let shared = &shared;
        let threads: Vec<_> = (1..=3)
            .map(|seed| scope.spawn(move || worker(shared, seed)))
            .chain((11..=12).map(|seed| scope.spawn(move || store(shared, seed))))
            .chain([scope.spawn(move || remover(shared, 21))])
            .collect();
        let mut sweeper = Sweeper::new(&shared.table);
        let mut out = Vec::new();
        let begun = Instant::now();
        let enough = || {
            let counts = [&shared.hits, &shared.opened];
            counts.iter().all(|count| count.load(Ordering::Relaxed) > 20_000)
                && shared.replaced.load(Ordering::Relaxed) > 100
        };
        while !enough() && begun.elapsed() < Duration::from_secs(30) {
            if threads.iter().any(|thread| thread.is_finished()) {
                break; // it failed; the scope will say how
            }
            out.clear();
            let policy = SweepPolicy { flush: true, ..SweepPolicy::CALM };
            sweeper.step(&shared.table, &forwarding, 1, &policy, 100, &mut out);
            std::thread::yield_now();
        }
        shared.stop.store(true, Ordering::Relaxed);
    });
    assert!(shared.hits.load(Ordering::Relaxed) > 1_000, "the cache was used");
    assert!(shared.opened.load(Ordering::Relaxed) > 1_000, "slots were reused");
    assert!(shared.replaced.load(Ordering::Relaxed) > 100, "keys went from one to the next");
    // Nothing leaked: all sessions can be removed and all slots come back.
    let table = &shared.table;
    table.remove_where(|_| true);
    assert_eq!(table.sessions(), 0);
    assert_eq!(table.unreplicated(), 0);
    assert_eq!(table.stats().half_open, 0);
    // What workers could not finish is finished by the sweep; each round ends an epoch.
    let mut sweeper = Sweeper::new(table);
    let policy = SweepPolicy::CALM;
    for _ in 0..4 {
        sweeper.step(table, &forwarding, 1, &policy, 1_000, &mut Vec::new());
    }
    for n in 0..FLOWS {
        assert_eq!(found(table, &key(n)), None);
        for turn in 0..4 {
            assert_eq!(table.class_used(&reply(n + FLOWS * turn)), 0);
        }
    }
    for n in 0..SLOTS {
        table.open(new_session(1_000 + n, 1_000 + n, OPENED), 1).expect("a slot was lost");
    }
}
