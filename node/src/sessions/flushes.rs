//! How far this director's flushes are: pure.

use std::collections::BTreeMap;

use holdfast_schema::cluster::PlannedChange;

/// A planned change as the session loop saw it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// When it was first seen.
    since_ms: u64,
    /// Whole passes of the sweep since then.
    passes: u64,
    /// Everything that was here then is replicated.
    done: bool,
}

/// The planned changes under way, by number.
#[derive(Debug, Default)]
pub struct Flushes(BTreeMap<u64, Seen>);

impl Flushes {
    /// Takes over which changes are planned.
    pub fn begin(&mut self, planned: &[PlannedChange], now_ms: u64) {
        if self.0.is_empty() && planned.is_empty() {
            return;
        }
        self.0.retain(|id, _| planned.iter().any(|p| p.id == *id));
        for change in planned {
            self.0.entry(change.id).or_insert(Seen { since_ms: now_ms, passes: 0, done: false });
        }
    }

    /// A pass of the sweep is complete. The first one after the beginning of a flush may have begun
    /// before it, so from the second on every session that was there has been looked at under the
    /// flush policy. `unreplicated_before` counts what was there at a time and is not replicated yet.
    pub fn pass_complete(&mut self, unreplicated_before: impl Fn(u64) -> u64) {
        for seen in self.0.values_mut().filter(|seen| !seen.done) {
            seen.passes += 1;
            seen.done = seen.passes >= 2 && unreplicated_before(seen.since_ms) == 0;
        }
    }

    /// Whether everything that was here when this change began is replicated.
    pub fn done(&self, planned: u64) -> bool {
        self.0.get(&planned).is_some_and(|seen| seen.done)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_schema::cluster::{DirectorId, PlannedKind};

    use super::*;

    #[test]
    fn a_flush_takes_two_passes_and_what_was_there_at_its_beginning() {
        let planned =
            vec![PlannedChange { id: 7, director: DirectorId(1), kind: PlannedKind::Join }];
        let mut flushes = Flushes::default();
        flushes.begin(&planned, 1_000);
        flushes.pass_complete(|_| 0);
        assert!(!flushes.done(7), "this pass may have begun earlier");
        flushes.begin(&planned, 1_500);
        flushes.pass_complete(|since_ms| if since_ms == 1_000 { 3 } else { 0 });
        assert!(!flushes.done(7));
        flushes.pass_complete(|_| 0);
        assert!(flushes.done(7));
        flushes.pass_complete(|_| 9);
        assert!(flushes.done(7), "what came later does not matter");
        flushes.begin(&[], 2_000);
        assert!(!flushes.done(7));
    }
}
