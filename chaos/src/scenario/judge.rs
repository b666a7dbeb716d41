//! The judgement: from the records of all connections and the facts of each step to a report.
//!
//! Pure. The verdict depends on loss, moved backends, damage and takeovers, never on time.

use std::collections::BTreeMap;

use super::ages;
use super::facts::Facts;
use super::faults::{Rule, refusal, rule};
use super::report::{Age, CohortReport, How, Report, Seconds, Stalls, StepReport, Verdict, Young};
use super::toll::Toll;
use crate::workload::record::{Cohort, Patience, Record, Transport};

/// Fewer takeovers prove nothing in a step that has to move connections.
pub const ENOUGH_TAKEOVERS: u64 = 40;
/// Fewer young connections that changed director say nothing of one in a thousand.
pub const ENOUGH_YOUNG: u64 = 1_000;
/// Added to `replicate-after` until a connection counts as old enough.
pub const MARGIN_MS: u64 = 1_000;
/// What was due this long before a step is still under way in it: a SYN that nobody answers is repeated after
/// one second, and then after three (ms).
const UNDER_WAY_MS: u64 = 3_000;
/// How many losses are told one by one.
const TOLD: usize = 8;

/// How a run was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// The seed.
    pub seed: u64,
    /// Age from which a crash must not cost a connection (ms), without the margin.
    pub replicate_after_ms: u64,
    /// When the run began.
    pub began_ms: u64,
    /// When the records were taken.
    pub taken_ms: u64,
    /// Guards that let go before the first step.
    pub releases_before: u64,
    /// How many young connections have to change director in a crash for it to prove something.
    pub young_needed: u64,
}

/// How long silence may last in each step.
pub fn patience(facts: &[Facts]) -> Patience {
    let mut patience = Patience::default();
    for (i, step) in facts.iter().enumerate() {
        let until = facts.get(i + 1).map_or(u64::MAX, |next| next.begin_ms);
        patience.between(step.begin_ms.saturating_sub(UNDER_WAY_MS), until, step.patience_ms);
    }
    patience
}

/// Whether a step, which answers until `until`, has no right to lose this connection. One that was lost
/// before is not judged again, and one that could not be opened in time is judged apart.
pub fn eligible(
    record: &Record,
    facts: &Facts,
    until: u64,
    terms: &Terms,
    patience: &Patience,
) -> bool {
    let Some(connected) = record.connected_ms else { return false };
    if is_over(record, facts, terms, patience) || record.unopened(patience) {
        return false;
    }
    if facts.name.is_planned() {
        // Of any age, also those that were opened while the change was under way.
        record.opened_ms < until
    } else {
        connected + terms.replicate_after_ms + MARGIN_MS <= facts.begin_ms
    }
}

/// Whether a connection had come to its end, or was lost, before a step began.
pub fn is_over(record: &Record, facts: &Facts, terms: &Terms, patience: &Patience) -> bool {
    let ends = [record.ended_ms(), record.lost_with(patience, terms.taken_ms)];
    ends.into_iter().flatten().any(|at| at < facts.begin_ms)
}

/// Judges a run. A step answers for what happens from its beginning until the next one begins.
pub fn judge(records: &[Record], facts: &[Facts], terms: &Terms) -> Report {
    let patience = patience(facts);
    let steps: Vec<StepReport> = facts
        .iter()
        .enumerate()
        .map(|(i, f)| {
            let until = facts.get(i + 1).map_or(u64::MAX, |next| next.begin_ms);
            judge_step(records, f, until, terms, &patience)
        })
        .collect();
    let first_ms = facts.first().map_or(u64::MAX, |first| first.begin_ms);
    let before = before(records, first_ms, terms, &patience);
    let (verdict, reason) = verdict(&before, &steps, terms);
    let took_ms = terms.taken_ms.saturating_sub(terms.began_ms);
    Report { verdict, reason, seed: terms.seed, took_ms, steps, ..Report::default() }
}

