//! The atomics of slab, records and quiescence, and the map under L2: the real ones, or in the models of
//! `tests/models` loom's and one built on loom's, whose loads and stores are tried in every order in which
//! they may take effect.
#![forbid(unsafe_code)]

pub(super) use real_or_model::*;

#[cfg(not(all(test, feature = "loom")))]
mod real_or_model {
    pub(in crate::session) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
    pub(in crate::session) use std::thread::yield_now;

    pub(in crate::session) use dashmap::DashMap;
    pub(in crate::session) use parking_lot::Mutex;
    use zerocopy::FromZeros;

    use crate::session::slab::WORDS;

    /// How many threads can be guests at a time; one more has to wait a moment.
    pub(in crate::session) const GUESTS: usize = 64;

    /// Zeros that cost memory only when they are touched. Panics when the address space cannot hold them: at
    /// start only (see `Slab::new`).
    pub(in crate::session) fn zeros(words: usize) -> Vec<AtomicU64> {
        AtomicU64::new_vec_zeroed(words)
            .expect("memory for max_sessions records; choose a smaller max_sessions")
    }

    /// What an index outside the slab reads: a record that is never live.
    pub(in crate::session) fn nowhere() -> &'static [AtomicU64; WORDS] {
        static NOWHERE: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];
        &NOWHERE
    }
}

#[cfg(all(test, feature = "loom"))]
mod real_or_model {
    pub(in crate::session) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
    pub(in crate::session) use loom::thread::yield_now;

    use crate::session::slab::WORDS;
    pub(in crate::session) use crate::session::tests::models::map::DashMap;

    /// One thread without a handle, which may be a guest twice at a time.
    pub(in crate::session) const GUESTS: usize = 2;

    pub(in crate::session) fn zeros(words: usize) -> Vec<AtomicU64> {
        (0..words).map(|_| AtomicU64::new(0)).collect()
    }

    pub(in crate::session) fn nowhere() -> &'static [AtomicU64; WORDS] {
        panic!("no model uses an index outside its slab")
    }

    /// loom's lock with the interface of parking_lot's.
    #[derive(Default)]
    pub(in crate::session) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(in crate::session) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().expect("not poisoned")
        }

        pub(in crate::session) fn try_lock(&self) -> Option<loom::sync::MutexGuard<'_, T>> {
            self.0.try_lock().ok()
        }
    }
}
