//! Quiescent points: how freed slots wait until no worker can still hold them.
//!
//! There is a count of epochs. Slots that were freed before the count reached `e` may be used again
//! when every worker has said, after that, that it holds nothing: its own mark is at least `e`.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crossbeam_utils::CachePadded;

use super::sync::{AtomicU64, GUESTS, Mutex, Ordering, fence, yield_now};

/// The mark of a participant that holds nothing until it says otherwise.
const OFFLINE: u64 = u64::MAX;

type Mark = Arc<CachePadded<AtomicU64>>;

/// The epochs of one table and who takes part.
pub(super) struct Epochs {
    current: CachePadded<AtomicU64>,
    marks: Mutex<Vec<Mark>>,
    guests: Vec<CachePadded<AtomicU64>>,
}

impl Default for Epochs {
    fn default() -> Epochs {
        let mark = |epoch| CachePadded::new(AtomicU64::new(epoch));
        Epochs {
            current: mark(0),
            marks: Mutex::default(),
            guests: std::iter::repeat_with(|| mark(OFFLINE)).take(GUESTS).collect(),
        }
    }
}

/// A short stay of a thread that has no handle of its own: slots it sees are not used again before
/// it is dropped.
pub(super) struct Guest<'e>(&'e AtomicU64);

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.0.store(OFFLINE, Ordering::Release);
    }
}

impl Epochs {
    pub(super) fn register(self: &Arc<Self>) -> WorkerHandle {
        let mut marks = self.marks.lock();
        // Read under the lock: whoever advances the epoch afterwards finds this mark in the list.
        let mark: Mark =
            Arc::new(CachePadded::new(AtomicU64::new(self.current.load(Ordering::SeqCst))));
        marks.push(mark.clone());
        WorkerHandle { epochs: self.clone(), mark }
    }

    /// Lets a thread without a handle in. Not for workers: it waits if all places are taken.
    pub(super) fn guest(&self) -> Guest<'_> {
        loop {
            let epoch = self.current.load(Ordering::SeqCst);
            let free = self.guests.iter().find(|mark| {
                mark.load(Ordering::Relaxed) == OFFLINE
                    && mark
                        .compare_exchange(OFFLINE, epoch, Ordering::SeqCst, Ordering::Relaxed)
                        .is_ok()
            });
            if let Some(mark) = free {
                fence(Ordering::SeqCst);
                return Guest(mark);
            }
            yield_now();
        }
    }

    /// Begins an epoch. What was freed before this call is free of holders once `passed` says so.
    pub(super) fn advance(&self) -> u64 {
        self.current.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Whether every participant has been quiescent since `epoch` began.
    pub(super) fn passed(&self, epoch: u64) -> bool {
        // With the fences in `online` and `guest`: either we see that somebody came online with an older mark, or
        // that somebody sees everything that happened before the epoch began.
        fence(Ordering::SeqCst);
        let passed = |mark: &AtomicU64| mark.load(Ordering::Acquire) >= epoch;
        self.guests.iter().all(|mark| passed(mark)) && self.marks.lock().iter().all(|m| passed(m))
    }
}

/// One thread's part in the quiescence protocol of a [`SessionTable`](super::SessionTable).
///
/// Slots that the thread looked up are not used again before its next [`quiescent`](Self::quiescent).
/// Dropping the handle ends its part.
pub struct WorkerHandle {
    epochs: Arc<Epochs>,
    mark: Mark,
}

impl WorkerHandle {
    /// Says that this thread holds no slot. Called between batches; two plain memory accesses.
    #[inline]
    pub fn quiescent(&self) {
        // Acquire: later lookups see what was removed before that epoch began. Release: reads of
        // records made so far are over before a reuse of their slots.
        let epoch = self.epochs.current.load(Ordering::Acquire);
        self.mark.store(epoch, Ordering::Release);
    }

    /// Says that this thread holds no slot and will look none up until [`online`](Self::online): for
    /// a long sleep, so that freed slots need not wait for it.
    pub fn offline(&self) {
        self.mark.store(OFFLINE, Ordering::Release);
    }

    /// Takes part again.
    pub fn online(&self) {
        let epoch = self.epochs.current.load(Ordering::SeqCst);
        self.mark.store(epoch, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.epochs.marks.lock().retain(|mark| !Arc::ptr_eq(mark, &self.mark));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_passes_when_everybody_was_quiescent_or_away() {
        let epochs = Arc::new(Epochs::default());
        let (a, b) = (epochs.register(), epochs.register());
        let first = epochs.advance();
        assert!(!epochs.passed(first));
        a.quiescent();
        assert!(!epochs.passed(first));
        b.offline();
        assert!(epochs.passed(first));
        b.online();
        assert!(epochs.passed(first), "it came online after the epoch began");
        let guest = epochs.guest();
        let third = epochs.advance();
        a.quiescent();
        b.quiescent();
        assert!(!epochs.passed(third));
        drop(guest);
        assert!(epochs.passed(third));
        let fourth = epochs.advance();
        a.quiescent();
        assert!(!epochs.passed(fourth));
        drop(b);
        assert!(epochs.passed(fourth));
    }
}
