//! Negative controls: with a part switched off, seeds fail, and the report names a rule that the part is
//! there for. What finds nothing has to be able to find something.

use holdfast_simulation::plan::{Fault, Plan, Planned, Without};
use holdfast_simulation::run::{self, Outcome};
use holdfast_simulation::world::rules::Rule;

const S: u64 = 1_000_000;

/// What broke which rule, of these runs.
fn broken(outcomes: impl Iterator<Item = Outcome>) -> Vec<(u64, Rule)> {
    let rule = |outcome: Outcome| Some((outcome.seed, outcome.violation?.rule));
    outcomes.filter_map(rule).collect()
}

/// With a part none of these runs breaks a rule. Without it at least two do, and every one that does names a rule that
/// the part is there for.
#[track_caller]
fn control(
    part: Without,
    seeds: &[u64],
    run: impl Fn(u64, Option<Without>) -> Outcome,
    rules: &[Rule],
) {
    let with = broken(seeds.iter().map(|seed| run(*seed, None)));
    assert!(with.is_empty(), "{with:?}");
    let without = broken(seeds.iter().map(|seed| run(*seed, Some(part))));
    assert!(without.len() >= 2, "{without:?}");
    assert!(without.iter().all(|(_, rule)| rules.contains(rule)), "{without:?}");
}

/// What a seed stands for without the harsher faults, which would only have other seeds take their place.
fn drawn(seed: u64, without: Option<Without>) -> Outcome {
    run::plan(Plan { without, ..Plan::mild(seed) })
}

#[test]
fn without_the_flush_directors_attract_clients_that_they_do_not_know() {
    control(Without::Flush, &[1, 3, 9, 31], drawn, &[Rule::Ready]);
}

#[test]
fn without_the_veto_living_connections_are_forgotten_and_reset() {
    control(Without::Veto, &[83, 119, 127, 132], drawn, &[Rule::NoReset]);
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
    // What a second backend gets is of another connection; or its reset is noticed first.
    let rules = [Rule::OneBackend, Rule::NoReset];
    control(Without::Twins, &[1, 2, 3, 4, 5, 6], repeated, &rules);
}

/// Identity is the key alone: what is said of a client's next connection from the same port is taken for
/// news of the one before.
#[test]
fn without_incarnations_the_next_use_of_a_port_is_taken_for_the_last_one() {
    let rules = [Rule::NoReset, Rule::WithoutLeader];
    control(Without::Incarnations, &[2, 4, 9, 10, 14, 30], drawn, &rules);
}

/// A replica that has lost its memory and goes on under its number lacks what it has acknowledged; Raft finds that
/// out when its leader speaks of it.
#[test]
fn without_new_replica_numbers_acknowledged_entries_are_lost() {
    let seeds = [44, 55, 69, 71, 82, 85];
    control(Without::ReplicaIds, &seeds, drawn, &[Rule::Acknowledged]);
}

#[test]
fn without_homes_young_sessions_die_with_their_director() {
    let death = |seed, without| {
        let (at_us, until_us) = (16 * S, 18 * S);
        let faults = vec![Planned { at_us, until_us, fault: Fault::Kill(1) }];
        run::plan(Plan { faults, without, replicate_after_ms: 20_000, ..Plan::fair(seed) })
    };
    control(Without::Tier1, &[1, 2, 3, 4, 5, 6], death, &[Rule::Young]);
}

#[test]
fn without_authority_a_no_of_somebody_who_does_not_know_resets() {
    control(Without::Authority, &[4, 5, 75], drawn, &[Rule::NoReset]);
}
