//! How often guards let go, from the beginning of a run to its end: every release between two readings
//! is counted once, whatever was going on meanwhile.

use std::collections::BTreeMap;

use crate::lab::plan::Site;

/// A reading: how often each guard has let go so far, commands left out; none: it cannot be read.
pub type Reading = BTreeMap<Site, Option<u64>>;

/// What was read last.
#[derive(Clone, Debug, Default)]
pub struct Releases {
    last: BTreeMap<Site, u64>,
}

/// What happened between two readings.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Since {
    /// How often each guard let go.
    pub count: BTreeMap<Site, u64>,
    /// What makes the count doubtful.
    pub doubts: Vec<String>,
}

impl Releases {
    /// Whether this director was read before.
    pub fn knows(&self, site: Site) -> bool {
        self.last.contains_key(&site)
    }

    /// Takes a reading in. `restarted`: directors whose daemons were started anew since the last one,
    /// so that they count from zero.
    pub fn since(&mut self, now: &Reading, restarted: &[Site]) -> Since {
        let mut since = Since::default();
        for site in restarted {
            self.last.insert(*site, 0);
        }
        for (site, now) in now {
            let name = site.name();
            let Some(now) = *now else {
                since.doubts.push(format!("the metrics of {name} cannot be read"));
                continue;
            };
            let then = self.last.insert(*site, now).unwrap_or(0);
            let count = now.checked_sub(then).unwrap_or_else(|| {
                since.doubts.push(format!("nobody started {name} anew, but it counts from zero"));
                now
            });
            since.count.insert(*site, count);
        }
        since
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::plan::director;

    fn reading(counts: [Option<u64>; 2]) -> Reading {
        (1..).map(director).zip(counts).collect()
    }

    fn counts(since: &Since) -> Vec<u64> {
        since.count.values().copied().collect()
    }

    #[test]
    fn releases_between_two_readings_are_counted_once() {
        let mut releases = Releases::default();
        releases.since(&reading([Some(1), Some(0)]), &[]);
        let since = releases.since(&reading([Some(1), Some(2)]), &[]);
        assert_eq!(counts(&since), [0, 2]);
        assert!(since.doubts.is_empty());
        assert_eq!(counts(&releases.since(&reading([Some(1), Some(2)]), &[])), [0, 0]);
    }

    #[test]
    fn a_daemon_that_was_started_anew_counts_from_zero() {
        let mut releases = Releases::default();
        releases.since(&reading([Some(1), Some(0)]), &[]);
        // One release before the restart and one after it: the readings are equal.
        let since = releases.since(&reading([Some(1), Some(0)]), &[director(1)]);
        assert_eq!((counts(&since), since.doubts.len()), (vec![1, 0], 0));
    }

    #[test]
    fn a_restart_that_nobody_asked_for_is_a_doubt() {
        let mut releases = Releases::default();
        releases.since(&reading([Some(3), Some(0)]), &[]);
        let since = releases.since(&reading([Some(1), Some(0)]), &[]);
        assert_eq!(counts(&since), [1, 0]);
        assert!(since.doubts[0].contains("nobody started d1 anew"), "{:?}", since.doubts);
    }

    #[test]
    fn what_could_not_be_read_is_counted_with_the_next_reading() {
        let mut releases = Releases::default();
        releases.since(&reading([Some(1), Some(0)]), &[]);
        let blind = releases.since(&reading([None, Some(0)]), &[]);
        assert_eq!(blind.doubts, ["the metrics of d1 cannot be read"]);
        assert_eq!(counts(&releases.since(&reading([Some(2), Some(0)]), &[])), [1, 0]);
    }
}
