//! Closed sessions that expired a moment ago, so that a create that comes late does not bring them
//! back.
//!
//! Directors propose a create again until they see it applied; one of those may lie in a queue or in
//! a log while the session closes and expires. Its record knows nothing of the end and would live for
//! a whole idle timeout.

use std::collections::{BTreeMap, HashMap};

use holdfast_schema::session::{CLOSE_LINGER_MS, Incarnation, SessionFlags};

use crate::codec::disk::Tomb;

/// How long a closed session is remembered, on the shard's clock.
const KEPT_MS: u64 = 6 * CLOSE_LINGER_MS as u64;

/// Most that are remembered. The same number on every replica.
const MOST: usize = 1 << 17;

/// Closed sessions by the second of the shard's clock in which they expired.
#[derive(Default)]
pub struct Tombs {
    seconds: BTreeMap<u64, Vec<Tomb>>,
    index: HashMap<Incarnation, (u64, SessionFlags), ahash::RandomState>,
    count: usize,
}

impl Tombs {
    /// A session that was over has expired. Returns the second whose record changed.
    pub fn bury(
        &mut self,
        incarnation: &Incarnation,
        flags: SessionFlags,
        clock_ms: u64,
    ) -> Option<u64> {
        if !flags.closing() || self.count >= MOST {
            return None;
        }
        let second = clock_ms / 1_000;
        self.put(second, Tomb { incarnation: *incarnation, flags });
        Some(second)
    }

    fn put(&mut self, second: u64, tomb: Tomb) {
        self.index.insert(tomb.incarnation, (second, tomb.flags));
        self.seconds.entry(second).or_default().push(tomb);
        self.count += 1;
    }

    /// Whether a create of this session was made before the session ended: it lacks what was known
    /// at the end. (A director that still sees packets knows of the end and may keep it.)
    pub fn forbid(&self, incarnation: &Incarnation, flags: SessionFlags) -> bool {
        self.index.get(incarnation).is_some_and(|(_, known)| !flags.has(*known))
    }

    /// Forgets what is old; returns the seconds that are gone.
    pub fn forget(&mut self, clock_ms: u64) -> Vec<u64> {
        let oldest = clock_ms.saturating_sub(KEPT_MS) / 1_000;
        let mut gone = Vec::new();
        while let Some(entry) = self.seconds.first_entry().filter(|e| *e.key() < oldest) {
            let (second, tombs) = entry.remove_entry();
            self.count -= tombs.len();
            for tomb in tombs {
                // It may have been brought back and have ended again since.
                if self.index.get(&tomb.incarnation).is_some_and(|(s, _)| *s == second) {
                    self.index.remove(&tomb.incarnation);
                }
            }
            gone.push(second);
        }
        gone
    }

    /// What is remembered of a second.
    pub fn second(&self, second: u64) -> Option<&Vec<Tomb>> {
        self.seconds.get(&second)
    }

    /// Everything, by second.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Vec<Tomb>)> {
        self.seconds.iter().map(|(second, tombs)| (*second, tombs))
    }

    /// Takes a second's record; in ascending order.
    pub fn load(&mut self, second: u64, tombs: Vec<Tomb>) {
        tombs.into_iter().for_each(|tomb| self.put(second, tomb));
    }
}

#[cfg(test)]
mod tests {
    use holdfast_schema::cluster::DirectorId;

    use super::*;

    fn incarnation(counter: u64) -> Incarnation {
        Incarnation { stamp: 1, creator: DirectorId(1), counter, isn: 7 }
    }

    #[test]
    fn the_room_is_limited_and_comes_back() {
        let mut tombs = Tombs::default();
        for n in 0..MOST as u64 + 5 {
            tombs.bury(&incarnation(n), SessionFlags::RESET, 1_000);
        }
        assert_eq!((tombs.count, tombs.index.len()), (MOST, MOST));
        assert!(tombs.forget(1_000 + KEPT_MS).is_empty());
        assert_eq!(tombs.forget(2_000 + KEPT_MS), [1]);
        assert_eq!((tombs.count, tombs.index.len()), (0, 0));
    }

    #[test]
    fn the_later_of_two_ends_counts() {
        let mut tombs = Tombs::default();
        let both = SessionFlags::RESET.with(SessionFlags::CLIENT_FIN);
        assert_eq!(tombs.bury(&incarnation(1), SessionFlags::RESET, 1_000), Some(1));
        assert_eq!(tombs.bury(&incarnation(1), both, 9_999), Some(9));
        assert_eq!(tombs.forget(2_000 + KEPT_MS), [1]);
        assert!(tombs.forbid(&incarnation(1), SessionFlags::RESET));
        assert!(!tombs.forbid(&incarnation(1), both));
    }
}
