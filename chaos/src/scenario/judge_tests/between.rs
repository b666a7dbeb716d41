//! Before the first step and between two of them nothing has an excuse.

use clap::ValueEnum;

use super::super::judge::{Terms, judge};
use super::super::report::Verdict;
use super::super::steps::StepName;
use super::{TERMS, facts, fifty, talking};
use crate::workload::record::{Cohort, Record, Transport};

/// What can become of a connection that is opened at a time.
const HARM: [fn(u64) -> Record; 7] = [
    |at| talking(60, Cohort::Young, at, at + 200),
    |at| failing(talking(60, Cohort::Young, at, at + 200), at + 300, Some(libc::ECONNRESET)),
    |at| failing(talking(60, Cohort::Bulk, at, at + 200), at + 300, None),
    |at| {
        let mut moved = talking(60, Cohort::Young, at, at + 500);
        moved.answered_by("b2", at + 400);
        moved.finished(at + 600);
        moved
    },
    |at| {
        let mut damaged = talking(60, Cohort::Bulk, at, at + 500);
        damaged.corrupt(at + 400);
        damaged.finished(at + 600);
        damaged
    },
    |at| Record::new(60, Cohort::Young, Transport::Tcp, "203.0.113.10:1".parse().unwrap(), at),
    |at| {
        let to = "203.0.113.10:1".parse().unwrap();
        let mut late = Record::new(60, Cohort::Young, Transport::Tcp, to, at);
        late.connected(at + 50_000);
        late.finished(at + 50_100);
        late
    },
];

fn failing(mut record: Record, at: u64, errno: Option<i32>) -> Record {
    record.failed(at, "exchanging: an error", errno);
    record
}

#[test]
fn between_two_steps_and_before_the_first_nothing_has_an_excuse() {
    for name in StepName::value_variants() {
        // Judged at 22,000 and 52,000.
        let steps = [facts(*name, 10_000), facts(StepName::KillDaemon, 40_000)];
        for (number, harm) in HARM.iter().enumerate() {
            for (opened, of) in
                [(5_000, None), (22_001, Some(0)), (38_000, Some(0)), (52_001, Some(1))]
            {
                let mut records = fifty(1_000);
                records.push(harm(opened));
                let report = judge(&records, &steps, &TERMS);
                let case = format!("{} {number} {opened}: {}", name.name(), report.reason);
                assert_eq!(report.verdict, Verdict::Fail, "{case}");
                let words = match of {
                    None => "before the first step",
                    Some(0) => name.name(),
                    _ => "kill-daemon",
                };
                assert!(report.reason.contains(words), "{case}");
                let ages = report.steps.iter().flat_map(|s| &s.ages);
                let count = ages.map(|a| a.lost + a.unconnected + a.wrong_backend + a.corrupt);
                assert_eq!(count.sum::<u64>(), u64::from(of.is_some()), "it counts once: {case}");
            }
        }
    }
}

#[test]
fn what_is_opened_between_two_steps_and_comes_to_no_harm_says_nothing_of_them() {
    for name in [StepName::DrainNode, StepName::KillDaemon] {
        let mut records = fifty(1_000);
        let mut one = talking(60, Cohort::Young, 22_001, 23_000);
        one.finished(23_250);
        records.push(one);
        let steps = [facts(name, 10_000), facts(StepName::HangDaemon, 40_000)];
        let step = &judge(&records, &steps, &TERMS).steps[0];
        assert_eq!(step.ages.iter().map(|a| a.eligible).sum::<u64>(), 50);
        assert_eq!((step.cohorts.len(), step.young.total), (1, 0));
    }
}

#[test]
fn before_the_first_step_nothing_has_an_excuse() {
    let steps = [facts(StepName::KillDaemon, 10_000)];
    let failed = |change: fn(&mut Record), reason: &str| {
        let mut records = fifty(1_000);
        change(&mut records[0]);
        let report = judge(&records, &steps, &TERMS);
        assert_eq!((report.verdict, report.reason.as_str()), (Verdict::Fail, reason));
    };
    let lost = "before the first step 1 connections were lost (echo: reset)";
    failed(|r| r.failed(9_000, "reset", None), lost);
    let moved = "before the first step 1 connections moved to another backend";
    failed(|r| r.answered_by("b2", 9_000), moved);
    let damaged = "before the first step the data of 1 connections was damaged";
    failed(|r| r.corrupt(9_000), damaged);

    failed(
        |r| {
            *r = talking(0, Cohort::Young, 5_000, 6_000);
            r.failed(6_100, "reset", None);
        },
        "before the first step 1 connections were lost (young: reset)",
    );
    failed(
        |r| {
            *r = Record::new(0, Cohort::Young, Transport::Tcp, r.remote, 5_000);
            r.failed(5_100, "connecting: refused", Some(libc::ECONNREFUSED));
        },
        "before the first step 1 connections were lost (young: connecting: refused)",
    );
    let mut records = fifty(1_000);
    let mut never = Record::new(60, Cohort::Bulk, Transport::Tcp, records[1].remote, 5_000);
    never.failed(5_100, "connection refused", None);
    records.push(never);
    let report = judge(&records, &steps, &TERMS);
    assert_eq!(report.verdict, Verdict::Pass, "{}", report.reason);

    let mut records = fifty(1_000);
    records[0].failed(9_000, "reset", None);
    assert_eq!(judge(&records, &[], &TERMS).verdict, Verdict::Fail, "also without a step");
    let released = Terms { releases_before: 1, ..TERMS };
    let report = judge(&fifty(1_000), &steps, &released);
    assert_eq!(report.verdict, Verdict::Unknown);
    assert!(report.reason.contains("before the first step guards let go 1 times"));
}
