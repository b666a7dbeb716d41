//! Connections by their age when the fault came, and what is known of those that were lost. Pure.

use super::facts::Facts;
use super::faults::{Loss, Refusal, Rule, rule};
use super::judge::{MARGIN_MS, Terms, is_over};
use super::report::{Age, AgeReport, How, LostConnection};
use crate::workload::record::{Patience, Record};

/// Younger ones are newborn (ms).
pub const NEWBORN_MS: u64 = 50;

/// How old a connection was when the step began; none: it was over then, or is opened after the step, which
/// answers until `until`.
pub fn age(
    record: &Record,
    facts: &Facts,
    until: u64,
    terms: &Terms,
    patience: &Patience,
) -> Option<Age> {
    if is_over(record, facts, terms, patience) || record.opened_ms >= until {
        return None;
    }
    if record.opened_ms >= facts.begin_ms {
        return Some(Age::Later);
    }
    let age_ms = record.connected_ms.and_then(|at| facts.begin_ms.checked_sub(at));
    Some(match age_ms {
        Some(ms) if ms >= terms.replicate_after_ms + MARGIN_MS => Age::Long,
        Some(ms) if ms >= NEWBORN_MS => Age::Young,
        _ => Age::Newborn,
    })
}

/// Counts a step's connections by age, and lists those that were lost; the step answers until `until`.
pub fn tell(
    records: &[Record],
    facts: &Facts,
    until: u64,
    terms: &Terms,
    patience: &Patience,
) -> (Vec<AgeReport>, Vec<LostConnection>) {
    let within = |at: &u64| (facts.begin_ms..until).contains(at);
    let mut ages = Age::ALL.map(|age| AgeReport {
        silent_reset: Some(0),
        ..AgeReport::new(age, rule(facts.name, age).text())
    });
    let mut losses = Vec::new();
    for record in records {
        let Some(age) = age(record, facts, until, terms, patience) else { continue };
        let cohort = &mut ages[age as usize];
        let lost = record.lost_with(patience, terms.taken_ms).filter(&within);
        let wrong_backend = record.moved_ms.iter().any(&within);
        let corrupt = record.corrupt_ms.iter().any(&within);
        if !facts.concerns(record, lost.is_some() || wrong_backend || corrupt) {
            continue;
        }
        cohort.wrong_backend += u64::from(wrong_backend);
        cohort.corrupt += u64::from(corrupt);
        if record.unopened(patience) {
            let Some(at_ms) = lost else { continue };
            let excused = may_be_refused(record, facts, terms);
            cohort.unconnected += 1;
            cohort.refused += u64::from(!excused);
            let lost = describe(record, facts, age, at_ms);
            losses.push(LostConnection { how: How::NotOpened, excused, ..lost });
            continue;
        }
        let moved = facts.moved(record);
        cohort.eligible += 1;
        cohort.moved += u64::from(moved);
        let Some(at_ms) = lost else {
            cohort.survived += 1;
            continue;
        };
        let rule = rule(facts.name, age);
        // What was opened when all was over has no excuse.
        let due = record.opened_ms > facts.judged_ms;
        let spared = !due && rule.spares(loss(record, facts, at_ms));
        let excused = spared && matches!(rule, Rule::Excused(_));
        let lost = LostConnection { excused, ..describe(record, facts, age, at_ms) };
        cohort.lost += 1;
        cohort.moved_lost += u64::from(moved);
        cohort.reset += u64::from(lost.how == How::Reset);
        let late = u64::from(lost.how == How::SilentThenReset);
        cohort.silent_reset = cohort.silent_reset.map(|sum| sum + late);
        cohort.not_spared += u64::from(!spared);
        losses.push(lost);
    }
    for cohort in &mut ages {
        cohort.bound();
        cohort.excess = Some(rule(facts.name, cohort.age).excess(cohort));
    }
    // What had no excuse is listed first.
    losses.sort_by_key(|l| (l.excused, l.age, l.at_ms));
    (ages.into(), losses)
}

