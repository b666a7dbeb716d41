//! Health versions out of the directors' reports: what the control leader does. Pure.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_schema::cluster::{BackendId, DirectorId};
use serde::{Deserialize, Serialize};

/// The shortest time (ms) between two versions.
const VERSION_INTERVAL_MS: u64 = 100;

/// A report that has not been repeated for this long (ms) no longer counts.
const REPORT_LIFETIME_MS: u64 = 6_000;

/// A backend that flaps stays unhealthy for at least this long (ms), doubled with each flap,
const FIRST_HOLD_MS: u64 = 500;

/// but for no longer than this.
const MOST_HOLD_MS: u64 = 30_000;

/// Flaps longer ago than this are forgotten.
const FLAP_MEMORY_MS: u64 = 60_000;

/// The cluster's judgement. Versions are ordered: a leader's count below its term.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HealthVersion {
    /// The leader's term in the upper half, its count in the lower.
    pub version: u64,
    /// Whether each judged backend is healthy.
    pub healthy: BTreeMap<BackendId, bool>,
}

/// What one director thinks of the backends it has checked.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HealthReport {
    /// Its judgements.
    pub healthy: BTreeMap<BackendId, bool>,
}

struct Received {
    report: HealthReport,
    at_ms: u64,
}

#[derive(Default)]
struct Damping {
    flaps: u32,
    down_at_ms: u64,
}

/// Collects reports (on every director, so that a new leader has them) and makes versions.
#[derive(Default)]
pub struct Aggregator {
    reports: BTreeMap<DirectorId, Received>,
    damping: BTreeMap<BackendId, Damping>,
    last_version_ms: u64,
}

impl Aggregator {
    /// Takes a director's report.
    pub fn report(&mut self, from: DirectorId, report: HealthReport, now_ms: u64) {
        self.reports.insert(from, Received { report, at_ms: now_ms });
    }

    /// The next version, if there is something to say and it is not too soon.
    ///
    /// `live` are the directors whose reports count, `backends` those that exist, `current` is the
    /// latest version this director knows.
    pub fn next(
        &mut self,
        term: u64,
        current: &HealthVersion,
        backends: &BTreeSet<BackendId>,
        live: &BTreeSet<DirectorId>,
        now_ms: u64,
    ) -> Option<HealthVersion> {
        if now_ms < self.last_version_ms + VERSION_INTERVAL_MS {
            return None;
        }
        self.reports.retain(|_, r| now_ms < r.at_ms + REPORT_LIFETIME_MS);
        self.damping.retain(|id, _| backends.contains(id));
        let mut healthy = BTreeMap::new();
        for id in backends {
            let old = current.healthy.get(id).copied();
            if let Some(judgement) = self.judge(*id, old, live, now_ms) {
                healthy.insert(*id, judgement);
            }
        }
        let first_of_term = current.version >> 32 < term;
        if healthy == current.healthy && !first_of_term {
            return None;
        }
        self.last_version_ms = now_ms;
        let count = if first_of_term { 1 } else { (current.version & 0xffff_ffff) + 1 };
        Some(HealthVersion { version: term << 32 | count, healthy })
    }

    fn judge(
        &mut self,
        id: BackendId,
        old: Option<bool>,
        live: &BTreeSet<DirectorId>,
        now_ms: u64,
    ) -> Option<bool> {
        let (mut up, mut down) = (0, 0);
        for (from, received) in &self.reports {
            match received.report.healthy.get(&id) {
                Some(true) if live.contains(from) => up += 1,
                Some(false) if live.contains(from) => down += 1,
                _ => {}
            }
        }
        // Nobody has looked (or all reports are stale): the old judgement stays. A tie keeps it
        // too; without an old one, one director that reaches the backend is enough to try it.
        let votes = match up.cmp(&down) {
            _ if up + down == 0 => old?,
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => old.unwrap_or(true),
        };
        let damping = self.damping.entry(id).or_default();
        match (old, votes) {
            (Some(true), false) => {
                if now_ms > damping.down_at_ms + FLAP_MEMORY_MS {
                    damping.flaps = 0;
                }
                damping.flaps += 1;
                damping.down_at_ms = now_ms;
                Some(false)
            }
            (Some(false), true) if damping.flaps > 1 => {
                let hold = FIRST_HOLD_MS << (damping.flaps - 1).min(10);
                Some(now_ms >= damping.down_at_ms + hold.min(MOST_HOLD_MS))
            }
            _ => Some(votes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: BackendId = BackendId(1);

    struct Cluster {
        aggregator: Aggregator,
        version: HealthVersion,
        live: BTreeSet<DirectorId>,
        now_ms: u64,
    }

    impl Cluster {
        fn of(directors: u32) -> Cluster {
            let live = (1..=directors).map(DirectorId).collect();
            Cluster {
                aggregator: Aggregator::default(),
                version: HealthVersion::default(),
                live,
                now_ms: 1_000,
            }
        }

        fn says(&mut self, director: u32, healthy: bool) -> &mut Self {
            let report = HealthReport { healthy: [(B, healthy)].into() };
            self.aggregator.report(DirectorId(director), report, self.now_ms);
            self
        }

        fn next(&mut self, term: u64) -> bool {
            self.now_ms += VERSION_INTERVAL_MS;
            let backends = [B].into();
            let next =
                self.aggregator.next(term, &self.version, &backends, &self.live, self.now_ms);
            let changed = next.is_some();
            if let Some(next) = next {
                assert!(next.version > self.version.version);
                self.version = next;
            }
            changed
        }

        fn judged(&self) -> Option<bool> {
            self.version.healthy.get(&B).copied()
        }
    }

    #[test]
    fn a_majority_of_the_reports_decides() {
        let mut cluster = Cluster::of(3);
        cluster.says(1, true).next(5);
        assert_eq!(cluster.judged(), Some(true), "the first to look is believed");
        cluster.says(2, false).next(5);
        assert_eq!(cluster.judged(), Some(true), "a tie changes nothing");
        cluster.says(3, false).next(5);
        assert_eq!(cluster.judged(), Some(false));
        cluster.live.remove(&DirectorId(3));
        cluster.says(1, true).says(2, true).next(5);
        assert_eq!(cluster.judged(), Some(true));
    }

    #[test]
    fn versions_order_over_leaders_and_nothing_new_is_no_version() {
        let mut cluster = Cluster::of(1);
        assert!(cluster.says(1, true).next(5));
        assert!(!cluster.says(1, true).next(5));
        assert!(cluster.says(1, true).next(6), "a new leader says what it holds once");
        assert_eq!(cluster.version.version, 6 << 32 | 1);
    }

    #[test]
    fn stale_reports_leave_the_judgement_alone() {
        let mut cluster = Cluster::of(2);
        cluster.says(1, true).says(2, true).next(1);
        cluster.now_ms += 10 * REPORT_LIFETIME_MS;
        assert!(!cluster.next(1));
        assert_eq!(cluster.judged(), Some(true));
    }

    #[test]
    fn a_flapping_backend_is_held_down_longer_and_longer() {
        let mut cluster = Cluster::of(1);
        let mut versions = 0;
        for tick in 0..1200 {
            versions += usize::from(cluster.says(1, tick % 2 == 0).next(1));
        }
        assert!(versions < 30, "{versions} versions in two minutes of flapping");
        cluster.now_ms += MOST_HOLD_MS;
        cluster.says(1, true).next(1);
        assert_eq!(cluster.judged(), Some(true), "it comes back when it holds");
    }
}
