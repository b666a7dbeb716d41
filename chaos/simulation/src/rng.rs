//! Random numbers that are the same for the same seed, on every machine and with every release of
//! every library.

/// Mixes all bits of a number (the finaliser of SplitMix64, Steele et al. 2014).
#[inline]
#[must_use]
pub fn mix(number: u64) -> u64 {
    let mut z = number;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream of random numbers (SplitMix64). Everything that draws has a stream of its own, so that
/// one more draw in one place changes nothing elsewhere.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// The stream called `name` of the run with this seed.
    #[must_use]
    pub fn new(seed: u64, name: &str) -> Rng {
        let named = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3) // FNV-1a
        });
        Rng { state: mix(seed) ^ named }
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low.saturating_add(self.below(high.saturating_sub(low).saturating_add(1)))
    }

    /// Whether something happens that happens `times` in `of` cases.
    pub fn chance(&mut self, times: u64, of: u64) -> bool {
        self.below(of) < times
    }

    /// One of several, or None if there is none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len() as u64) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_numbers() {
        let numbers = |seed, name| {
            let mut rng = Rng::new(seed, name);
            (0..20).map(|_| rng.draw()).collect::<Vec<_>>()
        };
        assert_eq!(numbers(7, "client"), numbers(7, "client"));
        assert_ne!(numbers(7, "client"), numbers(8, "client"));
        assert_ne!(numbers(7, "client"), numbers(7, "backend"));
    }

    #[test]
    fn numbers_stay_in_their_bounds_and_reach_them() {
        let mut rng = Rng::new(1, "bounds");
        let drawn: Vec<u64> = (0..500).map(|_| rng.between(3, 6)).collect();
        for number in 3..=6 {
            assert!(drawn.contains(&number));
        }
        assert!(drawn.iter().all(|number| (3..=6).contains(number)));
        assert_eq!(rng.below(0), 0);
        assert!(!rng.chance(0, 5) && rng.chance(5, 5));
        assert_eq!(rng.pick::<u8>(&[]), None);
    }
}
