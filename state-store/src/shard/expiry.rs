//! The leader's search for idle sessions, and its hand on the shard's clock.
//!
//! An owner tells of a packet within a quarter of the idle timeout. One that ends takes its last news
//! with it: until its very end it may have forwarded. So what it owned is idle from then on, not from
//! the last word it said; also when it is back at once, and remembers nothing.
//!
//! That it has ended is known a moment later. Therefore nothing that is open expires before the last news
//! of its owner would be here, or the owner's end be noticed.

use std::collections::BTreeMap;

use holdfast_schema::cluster::DirectorId;
use holdfast_schema::session::{SessionChange, SessionRecord};

use super::{Shard, last_seen};

/// The most that one log entry may advance the shard's clock. A leader that was stalled does not
/// make the sessions of everybody else old at once.
pub const MAX_CLOCK_STEP_MS: u32 = 2_000;

/// How long a shard with sessions may go without an entry before the leader advances its clock.
const CLOCK_PERIOD_MS: u64 = 1_000;

/// Most sessions looked at in one step.
const SCAN_BUDGET: usize = 4_096;

/// How long (ms) it takes until the end of an owner is known here: it is declared down, or has started again.
const NOTICED_MS: u64 = 2_000;

/// How the owner of sessions stands, as far as the control group knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Its number of starts.
    pub incarnation: u64,
    /// It is down, or no member any more.
    pub down: bool,
}

impl Standing {
    /// Whether it has carried this session in one life since it created it.
    fn carried_on(self, record: &SessionRecord) -> bool {
        let of = &record.incarnation;
        // A creator counts from its number of starts on.
        of.creator == record.owner && of.counter >> 32 == self.incarnation & 0xffff_ffff
    }
}

/// A leader's place in its walk over a shard. A new leader begins anew.
#[derive(Default)]
pub struct Expiry {
    /// How owners stand, and since when on the shard's clock; a new leader cannot know of any time
    /// before its own.
    owners: BTreeMap<DirectorId, (Standing, u64)>,
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
        standing: &dyn Fn(DirectorId) -> Standing,
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
            let seen = last_seen(session);
            let mut idle_since = seen;
            if !record.flags.closing() {
                let now = standing(record.owner);
                let owner = self.owners.entry(record.owner).or_insert((now, shard.clock_ms));
                if owner.0 != now {
                    *owner = (now, shard.clock_ms);
                }
                if now.down || !now.carried_on(record) {
                    idle_since = seen.max(owner.1);
                }
                // News of a packet may be under way, from the owner or from whoever took over. (That a
                // half-open session became established is said at once.)
                limit += limit / 4 + NOTICED_MS;
            }
            if shard.clock_ms.saturating_sub(idle_since) > limit {
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
