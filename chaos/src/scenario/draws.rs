//! Whom a step hits: by chance, as the seed decides. Pure.
//!
//! A draw follows from the seed, from the step, and from how often that step was done before; never from
//! what other steps draw. So a fault that is injected alone hits whom it hits in the whole matrix. Every
//! director has a number of its own in it: one more or less to choose from changes nothing among the others.

use super::steps::StepName;
use crate::lab::plan::Site;

/// The draw of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Draw {
    /// The seed of the run.
    pub seed: u64,
    /// The step.
    pub step: StepName,
    /// How many steps of the same name were before it.
    pub nth: u64,
}

impl Draw {
    /// These directors in the order in which they are hit.
    pub fn order(self, among: impl IntoIterator<Item = Site>) -> Vec<Site> {
        let mut order: Vec<Site> = among.into_iter().collect();
        order.sort_by_cached_key(|site| (self.number(*site), *site));
        order
    }

    /// The director's number.
    fn number(self, site: Site) -> u64 {
        let parts = [
            &self.seed.to_le_bytes()[..],
            self.step.name().as_bytes(),
            &self.nth.to_le_bytes(),
            &[site.number],
        ];
        // FNV-1a: the same on every machine and in every version.
        let hash = parts.concat().iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        // Its last byte, the director, has not reached all bits yet (finisher of SplitMix64).
        let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^ (hash >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::plan::director;

    fn order(seed: u64, step: StepName, nth: u64, directors: u8) -> Vec<u8> {
        let draw = Draw { seed, step, nth };
        draw.order((1..=directors).map(director)).iter().map(|site| site.number).collect()
    }

    #[test]
    fn who_is_there_besides_changes_nothing_among_the_others() {
        for seed in 1..100 {
            let mut of_six = order(seed, StepName::DrainTwo, 0, 6);
            of_six.retain(|number| *number <= 3);
            assert_eq!(of_six, order(seed, StepName::DrainTwo, 0, 3), "seed {seed}");
        }
    }

    #[test]
    fn everybody_has_the_same_chance_in_every_step() {
        let first = |seed, step, nth| order(seed, step, nth, 3)[0];
        let a_third = |hit: &dyn Fn(u64) -> bool| {
            let count = (0..3_000).filter(|seed| hit(*seed)).count();
            assert!((900..1_100).contains(&count), "{count}");
        };
        for number in 1..=3 {
            a_third(&|seed| first(seed, StepName::CutOff, 0) == number);
            a_third(&|seed| first(seed, StepName::KillDaemon, 1) == number);
        }
        // Neither the next step nor the same one done again hits whom the first one did.
        let killed = |seed, nth| first(seed, StepName::KillDaemon, nth);
        a_third(&|seed| killed(seed, 0) == first(seed, StepName::HangDaemon, 0));
        a_third(&|seed| killed(seed, 0) == killed(seed, 1));
    }

    #[test]
    fn a_seed_hits_the_same_ones_for_ever() {
        let first = |step| order(1, step, 0, 3)[0];
        let hit = [StepName::KillDaemon, StepName::HangDaemon, StepName::LoseMachine].map(first);
        assert_eq!(hit, [2, 1, 3]);
    }
}
