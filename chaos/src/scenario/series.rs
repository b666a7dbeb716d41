//! From the records of all connections to what the report shows of them over time: how many were alive,
//! how long they were overdue, how long they stalled in each phase. Pure.

use std::collections::BTreeMap;

use super::facts::Facts;
use super::judge::{Terms, patience};
use super::report::{
    Alive, Distribution, Fault, Phase, StallPhases, StallSeries, StepStalls, Timeline,
};
use crate::workload::record::{Cohort, Patience, Record, Stall};

/// How long an interval of the time line is at least.
const EVERY_MS: u64 = 250;
/// How many intervals there are at most.
const MOST: u64 = 1_200;

/// The phase without faults, before the first step (ms of the monotonic clock, like all times of records and
/// facts).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Calm {
    /// When the first connection was opened.
    pub opened_ms: u64,
    /// When the fault would have come, were it a step.
    pub from_ms: u64,
    /// When it ended.
    pub until_ms: u64,
}

/// The time line, as far as the connections and the steps make it.
pub fn timeline(records: &[Record], facts: &[Facts], terms: &Terms, calm: &Calm) -> Timeline {
    let (grid, patience) = (Grid::over(calm.opened_ms, terms.taken_ms), patience(facts));
    let mut alive: BTreeMap<Cohort, Vec<i64>> = BTreeMap::new();
    let mut overdue: Vec<Vec<u32>> = vec![Vec::new(); grid.count];
    for record in records {
        let Some(connected) = record.connected_ms else { continue };
        let over = over_ms(record, &patience, terms.taken_ms);
        // Changes at the ends of intervals; added up below.
        let changes = alive.entry(record.cohort).or_insert_with(|| vec![0; grid.count]);
        if let Some(at) = grid.index(connected) {
            changes[at] += 1;
        }
        if let Some(at) = over.and_then(|at| grid.index(at)) {
            changes[at] -= 1;
        }
        note_overdue(record, over, terms.taken_ms, &grid, &mut overdue);
    }
    let alive: Vec<Alive> = alive
        .into_iter()
        .map(|(cohort, changes)| {
            let mut now = 0;
            let counts = changes.into_iter().map(|change| {
                now += change;
                now.max(0) as u32
            });
            Alive { cohort: cohort.name().to_owned(), count: counts.collect() }
        })
        .collect();
    let mut stalls = StallSeries::default();
    for (index, mut overdue) in overdue.into_iter().enumerate() {
        let there: usize = alive.iter().map(|a| a.count[index] as usize).sum();
        overdue.sort_unstable_by(|a, b| b.cmp(a));
        // Nearest rank from above; whoever is not overdue counts as 0.
        let p99 = there - (there * 99).div_ceil(100);
        stalls.p99_ms.push(overdue.get(p99).copied().unwrap_or(0));
        stalls.max_ms.push(overdue.first().copied().unwrap_or(0));
    }
    let since = |at: u64| at.saturating_sub(terms.began_ms);
    let faults = facts.iter().map(|f| Fault {
        kind: f.name.name().to_owned(),
        target: f.directors.join("+"),
        begin_ms: since(f.begin_ms),
        done_ms: since(f.done_ms),
        end_ms: since(f.repaired_ms),
    });
    Timeline {
        from_ms: since(calm.opened_ms),
        every_ms: grid.every_ms,
        alive,
        stalls,
        faults: faults.collect(),
        ..Timeline::default()
    }
}

/// When a connection was over: it had come to its end, or was lost.
fn over_ms(record: &Record, patience: &Patience, taken_ms: u64) -> Option<u64> {
    record.ended_ms().into_iter().chain(record.lost_with(patience, taken_ms)).min()
}

fn note_overdue(
    record: &Record,
    over: Option<u64>,
    taken_ms: u64,
    grid: &Grid,
    overdue: &mut [Vec<u32>],
) {
    // The longest of each interval; stalls follow one another, so only the last can be added to.
    let mut last: Option<(usize, u32)> = None;
    for stall in record.waits(taken_ms) {
        let until = stall.came_ms.min(over.unwrap_or(u64::MAX));
        let (Some(first), Some(end)) = (grid.index(stall.due_ms), grid.index(until)) else {
            continue;
        };
        for index in first..=end {
            let come_to = until.min(grid.end_of(index)).saturating_sub(stall.due_ms) as u32;
            last = match last {
                Some((same, longest)) if same == index => Some((index, longest.max(come_to))),
                other => {
                    overdue_push(overdue, other);
                    Some((index, come_to))
                }
            };
        }
    }
    overdue_push(overdue, last);
}

fn overdue_push(overdue: &mut [Vec<u32>], noted: Option<(usize, u32)>) {
    if let Some((index, ms)) = noted.filter(|(_, ms)| *ms > 0) {
        overdue[index].push(ms);
    }
}

