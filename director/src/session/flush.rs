//! What a flush has to wait for.
#![forbid(unsafe_code)]

use super::Slot;
use super::record::{TIME_BASE_MS, state, word};
use super::table::SessionTable;

impl SessionTable {
    /// How many of the sessions that a flush has to wait for were created before `created_ms`: those
    /// that the store does not have, and those of which it does not know how far their handshake is.
    /// With new sessions arriving all the time [`unreplicated`](Self::unreplicated) may never be 0; this
    /// is, once everything that was there at that time is acknowledged. Walks the slab.
    pub fn unreplicated_before(&self, created_ms: u64) -> u64 {
        let before = created_ms + TIME_BASE_MS;
        let waits = |index: u32| {
            let record = self.record(Slot(index));
            let bits = record.get(word::STATE);
            record.live().is_some()
                && (bits & state::UNREPLICATED != 0 || record.untold(bits))
                && record.get(word::CREATED) < before
        };
        (0..self.slab.high_water()).filter(|index| waits(*index)).count() as u64
    }
}
