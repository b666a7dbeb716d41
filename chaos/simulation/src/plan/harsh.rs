//! What goes wrong between directors and with their disks, beyond the first kinds: groups that do not hear
//! each other, pairs that only others hear, a bad network, disks that stall. Each draws from a stream of its
//! own, so that a seed that draws none of it stands for what it stood for before.

use super::faults::{Fault, Planned, Stream};
use super::{MS, Plan, S};
use crate::rng::Rng;

/// One seed in so many has some of each.
const OFTEN: u64 = 4;

/// Draws one, and how long (us) it lasts.
type Kind = fn(&Plan, &mut Rng) -> (Fault, u64);

/// Draws them all.
pub fn draw(plan: &Plan) -> Vec<Planned> {
    let mut faults = Vec::new();
    let kinds: [(&str, u64, Kind); 3] = [
        ("groups and pairs cut off", 3, cut),
        ("bad network between directors", 4, worsen),
        ("disks that stall", 2, stall),
    ];
    for (name, most, kind) in kinds {
        let rng = &mut Rng::new(plan.seed, name);
        if !rng.chance(1, OFTEN) {
            continue;
        }
        for _ in 0..rng.between(1, most) {
            let at_us = rng.between(3 * S, plan.heal_us - S);
            let (fault, lasts_us) = kind(plan, rng);
            faults.push(Planned { at_us, until_us: (at_us + lasts_us).min(plan.heal_us), fault });
        }
    }
    faults
}

fn director(plan: &Plan, rng: &mut Rng) -> u32 {
    rng.between(1, u64::from(plan.directors)) as u32
}

/// Two different ones.
fn pair(plan: &Plan, rng: &mut Rng) -> (u32, u32) {
    let a = director(plan, rng);
    let b = 1 + (a + rng.below(u64::from(plan.directors) - 1) as u32) % plan.directors;
    (a, b)
}

/// A group that is cut off from the others, or a pair that does not hear each other while all others hear both.
fn cut(plan: &Plan, rng: &mut Rng) -> (Fault, u64) {
    // So short that connections only stall, or as long as others may act on it.
    let lasts_us = match rng.chance(1, 4) {
        true => rng.between(50 * MS, 2 * S),
        false => rng.between(2 * S, 20 * S),
    };
    if plan.directors > 2 && rng.chance(1, 2) {
        let (a, b) = pair(plan, rng);
        return (Fault::Cut(a, b), lasts_us);
    }
    let mut all: Vec<u32> = (1..=plan.directors).collect();
    // From one to half of them: the others are the other group.
    let size = rng.between(1, u64::from(plan.directors / 2));
    let group = (0..size).map(|_| all.swap_remove(rng.below(all.len() as u64) as usize));
    let mut group: Vec<u32> = group.collect();
    group.sort_unstable();
    (Fault::Partition(group), lasts_us)
}

/// What a network does that loses and delays packets of connections, or a receiver that does not read one stream.
fn worsen(plan: &Plan, rng: &mut Rng) -> (Fault, u64) {
    if rng.chance(1, 2) {
        let (from, to) = pair(plan, rng);
        let stream = if rng.chance(1, 2) { Stream::Control } else { Stream::Log };
        return (Fault::StallStream(from, to, stream), rng.between(100 * MS, 5 * S));
    }
    let bad = Fault::BadPeers {
        of: rng.chance(1, 2).then(|| director(plan, rng)),
        lost: rng.between(0, 600_000) as u32,
        late: rng.between(10_000, 500_000) as u32,
        late_us: rng.between(5 * MS, 80 * MS),
    };
    (bad, rng.between(S, 15 * S))
}

fn stall(plan: &Plan, rng: &mut Rng) -> (Fault, u64) {
    (Fault::StallDisk(director(plan, rng)), rng.between(S, 12 * S))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn() -> Vec<(u32, Fault)> {
        let plans = (1..=600).map(Plan::of);
        plans
            .flat_map(|plan| draw(&plan).into_iter().map(move |p| (plan.directors, p.fault)))
            .collect()
    }

    #[test]
    fn groups_of_all_sizes_pairs_streams_and_disks_are_drawn() {
        let drawn = drawn();
        let has =
            |what: &dyn Fn(u32, &Fault) -> bool| drawn.iter().any(|(n, fault)| what(*n, fault));
        for (all, size) in [(2, 1), (3, 1), (4, 1), (4, 2), (5, 1), (5, 2)] {
            let of = |n, fault: &Fault| {
                n == all && matches!(fault, Fault::Partition(g) if g.len() == size)
            };
            assert!(has(&of), "{size} of {all}");
        }
        assert!(has(&|n, fault| matches!(fault, Fault::Cut(a, b) if a != b && n > 2)));
        assert!(
            !has(&|n, fault| n == 2 && matches!(fault, Fault::Cut(..))),
            "nobody else sees both"
        );
        for stream in [Stream::Control, Stream::Log] {
            assert!(has(
                &|_, fault| matches!(fault, Fault::StallStream(a, b, s) if a != b && *s == stream)
            ));
        }
        assert!(has(&|_, fault| matches!(fault, Fault::BadPeers { of: None, .. })));
        assert!(has(&|_, fault| matches!(fault, Fault::BadPeers { of: Some(_), .. })));
        assert!(has(&|_, fault| matches!(fault, Fault::StallDisk(_))));
    }

    #[test]
    fn a_seed_that_draws_none_of_them_stands_for_what_it_did_before() {
        let same =
            (1..=100).filter(|seed| Plan::of(*seed).faults == Plan::mild(*seed).faults).count();
        assert!((20..80).contains(&same), "{same}");
        for seed in 1..=100 {
            let (all, mild) = (Plan::of(seed), Plan::mild(seed));
            assert_eq!(all.faults[..mild.faults.len()], mild.faults);
            assert_eq!(all.faults.len() - mild.faults.len(), draw(&mild).len());
            assert!(all.faults.iter().all(|p| p.until_us <= all.heal_us));
        }
    }
}