/// The intervals of a time line.
struct Grid {
    from_ms: u64,
    every_ms: u64,
    count: usize,
}

impl Grid {
    fn over(from_ms: u64, until_ms: u64) -> Grid {
        let span = until_ms.saturating_sub(from_ms).max(1);
        let every_ms = span.div_ceil(MOST).next_multiple_of(EVERY_MS);
        Grid { from_ms, every_ms, count: span.div_ceil(every_ms) as usize }
    }

    /// The interval of a time; the first if it was before, none if it is after the last.
    fn index(&self, at: u64) -> Option<usize> {
        let index = (at.saturating_sub(self.from_ms) / self.every_ms) as usize;
        (index < self.count).then_some(index)
    }

    fn end_of(&self, index: usize) -> u64 {
        self.from_ms + (index as u64 + 1) * self.every_ms
    }
}

/// How long connections stalled: in the phase without faults, and around each step.
pub fn stalls(records: &[Record], facts: &[Facts], terms: &Terms, calm: &Calm) -> StallPhases {
    let patience = patience(facts);
    let phase = |from: u64, until: u64, counts: &dyn Fn(&Record) -> bool| Phase {
        from_ms: from.saturating_sub(terms.began_ms),
        until_ms: until.saturating_sub(terms.began_ms),
        stalls: Distribution::of(
            records
                .iter()
                .filter(|r| counts(r) && there(r, from, until, &patience, terms.taken_ms))
                .map(|r| felt_ms(r, from, until, terms.taken_ms)),
        ),
    };
    let all = |_: &Record| true;
    let steps = facts.iter().enumerate().map(|(i, f)| {
        let before = i.checked_sub(1).map_or(calm.until_ms, |last| facts[last].judged_ms);
        let after = facts.get(i + 1).map_or(terms.taken_ms, |next| next.begin_ms);
        StepStalls {
            before: phase(before, f.begin_ms, &all),
            during: phase(f.begin_ms, f.judged_ms, &all),
            moved: phase(f.begin_ms, f.judged_ms, &|r| f.taken_over(r)),
            after: phase(f.judged_ms, after, &all),
        }
    });
    StallPhases { calm: phase(calm.from_ms, calm.until_ms, &all), steps: steps.collect() }
}

/// The longest part of a stall that lies in a phase: what was due at its very end is the next one's.
fn felt_ms(record: &Record, from: u64, until: u64, taken_ms: u64) -> u64 {
    let felt = |s: Stall| s.came_ms.min(until).saturating_sub(s.due_ms.max(from));
    record.waits(taken_ms).map(felt).max().unwrap_or(0)
}

