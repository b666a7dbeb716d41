//! Models for loom: every order in which the loads and stores of two threads may take effect on weakly
//! ordered memory, with a bounded number of preemptions.
//!
//! - `slab`: records, versions and epochs by themselves.
//! - `index`: [`SessionTable`] with its real L2 ([`Index`](super::super::index::Index)).
//! - `cache`: the real L1 ([`FlowCache`]) over such a table.
//! - `twins`: a session whose twin takes its place.
//!
//! What is not real: loom cannot look into dashmap, so [`map`] stands in for it, one list behind one lock of
//! loom's atomics. All of ours around it (try or wait, comparing keys in the slab, what becomes of an entry
//! whose session ends) is the code that runs in a director. Counts, and locks that are never held across a
//! step of the protocol, are ordinary ones, whose orders are not tried.
//!
//! What models do not show: loom lets a load see every store that it could see late, but none that comes
//! after it. So nothing here fails without the release of `WorkerHandle::quiescent` and the acquire of
//! `Epochs::passed`, which keep reads of a record from seeing the next session's words. And a model has few
//! sessions, two threads, and so many preemptions; `tests/stress.rs` has many of each, in the orders that come.

mod cache;
mod index;
pub(in crate::session) mod map;
mod slab;
mod twins;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use loom::model::Builder;

use super::super::{FlowCache, OpenError};
use super::*;

/// The most steps of one order: to begin a session alone takes about a hundred.
const STEPS: usize = 20_000;

/// How often a thread may be held up at most where it could have gone on. (One is needed to begin, and one
/// for each time that the other thread's next step has to come at a certain moment.)
const PREEMPTIONS: usize = 4;

/// Runs a model in all orders.
fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.max_branches = STEPS;
    builder.check(model);
}

/// Whether any order led to something: what a model never meets it does not hold.
#[derive(Clone, Default)]
struct Mark(Arc<AtomicBool>);

impl Mark {
    fn reached_if(&self, condition: bool) {
        self.0.fetch_or(condition, Ordering::Relaxed);
    }

    fn assert_reached(&self) {
        assert!(self.0.load(Ordering::Relaxed), "no order led there");
    }
}

/// A table that hashes alike in every order, and a worker of it.
fn table_of(max_sessions: u32) -> (Arc<SessionTable>, WorkerHandle) {
    let table = Arc::new(SessionTable::seeded(max_sessions, max_sessions, ME, 1, 7));
    let worker = table.register_worker();
    (table, worker)
}

/// The session of the `n`th flow: all its parts say `n`.
fn flow(n: u32) -> NewSession {
    let new = new_session(n, n, established());
    NewSession { backend: BackendId(n), isn_delta: n, ..new }
}

/// The first flow ends, and the second one begins as soon as the slot may be used again. Whether it did.
fn begins_in_its_place(table: &SessionTable, slot: Slot) -> bool {
    assert!(table.remove(slot, &key(1)));
    // Twice: the epoch begins with the first.
    table.reclaim(1);
    table.reclaim(1);
    table.open(flow(2), 1).is_ok()
}

/// Panics unless the slot shows one session of the client key `client`, made by `flow` or like it. Returns
/// which.
fn check_whole(table: &SessionTable, slot: Slot, client: u32) -> u32 {
    let shown = || {
        let session = table.session(slot);
        let n = session.backend().0;
        assert_eq!(session.key(), key(client));
        assert_eq!(session.isn_delta(), n);
        assert_eq!(session.reply(), reply(n));
        n
    };
    let n = shown();
    assert_eq!(n, shown(), "it changed under the worker");
    n
}

/// Where a key leads when nobody else is here. The first look finishes what was left undone.
fn leads(table: &SessionTable, key: &FlowKey) -> Option<Slot> {
    table.lookup(key);
    found(table, key).map(|(slot, _)| slot)
}

/// Waits until slots of ended sessions can be used again.
fn settle(table: &SessionTable, worker: &WorkerHandle) {
    while table.reclaim(8) == 0 {
        worker.quiescent();
    }
}
