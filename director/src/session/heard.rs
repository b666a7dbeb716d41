//! When somebody has said last that a key has a session: what was denied before does not count any more.
//!
//! A home is told of sessions that are in no table here; a worker that remembers a denial of one has to ask
//! again. Keys that share a place share its time, which costs a question now and then.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use ahash::RandomState;
use holdfast_schema::flow::FlowKey;

use super::table::SessionTable;

/// How many places there are.
const PLACES: usize = 8_192;

/// Table times by the hash of a key.
pub(super) struct Heard {
    places: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Heard {
    pub(super) fn new(hasher: RandomState) -> Heard {
        Heard { places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(), hasher }
    }

    fn place(&self, key: &FlowKey) -> Option<&AtomicU64> {
        self.places.get(self.hasher.hash_one(key) as usize % PLACES)
    }
}

impl SessionTable {
    /// Somebody says that this key, of either direction, has a session.
    pub(super) fn heard_of(&self, key: &FlowKey) {
        if let Some(place) = self.heard.place(key) {
            place.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Whether somebody may have said so since `since_ms`.
    #[inline]
    pub fn heard_since(&self, key: &FlowKey, since_ms: u64) -> bool {
        let since = since_ms + super::record::TIME_BASE_MS;
        self.heard.place(key).is_some_and(|at| at.load(Ordering::Relaxed) >= since)
    }
}