/// What happened before the first step, where nothing has an excuse.
#[derive(Default)]
struct Before {
    failures: Vec<String>,
    doubts: Vec<String>,
}

fn before(records: &[Record], first_ms: u64, terms: &Terms, patience: &Patience) -> Before {
    let early = |at: &u64| *at < first_ms;
    let lost: Vec<&Record> = records
        .iter()
        // Whoever had no connection yet cannot lose one; young ones are opened all the time.
        .filter(|r| r.cohort == Cohort::Young || r.connected_ms.is_some())
        .filter(|r| r.lost_with(patience, terms.taken_ms).is_some_and(|at| early(&at)))
        .collect();
    let moved = records.iter().filter(|r| r.moved_ms.iter().any(early)).count();
    let corrupt = records.iter().filter(|r| r.corrupt_ms.iter().any(early)).count();
    let mut before = Before::default();
    if let Some(first) = lost.first() {
        let (count, cohort, why) = (lost.len(), first.cohort.name(), first.loss());
        before
            .failures
            .push(format!("before the first step {count} connections were lost ({cohort}: {why})"));
    }
    if moved > 0 {
        before
            .failures
            .push(format!("before the first step {moved} connections moved to another backend"));
    }
    if corrupt > 0 {
        before
            .failures
            .push(format!("before the first step the data of {corrupt} connections was damaged"));
    }
    if terms.releases_before > 0 {
        before.doubts.push(format!(
            "before the first step guards let go {} times without an injected fault",
            terms.releases_before
        ));
    }
    before
}

#[derive(Default)]
struct Tally {
    eligible: u64,
    lost: u64,
    moved: u64,
    corrupt: u64,
    stalls: Vec<u64>,
}

/// Judges one step; `until` is when the next began.
pub fn judge_step(
    records: &[Record],
    facts: &Facts,
    until: u64,
    terms: &Terms,
    patience: &Patience,
) -> StepReport {
    let within = |at: &u64| (facts.begin_ms..until).contains(at);
    let mut tallies: BTreeMap<Cohort, Tally> = BTreeMap::new();
    let mut young = Young::default();
    let mut losses = Vec::new();
    let mut taken_over = 0;
    let mut downloads = Vec::new();
    let mut slowest_opening_ms: Option<u64> = None;
    for record in records {
        let lost = record.lost_with(patience, terms.taken_ms).filter(&within);
        let moved = record.moved_ms.iter().any(&within);
        let corrupt = record.corrupt_ms.iter().any(&within);
        if !facts.concerns(record, lost.is_some() || moved || corrupt) {
            continue;
        }
        let over = is_over(record, facts, terms, patience);
        if !over && record.transport == Transport::Tcp {
            slowest_opening_ms = slowest_opening_ms.max(opening_ms(record, facts));
        }
        if record.cohort == Cohort::Young && record.opened_ms < until && !over {
            young.total += 1;
            young.survived += u64::from(lost.is_none());
            young.moved_backend += u64::from(moved);
            young.corrupt += u64::from(corrupt);
        }
        if !eligible(record, facts, until, terms, patience) {
            continue;
        }
        taken_over += u64::from(facts.taken_over(record));
        let tally = tallies.entry(record.cohort).or_default();
        tally.eligible += 1;
        if record.cohort == Cohort::Bulk {
            downloads.push(record);
        }
        tally.moved += u64::from(moved);
        tally.corrupt += u64::from(corrupt);
        match lost {
            Some(at) => {
                tally.lost += 1;
                if losses.len() < TOLD {
                    losses.push(tell(record, at, facts));
                }
            }
            // Whatever it stalls, it was not there while the step went on.
            None if record.connected_ms.is_some_and(|at| at > facts.judged_ms) => {}
            None => {
                let stall = record.worst_stall_ms(facts.begin_ms, facts.judged_ms, terms.taken_ms);
                tally.stalls.push(stall);
            }
        }
    }
    let mut notes = [facts.missing.as_slice(), &facts.notes].concat();
    let done = |r: &&Record| r.ended_ms().is_some_and(|at| at < facts.repaired_ms);
    if !downloads.is_empty() && downloads.iter().all(done) {
        notes.push("every download ended before the repair did: none outlasted the step".into());
    }
    let (ages, lost) = ages::tell(records, facts, until, terms, patience);
    let unopened = lost.iter().filter(|l| l.how == How::NotOpened && !l.excused);
    let left = TOLD.saturating_sub(losses.len());
    losses.extend(unopened.take(left).map(|l| {
        let local = l.client.map_or("?".to_owned(), |c| c.to_string());
        let (kind, vip, error) = (&l.kind, l.vip, &l.error);
        format!("{kind} {local} > {vip}: not opened: {error}, {} ms after the step began", l.at_ms)
    }));
    let all = tallies.values().flat_map(|t| t.stalls.iter().copied()).collect();
    StepReport {
        name: facts.name,
        director: facts.directors.join("+"),
        happened: facts.missing.is_empty(),
        notes,
        took_s: Seconds { ms: facts.done_ms.saturating_sub(facts.begin_ms) },
        repair_s: Seconds { ms: facts.repaired_ms.saturating_sub(facts.done_ms) },
        routes_moved_ms: facts.routes_moved_ms,
        routes_changed: Some(facts.routes_changed),
        bfd_ms: facts.bfd_ms,
        eligible_taken_over: taken_over,
        guard_releases: facts.guard_releases,
        guard_releases_injected: facts.guard_releases_injected,
        young,
        cohorts: tallies
            .into_iter()
            .map(|(cohort, t)| CohortReport {
                name: cohort.name().to_owned(),
                eligible: t.eligible,
                survived: t.eligible - t.lost,
                moved_backend: t.moved,
                corrupt: t.corrupt,
                stall_ms: Stalls::of(t.stalls),
            })
            .collect(),
        stall_ms: Stalls::of(all),
        slowest_opening_ms,
        losses,
        ages,
        lost,
    }
}

