//! Negative controls: with a part switched off, seeds fail, and the report names a rule that the part is
//! there for. What finds nothing has to be able to find something.

use holdfast_simulation::plan::{Fault, Plan, Planned, Without};
use holdfast_simulation::run::{self, Outcome};
use holdfast_simulation::world::rules::Rule;

const S: u64 = 1_000_000;

fn rules(outcomes: impl Iterator<Item = Outcome>) -> Vec<Rule> {
    outcomes.filter_map(|outcome| outcome.violation).map(|violation| violation.rule).collect()
}

/// The rules that these seeds break without a part. With it they break none. (Without the harsher faults,
/// which would only have other seeds take their place.)
fn broken(without: Without, seeds: &[u64]) -> Vec<Rule> {
    let all =
        |without| rules(seeds.iter().map(|seed| run::plan(Plan { without, ..Plan::mild(*seed) })));
    let with = all(None);
    assert!(with.is_empty(), "{with:?}");
    all(Some(without))
}

#[test]
fn without_the_flush_directors_attract_clients_that_they_do_not_know() {
    assert_eq!(broken(Without::Flush, &[1, 9]), [Rule::Ready; 2]);
}

#[test]
fn without_the_veto_living_connections_are_forgotten_and_reset() {
    assert_eq!(broken(Without::Veto, &[75, 83]), [Rule::NoReset; 2]);
}

#[test]
fn without_twins_a_repeated_syn_ends_its_connection() {
    // SYNs and their answers are lost, and the router sends their repetitions elsewhere.
    let repeated = |seed, without| {
        let loss = Planned { at_us: 5 * S, until_us: 35 * S, fault: Fault::Loss(100_000) };
        let reshuffles = (10..70).map(|half| {
            let at_us = half * S / 2;
            Planned { at_us, until_us: at_us, fault: Fault::Reshuffle }
        });
        let faults = reshuffles.chain([loss]).collect();
        run::plan(Plan { faults, without, ..Plan::fair(seed) })
    };
    let with = rules((1..=6).map(|seed| repeated(seed, None)));
    assert!(with.is_empty(), "{with:?}");
    let without = rules((1..=6).map(|seed| repeated(seed, Some(Without::Twins))));
    assert!(without.len() > 1, "{without:?}");
    assert!(without.contains(&Rule::OneBackend), "{without:?}");
}

/// Identity is the key alone: what is said of a client's next connection from the same port is taken for
/// news of the one before.
#[test]
fn without_incarnations_the_next_use_of_a_port_is_taken_for_the_last_one() {
    let rules = broken(Without::Incarnations, &[2, 14, 26, 30]);
    assert!(rules.contains(&Rule::NoReset) && rules.len() >= 2, "{rules:?}");
}

#[test]
fn without_new_replica_numbers_a_replica_meets_its_own_lost_words() {
    assert_eq!(broken(Without::ReplicaIds, &[55]), [Rule::NoPanic]);
}

#[test]
fn without_homes_young_sessions_die_with_their_director() {
    let death = |seed, without| {
        let (at_us, until_us) = (16 * S, 18 * S);
        let faults = vec![Planned { at_us, until_us, fault: Fault::Kill(1) }];
        run::plan(Plan { faults, without, replicate_after_ms: 20_000, ..Plan::fair(seed) })
    };
    let with = rules((1..=6).map(|seed| death(seed, None)));
    assert!(with.is_empty(), "{with:?}");
    let without = rules((1..=6).map(|seed| death(seed, Some(Without::Tier1))));
    assert!(without.contains(&Rule::Young), "{without:?}");
}

#[test]
fn without_authority_a_no_of_somebody_who_does_not_know_resets() {
    assert_eq!(broken(Without::Authority, &[4, 5]), [Rule::NoReset; 2]);
}
