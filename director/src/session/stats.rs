//! What the table counts.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

/// What one whole pass of the sweep counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PassCounts {
    /// Sessions whose owner is this director.
    pub owned: u64,
    /// Established, not closing.
    pub established: u64,
    /// Neither established nor closing.
    pub half_open: u64,
    /// Closing (both FINs, or reset).
    pub closing: u64,
    /// Owned and not closing: what a drain still has to give away.
    pub owned_open: u64,
    /// Acknowledged by the store.
    pub replicated: u64,
    /// Of listeners that want no replication.
    pub never: u64,
    /// Expired, and kept until their ends have been told.
    pub expiring: u64,
}

/// The state of the table and what it counted since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TableStats {
    /// Most sessions it can hold.
    pub capacity: u32,
    /// Sessions now.
    pub sessions: u32,
    /// Slots ever used.
    pub high_water: u32,
    /// Most half-open sessions it opens.
    pub max_half_open: u32,
    /// Half-open sessions of its own now.
    pub half_open: u32,
    /// Sessions that a flush has to wait for now.
    pub unreplicated: u64,
    /// What the latest whole pass of the sweep counted.
    pub pass: PassCounts,
    /// Whole passes of the sweep.
    pub passes: u64,
    /// Sessions opened here.
    pub opened: u64,
    /// Sessions that came from other directors.
    pub received: u64,
    /// Sessions freed.
    pub freed: u64,
    /// Lookups and opens put off because another thread was writing.
    pub contended: u64,
    /// Opens refused because the table was full.
    pub full: u64,
    /// Opens refused because the half-open pool was full.
    pub half_open_full: u64,
    /// Opens refused because of a class's half-open quota.
    pub class_full: u64,
    /// Sessions of other directors that found no room, lost a conflict over a key, or are of a
    /// listener or backend that was removed.
    pub refused: u64,
    /// Sessions that ended with their listener or backend.
    pub removed: u64,
    /// Sessions that gave way to a newer one, or to one with a better claim to a reply key.
    pub superseded: u64,
    /// Expiries that were vetoed: this director saw a packet within the idle timeout, or an end
    /// answered a probe with numbers that are not those of a connection at rest.
    pub vetoed: u64,
    /// Open TCP sessions whose idle timeout was over, so that their ends are told.
    pub expired: u64,
    /// Ends of such sessions that answered no probe.
    pub ends_given_up: u64,
    /// Ends of such sessions that were not probed, for want of room or of a turn.
    pub ends_unprobed: u64,
    /// Sessions adopted from other directors.
    pub adopted: u64,
    /// Half-open sessions that gave way to another director's of the same opening.
    pub twins_adopted: u64,
    /// Sessions that stayed although another director had registered one of the same opening before.
    pub twins_kept: u64,
}

#[derive(Default)]
pub(super) struct Counts {
    pub sessions: AtomicU32,
    pub half_open: AtomicU32,
    pub unreplicated: AtomicI64,
    pub passes: AtomicU64,
    pub opened: AtomicU64,
    pub received: AtomicU64,
    pub freed: AtomicU64,
    pub contended: AtomicU64,
    pub full: AtomicU64,
    pub half_open_full: AtomicU64,
    pub class_full: AtomicU64,
    pub refused: AtomicU64,
    pub removed: AtomicU64,
    pub superseded: AtomicU64,
    pub vetoed: AtomicU64,
    pub expired: AtomicU64,
    pub ends_given_up: AtomicU64,
    pub ends_unprobed: AtomicU64,
    pub adopted: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    count_many(counter, 1);
}

pub(super) fn count_many(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