/// How long a connection took to be opened, if any of that was in a step.
fn opening_ms(record: &Record, facts: &Facts) -> Option<u64> {
    let connected = record.connected_ms.filter(|at| *at >= facts.begin_ms)?;
    (record.opened_ms <= facts.judged_ms).then(|| connected.saturating_sub(record.opened_ms))
}

/// Judges those that are not eligible yet by what the step may cost them.
fn judge_ages(
    step: &StepReport,
    needed: u64,
    failures: &mut Vec<String>,
    doubts: &mut Vec<String>,
) {
    let name = step.name.name();
    for cohort in &step.ages {
        let (age, rule) = (cohort.age.name(), rule(step.name, cohort.age));
        // In planned changes all ages are eligible; long ones always are.
        if !step.name.is_planned() && cohort.age != Age::Long && rule.excess(cohort) > 0 {
            let (lost, all, text) = (cohort.lost, cohort.eligible, rule.text());
            let of_them = match rule {
                Rule::Excused(_) => format!(", {} of them without an excuse", cohort.not_spared),
                _ if cohort.moved > 0 => {
                    format!(", {} of {} that changed director", cohort.moved_lost, cohort.moved)
                }
                _ => String::new(),
            };
            failures
                .push(format!("{name} lost {lost} of {all} {age} connections{of_them} ({text})"));
        }
    }
    // Where some director serves, it takes new connections all the time.
    let refused: u64 = step.ages.iter().map(|a| a.refused).sum();
    if refused > 0 {
        let why = refusal(step.name).why();
        let all: u64 = step.ages.iter().map(|a| a.unconnected).sum();
        let of = match all - refused {
            0 => String::new(),
            n => format!(", and {n} more that may be ({why})"),
        };
        failures.push(format!("in {name} {refused} connections could not be opened{of}"));
    }
    if let Some(moved) = young_moved(step).filter(|moved| step.happened && *moved < needed) {
        doubts.push(format!(
            "in {name} only {moved} young connections changed director, {needed} are needed"
        ));
    }
}

