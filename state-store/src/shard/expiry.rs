//! The leader's search for idle sessions, and its hand on the shard's clock.

use holdfast_schema::cluster::DirectorId;
use holdfast_schema::session::SessionChange;

use super::{Shard, last_seen};

/// The most that one log entry may advance the shard's clock. A leader that was stalled does not
/// make the sessions of everybody else old at once.
pub const MAX_CLOCK_STEP_MS: u32 = 2_000;

/// How long a shard with sessions may go without an entry before the leader advances its clock.
const CLOCK_PERIOD_MS: u64 = 1_000;

/// Most sessions looked at in one step.
const SCAN_BUDGET: usize = 4_096;

/// A leader's place in its walk over a shard. A new leader begins anew.
#[derive(Default)]
pub struct Expiry {
    cursor: usize,
    /// The leader's monotonic time (ms) up to which the shard's clock has been advanced.
    advanced_ms: Option<u64>,
    /// When the last walk over the whole shard began (leader's monotonic ms).
    walk_began_ms: u64,
}

impl Expiry {
    /// What the clock advances by in an entry that is proposed now.
    pub fn elapsed(&mut self, now_ms: u64) -> u32 {
        let since = self.advanced_ms.replace(now_ms).map_or(0, |at| now_ms.saturating_sub(at));
        since.min(u64::from(MAX_CLOCK_STEP_MS)) as u32
    }

    /// Whether the clock needs an entry of its own now.
    pub fn clock_due(&self, now_ms: u64, shard: &Shard) -> bool {
        let waited = self.advanced_ms.is_none_or(|at| now_ms.saturating_sub(at) >= CLOCK_PERIOD_MS);
        waited && !shard.is_empty()
    }

    /// The expiries found in the next step of the walk. A walk over the whole shard is begun at most
    /// once a second, so that what was proposed has been applied before it is met again.
    pub fn step(
        &mut self,
        shard: &Shard,
        now_ms: u64,
        is_down: &dyn Fn(DirectorId) -> bool,
    ) -> Vec<SessionChange> {
        if self.cursor == 0 {
            if now_ms.saturating_sub(self.walk_began_ms) < CLOCK_PERIOD_MS {
                return Vec::new();
            }
            self.walk_began_ms = now_ms;
        }
        let (sessions, next) = shard.table.walk(self.cursor, SCAN_BUDGET);
        self.cursor = next;
        let mut due = Vec::new();
        for session in sessions {
            let record = &session.record;
            let mut limit = u64::from(record.idle_limit_ms());
            // A dead owner refreshes no more; whoever took over adopts with its next refresh.
            if !record.flags.closing() && is_down(record.owner) {
                limit += u64::from(record.idle_timeout_ms / 4);
            }
            let seen = last_seen(session);
            if shard.clock_ms.saturating_sub(seen) > limit {
                due.push(SessionChange::Expire {
                    key: record.key,
                    incarnation: record.incarnation,
                    last_seen_ms: seen,
                });
            }
        }
        due
    }
}