/// Whether the fault made it unavoidable that a connection could not be opened (in time).
fn may_be_refused(record: &Record, facts: &Facts, terms: &Terms) -> bool {
    // Who is dead does not say no, and a router without a route says something else.
    let refused = record.ended.as_ref().is_some_and(|e| e.errno == Some(libc::ECONNREFUSED));
    if refused && record.connected_ms.is_none() {
        return false;
    }
    // A SYN that nobody answered is repeated, first after a second.
    let tried_ms = record.connected_ms.or(record.ended_ms()).unwrap_or(terms.taken_ms);
    let hit = || facts.before.get(&record.id).is_none_or(|d| facts.failed.contains(d));
    match facts.refusal() {
        Refusal::Never => false,
        Refusal::UntilLeft => {
            !facts.failed.is_empty() && tried_ms <= facts.done_ms + MARGIN_MS && hit()
        }
        // The gaps between two SYNs double: one that went out just before the repair is followed by the
        // next when twice as long has passed, and a second.
        Refusal::UntilRepaired => facts
            .repaired_ms
            .checked_sub(record.opened_ms)
            .is_some_and(|waited| tried_ms <= facts.repaired_ms + waited + 2 * MARGIN_MS),
    }
}

fn describe(record: &Record, facts: &Facts, age: Age, at_ms: u64) -> LostConnection {
    let after = |ms: u64| ms as i64 - facts.begin_ms as i64;
    LostConnection {
        id: record.id,
        kind: record.cohort.name().into(),
        age,
        age_ms: -after(record.connected_ms.unwrap_or(record.opened_ms)),
        client: record.local,
        vip: record.remote,
        backend: record.backend.clone(),
        how: how(record, at_ms),
        error: record.loss() + &opened_late(record),
        errno: record.ended.as_ref().and_then(|e| e.errno),
        at_ms: after(at_ms),
        last_byte_ms: record.last_ms.map(after),
        exchanges: record.progress,
        director_before: facts.before.get(&record.id).cloned(),
        director_after: facts.then(record).cloned(),
        excused: false,
    }
}

/// What is worth knowing of an opening that took longer than a second.
fn opened_late(record: &Record) -> String {
    let took = record.connected_ms.map_or(0, |at| at.saturating_sub(record.opened_ms));
    if took >= 1_000 { format!(" (opened after {took} ms)") } else { String::new() }
}

/// What the judgement has to know of a loss.
fn loss(record: &Record, facts: &Facts, lost_ms: u64) -> Loss {
    Loss {
        moved: facts.before.contains_key(&record.id).then(|| facts.moved(record)),
        maybe_hit: facts.may_have_hit(record),
        reset: how(record, lost_ms) == How::Reset,
    }
}

fn how(record: &Record, lost_ms: u64) -> How {
    if !record.corrupt_ms.is_empty() {
        return How::Damage;
    }
    let Some(ended) = record.ended.as_ref().filter(|e| e.error.is_some()) else {
        return How::Silence;
    };
    // It was lost by its silence then; what the kernel said later is no other fate.
    let late = ended.at_ms > lost_ms;
    match ended.errno {
        Some(libc::ECONNRESET | libc::EPIPE) if late => How::SilentThenReset,
        _ if late => How::Silence,
        Some(libc::ECONNRESET | libc::EPIPE) => How::Reset,
        Some(libc::ETIMEDOUT | libc::EHOSTUNREACH | libc::ENETUNREACH) => How::TimedOut,
        None if ended.error.as_deref().is_some_and(is_close) => How::Closed,
        _ => How::Other,
    }
}