/// How many young connections changed director in a crash, which is what their share is judged by.
fn young_moved(step: &StepReport) -> Option<u64> {
    let judged = !matches!(rule(step.name, Age::Young), Rule::Excused(_));
    let young = step.ages.iter().find(|a| a.age == Age::Young);
    young.filter(|_| step.name.is_crash() && judged).map(|young| young.moved)
}

fn tell(record: &Record, at: u64, facts: &Facts) -> String {
    let local = record.local.map_or("?".to_owned(), |l| l.to_string());
    format!(
        "{} {local} > {}: {}, {} ms after the step began",
        record.cohort.name(),
        record.remote,
        record.loss(),
        at.saturating_sub(facts.begin_ms)
    )
}

/// The verdict over all steps: a loss is a loss whatever else is unknown.
fn verdict(before: &Before, steps: &[StepReport], terms: &Terms) -> (Verdict, String) {
    let (mut failures, mut doubts) = (before.failures.clone(), before.doubts.clone());
    for step in steps {
        let name = step.name.name();
        let sum = |field: fn(&CohortReport) -> u64| step.cohorts.iter().map(field).sum::<u64>();
        let eligible = sum(|c| c.eligible);
        let lost = sum(|c| c.eligible - c.survived);
        // By age each connection is there once; by kind young ones are missing in a crash, and in a planned
        // change they are there beside `young`.
        let moved: u64 = step.ages.iter().map(|a| a.wrong_backend).sum();
        let corrupt: u64 = step.ages.iter().map(|a| a.corrupt).sum();
        if lost > 0 {
            failures.push(format!("{name} lost {lost} of {eligible} eligible connections"));
        }
        if moved > 0 {
            failures.push(format!("{name} moved {moved} connections to another backend"));
        }
        if corrupt > 0 {
            failures.push(format!("{name} damaged the data of {corrupt} connections"));
        }
        if !step.happened {
            doubts.push(format!("{name} did not really happen: {}", step.notes.join("; ")));
        } else if step.name.has_to_move() && step.eligible_taken_over < ENOUGH_TAKEOVERS {
            doubts.push(format!(
                "in {name} only {} eligible connections were taken over, {ENOUGH_TAKEOVERS} are needed",
                step.eligible_taken_over
            ));
        }
        judge_ages(step, terms.young_needed, &mut failures, &mut doubts);
        if eligible == 0 {
            doubts.push(format!("in {name} no connection was eligible"));
        }
        if step.guard_releases > 0 {
            doubts.push(format!(
                "in {name} guards let go {} times without an injected fault",
                step.guard_releases
            ));
        }
    }
    if !failures.is_empty() {
        (Verdict::Fail, failures.join("; "))
    } else if steps.is_empty() {
        (Verdict::Unknown, "no step was run".into())
    } else if !doubts.is_empty() {
        (Verdict::Unknown, doubts.join("; "))
    } else {
        let mut toll = Toll::default();
        steps.iter().for_each(|s| toll.add(s.name, &s.ages));
        let taken: u64 = steps.iter().map(|s| s.eligible_taken_over).sum();
        let fewest = steps.iter().filter_map(|s| Some((young_moved(s)?, s.name.name()))).min();
        let few = fewest.filter(|(moved, _)| *moved < ENOUGH_YOUNG).map(|(moved, name)| {
            format!(
                "; with only {moved} young connections that changed director in {name} (fewer than \
                 {ENOUGH_YOUNG}) it does not show that at most one in a thousand is lost"
            )
        });
        let reason = format!(
            "nothing was lost that had to survive, {taken} takeovers of eligible connections{}{}",
            toll.ending(),
            few.unwrap_or_default()
        );
        (Verdict::Pass, reason)
    }
}
