//! The judgement, with records and facts made by hand.

mod between;
mod openings;

use std::collections::BTreeSet;

use super::burst::Young;
use super::facts::Facts;
use super::judge::{self, Terms, judge};
use super::report::{Stalls, Verdict};
use super::steps::StepName;
use crate::router::paths::Paths;
use crate::workload::record::{Cohort, Patience, Record, Transport};

const TERMS: Terms = Terms {
    seed: 7,
    replicate_after_ms: 3_000,
    began_ms: 0,
    taken_ms: 100_000,
    releases_before: 0,
    young_needed: 0,
};

fn facts(name: StepName, begin_ms: u64) -> Facts {
    Facts {
        before: paths(0..50, "d1"),
        after: paths(0..50, "d2"),
        ..Facts::of_a_test(name, begin_ms)
    }
}

fn paths(ids: std::ops::Range<u64>, director: &str) -> Paths {
    ids.map(|id| (id, director.to_owned())).collect()
}

/// A connection that exchanges something every 250 ms from its opening on until `until`.
fn talking(id: u64, cohort: Cohort, opened: u64, until: u64) -> Record {
    let mut record =
        Record::new(id, cohort, Transport::Tcp, "203.0.113.10:7001".parse().unwrap(), opened);
    record.connected(opened);
    let mut now = opened;
    while now <= until {
        record.progress(now, now + 250);
        record.answered_by("b1", now);
        now += 250;
    }
    record
}

/// Fifty connections that live from `opened` to the end of the run.
fn fifty(opened: u64) -> Vec<Record> {
    (0..50).map(|id| talking(id, Cohort::Echo, opened, TERMS.taken_ms)).collect()
}

#[test]
fn nothing_lost_and_enough_taken_over_is_a_pass() {
    let report = judge(&fifty(1_000), &[facts(StepName::KillDaemon, 10_000)], &TERMS);
    assert_eq!(report.verdict, Verdict::Pass, "{}", report.reason);
    let step = &report.steps[0];
    assert_eq!((step.eligible_taken_over, step.cohorts[0].eligible), (50, 50));
    assert_eq!(step.cohorts[0].survived, 50);
    assert_eq!(step.stall_ms, Stalls::default());
    assert!(step.happened);
}

#[test]
fn a_crash_protects_from_replicate_after_plus_a_second_on() {
    let eligible = |record: &Record, facts: &Facts, terms: &Terms| {
        judge::eligible(record, facts, 30_000, terms, &Patience::default())
    };
    let crash = facts(StepName::KillDaemon, 10_000);
    let old = talking(1, Cohort::Echo, 6_000, TERMS.taken_ms);
    let young = talking(2, Cohort::Echo, 6_001, TERMS.taken_ms);
    assert!(eligible(&old, &crash, &TERMS));
    assert!(!eligible(&young, &crash, &TERMS));
    let planned = facts(StepName::DrainNode, 10_000);
    assert!(eligible(&young, &planned, &TERMS));
    let during = talking(3, Cohort::Young, 11_000, TERMS.taken_ms);
    assert!(eligible(&during, &planned, &TERMS), "opened while the change was under way");
    let after = talking(4, Cohort::Young, 30_000, TERMS.taken_ms);
    assert!(!eligible(&after, &planned, &TERMS));
    let mut never = Record::new(5, Cohort::Echo, Transport::Tcp, old.remote, 1_000);
    never.failed(1_500, "connection refused", None);
    assert!(!eligible(&never, &planned, &TERMS), "connect() has to have returned");
    let mut late = Record::new(6, Cohort::Young, Transport::Tcp, old.remote, 10_100);
    late.connected(20_100);
    assert!(!eligible(&late, &planned, &TERMS), "in time");
}

