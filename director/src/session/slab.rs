//! The slab: memory for all records, allocated once, and the lists of unused slots.
//!
//! A record is [`WORDS`] atomic words on four cache lines of its own. The memory comes zeroed from
//! the allocator and is touched only when a slot is first used, so a large limit costs address
//! space, not memory. Unused slots form two intrusive lists (no allocation, no bound to exceed):
//! *free* ones, and ones in *limbo* that wait for the quiescence of all workers.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::Slot;
use super::memory::prefer_huge_pages;
use super::quiescence::Epochs;
use super::record::{Record, word};
use super::sync::{AtomicU32, AtomicU64, Mutex, Ordering, nowhere, zeros};

/// Words of a record: four cache lines of 64 bytes.
pub(super) const WORDS: usize = 32;

const LINE_WORDS: usize = 8;

/// Records on a small page.
const PAGE_RECORDS: usize = 4_096 / (WORDS * size_of::<u64>());

/// How many slots ahead of those in use have their memory ready: two huge pages.
const WARM_AHEAD: u32 = 16_384;

/// Slots that were taken out of limbo together, and the epoch they wait for.
#[derive(Default)]
struct Pending {
    /// Index + 1 of the first; 0: none.
    head: u64,
    epoch: u64,
}

pub(super) struct Slab {
    words: Vec<AtomicU64>,
    /// Words to skip so that records begin on a cache line.
    shift: usize,
    capacity: u32,
    /// Slots below this have been used at some time.
    fresh: AtomicU32,
    /// Memory of slots below this has been touched.
    warm: AtomicU32,
    /// Free list: index + 1 of its first (low half), a count of changes against ABA (high half).
    free: AtomicU64,
    /// Limbo: index + 1 of its first.
    limbo: AtomicU64,
    pending: Mutex<Pending>,
    pub(super) epochs: Arc<Epochs>,
}

impl Slab {
    /// Room for `capacity` records. Panics when the address space cannot hold them: at start only.
    pub(super) fn new(capacity: u32) -> Slab {
        let words = zeros(capacity as usize * WORDS + LINE_WORDS);
        if !prefer_huge_pages(&words) {
            tracing::warn!(
                "no huge pages for the session table ({}): more cache misses, and a slower death; \
                 set /sys/kernel/mm/transparent_hugepage/enabled to madvise",
                std::io::Error::last_os_error()
            );
        }
        let shift = words.as_ptr().align_offset(LINE_WORDS * size_of::<u64>()).min(LINE_WORDS);
        Slab {
            words,
            shift,
            capacity,
            fresh: AtomicU32::new(0),
            warm: AtomicU32::new(0),
            free: AtomicU64::new(0),
            limbo: AtomicU64::new(0),
            pending: Mutex::default(),
            epochs: Arc::default(),
        }
    }

    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Every slot ever used is below this.
    pub(super) fn high_water(&self) -> u32 {
        self.fresh.load(Ordering::Acquire).min(self.capacity)
    }

    /// Touches memory a little ahead of the slots in use, so that the kernel clears pages (of 2 MB,
    /// perhaps) on this thread's time and not on a worker's.
    pub(super) fn warm(&self) {
        let end = self.high_water().saturating_add(WARM_AHEAD).min(self.capacity);
        let from = self.warm.load(Ordering::Relaxed);
        for index in (from..end).step_by(PAGE_RECORDS) {
            // A write that changes nothing, whoever uses the slot meanwhile.
            let version = &self.record(Slot(index)).0[word::VERSION];
            let _ = version.compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
        self.warm.fetch_max(end, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn record(&self, slot: Slot) -> Record<'_> {
        let first = self.shift + slot.0 as usize * WORDS;
        let words = self.words.get(first..first + WORDS).and_then(|w| w.try_into().ok());
        match words {
            Some(words) => Record(words),
            None => Record(nowhere()),
        }
    }

    fn next(&self, slot: Slot) -> &AtomicU64 {
        &self.record(slot).0[word::NEXT]
    }

    /// Takes an unused slot.
    pub(super) fn take(&self) -> Option<Slot> {
        let mut head = self.free.load(Ordering::Acquire);
        while let Some(index) = (head as u32).checked_sub(1) {
            // Another thread may have taken it already; then this word is anything and the
            // exchange fails on the count.
            let next = self.next(Slot(index)).load(Ordering::Relaxed);
            let new = (head >> 32).wrapping_add(1) << 32 | (next & u64::from(u32::MAX));
            match self.free.compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(Slot(index)),
                Err(seen) => head = seen,
            }
        }
        self.fresh
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| {
                (n < self.capacity).then(|| n + 1)
            })
            .ok()
            .map(Slot)
    }

