//! What a flush has to wait for.
#![forbid(unsafe_code)]

use super::Slot;
use super::record::{TIME_BASE_MS, state, word};
use super::table::SessionTable;

impl SessionTable {
    /// How many of the sessions that a flush has to wait for were created before `created_ms`. With
    /// new sessions arriving all the time [`unreplicated`](Self::unreplicated) may never be 0; this
    /// is, once everything that was there at that time is acknowledged. Walks the slab.
    pub fn unreplicated_before(&self, created_ms: u64) -> u64 {
        if self.unreplicated() == 0 {
            return 0;
        }
        let before = created_ms + TIME_BASE_MS;
        let waits = |index: u32| {
            let record = self.record(Slot(index));
            record.live().is_some()
                && record.get(word::STATE) & state::UNREPLICATED != 0
                && record.get(word::CREATED) < before
        };
        (0..self.slab.high_water()).filter(|index| waits(*index)).count() as u64
    }
}
