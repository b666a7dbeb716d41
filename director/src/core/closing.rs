//! Sessions that are over, and whose addresses and ports their client may have taken again.

use super::Core;
use crate::session::{Side, Slot};

/// How long (ms) this director must have seen nothing of a client whose session is over before it asks
/// whose packet comes now. What belongs to the end itself comes sooner, or can wait for an answer.
const QUIET_MS: u64 = 200;

impl Core {
    /// Whether a packet may be of a later connection with the same addresses and ports. That began at
    /// another director, which may be gone before this one was told of it; by this session its
    /// packets would go to a backend that resets it.
    #[inline]
    pub(super) fn is_in_doubt(&self, now_ms: u64, (slot, side): (Slot, Side)) -> bool {
        let session = self.table.session(slot);
        side == Side::Client
            && session.flags().closing()
            && session.unseen_ms(side, now_ms) >= QUIET_MS
    }
}