#[test]
fn one_error_is_a_failure_with_its_reason() {
    let mut records = fifty(1_000);
    records[3].ended = None;
    records[3].failed(10_400, "connection reset by peer", None);
    let report = judge(&records, &[facts(StepName::KillDaemon, 10_000)], &TERMS);
    assert_eq!(report.verdict, Verdict::Fail);
    assert_eq!(report.reason, "kill-daemon lost 1 of 50 eligible connections");
    let step = &report.steps[0];
    assert_eq!(step.cohorts[0].survived, 49);
    assert!(step.losses[0].contains("connection reset by peer, 400 ms after"), "{:?}", step.losses);
}

#[test]
fn silence_is_a_loss_of_the_step_it_began_in() {
    let mut records = fifty(1_000);
    // One had its last answer just before the first step began, one long after.
    records[9] = talking(9, Cohort::Echo, 1_000, 9_500);
    records[8] = talking(8, Cohort::Echo, 1_000, 36_000);
    let steps = [facts(StepName::KillDaemon, 10_000), facts(StepName::HangDaemon, 40_000)];
    let report = judge(&records, &steps, &TERMS);
    assert_eq!(report.reason, "kill-daemon lost 2 of 50 eligible connections");
    assert_eq!(report.steps[1].cohorts[0].eligible, 48, "they are not lost twice");
}

#[test]
fn a_loss_while_the_repair_goes_on_counts() {
    let mut records = fifty(1_000);
    records[0].failed(21_900, "closed", None);
    let report = judge(&records, &[facts(StepName::KillDaemon, 10_000)], &TERMS);
    assert_eq!(report.verdict, Verdict::Fail);
}

#[test]
fn another_backend_and_damage_are_failures() {
    let mut records = fifty(1_000);
    records[0].answered_by("b2", 10_300);
    let report = judge(&records, &[facts(StepName::KillDaemon, 10_000)], &TERMS);
    assert_eq!(report.reason, "kill-daemon moved 1 connections to another backend");
    let mut records = fifty(1_000);
    records[0].corrupt(10_300);
    let report = judge(&records, &[facts(StepName::KillDaemon, 10_000)], &TERMS);
    assert_eq!(report.reason, "kill-daemon damaged the data of 1 connections");
    let mut records = fifty(1_000);
    let mut young = talking(60, Cohort::Young, 9_000, 11_000);
    young.corrupt(10_300);
    records.push(young);
    let report = judge(&records, &[facts(StepName::KillDaemon, 10_000)], &TERMS);
    assert_eq!(report.verdict, Verdict::Fail, "damage is never excused by age");
}

#[test]
fn a_connection_that_moves_or_is_damaged_counts_once() {
    for name in [StepName::DrainNode, StepName::KillDaemon, StepName::OneWay] {
        let mut records = fifty(1_000);
        let mut young = talking(60, Cohort::Young, 9_000, 11_000);
        young.answered_by("b2", 10_300);
        young.corrupt(10_400);
        young.finished(11_250);
        // Too young to survive a crash for certain, and no young one by kind.
        let mut echo = talking(61, Cohort::Echo, 9_000, TERMS.taken_ms);
        echo.answered_by("b2", 10_300);
        records.extend([young, echo]);
        let (verdict, reason) = {
            let report = judge(&records, &[facts(name, 10_000)], &TERMS);
            (report.verdict, report.reason)
        };
        assert_eq!(verdict, Verdict::Fail);
        let name = name.name();
        let moved = format!("{name} moved 2 connections to another backend");
        let damaged = format!("{name} damaged the data of 1 connections");
        assert!(reason.contains(&moved) && reason.contains(&damaged), "{reason}");
    }
}

