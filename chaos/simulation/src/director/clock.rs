//! The clocks of a machine: a monotonic one that drifts, and a wall clock that jumps.

/// Both clocks.
#[derive(Clone, Debug)]
pub struct Clock {
    /// What the monotonic clock shows when the world begins (us).
    start_us: u64,
    /// Parts in a million by which it is fast or slow.
    drift_ppm: i64,
    /// Unix time (ms) when the monotonic clock was 0.
    unix_ms_at_zero: u64,
}

/// Unix time (ms) at which worlds begin.
const EPOCH_MS: u64 = 1_700_000_000_000;

impl Clock {
    /// A machine that has been up for `start_us`.
    pub fn new(start_us: u64, drift_ppm: i64) -> Clock {
        Clock { start_us, drift_ppm, unix_ms_at_zero: EPOCH_MS - start_us / 1_000 }
    }

    /// What the monotonic clock shows (us).
    pub fn local_us(&self, world_us: u64) -> u64 {
        let drift = world_us as i64 / 1_000 * self.drift_ppm / 1_000;
        (self.start_us + world_us).saturating_add_signed(drift)
    }

    /// Unix time (ms) at which the monotonic clock was 0, by the wall clock.
    pub fn unix_ms_at_zero(&self) -> u64 {
        self.unix_ms_at_zero
    }

    /// The wall clock is set.
    pub fn jump(&mut self, by_ms: i64) {
        self.unix_ms_at_zero = self.unix_ms_at_zero.saturating_add_signed(by_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_drifts_and_never_goes_back() {
        let clock = Clock::new(5, -200);
        assert_eq!(clock.local_us(0), 5);
        assert_eq!(clock.local_us(10_000_000), 5 + 10_000_000 - 2_000);
        let times: Vec<u64> = (0..5_000).map(|at| clock.local_us(at)).collect();
        assert!(times.is_sorted());
    }
}
