//! Connections that could not be opened, and slow openings.

use clap::ValueEnum;

use super::super::facts::Facts;
use super::super::judge::{Terms, judge};
use super::super::report::{How, Report, Verdict};
use super::super::steps::StepName;
use super::{TERMS, facts, fifty};
use crate::workload::record::{Cohort, Record, Transport};

/// Fifty old ones, and one that is not opened: begun then, on its way to that director; it fails at once with
/// that error, or is never answered.
fn unopened(name: StepName, opened: u64, director: Option<&str>, errno: Option<i32>) -> Report {
    let mut facts = facts(name, 10_000);
    facts.before.extend(director.map(|d| (60, d.to_owned())));
    judge(&with_unopened(opened, errno), &[facts], &TERMS)
}

fn with_unopened(opened: u64, errno: Option<i32>) -> Vec<Record> {
    let mut records = fifty(1_000);
    let mut one = Record::new(60, Cohort::Young, Transport::Tcp, records[0].remote, opened);
    if errno.is_some() {
        one.failed(opened + 10, "connecting: an error", errno);
    }
    records.push(one);
    records
}

const NO_ROUTE: Option<i32> = Some(libc::ENETUNREACH);
const REFUSED: Option<i32> = Some(libc::ECONNREFUSED);

#[test]
fn connections_that_cannot_be_opened_fail_whatever_leaves_a_director_at_work() {
    for name in StepName::value_variants().iter().filter(|n| **n != StepName::KillAll) {
        for errno in [None, NO_ROUTE, REFUSED] {
            // Long after the router had left whoever was hit.
            let report = unopened(*name, 15_000, None, errno);
            let reason = format!("in {} 1 connections could not be opened", name.name());
            assert_eq!((report.verdict, report.reason), (Verdict::Fail, reason));
            let lost = &report.steps[0].lost[0];
            assert_eq!((lost.how, lost.excused), (How::NotOpened, false), "it is listed");
            let line = report.steps[0].losses[0].as_str();
            assert!(line.starts_with("young ? > 203.0.113.10:7001: not opened: "), "{line}");
        }
    }
    for name in [StepName::DrainNode, StepName::OneWay, StepName::CutOff, StepName::BlockedLinks] {
        let reason = unopened(name, 10_050, None, NO_ROUTE).reason;
        assert!(reason.contains("1 connections could not be opened"), "{}: {reason}", name.name());
    }
}

#[test]
fn connections_that_cannot_be_opened_are_excused_where_nobody_could_take_them() {
    let crash = unopened(StepName::KillDaemon, 11_090, None, NO_ROUTE);
    assert_eq!(crash.verdict, Verdict::Pass, "{}", crash.reason);
    let told = "; 1 could not be opened in kill-daemon (the router still sent them to a director that was gone)";
    assert!(crash.reason.contains(told), "{}", crash.reason);
    let later = &crash.steps[0].ages[3];
    assert_eq!((later.unconnected, later.refused), (1, 0));
    assert!(crash.steps[0].lost[0].excused && crash.steps[0].losses.is_empty());
    let verdict = |name, opened, director, errno| unopened(name, opened, director, errno).verdict;
    let kill = StepName::KillDaemon;
    assert_eq!(verdict(kill, 11_091, None, NO_ROUTE), Verdict::Fail);
    assert_eq!(verdict(kill, 10_050, Some("d2"), NO_ROUTE), Verdict::Fail, "its director lives");
    assert_eq!(verdict(kill, 10_050, Some("d1"), None), Verdict::Fail, "a SYN is repeated");
    assert_eq!(verdict(kill, 10_050, Some("d1"), REFUSED), Verdict::Fail, "who is dead is silent");
    let all = StepName::KillAll;
    assert_eq!(verdict(all, 20_000, None, NO_ROUTE), Verdict::Pass, "nobody serves");
    assert_eq!(verdict(all, 20_001, None, NO_ROUTE), Verdict::Fail, "all serve again");
    assert_eq!(verdict(all, 15_000, None, REFUSED), Verdict::Fail, "somebody says no");
    assert_eq!(verdict(all, 15_000, None, None), Verdict::Fail, "there was time for another SYN");
    let soon = Terms { taken_ms: 27_000, ..TERMS };
    let judged =
        |terms: &Terms| judge(&with_unopened(15_000, None), &[facts(all, 10_000)], terms).verdict;
    assert_eq!(
        judged(&soon),
        Verdict::Pass,
        "5 s before the repair, and a second SYN 5 s after it"
    );
    assert_eq!(judged(&Terms { taken_ms: 27_001, ..soon }), Verdict::Fail);
}

#[test]
fn where_the_only_director_is_hit_nobody_serves_until_the_repair() {
    let verdict = |alone, opened| {
        let facts = Facts { alone, ..facts(StepName::KillDaemon, 10_000) };
        judge(&with_unopened(opened, NO_ROUTE), &[facts], &TERMS).verdict
    };
    assert_eq!(verdict(true, 20_000), Verdict::Pass);
    assert_eq!(verdict(true, 20_001), Verdict::Fail);
    assert_eq!(verdict(false, 19_000), Verdict::Fail);
}

#[test]
fn the_slowest_opening_of_a_step_is_told() {
    let mut records = fifty(1_000);
    for (id, opened, took) in
        [(60, 5_000, 4_000), (61, 9_990, 1_030), (62, 10_050, 3_010), (63, 22_001, 5_000)]
    {
        let mut one = Record::new(id, Cohort::Young, Transport::Tcp, records[0].remote, opened);
        one.connected(opened + took);
        one.finished(opened + took + 10);
        records.push(one);
    }
    let step = &judge(&records, &[facts(StepName::KillDaemon, 10_000)], &TERMS).steps[0];
    assert_eq!(step.slowest_opening_ms, Some(3_010));
}

/// Its first two SYNs went out before the fault, and were lost: the third comes three seconds after the first.
#[test]
fn an_opening_that_was_under_way_when_all_were_killed_has_time_until_they_are_back() {
    let verdict = |opened, earlier: &[Facts]| {
        let mut records = fifty(1_000);
        let mut one = Record::new(60, Cohort::Young, Transport::Tcp, records[0].remote, opened);
        one.connected(opened + 31_000);
        one.finished(opened + 31_100);
        records.push(one);
        let all = Facts { patience_ms: 40_000, ..facts(StepName::KillAll, 40_000) };
        let report = judge(&records, &[earlier, &[all]].concat(), &TERMS);
        (report.verdict, report.reason)
    };
    let crash = [facts(StepName::KillDaemon, 10_000)];
    for earlier in [&crash[..], &[]] {
        let (judged, reason) = verdict(37_000, earlier);
        assert_eq!(judged, Verdict::Pass, "{reason}");
        assert_eq!(verdict(36_999, earlier).0, Verdict::Fail, "it had time before");
    }
}