    /// Makes a slot available that nobody can know.
    pub(super) fn give(&self, slot: Slot) {
        let mut head = self.free.load(Ordering::Relaxed);
        loop {
            self.next(slot).store(head & u64::from(u32::MAX), Ordering::Relaxed);
            let new = (head >> 32).wrapping_add(1) << 32 | u64::from(slot.0 + 1);
            match self.free.compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(seen) => head = seen,
            }
        }
    }

    /// Puts a slot that nothing leads to any more into limbo.
    pub(super) fn retire(&self, slot: Slot) {
        let mut head = self.limbo.load(Ordering::Relaxed);
        loop {
            self.next(slot).store(head, Ordering::Relaxed);
            let new = u64::from(slot.0 + 1);
            match self.limbo.compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(seen) => head = seen,
            }
        }
    }

    /// Slots that were used at some time and are free, or wait to be.
    #[cfg(feature = "simulation")]
    pub(super) fn unused(&self) -> u64 {
        let pending = self.pending.lock().head;
        let heads =
            [self.free.load(Ordering::Acquire), self.limbo.load(Ordering::Acquire), pending];
        let chain = |head: u64| {
            let next = |slot: &Slot| Some(self.next(*slot).load(Ordering::Relaxed));
            let slot = |head: u64| (head as u32).checked_sub(1).map(Slot);
            std::iter::successors(slot(head), |at| next(at).and_then(slot)).count() as u64
        };
        heads.into_iter().map(chain).sum()
    }

    /// Moves up to `budget` slots from limbo to the free list, as far as workers have been quiescent.
    /// Does nothing when another thread is at it. Returns how many it moved.
    pub(super) fn reclaim(&self, budget: usize) -> usize {
        let Some(mut pending) = self.pending.try_lock() else { return 0 };
        if pending.head == 0 {
            pending.head = self.limbo.swap(0, Ordering::AcqRel);
            if pending.head == 0 {
                return 0;
            }
            pending.epoch = self.epochs.advance();
        }
        if !self.epochs.passed(pending.epoch) {
            return 0;
        }
        let mut moved = 0;
        while let Some(index) = (pending.head as u32).checked_sub(1)
            && moved < budget
        {
            pending.head = self.next(Slot(index)).load(Ordering::Relaxed);
            self.give(Slot(index));
            moved += 1;
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_lie_on_cache_lines() {
        let slab = Slab::new(3);
        for i in 0..3 {
            assert_eq!(std::ptr::from_ref(slab.record(Slot(i)).0) as usize % 64, 0);
        }
    }

    #[test]
    fn a_retired_slot_comes_back_after_quiescence_only() {
        let slab = Slab::new(2);
        let worker = slab.epochs.register();
        let (a, b) = (slab.take().unwrap(), slab.take().unwrap());
        assert!(slab.take().is_none());
        slab.retire(a);
        assert_eq!(slab.reclaim(8), 0);
        slab.retire(b);
        worker.quiescent();
        assert_eq!(slab.reclaim(8), 1, "b was retired after the epoch began");
        assert_eq!(slab.take(), Some(a));
        assert!(slab.take().is_none());
        assert_eq!(slab.reclaim(8), 0);
        worker.quiescent();
        assert_eq!(slab.reclaim(8), 1);
        assert_eq!(slab.take(), Some(b));
    }

    #[test]
    fn threads_never_get_the_same_slot() {
        let slab = Slab::new(64);
        std::thread::scope(|scope| {
            for id in 1..=4u64 {
                let slab = &slab;
                scope.spawn(move || {
                    for _ in 0..20_000 {
                        let Some(slot) = slab.take() else { continue };
                        let cell = &slab.record(slot).0[0];
                        assert_eq!(cell.swap(id, Ordering::AcqRel), 0);
                        assert_eq!(cell.swap(0, Ordering::AcqRel), id);
                        slab.give(slot);
                    }
                });
            }
        });
        let all: std::collections::BTreeSet<_> = std::iter::from_fn(|| slab.take()).collect();
        assert_eq!(all.len(), 64);
    }
}
