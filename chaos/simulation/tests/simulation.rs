//! The simulation itself: the same seed does the same, fair worlds lose nothing, and worlds that are
//! broken on purpose are caught, with the right rule named.

use holdfast_simulation::plan::{Fault, Plan, Planned, Stream, Without};
use holdfast_simulation::run;
use holdfast_simulation::world::marks::Mark;
use holdfast_simulation::world::rules::Rule;

const S: u64 = 1_000_000;

#[test]
fn the_same_seed_does_the_same() {
    for seed in 1..=4 {
        let (first, second) = (run::seed(seed, None), run::seed(seed, None));
        assert_eq!(first.hash, second.hash, "seed {seed}");
    }
    assert_ne!(run::seed(1, None).hash, run::seed(2, None).hash);
}

#[test]
fn a_fair_world_loses_nothing() {
    for seed in 1..=8 {
        let outcome = run::plan(Plan::fair(seed));
        assert!(outcome.violation.is_none(), "{}", outcome.report());
        assert!(outcome.connections.1 > 30, "{}", outcome.report());
    }
}

/// A director dies in a world that is otherwise fair.
fn death(seed: u64, without: Option<Without>) -> Option<Rule> {
    let (at_us, until_us) = (20 * S, 25 * S);
    let faults = vec![Planned { at_us, until_us, fault: Fault::Kill(1) }];
    let outcome = run::plan(Plan { faults, without, ..Plan::fair(seed) });
    outcome.violation.map(|violation| violation.rule)
}

/// A disk that takes nothing ends its daemon; when there is room it comes back as who it was. One that
/// fails ends it as well, and it comes back as somebody else. Nothing is lost that others know.
#[test]
fn a_director_whose_disk_takes_nothing_ends_and_comes_back() {
    let (at_us, until_us) = (20 * S, 25 * S);
    for (fault, mark, other) in [
        (Fault::FullDisk(1), Mark::DiskFull, Mark::WriteFailed),
        (Fault::FailedWrite(1), Mark::WriteFailed, Mark::DiskFull),
    ] {
        // Three directors: of two, the one that is left has no majority.
        let fair = (1..).map(Plan::fair).filter(|plan| plan.directors > 2);
        for plan in fair.take(3) {
            let faults = vec![Planned { at_us, until_us, fault: fault.clone() }];
            let outcome = run::plan(Plan { faults, ..plan });
            assert!(outcome.violation.is_none(), "{}", outcome.report());
            assert_eq!((outcome.marks.count(mark), outcome.marks.count(other)), (1, 0), "{fault}");
        }
    }
}

/// Homes carry the sessions of the dead one for a while; but the flush that its way back waits for never
/// ends, and whoever is lost all the same is noticed.
#[test]
fn without_replication_nobody_comes_back() {
    let broken: Vec<_> = (1..=4).map(|seed| death(seed, Some(Without::Replication))).collect();
    let named =
        |rule: &Option<Rule>| matches!(rule, Some(Rule::Long | Rule::Liveness | Rule::Ready));
    assert!(broken.iter().all(named), "{broken:?}");
}

/// What happens to one of three directors, or between them, in a world that is otherwise fair: nobody loses
/// anything, and the mark is reached.
#[track_caller]
fn costs_nobody(lasts_us: u64, mark: Option<Mark>, faults: impl Fn(&Plan) -> Vec<Fault>) {
    let fair = (1..).map(Plan::fair).filter(|plan| plan.directors > 2);
    let mut reached = 0;
    for plan in fair.take(4) {
        let planned = |fault| Planned { at_us: 12 * S, until_us: 12 * S + lasts_us, fault };
        let faults = faults(&plan).into_iter().map(planned).collect();
        let outcome = run::plan(Plan { faults, ..plan });
        assert!(outcome.violation.is_none(), "{}", outcome.report());
        reached += mark.map_or(1, |mark| outcome.marks.count(mark));
    }
    assert!(reached > 0, "{mark:?}");
}

#[test]
fn a_pair_that_only_others_hear_is_not_declared_down() {
    costs_nobody(10 * S, Some(Mark::HeardByOthers), |_| vec![Fault::Cut(1, 2)]);
}

#[test]
fn groups_that_do_not_hear_each_other_become_one_again() {
    costs_nobody(10 * S, Some(Mark::HomeChange), |plan| {
        vec![Fault::Partition((1..=plan.directors / 2).collect())]
    });
}

#[test]
fn a_bad_network_between_directors_costs_nobody() {
    costs_nobody(15 * S, Some(Mark::Overtaken), |_| {
        vec![Fault::BadPeers { of: None, lost: 300_000, late: 300_000, late_us: 60_000 }]
    });
    for stream in [Stream::Control, Stream::Log] {
        costs_nobody(4 * S, Some(Mark::StreamWaited), |_| vec![Fault::StallStream(1, 2, stream)]);
    }
}

/// Five seconds are what a leader waits for its disk.
#[test]
fn disks_that_stall_for_long_cost_nobody() {
    costs_nobody(12 * S, Some(Mark::HandedOver), |_| vec![Fault::StallDisk(1)]);
    costs_nobody(12 * S, None, |plan| (1..=plan.directors).map(Fault::StallDisk).collect());
}
