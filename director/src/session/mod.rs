//! The sessions of one director: where they live, how they are found, how they are told to others.
//!
//! - [`SessionTable`] is the slab (one record per session, in memory that is allocated once) and L2,
//!   the index shared by all threads: both directions' keys lead to a [`Slot`].
//! - [`FlowCache`] is L1: one worker's own index over the same slab.
//! - [`Sweeper`] walks the slab, frees what is over, and says what the store must be told.
//! - `impl SessionSink for SessionTable` is the other way round: what the store applied.
//!
//! # Who may hold on to a slot
//!
//! A [`Slot`] is an index, so it can be stale. Three rules make that harmless:
//! 1. Before a slot found in L1 is used, the full key is compared with the record (a sequence lock
//!    around the record's words, all of which are atomics, makes that exact).
//! 2. A freed slot is used again only after every [`WorkerHandle`] has passed a quiescent point. So
//!    what a worker looked up stays what it is until that worker calls [`WorkerHandle::quiescent`],
//!    which it does between batches, when it holds no slot. A slot kept across batches must be
//!    looked up again (or compared: [`SessionTable::verify`]).
//! 3. Threads without a handle (the store's, operators') are *guests* while they touch records: a
//!    short stay that counts like a worker that was not quiescent.
//!
//! So nobody ever sees a slot that changed its session under them: the record they found may have
//! ended, which is as if its last packet had come a moment earlier.
//!
//! # How a worker uses it
//!
//! ```text
//! table.tick(now_ms);                                       once a batch
//! cache.lookup_batch(&table, &keys, &mut found);            L1
//! match table.lookup(&key) { Found(slot, side) => .. }      L2, then cache.insert(&key, slot, side)
//! let session = table.session(slot);                        a Copy handle; what it knows, it has methods for
//! session.reply(); session.touch(Side::Client, now_ms, seq_end, ack); session.set_flags(..);
//! table.open(NewSession { .. }, now_ms)                     ReplyTaken: next port; ClassFull: next LIP
//! table.install(&record, now_ms)                            an answer to a miss
//! handle.quiescent();                                       between batches
//! ```
//!
//! # Time
//!
//! `now_ms` is CLOCK_MONOTONIC in milliseconds and always given in. The store's calls carry no time,
//! so the table keeps the latest one it was told ([`SessionTable::tick`]; the sweep ticks, too). It has
//! to be told before the store's first call.

// Only `memory` needs more; every other file forbids it.
#![deny(unsafe_code)]

mod accept;
mod cache;
mod classes;
mod expiring;
mod flush;
mod handle;
mod heard;
mod index;
mod key;
#[cfg(feature = "simulation")]
mod leftovers;
mod memory;
mod open;
mod quiescence;
mod reborn;
mod record;
mod refused;
mod removal;
mod sink;
mod slab;
mod stats;
mod sweep;
mod sync;
mod table;
#[cfg(test)]
mod tests;
mod twin;
mod young;

pub use cache::{CacheStats, FlowCache};
pub use expiring::{PROBES_PER_SECOND, Probe};
pub use handle::Session;
#[cfg(feature = "simulation")]
pub use leftovers::Leftovers;
pub use open::{NewSession, OpenError};
pub use quiescence::WorkerHandle;
pub use stats::{PassCounts, TableStats};
pub use sweep::{SweepPolicy, SweepProgress, Sweeper};
pub use table::{CLASS_PORTS, Lookup, SessionTable};
pub use twin::{HalfOpenReset, TwinVerdict};
pub use young::YoungWalk;

/// Index of a session's record in the slab. May be stale; see the module's documentation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Slot(u32);

impl Slot {
    /// The index as a number, below the table's capacity.
    pub fn index(self) -> u32 {
        self.0
    }
}

/// Which direction of a session a key belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Side {
    /// Client > VIP.
    Client,
    /// Backend > LIP.
    Backend,
}