#[test]
fn what_proves_nothing_is_unknown() {
    let unknown = |change: fn(&mut Facts), part: &str| {
        let mut facts = facts(StepName::KillDaemon, 10_000);
        change(&mut facts);
        let report = judge(&fifty(1_000), &[facts], &TERMS);
        assert_eq!(report.verdict, Verdict::Unknown, "{part}");
        assert!(report.reason.contains(part), "{}", report.reason);
    };
    unknown(|f| f.missing.push("no BFD loss".into()), "did not really happen: no BFD loss");
    unknown(|f| f.before = paths(0..39, "d1"), "only 39 eligible connections");
    unknown(|f| f.before = paths(100..200, "d1"), "only 0 eligible connections");
    unknown(|f| f.failed = BTreeSet::from(["d3".into()]), "only 0 eligible connections");
    unknown(|f| f.guard_releases = 2, "guards let go 2 times");
    assert_eq!(judge(&fifty(1_000), &[], &TERMS).verdict, Verdict::Unknown);
    let nobody = judge(&[], &[facts(StepName::DrainNode, 10_000)], &TERMS);
    assert_eq!(nobody.verdict, Verdict::Unknown);
    let mut few = facts(StepName::DrainNode, 10_000);
    few.after = few.before.clone();
    let planned = judge(&fifty(1_000), &[few], &TERMS);
    assert_eq!(planned.verdict, Verdict::Pass, "a planned step needs no takeovers");
}

#[test]
fn a_loss_weighs_more_than_a_doubt() {
    let mut records = fifty(1_000);
    records[0].failed(10_400, "reset", None);
    let mut doubtful = facts(StepName::KillDaemon, 10_000);
    doubtful.missing.push("no process".into());
    assert_eq!(judge(&records, &[doubtful], &TERMS).verdict, Verdict::Fail);
}

#[test]
fn time_has_no_say() {
    let mut records = fifty(1_000);
    for record in &mut records {
        *record = talking(record.id, Cohort::Echo, 1_000, 10_000);
        record.progress(19_000, 19_250);
        let mut now = 19_250;
        while now <= TERMS.taken_ms {
            record.progress(now, now + 250);
            now += 250;
        }
    }
    let report = judge(&records, &[facts(StepName::KillDaemon, 10_000)], &TERMS);
    assert_eq!(report.verdict, Verdict::Pass);
    assert_eq!(report.steps[0].stall_ms.p99, 8_750);
}

#[test]
fn young_ones_are_counted_apart() {
    let mut records = fifty(1_000);
    let mut good = talking(60, Cohort::Young, 9_000, 11_000);
    good.finished(11_250);
    let mut bad = talking(61, Cohort::Young, 9_960, 10_100);
    bad.failed(10_200, "closed", None);
    let mut before = talking(62, Cohort::Young, 5_000, 7_000);
    before.finished(7_250);
    records.extend([good, bad, before]);
    let crash = judge(&records, &[facts(StepName::KillDaemon, 10_000)], &TERMS);
    assert_eq!((crash.steps[0].young.total, crash.steps[0].young.survived), (2, 1));
    assert_eq!(crash.verdict, Verdict::Pass, "a crash may cost newborn ones: {}", crash.reason);
    let planned = judge(&records, &[facts(StepName::DrainNode, 10_000)], &TERMS);
    assert_eq!(planned.reason, "drain-node lost 1 of 52 eligible connections");
}

const RESET: Option<i32> = Some(libc::ECONNRESET);
const TIMED_OUT: Option<i32> = Some(libc::ETIMEDOUT);

/// A thousand young connections on the director that fails; the first `lost` of them are lost that way.
fn crowd(lost: usize, how: Option<i32>) -> (Vec<Record>, Facts) {
    let mut records = fifty(1_000);
    for id in 100..1_100 {
        let mut record = talking(id, Cohort::Young, 8_000, 13_000);
        if ((id - 100) as usize) < lost {
            record = talking(id, Cohort::Young, 8_000, 9_900);
            record.failed(10_200, "exchanging: an error", how);
        } else {
            record.finished(13_250);
        }
        records.push(record);
    }
    let mut facts = facts(StepName::KillDaemon, 10_000);
    facts.before.extend(paths(100..1_100, "d1"));
    facts.after.extend(paths(100..1_100, "d2"));
    (records, facts)
}

