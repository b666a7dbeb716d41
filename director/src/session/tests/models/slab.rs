//! The slab by itself: records, their versions, and epochs. Where keys lead is one atomic word here: which
//! slot, or none. (Its protocol has to hold with less order than the index's locks give.)

use std::collections::BTreeSet;
use std::sync::Arc;

use loom::thread;

use super::check;
use crate::session::Slot;
use crate::session::record::word;
use crate::session::slab::Slab;
use crate::session::sync::{AtomicU64, Ordering};

/// What a director keeps: records, and where keys lead.
struct Bench {
    slab: Slab,
    entry: AtomicU64,
}

impl Bench {
    fn new(capacity: u32) -> Bench {
        Bench { slab: Slab::new(capacity), entry: AtomicU64::new(0) }
    }

    /// One slot, and a session (7) in it.
    fn with_session() -> (Arc<Bench>, Slot, u64) {
        let bench = Arc::new(Bench::new(1));
        let slot = bench.slab.take().unwrap();
        let version = bench.open(slot, 7);
        (bench, slot, version)
    }

    /// Writes a session into a slot, and publishes it: its key is in all the words that say something.
    fn open(&self, slot: Slot, key: u64) -> u64 {
        let record = self.slab.record(slot);
        record.begin();
        record.put(word::KEY, key);
        record.put(word::TARGET, key);
        let version = record.publish();
        self.entry.store(u64::from(slot.0) + 1, Ordering::Release);
        version
    }

    fn found(&self) -> Option<Slot> {
        self.entry.load(Ordering::Acquire).checked_sub(1).map(|index| Slot(index as u32))
    }

    /// Whether a slot is live and has this key.
    fn verify(&self, slot: Slot, key: u64) -> bool {
        let record = self.slab.record(slot);
        let Some(version) = record.live() else { return false };
        record.get(word::KEY) == key && record.still(version)
    }

    /// Ends the session in a slot, and begins the next one (8) as soon as there is a slot for it.
    fn end_and_use_again(&self, slot: Slot, version: u64) {
        assert!(self.slab.record(slot).end(version));
        self.entry.store(0, Ordering::Release);
        self.slab.retire(slot);
        // Twice: the epoch begins with the first.
        self.slab.reclaim(1);
        self.slab.reclaim(1);
        if let Some(again) = self.slab.take() {
            self.open(again, 8);
        }
    }
}

#[test]
fn models_a_published_session_is_found_whole() {
    check(|| {
        let bench = Arc::new(Bench::new(1));
        let slot = bench.slab.take().unwrap();
        let writer = bench.clone();
        let writing = thread::spawn(move || {
            writer.open(slot, 7);
        });
        if let Some(slot) = bench.found() {
            assert!(bench.verify(slot, 7));
            assert_eq!(bench.slab.record(slot).get(word::TARGET), 7);
        }
        writing.join().unwrap();
    });
}

/// A worker uses a slot that it found, while another thread ends the session, and its slot is to be used
/// again: not before the worker's next quiescent point.
#[test]
fn models_a_slot_in_use_is_not_used_again() {
    check(|| {
        let (bench, slot, version) = Bench::with_session();
        let worker = bench.slab.epochs.register();
        let other = bench.clone();
        let ending = thread::spawn(move || {
            other.end_and_use_again(slot, version);
        });
        if let Some(slot) = bench.found() {
            let record = bench.slab.record(slot);
            if bench.verify(slot, 7) {
                for _ in 0..2 {
                    assert_eq!(record.get(word::TARGET), 7, "it changed under the worker");
                }
            }
        }
        worker.quiescent();
        ending.join().unwrap();
        worker.quiescent();
    });
}

/// A slot that a worker's own cache kept across quiescent points: its key tells whether it still is the
/// session, and it stays that until the next one.
#[test]
fn models_a_stale_slot_never_passes_for_another_session() {
    check(|| {
        let (bench, slot, version) = Bench::with_session();
        let worker = bench.slab.epochs.register();
        let other = bench.clone();
        let ending = thread::spawn(move || {
            other.end_and_use_again(slot, version);
        });
        for _ in 0..2 {
            worker.quiescent();
            let record = bench.slab.record(slot);
            for key in [7, 8] {
                if bench.verify(slot, key) {
                    assert_eq!(record.get(word::TARGET), key);
                    break;
                }
            }
        }
        ending.join().unwrap();
    });
}

/// Nothing keeps the slot from being used again while a thread that is neither worker nor guest reads its
/// record: the version alone tells whether what was read is one session's.
#[test]
fn models_what_is_read_outside_the_epochs_is_one_session_s_or_refused() {
    check(|| {
        let (bench, slot, version) = Bench::with_session();
        let other = bench.clone();
        let ending = thread::spawn(move || {
            assert!(other.slab.record(slot).end(version));
            other.slab.give(slot);
            let again = other.slab.take().unwrap();
            other.open(again, 8);
        });
        let record = bench.slab.record(slot);
        if let Some(version) = record.live() {
            let (key, target) = (record.get(word::KEY), record.get(word::TARGET));
            if record.still(version) {
                assert_eq!(key, target, "half of each");
            }
        }
        ending.join().unwrap();
    });
}

/// Threads without a handle stay as guests.
#[test]
fn models_a_guest_keeps_slots_from_being_used_again() {
    check(|| {
        let (bench, slot, version) = Bench::with_session();
        let other = bench.clone();
        let ending = thread::spawn(move || {
            assert!(other.slab.record(slot).end(version));
            other.entry.store(0, Ordering::Release);
            other.slab.retire(slot);
            other.slab.reclaim(1);
            if let Some(again) = other.slab.take() {
                other.open(again, 8);
            }
        });
        {
            let _guest = bench.slab.epochs.guest();
            if let Some(slot) = bench.found()
                && bench.verify(slot, 7)
            {
                assert_eq!(bench.slab.record(slot).get(word::TARGET), 7);
            }
        }
        ending.join().unwrap();
    });
}

#[test]
fn models_one_of_two_threads_ends_a_session() {
    check(|| {
        let (bench, slot, version) = Bench::with_session();
        let other = bench.clone();
        let ending = thread::spawn(move || other.slab.record(slot).end(version));
        let here = bench.slab.record(slot).end(version);
        assert!(here ^ ending.join().unwrap());
        assert!(!bench.verify(slot, 7));
    });
}

/// Two threads take and give slots: none gets one that the other has (the head's count is against ABA).
#[test]
fn models_a_free_slot_is_taken_once() {
    check(|| {
        let slab = Arc::new(Slab::new(2));
        let all: Vec<Slot> = std::iter::from_fn(|| slab.take()).collect();
        all.into_iter().for_each(|slot| slab.give(slot));
        let other = slab.clone();
        let taking = thread::spawn(move || {
            let first = other.take();
            first.into_iter().for_each(|slot| other.give(slot));
            other.take()
        });
        let mine = slab.take();
        let other = taking.join().unwrap();
        let left = std::iter::from_fn(|| slab.take());
        let all: Vec<Slot> = mine.into_iter().chain(other).chain(left).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 2, "{all:?}");
    });
}