/// Whether a connection was there when a phase began, and was not lost in it.
fn there(record: &Record, from: u64, until: u64, patience: &Patience, taken_ms: u64) -> bool {
    let connected = record.connected_ms.is_some_and(|at| at <= from);
    let over = over_ms(record, patience, taken_ms).is_some_and(|at| at < from);
    let lost = record.lost_with(patience, taken_ms).is_some_and(|at| at <= until);
    connected && !over && !lost
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::steps::StepName;
    use crate::workload::record::Transport;

    const TERMS: Terms = Terms {
        seed: 1,
        replicate_after_ms: 3_000,
        began_ms: 1_000,
        taken_ms: 21_000,
        releases_before: 0,
        young_needed: 0,
    };
    const CALM: Calm = Calm { opened_ms: 2_000, from_ms: 3_000, until_ms: 8_000 };

    fn connection(id: u64, cohort: Cohort) -> Record {
        let to = "203.0.113.10:1".parse().unwrap();
        let mut record = Record::new(id, cohort, Transport::Tcp, to, 2_000);
        record.connected(2_100);
        record
    }

    /// Is always on time, but for these stalls (due, came).
    fn stalls_at(mut record: Record, stalls: &[(u64, u64)]) -> Record {
        for (due, came) in stalls {
            record.due_ms = *due;
            record.progress(*came, TERMS.taken_ms);
        }
        record.due_ms = TERMS.taken_ms;
        record
    }

    fn facts() -> Facts {
        Facts {
            directors: vec!["d2".into()],
            done_ms: 10_050,
            repaired_ms: 14_000,
            judged_ms: 15_000,
            failed: ["d2".to_owned()].into(),
            before: [(1, "d2".to_owned())].into(),
            after: [(1, "d1".to_owned())].into(),
            ..Facts::of_a_test(StepName::KillDaemon, 10_000)
        }
    }

    #[test]
    fn connections_are_alive_from_connect_to_their_end_or_loss() {
        let mut ended = connection(1, Cohort::Young);
        ended.finished(5_000);
        let mut lost = connection(2, Cohort::Echo);
        lost.progress(2_100, 2_350);
        lost.failed(9_900, "reset", None);
        let records = [ended, lost, stalls_at(connection(3, Cohort::Echo), &[])];
        let line = timeline(&records, &[facts()], &TERMS, &CALM);
        assert_eq!((line.from_ms, line.every_ms), (1_000, 250));
        let [echo, young] = &line.alive[..] else { panic!("{:?}", line.alive) };
        assert_eq!((echo.cohort.as_str(), young.cohort.as_str()), ("echo", "young"));
        assert_eq!(echo.count.len(), 76, "19 s of intervals");
        assert_eq!((echo.count[0], echo.count[30], echo.count[31]), (2, 2, 1));
        assert_eq!((young.count[11], young.count[12], young.count[75]), (1, 0, 0));
        let fault = &line.faults[0];
        assert_eq!((fault.begin_ms, fault.done_ms, fault.end_ms), (9_000, 9_050, 13_000));
    }

    #[test]
    fn a_stall_shows_in_every_interval_with_what_it_had_come_to() {
        let stalled = stalls_at(connection(1, Cohort::Echo), &[(10_100, 10_600)]);
        let mut records = vec![stalled];
        records.extend((2..=100).map(|id| stalls_at(connection(id, Cohort::Echo), &[])));
        let line = timeline(&records, &[facts()], &TERMS, &CALM);
        // Intervals end at 10,000, 10,250, 10,500, 10,750.
        assert_eq!(line.stalls.max_ms[31..36], [0, 150, 400, 500, 0]);
        assert!(line.stalls.p99_ms.iter().all(|p99| *p99 == 0), "one of a hundred");
        records.truncate(99);
        let line = timeline(&records, &[facts()], &TERMS, &CALM);
        assert_eq!(line.stalls.p99_ms[31..36], [0, 150, 400, 500, 0], "one of 99");
    }

    #[test]
    fn a_long_run_has_longer_intervals() {
        let grid = Grid::over(5_000, 5_000 + 7_200_000);
        assert_eq!((grid.every_ms, grid.count), (6_000, 1_200));
        assert_eq!(grid.index(5_000 + 7_200_000), None);
        assert_eq!(grid.index(0), Some(0));
    }

    #[test]
    fn each_phase_has_the_stalls_that_were_felt_in_it() {
        let records = [
            stalls_at(connection(1, Cohort::Echo), &[(4_000, 4_020), (10_100, 10_600)]),
            // Until long after the fault, but only a little before it.
            stalls_at(connection(2, Cohort::Echo), &[(9_970, 10_200)]),
            stalls_at(connection(3, Cohort::Echo), &[(16_000, 16_040)]),
        ];
        let phases = stalls(&records, &[facts()], &TERMS, &CALM);
        let of = |phase: &Phase| phase.stalls.buckets.clone();
        assert_eq!(of(&phases.calm), [(0, 2), (20, 1)]);
        assert_eq!((phases.calm.from_ms, phases.calm.until_ms), (2_000, 7_000));
        let step = &phases.steps[0];
        assert_eq!(of(&step.before), [(0, 2), (30, 1)], "since the phase without faults");
        assert_eq!(of(&step.during), [(0, 1), (200, 1), (500, 1)]);
        assert_eq!(of(&step.moved), [(500, 1)]);
        assert_eq!(of(&step.after), [(0, 2), (40, 1)]);
    }

    #[test]
    fn who_waits_for_all_daemons_to_come_back_is_not_lost() {
        let waits = [stalls_at(connection(1, Cohort::Echo), &[(10_000, 20_500)])];
        let all = Facts { judged_ms: 20_900, ..facts() };
        let of = |facts: Facts| {
            let facts = [facts];
            let line = timeline(&waits, &facts, &TERMS, &CALM);
            let during = stalls(&waits, &facts, &TERMS, &CALM).steps[0].during.stalls.clone();
            (*line.alive[0].count.last().unwrap(), during.count, during.max_ms)
        };
        assert_eq!(of(all.clone()), (0, 0, 0), "ten seconds are too long elsewhere");
        assert_eq!(of(Facts { patience_ms: 40_000, ..all }), (1, 1, 10_500));
    }

    #[test]
    fn lost_connections_are_in_no_distribution_of_their_phase() {
        let mut lost = connection(1, Cohort::Echo);
        lost.progress(9_900, 10_150);
        lost.failed(12_000, "reset", None);
        let phases = stalls(&[lost], &[facts()], &TERMS, &CALM);
        let step = &phases.steps[0];
        assert_eq!((step.before.stalls.count, step.during.stalls.count), (1, 0));
        assert_eq!(step.after.stalls.count, 0);
    }
}
