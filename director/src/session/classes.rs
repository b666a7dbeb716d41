//! How many ports of each class are in use, and how many by half-open sessions.
//!
//! A class is (LIP, backend, bucket). Counts live in a fixed array that the class is hashed into, so
//! nothing is allocated and nothing has to be looked up. Two classes may share a count (with 2,560
//! classes about one in 25 does); then the half-open quota of the two is common and the free ports
//! of both are understated, which errs on the safe side.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};

use ahash::RandomState;

use super::key::PackedKey;

const COUNTS: usize = 1 << 16;

/// The bits of the last key word that are the destination (local) port's bucket.
const NOT_BUCKET: u64 = 0xffc0 << 16;

pub(super) struct ClassCounts {
    hasher: RandomState,
    used: Vec<AtomicU32>,
    half_open: Vec<AtomicU32>,
}

fn zeros() -> Vec<AtomicU32> {
    std::iter::repeat_with(|| AtomicU32::new(0)).take(COUNTS).collect()
}

fn decrement(count: &AtomicU32) {
    // Never below zero; that would need a decrement without its increment.
    let outcome = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    debug_assert!(outcome.is_ok(), "a class count went below zero");
}

impl ClassCounts {
    pub(super) fn new(hasher: RandomState) -> ClassCounts {
        ClassCounts { hasher, used: zeros(), half_open: zeros() }
    }

    /// The place of a reply key's class. Its local port counts by its bucket only.
    pub(super) fn place(&self, reply: &PackedKey) -> usize {
        let mut class = *reply;
        class.0[4] &= !NOT_BUCKET;
        self.hasher.hash_one(class) as usize % COUNTS
    }

    pub(super) fn used(&self, place: usize) -> u32 {
        self.used[place % COUNTS].load(Ordering::Relaxed)
    }

    /// How many half-open sessions are counted there.
    pub(super) fn half_open(&self, place: usize) -> u32 {
        self.half_open[place % COUNTS].load(Ordering::Relaxed)
    }

    /// All ports, and all half-open sessions, that count anywhere.
    #[cfg(feature = "simulation")]
    pub(super) fn totals(&self) -> (u64, u64) {
        let total = |counts: &[AtomicU32]| {
            counts.iter().map(|count| u64::from(count.load(Ordering::Relaxed))).sum()
        };
        (total(&self.used), total(&self.half_open))
    }

    pub(super) fn occupy(&self, place: usize) {
        self.used[place % COUNTS].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn release(&self, place: usize) {
        decrement(&self.used[place % COUNTS]);
    }

    /// Counts a half-open session if fewer than `most` are there.
    pub(super) fn begin_half_open(&self, place: usize, most: u32) -> bool {
        let add = |n: u32| (n < most).then(|| n + 1);
        self.half_open[place % COUNTS]
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .is_ok()
    }

    pub(super) fn end_half_open(&self, place: usize) {
        decrement(&self.half_open[place % COUNTS]);
    }
}
