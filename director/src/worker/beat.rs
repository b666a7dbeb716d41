//! Beats: proof that a thread still goes round.

use std::sync::atomic::{AtomicU64, Ordering};

/// When a worker last went round, for the guard to watch.
#[derive(Debug)]
pub struct Beat(Cell);

#[derive(Debug)]
enum Cell {
    Own(AtomicU64),
    /// Outside of this process' own memory: shared with the guard.
    Shared(&'static AtomicU64),
}

impl Beat {
    /// A beat in memory of its own.
    pub fn new() -> Beat {
        Beat(Cell::Own(AtomicU64::new(0)))
    }

    /// A beat into somebody else's memory.
    pub fn into_shared(cell: &'static AtomicU64) -> Beat {
        Beat(Cell::Shared(cell))
    }

    fn cell(&self) -> &AtomicU64 {
        match &self.0 {
            Cell::Own(cell) => cell,
            Cell::Shared(cell) => cell,
        }
    }

    /// Leaves a beat: CLOCK_MONOTONIC in nanoseconds.
    #[inline]
    pub fn stamp(&self, now_ns: u64) {
        self.cell().store(now_ns, Ordering::Release);
    }

    /// The last beat (CLOCK_MONOTONIC, ns); 0: none yet.
    pub fn last_ns(&self) -> u64 {
        self.cell().load(Ordering::Acquire)
    }
}

impl Default for Beat {
    fn default() -> Beat {
        Beat::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_beat_is_seen_outside() {
        static CELL: AtomicU64 = AtomicU64::new(0);
        let beat = Beat::into_shared(&CELL);
        assert_eq!(beat.last_ns(), 0);
        beat.stamp(42);
        assert_eq!((beat.last_ns(), CELL.load(Ordering::Relaxed)), (42, 42));
    }
}
