//! What was measured of a step, and what follows from it for a connection. Pure.

use std::collections::BTreeSet;

use super::faults::{Refusal, refusal};
use super::judge::MARGIN_MS;
use super::steps::StepName;
use crate::router::paths::Paths;
use crate::router::trace::Moves;
use crate::workload::record::Record;

/// What was measured of a step, the connections apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The step.
    pub name: StepName,
    /// The directors it concerned.
    pub directors: Vec<String>,
    /// When it began: just before the fault or the command.
    pub begin_ms: u64,
    /// When it had taken effect.
    pub done_ms: u64,
    /// When everything was restored and settled.
    pub repaired_ms: u64,
    /// When it was judged: every eligible connection had exchanged something, or was lost.
    pub judged_ms: u64,
    /// Why it did not really happen; empty: it did.
    pub missing: Vec<String>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
    /// See [`StepReport::routes_moved_ms`](super::report::StepReport::routes_moved_ms).
    pub routes_moved_ms: Option<u64>,
    /// See [`StepReport::bfd_ms`](super::report::StepReport::bfd_ms).
    pub bfd_ms: Option<u64>,
    /// The directors that failed, or were restarted: nothing stays on them.
    pub failed: BTreeSet<String>,
    /// Whether no other director was left to serve.
    pub alone: bool,
    /// The router's choice of path for each connection, just before it.
    pub before: Paths,
    /// The same when it had taken effect.
    pub after: Paths,
    /// Those that were sent to another director than at first at some time of it.
    pub moves: Moves,
    /// How often the router changed its routes from its beginning until its repair.
    pub routes_changed: u64,
    /// How long connections may be silent beyond their gap in this step (ms).
    pub patience_ms: u64,
    /// Guards that let go without an injected reason.
    pub guard_releases: u64,
    /// Guards that let go because of the fault.
    pub guard_releases_injected: u64,
}

#[cfg(test)]
impl Facts {
    /// A step about d1 whose effect was there after 100 ms, repaired after 10 s and judged 2 s later.
    pub fn of_a_test(name: StepName, begin_ms: u64) -> Facts {
        Facts {
            name,
            directors: vec!["d1".into()],
            begin_ms,
            done_ms: begin_ms + 100,
            repaired_ms: begin_ms + 10_000,
            judged_ms: begin_ms + 12_000,
            missing: Vec::new(),
            notes: Vec::new(),
            routes_moved_ms: Some(50),
            bfd_ms: None,
            failed: BTreeSet::from(["d1".into()]),
            alone: false,
            before: Paths::new(),
            after: Paths::new(),
            moves: Moves::new(),
            routes_changed: 1,
            patience_ms: 10_000,
            guard_releases: 0,
            guard_releases_injected: 0,
        }
    }
}

impl Facts {
    /// Whether a connection changed director while it lived: its own failed, or the router sent it elsewhere, be
    /// it for a moment.
    pub fn moved(&self, record: &Record) -> bool {
        let lived = |at_ms| record.ended_ms().is_none_or(|ended| ended >= at_ms);
        let elsewhere = self.moves.get(&record.id).is_some_and(|to| lived(to.at_ms));
        let Some(before) = self.before.get(&record.id) else { return elsewhere };
        let after = self.after.get(&record.id).is_some_and(|now| now != before);
        self.failed.contains(before) || after && lived(self.done_ms) || elsewhere
    }

    /// The director that the router sent a connection to when the step had taken effect; if it was the same as
    /// before, the next one.
    pub fn then(&self, record: &Record) -> Option<&String> {
        let after = self.after.get(&record.id);
        let stayed = after == self.before.get(&record.id);
        let other = self.moves.get(&record.id).filter(|_| stayed && self.moved(record));
        other.map(|to| &to.director).or(after)
    }

    /// Whether a connection is one of this step's: one that was opened after its judgement, when all was
    /// over and the next had not begun, only if it came to harm. The others say nothing of the fault.
    pub fn concerns(&self, record: &Record, harmed: bool) -> bool {
        record.opened_ms <= self.judged_ms || harmed
    }

    /// Who may be refused.
    pub fn refusal(&self) -> Refusal {
        if self.alone { Refusal::UntilRepaired } else { refusal(self.name) }
    }

    /// Whether a director that the fault is about had this connection, or may have had it. Which director a
    /// connection had that was opened about the time of the fault is known of those only whose port was
    /// asked for beforehand. Whatever was connected a while after the router had left the director was not
    /// there.
    pub fn may_have_hit(&self, record: &Record) -> bool {
        let hit = |director: &String| match self.name {
            // It lives, and cannot be asked.
            StepName::CutOff => self.directors.contains(director),
            _ => self.failed.contains(director),
        };
        record.connected_ms.is_none_or(|at| at <= self.done_ms + MARGIN_MS)
            && self.before.get(&record.id).is_none_or(hit)
    }

    /// Whether another director has to carry it on: crash: its own failed.
    pub fn taken_over(&self, record: &Record) -> bool {
        if self.name.is_crash() {
            self.before.get(&record.id).is_some_and(|before| self.failed.contains(before))
        } else {
            self.moved(record)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::trace::Elsewhere;
    use crate::workload::record::{Cohort, Transport};

    fn record(id: u64, ended_ms: u64) -> Record {
        let vip = "203.0.113.10:7001".parse().unwrap();
        let mut record = Record::new(id, Cohort::Young, Transport::Tcp, vip, 9_000);
        record.connected(9_000);
        record.finished(ended_ms);
        record
    }

    #[test]
    fn who_was_elsewhere_for_a_while_has_moved_if_it_lived_then() {
        let paths = |list: &[(u64, &str)]| -> Paths {
            list.iter().map(|(id, director)| (*id, (*director).to_owned())).collect()
        };
        let d3 = Elsewhere { at_ms: 15_000, director: "d3".into() };
        let facts = Facts {
            failed: BTreeSet::new(),
            before: paths(&[(1, "d1"), (2, "d1"), (3, "d1")]),
            after: paths(&[(1, "d1"), (2, "d2"), (3, "d1"), (4, "d1")]),
            moves: [1, 4].map(|id| (id, d3.clone())).into(),
            ..Facts::of_a_test(StepName::OneWay, 10_000)
        };
        let moved = |id, ended_ms| facts.moved(&record(id, ended_ms));
        assert!(moved(1, 15_000), "it came back");
        assert!(!moved(1, 14_999), "it had come to its end");
        assert!(moved(2, 10_100) && !moved(2, 10_099), "it is somebody else's for good");
        assert!(!moved(3, 50_000));
        assert!(moved(4, 16_000), "it was opened later");
        assert!(facts.taken_over(&record(1, 15_000)), "whoever it was had to carry it on");
        let then = |id, ended_ms| facts.then(&record(id, ended_ms)).map(String::as_str);
        assert_eq!([then(1, 16_000), then(1, 14_000)], [Some("d3"), Some("d1")]);
        assert_eq!([then(2, 16_000), then(3, 16_000)], [Some("d2"), Some("d1")]);
        assert_eq!([then(4, 16_000), then(5, 16_000)], [Some("d1"), None]);
    }
}
