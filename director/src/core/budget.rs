//! Token buckets: how often something may be done, on average and at once.

use ahash::RandomState;

/// A rate with a burst, as the generic cell rate algorithm needs it (ITU-T I.371).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    interval_ns: u64,
    burst_ns: u64,
}

impl Rate {
    /// `per_second` on average, `burst` at once; at least one of each.
    pub fn new(per_second: u32, burst: u32) -> Rate {
        let interval_ns = 1_000_000_000 / u64::from(per_second.max(1));
        Rate { interval_ns, burst_ns: interval_ns * u64::from(burst.max(1)) }
    }
}

/// One bucket: the time at which it will be full again. Eight bytes, so many of them are cheap.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenBucket {
    full_at_ns: u64,
}

impl TokenBucket {
    /// Whether a token is there.
    #[inline]
    fn has(&self, rate: &Rate, now_ns: u64) -> bool {
        self.full_at_ns.max(now_ns) + rate.interval_ns - now_ns <= rate.burst_ns
    }

    /// Takes a token, whether it is there or not.
    #[inline]
    fn charge(&mut self, rate: &Rate, now_ns: u64) {
        self.full_at_ns = self.full_at_ns.max(now_ns) + rate.interval_ns;
    }

    /// Takes a token if there is one.
    #[inline]
    pub fn take(&mut self, rate: &Rate, now_ns: u64) -> bool {
        let has = self.has(rate, now_ns);
        if has {
            self.charge(rate, now_ns);
        }
        has
    }
}

/// Why nothing may be asked now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The whole budget is used up.
    Overall,
    /// The source's prefix has used up its share.
    Prefix,
}

/// How many prefix buckets there are. Prefixes that share one share its tokens.
const PREFIX_BUCKETS: usize = 4096;

/// The asking budget: one bucket for all, and one for each source prefix (/24).
#[derive(Debug)]
pub struct AskBudget {
    overall_rate: Rate,
    prefix_rate: Rate,
    overall: TokenBucket,
    prefixes: Box<[TokenBucket; PREFIX_BUCKETS]>,
    hasher: RandomState,
}

impl AskBudget {
    /// Full buckets.
    pub fn new(overall_rate: Rate, prefix_rate: Rate, hasher: RandomState) -> AskBudget {
        AskBudget {
            overall_rate,
            prefix_rate,
            overall: TokenBucket::default(),
            prefixes: Box::new([TokenBucket::default(); PREFIX_BUCKETS]),
            hasher,
        }
    }

    /// Whether the larger part of what may be asked at once is left.
    pub fn has_plenty(&self, now_ns: u64) -> bool {
        self.overall.full_at_ns.saturating_sub(now_ns) <= self.overall_rate.burst_ns / 2
    }

    /// Takes a token from both buckets, or from neither. Without `source` only the overall bucket
    /// counts (backends are few and trusted; a LIP that moves here brings many questions at once).
    pub fn take(&mut self, source: Option<[u8; 4]>, now_ns: u64) -> Result<(), Refused> {
        let prefix = source.and_then(|[a, b, c, _]| {
            let at = self.hasher.hash_one([a, b, c]) as usize % PREFIX_BUCKETS;
            self.prefixes.get_mut(at)
        });
        if let Some(bucket) = &prefix
            && !bucket.has(&self.prefix_rate, now_ns)
        {
            return Err(Refused::Prefix);
        }
        if !self.overall.take(&self.overall_rate, now_ns) {
            return Err(Refused::Overall);
        }
        if let Some(bucket) = prefix {
            bucket.charge(&self.prefix_rate, now_ns);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate() {
        let rate = Rate::new(1000, 3);
        let mut bucket = TokenBucket::default();
        let start = 5_000_000_000;
        let taken =
            |bucket: &mut TokenBucket, now| (0..10).filter(|_| bucket.take(&rate, now)).count();
        assert_eq!(taken(&mut bucket, start), 3);
        assert_eq!(taken(&mut bucket, start + 999_999), 0);
        assert_eq!(taken(&mut bucket, start + 1_000_000), 1);
        assert_eq!(taken(&mut bucket, start + 60_000_000_000), 3);
    }

    #[test]
    fn one_prefix_cannot_use_up_the_others_share() {
        let hasher = RandomState::with_seeds(1, 2, 3, 4);
        let mut budget = AskBudget::new(Rate::new(10, 10), Rate::new(4, 4), hasher);
        for host in 0..4 {
            assert_eq!(budget.take(Some([192, 0, 2, host]), 0), Ok(()));
        }
        assert_eq!(budget.take(Some([192, 0, 2, 200]), 0), Err(Refused::Prefix));
        for host in 0..4 {
            assert_eq!(budget.take(Some([198, 51, 100, host]), 0), Ok(()));
        }
        assert_eq!(budget.take(None, 0), Ok(()));
        assert_eq!(budget.take(None, 0), Ok(()));
        assert_eq!(budget.take(None, 0), Err(Refused::Overall));
        assert_eq!(budget.take(Some([203, 0, 113, 1]), 0), Err(Refused::Overall));
    }
}
