//! Young sessions as their homes are told of them: each when it begins, and now and then all.
#![forbid(unsafe_code)]

use holdfast_schema::session::SessionRecord;

use super::Slot;
use super::record::{TIME_BASE_MS, state, word};
use super::table::SessionTable;

impl SessionTable {
    /// The session in this slot as its homes are to be told of it: one that this director owns and the
    /// store does not have, or has without knowing how far its handshake is; or any one whose backend has denied the
    /// client: its owner may never hear of that, or be gone. Safe to call with any slot; it tells of whatever
    /// session is there now.
    pub fn young(&self, slot: Slot, now_ms: u64) -> Option<SessionRecord> {
        let record = self.record(slot);
        let version = record.live()?;
        let bits = record.get(word::STATE);
        let news = bits & state::UNREPLICATED != 0 || record.untold(bits);
        if !(bits & state::OWNED != 0 && news || record.has_news_of_denial(bits)) {
            return None;
        }
        let description = record.describe(now_ms + TIME_BASE_MS);
        record.still(version).then_some(description)
    }
}

/// A walk over all young sessions of a table, in small steps.
#[derive(Clone, Copy, Debug, Default)]
pub struct YoungWalk {
    cursor: u32,
}

impl YoungWalk {
    /// Looks at up to `slots` slots and hands out at most `most` sessions. Returns whether the walk is
    /// complete. Sessions that begin behind its back are not its business.
    pub fn step(
        &mut self,
        table: &SessionTable,
        now_ms: u64,
        slots: usize,
        most: usize,
        mut visit: impl FnMut(SessionRecord),
    ) -> bool {
        let end = table.slab.high_water();
        let mut left = most;
        for _ in 0..slots {
            if self.cursor >= end {
                return true;
            }
            if left == 0 {
                return false;
            }
            if let Some(record) = table.young(Slot(self.cursor), now_ms) {
                visit(record);
                left -= 1;
            }
            self.cursor += 1;
        }
        self.cursor >= end
    }
}