#[test]
fn young_ones_are_held_to_account_where_the_terms_say_so() {
    let terms = Terms { young_needed: 1_000, ..TERMS };
    let judged = |lost, terms: &Terms| {
        let (records, facts) = crowd(lost, TIMED_OUT);
        let report = judge(&records, &[facts], terms);
        (report.verdict, report.reason)
    };
    assert_eq!(judged(1, &terms).0, Verdict::Pass, "one in a thousand");
    let (verdict, reason) = judged(2, &terms);
    assert_eq!(verdict, Verdict::Fail);
    assert!(reason.contains("kill-daemon lost 2 of 1000 young connections, 2 of 1000"), "{reason}");
    let few = Terms { young_needed: 100, ..TERMS };
    assert!(!judged(0, &few).1.contains("with only"), "a thousand are enough");
    let more = Terms { young_needed: 1_001, ..TERMS };
    let (verdict, reason) = judged(0, &more);
    assert_eq!(verdict, Verdict::Unknown);
    assert!(reason.contains("only 1000 young connections changed director, 1001"), "{reason}");
}

/// What the demo says when its burst came out too small, and when it was told to make a small one.
#[test]
fn few_young_ones_are_never_passed_over_in_silence() {
    let judged = |needed| {
        let (mut records, facts) = crowd(0, None);
        records.truncate(50 + 999);
        let report = judge(&records, &[facts], &Terms { young_needed: needed, ..TERMS });
        (report.verdict, report.reason)
    };
    let unknown = "in kill-daemon only 999 young connections changed director, 1000 are needed";
    let demo = Young::of_demo(crate::args::YOUNG).needed;
    assert_eq!(judged(demo), (Verdict::Unknown, unknown.into()));
    let (verdict, reason) = judged(Young::of_demo(420).needed);
    assert_eq!(verdict, Verdict::Pass);
    let words = "; with only 999 young connections that changed director in kill-daemon (fewer than 1000) \
                 it does not show that at most one in a thousand is lost";
    assert!(reason.ends_with(words), "{reason}");
}

/// Fifty old ones, and one of another age that is lost: opened then, at that director, so.
fn with_one(
    name: StepName,
    opened: u64,
    director: Option<&str>,
    lose: fn(&mut Record),
) -> (Verdict, String) {
    let mut records = fifty(1_000);
    let mut one = talking(60, Cohort::Young, opened, opened + 300);
    lose(&mut one);
    records.push(one);
    let mut facts = facts(name, 10_000);
    if let Some(director) = director {
        facts.before.insert(60, director.to_owned());
        facts.after.insert(60, "d2".to_owned());
    }
    let report = judge(&records, &[facts], &TERMS);
    (report.verdict, report.reason)
}

#[test]
fn the_newest_are_excused_only_if_their_director_may_have_been_hit() {
    let silent: fn(&mut Record) = |_| {};
    let newborn = |director| with_one(StepName::KillDaemon, 9_970, director, silent).0;
    assert_eq!(newborn(Some("d1")), Verdict::Pass);
    assert_eq!(newborn(None), Verdict::Pass, "nobody asked where it was");
    assert_eq!(newborn(Some("d2")), Verdict::Fail, "its director lives, and it stayed there");
    assert_eq!(newborn(Some("d3")), Verdict::Fail, "it moved, but its director lives");
    let later = |opened| with_one(StepName::KillDaemon, opened, None, silent);
    assert_eq!(later(11_100).0, Verdict::Pass, "it may have been the one that was killed");
    let (verdict, reason) = later(11_101);
    assert_eq!(verdict, Verdict::Fail);
    let words =
        "kill-daemon lost 1 of 1 later connections, 1 of them without an excuse (of those that";
    assert!(reason.contains(words), "{reason}");
}

