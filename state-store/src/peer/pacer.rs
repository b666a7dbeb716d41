//! A token bucket: how long to wait so that a rate is kept. Pure; time comes in.

use std::time::Duration;

/// Keeps a rate, with bursts up to a limit.
#[derive(Debug)]
pub(super) struct Pacer {
    per_s: f64,
    burst: f64,
    /// What may go now; below zero: somebody went ahead and everybody behind has to wait.
    room: f64,
    at: Duration,
}

impl Pacer {
    pub(super) fn new(per_s: u64, burst: u64) -> Pacer {
        let (per_s, burst) = (per_s.max(1) as f64, burst.max(1) as f64);
        Pacer { per_s, burst, room: burst, at: Duration::ZERO }
    }

    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.room = (self.room + passed * self.per_s).min(self.burst);
    }

    /// Books `amount` and says how long to wait before using it. `now` is any monotonic time.
    pub(super) fn book(&mut self, now: Duration, amount: u64) -> Duration {
        self.refill(now);
        self.room -= amount as f64;
        Duration::from_secs_f64((-self.room / self.per_s).max(0.0))
    }

    /// Takes `amount` if it may go now.
    pub(super) fn try_take(&mut self, now: Duration, amount: u64) -> bool {
        self.refill(now);
        let fits = self.room >= amount as f64;
        if fits {
            self.room -= amount as f64;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_over_time() {
        let mut pacer = Pacer::new(1_000_000, 100_000);
        let mut now = Duration::ZERO;
        for _ in 0..1_000 {
            now += pacer.book(now, 10_000);
        }
        // 10 MB at 1 MB/s, less the burst of 0.1 MB.
        assert!((9.8..=10.0).contains(&now.as_secs_f64()), "{now:?}");
    }

    #[test]
    fn rest_earns_no_more_than_the_burst() {
        let mut pacer = Pacer::new(20, 2);
        let later = Duration::from_secs(3_600);
        let taken = (0..10).filter(|_| pacer.try_take(later, 1)).count();
        assert_eq!(taken, 2);
        assert!(pacer.try_take(later + Duration::from_millis(50), 1));
        assert!(!pacer.try_take(later + Duration::from_millis(51), 1));
    }
}
