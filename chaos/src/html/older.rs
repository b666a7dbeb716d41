//! Reports of older programs. They do not say which losses were held against a run, and by today's rules
//! others might be: a page never tells of a failed run what its verdict did not. Pure.

use anyhow::{Result, bail};

use crate::scenario::faults::{Rule, rule};
use crate::scenario::report::{AgeReport, MatrixReport, Report, StepReport, Verdict};
use crate::scenario::steps::StepName;

/// Says what is missing in the report of a run as far as its verdict tells it.
pub fn complete(report: &mut Report) -> Result<()> {
    let failed = report.verdict == Verdict::Fail;
    for step in &mut report.steps {
        let name = step.name;
        // They told how far apart its route changes were; when they came is when it had its effect.
        if name == StepName::CutOff && step.ages.iter().all(|age| age.silent_reset.is_none()) {
            step.routes_moved_ms = step.routes_moved_ms.map(|_| step.took_s.ms);
        }
        for age in step.ages.iter_mut().filter(|age| age.excess.is_none()) {
            let nothing = rule(name, age.age) == Rule::Nothing;
            age.excess = Some(match (failed, nothing) {
                // Whatever was lost, it was not held against it.
                (false, _) => 0,
                (true, true) => age.lost,
                (true, false) if age.lost == 0 => 0,
                (true, false) => bail!(
                    "it failed, and does not say whether for the {} {} connections that {} lost: an older \
                     program wrote it, which is the one to make its page with",
                    age.lost,
                    age.age.name(),
                    name.name()
                ),
            });
            // Nothing else failed for it in those days.
            age.refused = if failed && name.is_planned() { age.unconnected } else { 0 };
        }
    }
    Ok(())
}

/// The same of a matrix, and of its sums.
pub fn complete_all(report: &mut MatrixReport) -> Result<()> {
    report.runs.iter_mut().try_for_each(complete)?;
    for fault in &mut report.faults {
        let steps = || report.runs.iter().flat_map(|r| &r.steps).filter(|s| s.name == fault.name);
        for sum in fault.ages.iter_mut().filter(|age| age.excess.is_none()) {
            let of = |step: &'_ StepReport| -> Option<AgeReport> {
                step.ages.iter().find(|a| a.age == sum.age).cloned()
            };
            let ages: Vec<AgeReport> = steps().filter_map(of).collect();
            sum.excess = Some(ages.iter().filter_map(|a| a.excess).sum());
            sum.refused = ages.iter().map(|a| a.refused).sum();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::report::{Age, FaultReport, Seconds};

    fn older(verdict: Verdict, name: StepName, age: Age, lost: u64) -> Report {
        let ages = vec![AgeReport {
            eligible: 10,
            moved: 10,
            lost,
            moved_lost: lost,
            unconnected: 3,
            ..AgeReport::new(age, String::new())
        }];
        let step = StepReport { name, ages, ..StepReport::of_a_crash() };
        Report { verdict, steps: vec![step], ..Report::default() }
    }

    fn completed(mut report: Report) -> Result<(u64, u64)> {
        complete(&mut report)?;
        let age = &report.steps[0].ages[0];
        Ok((age.excess.unwrap(), age.refused))
    }

    #[test]
    fn nothing_is_held_against_a_run_that_its_verdict_did_not() {
        let of = |verdict, name, age, lost| completed(older(verdict, name, age, lost));
        // By today's rule two of ten are too many.
        let passed = of(Verdict::Pass, StepName::KillDaemon, Age::Young, 2);
        assert_eq!(passed.unwrap(), (0, 0));
        let refused = of(Verdict::Fail, StepName::KillDaemon, Age::Young, 2).unwrap_err();
        assert!(refused.to_string().contains("the 2 young connections that kill-daemon lost"));
        assert_eq!(of(Verdict::Fail, StepName::KillDaemon, Age::Young, 0).unwrap(), (0, 0));
        assert_eq!(of(Verdict::Fail, StepName::KillDaemon, Age::Long, 2).unwrap(), (2, 0));
        assert_eq!(of(Verdict::Fail, StepName::DrainNode, Age::Young, 2).unwrap(), (2, 3));
    }

    #[test]
    fn what_a_report_says_stays_as_it_is() {
        let mut report = older(Verdict::Fail, StepName::KillDaemon, Age::Young, 2);
        report.steps[0].ages[0].excess = Some(1);
        report.steps[0].ages[0].refused = 2;
        assert_eq!(completed(report).unwrap(), (1, 2));
    }

    #[test]
    fn when_routes_moved_is_not_how_far_apart_they_did() {
        let mut report = older(Verdict::Pass, StepName::CutOff, Age::Long, 0);
        report.steps[0].took_s = Seconds { ms: 5_200 };
        report.steps[0].routes_moved_ms = Some(0);
        let mut today = report.clone();
        complete(&mut report).unwrap();
        assert_eq!(report.steps[0].routes_moved_ms, Some(5_200));
        today.steps[0].ages[0].silent_reset = Some(0);
        complete(&mut today).unwrap();
        assert_eq!(today.steps[0].routes_moved_ms, Some(0), "it says so");
    }

    #[test]
    fn the_sums_of_a_matrix_are_those_of_its_runs() {
        let runs = vec![
            older(Verdict::Fail, StepName::DrainNode, Age::Young, 2),
            older(Verdict::Pass, StepName::DrainNode, Age::Young, 0),
        ];
        let fault = FaultReport {
            name: StepName::DrainNode,
            what: String::new(),
            runs: 2,
            happened: 2,
            ages: vec![AgeReport { lost: 2, ..AgeReport::new(Age::Young, String::new()) }],
            eligible: 20,
            lost: 2,
        };
        let mut matrix = MatrixReport {
            verdict: Verdict::Fail,
            reason: String::new(),
            command: String::new(),
            took_ms: 1,
            faults: vec![fault],
            runs,
        };
        complete_all(&mut matrix).unwrap();
        let sum = &matrix.faults[0].ages[0];
        assert_eq!((sum.excess, sum.refused), (Some(2), 3));
    }
}