#[test]
fn no_living_connection_may_be_reset() {
    let (records, facts) = crowd(1, RESET);
    let share = judge(&records, &[facts], &TERMS);
    assert_eq!(share.verdict, Verdict::Fail, "one in a thousand, but not by a reset");
    let words = "kill-daemon lost 1 of 1000 young connections";
    assert!(share.reason.starts_with(words), "{}", share.reason);
    let reset: fn(&mut Record) = |r| r.failed(10_400, "reset", RESET);
    let newborn = |name, director| with_one(name, 9_970, director, reset).0;
    for name in [StepName::KillDaemon, StepName::CutOff, StepName::BlockedLinks] {
        assert_eq!(newborn(name, Some("d1")), Verdict::Fail, "{}", name.name());
        assert_eq!(newborn(name, None), Verdict::Fail, "{}", name.name());
    }
    assert_eq!(newborn(StepName::KillAll, Some("d1")), Verdict::Pass, "nobody is left who knew it");
    // After ten seconds of silence it was no living one any more.
    let late: fn(&mut Record) = |r| r.failed(25_000, "reset", RESET);
    assert_eq!(with_one(StepName::KillDaemon, 9_970, Some("d1"), late).0, Verdict::Pass);
}

#[test]
fn what_could_not_live_is_shown_and_not_judged() {
    let terms = Terms { young_needed: 1_001, ..TERMS };
    let (records, facts) = crowd(1_000, RESET);
    let all = Facts { name: StepName::KillAll, ..facts };
    let report = judge(&records, &[all], &terms);
    assert_eq!(report.verdict, Verdict::Pass, "{}", report.reason);
    let words = "; 1000 more were lost that may be: 1000 in kill-all (until the store has them";
    assert!(report.reason.contains(words), "{}", report.reason);
    let step = &report.steps[0];
    assert_eq!((step.ages[1].lost, step.ages[1].reset), (1_000, 1_000));
    assert!(step.ages[1].rule.contains("no daemon lives on"), "{}", step.ages[1].rule);
    assert!(step.lost.iter().all(|l| l.excused));
}

#[test]
fn a_fault_that_ends_nobody_may_cost_nobody() {
    let (records, facts) = crowd(1, TIMED_OUT);
    let way = Facts { name: StepName::OneWay, failed: BTreeSet::new(), ..facts };
    let report = judge(&records, &[way], &TERMS);
    assert!(report.reason.contains("one-way lost 1 of 1000 young"), "{}", report.reason);
}

#[test]
fn when_all_are_gone_silence_is_waited_for_longer() {
    let mut records = fifty(1_000);
    for record in &mut records {
        *record = talking(record.id, Cohort::Echo, 1_000, 9_900);
        record.progress(32_000, 90_000);
    }
    let crash = facts(StepName::KillAll, 10_000);
    assert_eq!(judge(&records, std::slice::from_ref(&crash), &TERMS).verdict, Verdict::Fail);
    let patient = Facts { patience_ms: 60_000, ..crash };
    let report = judge(&records, &[patient], &TERMS);
    assert_eq!(report.verdict, Verdict::Pass, "{}", report.reason);
}

#[test]
fn a_young_one_is_lost_once_and_survives_nothing_afterwards() {
    let mut records = fifty(1_000);
    // It falls silent in the first step and is never heard of again.
    records.push(talking(60, Cohort::Young, 9_000, 10_500));
    let steps = [facts(StepName::KillDaemon, 10_000), facts(StepName::HangDaemon, 40_000)];
    let report = judge(&records, &steps, &TERMS);
    let young = |i: usize| (report.steps[i].young.total, report.steps[i].young.survived);
    assert_eq!((young(0), young(1)), ((1, 0), (0, 0)));
}

#[test]
fn downloads_that_end_before_the_repair_are_noted() {
    let note = |ended_ms: u64| {
        let mut records = fifty(1_000);
        let mut download = talking(60, Cohort::Bulk, 1_000, ended_ms);
        download.finished(ended_ms);
        records.push(download);
        let report = judge(&records, &[facts(StepName::KillDaemon, 10_000)], &TERMS);
        assert_eq!(report.verdict, Verdict::Pass, "it is no doubt");
        report.steps[0].notes.join("")
    };
    assert!(note(19_999).contains("none outlasted the step"));
    assert_eq!(note(20_000), "");
}