/// An end of file in the midst of things is no error of the system.
fn is_close(error: &str) -> bool {
    error.contains("early eof") || error.contains("closed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::steps::StepName;
    use crate::workload::record::{Cohort, Transport};

    const TERMS: Terms = Terms {
        seed: 1,
        replicate_after_ms: 3_000,
        began_ms: 0,
        taken_ms: 100_000,
        releases_before: 0,
        young_needed: 0,
    };

    fn facts(name: StepName) -> Facts {
        Facts {
            before: [(1, "d1".into()), (2, "d2".into()), (3, "d2".into())].into(),
            after: [(1, "d2".into()), (2, "d2".into()), (3, "d3".into())].into(),
            ..Facts::of_a_test(name, 10_000)
        }
    }

    fn record(id: u64, opened: u64) -> Record {
        let vip = "203.0.113.10:7001".parse().unwrap();
        let mut record = Record::new(id, Cohort::Young, Transport::Tcp, vip, opened);
        record.connected(opened);
        record.progress(opened, opened + 500);
        record
    }

    #[test]
    fn ages_begin_where_they_are_said_to() {
        let facts = facts(StepName::KillDaemon);
        let of = |r: &Record| age(r, &facts, 30_000, &TERMS, &Patience::default());
        for (opened, expected) in [
            (6_000, Age::Long),
            (6_001, Age::Young),
            (9_950, Age::Young),
            (9_951, Age::Newborn),
            (10_000, Age::Later),
            (22_001, Age::Later),
            (29_999, Age::Later),
        ] {
            let mut record = record(1, opened);
            record.finished(opened.max(10_000) + 400);
            assert_eq!(of(&record), Some(expected), "{opened}");
        }
        let mut over = record(1, 9_000);
        over.finished(9_999);
        assert_eq!(of(&over), None);
        assert_eq!(of(&record(1, 30_000)), None, "the next step's");
        let mut half_open = Record::new(4, Cohort::Young, Transport::Tcp, over.remote, 9_000);
        assert_eq!(of(&half_open), Some(Age::Newborn), "the handshake was not done");
        half_open.connected(10_400);
        assert_eq!(of(&half_open), Some(Age::Newborn));
    }

    #[test]
    fn lost_ones_are_counted_by_age_with_what_is_known_of_them() {
        let mut records: Vec<Record> = (1..=3).map(|id| record(id, 9_000)).collect();
        records[0].failed(10_400, "exchanging: reset", Some(libc::ECONNRESET));
        records[1].finished(10_500);
        records[2].finished(10_500);
        let mut never = Record::new(4, Cohort::Young, Transport::Tcp, records[0].remote, 9_980);
        never.failed(11_000, "connecting: refused", Some(libc::ECONNREFUSED));
        records.push(never);
        let patience = Patience::default();
        let (ages, lost) =
            tell(&records, &facts(StepName::KillDaemon), u64::MAX, &TERMS, &patience);
        let young = &ages[Age::Young as usize];
        assert_eq!((young.eligible, young.moved, young.survived), (3, 2, 2));
        assert_eq!((young.lost, young.moved_lost, young.reset), (1, 1, 1));
        assert_eq!((young.not_spared, young.excess), (1, Some(1)), "no share covers a reset");
        assert_eq!(young.bound, None);
        let newborn = &ages[Age::Newborn as usize];
        assert_eq!((newborn.eligible, newborn.unconnected), (0, 1), "it was no connection yet");
        assert_eq!(newborn.refused, 1);
        let [lost, unopened] = &lost[..] else { panic!("{lost:?}") };
        assert_eq!((unopened.how, unopened.age_ms, unopened.at_ms), (How::NotOpened, 20, 1_000));
        assert_eq!((unopened.errno, unopened.excused), (Some(libc::ECONNREFUSED), false));
        assert_eq!((lost.how, lost.age_ms, lost.at_ms), (How::Reset, 1_000, 400));
        assert_eq!(lost.last_byte_ms, Some(-1_000));
        assert_eq!(lost.director_before.as_deref(), Some("d1"));
        assert_eq!(lost.director_after.as_deref(), Some("d2"));
        assert!(!lost.excused);
    }

    #[test]
    fn one_that_is_opened_too_late_counts_once() {
        let vip = "203.0.113.10:7001".parse().unwrap();
        let mut late = Record::new(9, Cohort::Young, Transport::Tcp, vip, 10_050);
        late.connected(30_050);
        late.progress(30_050, 30_550);
        late.corrupt(30_060);
        late.finished(31_000);
        let late = [late];
        let told = |facts: &Facts, patience: &Patience| {
            let (ages, lost) = tell(&late, facts, u64::MAX, &TERMS, patience);
            let later = ages[Age::Later as usize].clone();
            assert_eq!((later.lost, later.corrupt), (0, 1), "damage is damage");
            (later.eligible, later.unconnected, later.refused, lost.len())
        };
        let usual = Patience::default();
        assert_eq!(told(&facts(StepName::KillDaemon), &usual), (0, 1, 1, 1), "others served");
        let blocked = Facts { failed: Default::default(), ..facts(StepName::BlockedLinks) };
        assert_eq!(told(&blocked, &usual), (0, 1, 1, 1), "it was no session yet");
        // Repaired at 20,000: the next of its SYNs may have been 11 s later.
        assert_eq!(told(&facts(StepName::KillAll), &usual), (0, 1, 0, 1), "nobody served");
        let soon = Facts { repaired_ms: 19_000, ..facts(StepName::KillAll) };
        assert_eq!(told(&soon, &usual), (0, 1, 1, 1));
        assert_eq!(told(&soon, &Patience::of(40_000)), (1, 0, 0, 0));
        let (_, lost) = tell(&late, &soon, u64::MAX, &TERMS, &usual);
        assert_eq!((lost[0].how, lost[0].at_ms), (How::NotOpened, 1_050));
        assert!(lost[0].error.ends_with("(opened after 20000 ms)"), "{}", lost[0].error);
    }

    #[test]
    fn how_it_was_lost_is_told_by_what_came_first() {
        let ended = |error: &str, errno, at| {
            let mut r = record(1, 9_000);
            r.failed(at, error, errno);
            let lost = r.lost_ms(100_000).unwrap();
            how(&r, lost)
        };
        assert_eq!(ended("reading", Some(libc::ETIMEDOUT), 9_900), How::TimedOut);
        assert_eq!(ended("reading", Some(libc::ETIMEDOUT), 60_000), How::Silence);
        assert_eq!(ended("exchanging: early eof", None, 9_900), How::Closed);
        assert_eq!(ended("exchanging", Some(libc::ECONNRESET), 9_900), How::Reset);
        assert_eq!(ended("exchanging", Some(libc::ECONNRESET), 60_000), How::SilentThenReset);
        assert_eq!(how(&record(1, 9_000), 10_500), How::Silence);
    }

    #[test]
    fn a_reset_after_the_silence_that_lost_it_is_no_loss_by_a_reset() {
        let mut records = [record(1, 9_000), record(2, 9_000)];
        // Silent from 9,500 on: lost when 10 s were over.
        records[0].failed(19_499, "exchanging: reset", Some(libc::ECONNRESET));
        records[1].failed(19_500, "exchanging: reset", Some(libc::ECONNRESET));
        let facts = facts(StepName::KillDaemon);
        let (ages, lost) = tell(&records, &facts, u64::MAX, &TERMS, &Patience::default());
        let young = &ages[Age::Young as usize];
        assert_eq!((young.lost, young.reset, young.silent_reset), (2, 1, Some(1)));
        let told = |id| lost.iter().find(|l| l.id == id).map(|l| (l.how, l.at_ms));
        assert_eq!(told(1), Some((How::Reset, 9_499)));
        assert_eq!(told(2), Some((How::SilentThenReset, 500)));
    }

    #[test]
    fn every_lost_one_is_listed_those_without_an_excuse_first() {
        let mut records: Vec<Record> = (11..=2_010).map(|id| record(id, 9_990)).collect();
        records.push(record(2_011, 9_000));
        for record in &mut records {
            record.failed(10_400, "exchanging: early eof", None);
        }
        let patience = Patience::default();
        let (ages, lost) =
            tell(&records, &facts(StepName::KillDaemon), u64::MAX, &TERMS, &patience);
        let newborn = &ages[Age::Newborn as usize];
        assert_eq!((newborn.lost, newborn.not_spared), (2_000, 0));
        assert_eq!((lost.len(), lost[0].id), (2_001, 2_011));
    }
}
