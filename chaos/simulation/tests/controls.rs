//! Negative controls: with a part switched off, seeds fail, and the report names a rule that the part is
//! there for. What finds nothing has to be able to find something.

use holdfast_simulation::plan::Without;
use holdfast_simulation::soak::Soak;
use holdfast_simulation::world::rules::Rule;

/// The rules that the first seeds break without a part.
fn broken(without: Without, seeds: u64) -> Vec<Rule> {
    let soak = Soak { from: 1, seeds, jobs: 2, without: Some(without), stop: false };
    let failed = soak.run(|_, _| {}).failed;
    let rules = failed.into_iter().filter_map(|outcome| outcome.violation);
    let mut rules: Vec<Rule> = rules.map(|violation| violation.rule).collect();
    rules.sort();
    rules.dedup();
    rules
}

#[test]
fn without_the_flush_directors_attract_clients_that_they_do_not_know() {
    let rules = broken(Without::Flush, 16);
    assert!(rules.contains(&Rule::Ready), "{rules:?}");
}
